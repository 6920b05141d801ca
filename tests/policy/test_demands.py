"""The demands that stand for all that may come."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.api.state import FORECAST_CHANCES, FleetState
from marlin.policy.demands import demands_of, is_tailed
from marlin.simulator.twin_state import arrays_from


def unsure(upper: float) -> FleetState:
    """A fleet whose one pool expects a thousand requests, and perhaps ``upper``."""
    base = fleet(site("a"), site("b"))
    pool = base.pools[0].model_copy(update={"forecast_requests": (1000.0,), "forecast_upper_requests": upper})
    return base.model_copy(update={"pools": (pool,)})


ANY = np.array([1e9])


def test_a_tail_is_looked_at_closely_and_is_of_the_same_errors() -> None:
    plain, tailed = demands_of(unsure(2000.0), ANY), demands_of(unsure(2000.0), ANY, is_tailed=True)
    assert plain.chances.sum() == pytest.approx(1.0)
    assert tailed.chances.sum() == pytest.approx(1.0)
    in_logarithms, plainly = np.log(tailed.requests[:, 0] / 1000.0), np.log(plain.requests[:, 0] / 1000.0)
    assert (np.diff(in_logarithms) > 0).all()
    highest = tailed.chances[-7:]
    assert in_logarithms[-7:] @ highest / highest.sum() == pytest.approx(plainly[-1], rel=0.2), "about a seventh"
    assert tailed.requests.max() > 1.5 * plain.requests.max()
    assert np.diff(in_logarithms)[5:-1].max() < 0.5 * np.log(2.0) / 1.645, "no plan fits between two of them"


def test_plans_are_made_for_far_demands_too_where_there_are_any() -> None:
    plain, tailed = demands_of(unsure(2000.0), ANY), demands_of(unsure(2000.0), ANY, is_tailed=True)
    assert len(plain.few()) == 3
    assert tailed.few().requests.max() > 1.5 * plain.requests.max()
    assert tailed.few().chances.sum() == pytest.approx(1.0)


def test_nothing_beyond_what_can_be_carried_and_one_demand_where_it_is_certain() -> None:
    assert demands_of(unsure(2000.0), np.array([1500.0]), is_tailed=True).requests.max() == 1500.0
    assert demands_of(unsure(1000.0), ANY, is_tailed=True).requests.tolist() == [[1000.0]]


def test_surges_are_looked_at_closely_where_replicas_may_be_asleep_or_shares_are_fixed() -> None:
    awake = unsure(2000.0)
    sleepy = awake.pools[0].model_copy(update={"power_down": PowerDown.SLEEP})
    asleep = arrays_from(awake.model_copy(update={"pools": (sleepy,)}))
    assert not is_tailed(arrays_from(awake), Dispatch.ORDERED)
    assert is_tailed(arrays_from(awake), Dispatch.SHARES)
    assert is_tailed(asleep, Dispatch.ORDERED)


def test_what_the_forecast_says_of_its_parts_is_taken_as_it_is_where_replicas_can_power_down() -> None:
    """Even where it expects nothing: a surge may come after an hour without requests."""
    parts = tuple(float(100 * i) for i in range(len(FORECAST_CHANCES)))
    base = unsure(2000.0)
    pool = base.pools[0].model_copy(update={"forecast_requests": (0.0,), "forecast_parts": parts})
    told = base.model_copy(update={"pools": (pool,)})
    assert demands_of(told, ANY, is_tailed=True).requests[:, 0].tolist() == list(parts)
    assert demands_of(told, ANY, is_tailed=True).chances.tolist() == list(FORECAST_CHANCES)
    assert demands_of(told, np.array([450.0]), is_tailed=True).requests.max() == 450.0

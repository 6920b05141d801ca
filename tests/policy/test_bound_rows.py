"""Rows of origins that may use some sites only: never outside them, never worse than at the start, near the best."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marlin.api.state import FleetState
from marlin.policy.bound_rows import Fleet, improved
from marlin.policy.deciding import upper_requests
from marlin.simulator.fluid import capacity_rps
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from

EVENLY = (0.25, 0.25, 0.25, 0.25)


def state(rtt_ms: tuple[tuple[float, ...], ...], requests: tuple[float, ...]) -> FleetState:
    """Three sites, of which the last is the cleanest, and two origins."""
    sites = (
        site("a", carbon_gco2_per_kwh=600.0),
        site("b", carbon_gco2_per_kwh=300.0),
        site("c", carbon_gco2_per_kwh=50.0),
    )
    found = fleet(*sites)
    pool = found.pools[0].model_copy(update={"forecast_requests": requests, "forecast_upper_requests": None})
    return found.model_copy(update={"origins": ("here", "there"), "rtt_ms": rtt_ms, "pools": (pool,)})


def tried(found: FleetState, masks: NDArray[np.bool_]) -> tuple[Fleet, FloatArray]:
    """Where rows are tried, and those by capacity within the masks (V, R, D)."""
    twin = arrays_from(found)
    rows = masks * capacity_rps(twin)[:, None, :]
    rows = rows / rows.sum(axis=2, keepdims=True)
    unscaled = Fleet(twin, upper_requests(found), EVENLY, np.ones(4))
    return Fleet(twin, upper_requests(found), EVENLY, unscaled.metrics(rows[None])[0]), rows


masks_of = st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=2, max_size=2).map(
    lambda rows: np.array([rows], dtype=np.bool_)
)
round_trips = st.tuples(*[st.tuples(*[st.floats(1.0, 300.0)] * 3)] * 2)


@settings(max_examples=25, deadline=None)
@given(masks_of, round_trips, st.tuples(st.floats(0.0, 9e4), st.floats(1.0, 9e4)))
def test_rows_stay_where_they_may_be_and_are_never_worse_than_at_the_start(
    masks: NDArray[np.bool_], rtt_ms: tuple[tuple[float, ...], ...], requests: tuple[float, ...]
) -> None:
    where, start = tried(state(rtt_ms, requests), masks)
    rows = improved(where, start, masks, np.ones(1, dtype=np.bool_))
    assert rows.sum(axis=2) == pytest.approx(1.0)
    assert (rows >= 0).all()
    assert not rows[~masks].any()
    before, after = where.values(np.array([start, rows]))
    assert after <= before


def test_they_are_within_a_percent_of_the_best_of_all_rows_on_a_grid() -> None:
    """One origin may use two sites and the other all; every tenth of every row is tried."""
    masks = np.array([[[True, True, False], [True, True, True]]])
    steps = [i / 10 for i in range(11)]
    for requests in ((2_000.0, 2_000.0), (30_000.0, 5_000.0), (5_000.0, 30_000.0)):
        where, start = tried(state(((5.0, 60.0, 150.0), (90.0, 10.0, 40.0)), requests), masks)
        every = [
            [[[a, 1 - a, 0.0], [b, c, 1 - b - c]]] for a, b, c in product(steps, steps, steps) if b + c <= 1.0 + 1e-9
        ]
        best = where.values(np.array(every).clip(0.0)).min()
        found = where.values(improved(where, start, masks, np.ones(1, dtype=np.bool_))[None])[0]
        assert found <= 1.01 * best


def test_a_model_that_may_not_be_changed_is_not_and_a_budget_of_nothing_changes_nothing() -> None:
    masks = np.ones((1, 2, 3), dtype=np.bool_)
    where, start = tried(state(((5.0, 60.0, 150.0), (90.0, 10.0, 40.0)), (2_000.0, 2_000.0)), masks)
    assert (improved(where, start, masks, np.zeros(1, dtype=np.bool_)) == start).all()
    assert (improved(where, start, masks, np.ones(1, dtype=np.bool_), most_cells=0) == start).all()
    assert (improved(where, start, masks, np.ones(1, dtype=np.bool_)) != start).any()

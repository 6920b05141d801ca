"""What a decision is judged by where replicas can power down: metrics in units that hold for a day."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import varied

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState
from marlin.policy.agents.situation import situation_of
from marlin.policy.objective import Weights


@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)])
def test_where_replicas_can_power_down_capacity_proportional_is_worth_one(weights: Weights) -> None:
    """With what it keeps awake and the surges it is expected to meet; in units of an idle fleet it is half as much."""
    situation = situation_of(varied(3, power_down=PowerDown.SCALE_TO_ZERO), Dispatch.ORDERED, weights)
    late = situation.baseline.expected_late()[0] / situation.objective.requests
    assert situation.baseline.values(situation.objective)[0] == pytest.approx(1.0 + situation.objective.late * late)


def quiet_and_busy() -> tuple[FleetState, FleetState]:
    """The same fleet before an epoch in which little is expected, and before one in which much is."""
    busy = varied(3, power_down=PowerDown.SCALE_TO_ZERO)
    (pool,) = busy.pools
    few = {"forecast_requests": (10.0,), "forecast_upper_requests": 40.0}
    return busy.model_copy(update={"pools": (pool.model_copy(update=few),)}), busy


def test_a_second_of_waiting_costs_as_much_energy_before_a_quiet_epoch_as_before_a_busy_one() -> None:
    """By what each epoch comes to itself it would cost a hundred times more before the quiet one."""
    quiet, busy = (situation_of(state, Dispatch.ORDERED, (0.25,) * 4) for state in quiet_and_busy())
    whole = [situation.objective.scale[1:].mean() / situation.objective.scale[0] for situation in (quiet, busy)]
    alone = [(totals := one.baseline.expected_totals()[0])[1:].mean() / totals[0] for one in (quiet, busy)]
    assert whole[0] == pytest.approx(whole[1], rel=0.2)
    assert alone[0] > 10.0 * alone[1]


def test_a_day_waits_the_longer_the_longer_replicas_take_to_wake() -> None:
    """Once more where they take four minutes, hardly where one, and not at all where they are there at once."""

    def of_a_day(power_down: PowerDown) -> float:
        scale = situation_of(varied(3, power_down=power_down), Dispatch.ORDERED, (0.25,) * 4).objective.scale
        return float(scale[0] / scale[1:].prod() ** (1 / 3))

    at_once, soon, late = (of_a_day(how) for how in (PowerDown.IDLE_P_STATE, PowerDown.SLEEP, PowerDown.SCALE_TO_ZERO))
    assert soon / at_once == pytest.approx(1.08, abs=0.05)
    assert late / at_once == pytest.approx(2.0, abs=0.2)


def test_waiting_counts_the_less_the_more_capacity_proportional_waits_when_it_comes() -> None:
    """A day is measured by its own waiting, and one with a surge has more of it."""
    situation = situation_of(quiet_and_busy()[0], Dispatch.ORDERED, (0.25,) * 4)
    calm, waited = situation.demands.calm, situation.baseline.totals[0, :, 0]
    order = np.argsort(waited)
    assert (np.diff(calm[order]) <= 0).all()
    assert 0.0 < calm.min() < calm.max() <= 1.0
    baseline = situation.baseline.values(replace(situation.objective, weights=np.array([1.0, 0.0, 0.0, 0.0]), late=0.0))
    assert baseline[0] == pytest.approx((waited * calm) @ situation.demands.chances / situation.objective.scale[0])

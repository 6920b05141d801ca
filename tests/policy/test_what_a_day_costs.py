"""What a decision is judged by where replicas can power down: metrics in units that hold for a day."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agents import marlin, small_artifact
from fleets import varied
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.api.state import FORECAST_CHANCES, FleetState
from marlin.policy.agents.situation import situation_of
from marlin.policy.artifact import Artifact
from marlin.policy.objective import Weights


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


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


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch), st.sampled_from([0.0, 3.0, 10.0]))
def test_a_late_request_costs_its_weight_over_all_requests(seed: int, dispatch: Dispatch, weight: float) -> None:
    state = varied(seed, power_down=PowerDown.SCALE_TO_ZERO)
    free, dear = (situation_of(state, dispatch, (0.25,) * 4, late) for late in (0.0, weight))
    (shares,) = free.baseline.expected_late_shares()
    (late,) = free.baseline.expected_late()
    assert 0.0 <= shares <= 1.0
    more = dear.baseline.values(dear.objective)[0] - free.baseline.values(free.objective)[0]
    assert more == pytest.approx(weight * late / dear.objective.requests)


def test_dearer_late_requests_make_plans_under_which_fewer_are_late_and_more_is_awake(artifact: Artifact) -> None:
    """Much more may come than is expected, and replicas take four minutes to wake."""
    state = varied(2, power_down=PowerDown.SCALE_TO_ZERO)
    wanted = sum(state.pools[0].forecast_requests) / 6
    parts = (wanted,) * 10 + (5.0 * wanted,) * (len(FORECAST_CHANCES) - 10)
    pool = state.pools[0].model_copy(
        update={"forecast_requests": (wanted,), "forecast_upper_requests": 1.5 * wanted, "forecast_parts": parts}
    )
    state = state.model_copy(update={"pools": (pool,)})
    decisions = [marlin(artifact, late_weight=weight).decide(state) for weight in (0.0, 1.0, 30.0)]
    late = [decision.record["late"]["share"] for decision in decisions]
    awake = [sum(decision.plan.pools[0].replicas) for decision in decisions]
    assert late[0] > late[2]
    assert late == sorted(late, reverse=True)
    assert awake == sorted(awake)
    assert [decision.record["late"]["weight"] for decision in decisions] == [0.0, 1.0, 30.0]

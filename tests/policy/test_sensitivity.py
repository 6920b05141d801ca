"""The sweep of constants changes what it says it changes, and nothing else."""

from __future__ import annotations

import pytest

from marlin.api.plan import PlannerKind
from marlin.api.pool import PowerDown
from marlin.policy.planners import make_planner
from marlin.policy.sensitivity import Effect, effects, table
from marlin.simulator.constants import CONSTANTS
from marlin.simulator.experiment import FIRST_DATE, Study
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.scenario import scenario_documents

NAMES = ("host_power_fraction", "last_mile_rtt_ms", "price_adder_usd_per_kwh")


@pytest.fixture(scope="module")
def rows() -> list[Effect]:
    """The base, then the low and the high end of each of NAMES."""
    return list(effects(Study(Builder(scenario_documents("demo-3")), load="mean30"), NAMES))


def ends(rows: list[Effect], name: str) -> tuple[Effect, Effect]:
    low, high = (row for row in rows if row.constant == name)
    return low, high


def test_more_host_power_costs_more_in_everything_but_time(rows: list[Effect]) -> None:
    low, high = ends(rows, "host_power_fraction")
    assert high.metrics[0] == pytest.approx(low.metrics[0])
    assert all(more > less for more, less in zip(high.metrics[1:], low.metrics[1:], strict=True))


def test_a_longer_last_mile_costs_its_own_time_and_nothing_else(rows: list[Effect]) -> None:
    base, (low, high) = rows[0], ends(rows, "last_mile_rtt_ms")
    known = CONSTANTS["last_mile_rtt_ms"]
    assert high.metrics[0] - base.metrics[0] == pytest.approx((known.high - known.value) / 1000.0, rel=1e-3)
    assert low.metrics[0] - base.metrics[0] == pytest.approx((known.low - known.value) / 1000.0, rel=1e-3)
    assert high.metrics[1:] == pytest.approx(base.metrics[1:])


def test_a_price_adder_thins_out_the_saving_of_cost_alone(rows: list[Effect]) -> None:
    low, high = ends(rows, "price_adder_usd_per_kwh")
    assert high.metrics[3] > low.metrics[3]
    assert high.savings[2] < low.savings[2]
    assert high.savings[0] == pytest.approx(low.savings[0])


def test_the_table_states_each_end_and_marks_what_is_assumed(rows: list[Effect]) -> None:
    lines = table(rows).splitlines()
    assert len(lines) == 3 + 2 * len(NAMES)
    assert lines[3].startswith("| host_power_fraction (assumed) | 0.3 |")
    assert lines[6].startswith("| last_mile_rtt_ms (assumed) | 30 ms |")


@pytest.mark.parametrize("kind", [PlannerKind.CAPACITY_PROPORTIONAL, PlannerKind.MERIT_ORDER])
def test_planners_keep_more_awake_for_a_lower_load(kind: PlannerKind) -> None:
    state = loaded_state(Builder(scenario_documents("8x12")), FIRST_DATE, 0.4)
    pools = tuple(pool.model_copy(update={"power_down": PowerDown.SLEEP}) for pool in state.pools)
    state = state.model_copy(update={"pools": pools})

    def awake(utilization: float) -> float:
        plan = make_planner(kind, awake_utilization=utilization).decide(state).plan
        return sum(sum(pool.replicas) for pool in plan.pools)

    assert awake(0.5) > awake(0.95) > 0

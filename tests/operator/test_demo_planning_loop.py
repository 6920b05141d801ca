from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.documents import load_documents
from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, Scheme
from marlin.api.table import RoutingTable, TablePool
from marlin.operator.demo.fleet import Fleet
from marlin.operator.demo.loop import Arrivals, stamped, write_table
from marlin.operator.demo.run import _column_name, _planner
from marlin.operator.demo.settings import DemoSettings
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.scenario import scenario_documents

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def plan() -> RoutingPlan:
    return RoutingPlan(
        epoch=99,
        decided_time=START,
        valid_from=START,
        valid_until=START.replace(hour=13),
        planner=PlannerKind.ROUND_ROBIN,
        datacenters=("a", "b"),
        pools=(PoolPlan(name="chat", dispatch=Dispatch.SHARES, weights=(5000, 5000)),),
    ).sealed()


def arrivals(*counts: int) -> Arrivals:
    seen = Arrivals(("eu", "us"), {"eu": 10.0, "us": 20.0})
    for epoch, count in enumerate(counts):
        for _ in range(count):
            seen.note(epoch, "eu")
    return seen


def test_before_anything_was_seen_the_forecast_is_the_history() -> None:
    assert arrivals().forecast(0, 1.0) == (10.0, 20.0)


def test_a_forecast_knows_only_the_epochs_before_its_own() -> None:
    seen = arrivals(40)
    before = seen.forecast(1, 1.0)
    for _ in range(500):
        seen.note(1, "eu")
    assert seen.forecast(1, 1.0) == before


def test_a_steady_load_is_forecast_as_it_is() -> None:
    assert arrivals(*[30] * 12).forecast(12, 1.0)[0] == pytest.approx(30.0, abs=0.01)


@given(st.integers(1, 9))
def test_an_epoch_that_is_still_running_is_scaled_up_to_its_whole_length(tenths: int) -> None:
    seen = arrivals(10 * tenths)
    whole = arrivals(100)
    assert seen.forecast(1, tenths / 10)[0] == pytest.approx(whole.forecast(1, 1.0)[0])


def test_a_stamped_plan_carries_this_machines_times_and_a_new_seal() -> None:
    result = stamped(plan(), 3, START, 2.0)
    assert (result.epoch, result.valid_from) == (3, START)
    assert (result.valid_until - result.valid_from).total_seconds() == 2.0
    assert result.hash == result.content_hash() != plan().hash
    assert result.pools == plan().pools


def test_a_table_is_replaced_in_one_step_and_reads_back_as_it_was(tmp_path: Path) -> None:
    table = RoutingTable.model_validate(
        {
            "generation": 4,
            "datacenters": [{"name": "a", "region": "r"}, {"name": "b", "region": "r"}],
            "pools": [
                {
                    "name": "chat",
                    "modelName": "m",
                    "backends": [{"name": "x", "datacenter": "a", "url": "http://127.0.0.1:1", "capacityRps": 2.0}],
                }
            ],
            "plan": plan(),
        }
    )
    file = tmp_path / "table.json"
    write_table(file, table)
    write_table(file, table)
    assert load_documents(file.read_text(), "table.json").tables == (table,)
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_routers_get_the_delays_rates_and_service_level_of_a_machine_that_runs_everything_faster() -> None:
    fleet = Fleet.shipped()
    fleet = fleet.with_addresses(dict.fromkeys(fleet.sites, "http://127.0.0.1:1"))

    def table(compression: float) -> TablePool:
        settings = DemoSettings(compression=compression)
        state = fleet.state(0, (1.0,) * len(fleet.origins), settings)
        return fleet.table(state, None, "eu", settings, generation=1).pools[0]

    real, fast = table(1.0), table(4.0)
    limits_ms = [pool.service_level.time_to_first_token_milliseconds for pool in (real, fast)]
    assert limits_ms == [2000, 500]
    for mine, theirs in zip(real.backends, fast.backends, strict=True):
        assert theirs.capacity_rps == pytest.approx(4 * mine.capacity_rps)
        assert theirs.rtt_ms == pytest.approx(mine.rtt_ms / 4)
        assert theirs.concurrency_at_capacity == mine.concurrency_at_capacity


@pytest.mark.parametrize("kind", [PlannerKind.NEAREST, PlannerKind.LEAST_LOADED, PlannerKind.ROUND_ROBIN])
def test_a_planner_that_looks_at_no_signal_is_shown_as_shares_and_under_its_name_alone(kind: PlannerKind) -> None:
    settings = DemoSettings(planner=kind, scheme=Scheme.MIN_CARBON)
    plan = (
        _planner(kind, settings)
        .decide(loaded_state(Builder(scenario_documents("demo-3")), datetime(2023, 6, 15, tzinfo=UTC), 0.5))
        .plan
    )
    assert {pool.dispatch for pool in plan.pools} == {Dispatch.SHARES}
    assert _column_name(kind, settings) == kind.option
    assert _column_name(PlannerKind.MERIT_ORDER, settings) == "merit-order min-carbon"

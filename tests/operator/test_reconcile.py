"""What the operator writes about a world, with a cluster that keeps it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from worlds import NOON, Cluster, Raw, as_shipped, published, sample, the, world_of

from marlin.api.policy import MarlinPolicyStatus
from marlin.api.table import CONFIG_MAP_KEY
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.reconcile import reconcile
from marlin.operator.signals.values import Answer, Feed, Point


@pytest.fixture
def objects() -> list[Raw]:
    return sample()


def enforced(objects: list[Raw], **spec: Any) -> Cluster:
    the(objects, "MarlinPolicy")["spec"] |= {"mode": "Enforce", **spec}
    return Cluster(objects)


def test_the_first_round_plans_and_the_second_has_nothing_to_do(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    first = cluster.reconcile()
    assert {apply.what for apply in first.applies} >= {"MarlinPolicy default/balanced", "Datacenter frankfurt"}
    assert cluster.reconcile().applies == ()
    assert cluster.reconcile().events == ()


def test_the_order_in_which_objects_are_listed_changes_nothing(objects: list[Raw]) -> None:
    rounds = [reconcile(world_of(listed)).applies for listed in (objects, list(reversed(objects)))]
    assert {a.path: a.body for a in rounds[0]} == {a.path: a.body for a in rounds[1]}


def test_in_dry_run_routers_get_addresses_and_no_plan(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Applied") == ("False", "DryRun")
    assert cluster.condition("MarlinPolicy", "Ready") == ("True", "Ready")
    assert cluster.status("MarlinPolicy")["plan"]["epoch"] == int(NOON.timestamp()) // 900
    table = cluster.tables["default", "marlin-balanced"]
    assert table.plan is None
    assert table.pools[0].backends[0].url == "https://marlin.frankfurt.example"
    assert table.pools[0].backends[0].is_member_router
    assert "weight" not in cluster.status("InferencePool")["backends"][0]


def test_enforced_the_same_plan_is_in_the_status_and_in_each_origins_table(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    plan = MarlinPolicyStatus.model_validate(cluster.status("MarlinPolicy")).plan
    assert plan is not None
    assert plan.hash == plan.content_hash()
    names = {"marlin-balanced", *(f"marlin-balanced-{origin}" for origin in ("europe", "america", "asia"))}
    assert {name for _, name in cluster.tables} == names
    assert all(table.plan == plan for table in cluster.tables.values())
    weights = [backend["weight"] for backend in cluster.status("InferencePool")["backends"]]
    assert sum(weights) == 10_000
    near = cluster.tables["default", "marlin-balanced-asia"].pools[0].backends
    assert min(near, key=lambda backend: backend.rtt_ms).datacenter == "singapore"


def test_the_sample_as_it_is_shipped_is_planned_by_the_agents() -> None:
    cluster = enforced(as_shipped())
    cluster.reconcile()
    status = cluster.status("MarlinPolicy")
    assert status["plan"]["planner"] == "Marlin"
    assert [agent["name"] for agent in status["agents"]] == ["ttft", "carbon", "water", "cost"]


def test_a_plan_is_announced_before_it_takes_effect(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    assert plan["validFrom"] == "2026-05-04T12:03:12Z"
    cluster.now = NOON.replace(minute=14, second=30)
    actions = cluster.reconcile()
    assert cluster.status("MarlinPolicy")["plan"]["validFrom"] == "2026-05-04T12:15:00Z"
    assert [event.reason for event in actions.events] == ["PlanPublished"]


def test_the_operator_wakes_when_the_next_epoch_is_due_and_at_least_each_minute(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    assert cluster.reconcile().wake_at == NOON + timedelta(seconds=60)
    cluster.now = NOON.replace(minute=14, second=10)
    assert cluster.reconcile().wake_at == NOON.replace(minute=14, second=30)


def test_a_changed_spec_is_planned_at_once(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    before = cluster.status("MarlinPolicy")["plan"]
    cluster.change("MarlinPolicy", planner={"kind": "MeritOrder", "scheme": "MinCarbon"})
    cluster.reconcile()
    after = cluster.status("MarlinPolicy")["plan"]
    assert (before["scheme"], after["scheme"]) == ("Balanced", "MinCarbon")
    assert after["epoch"] == before["epoch"]


def test_a_restart_finds_its_plan_and_makes_no_other(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    after_restart = reconcile(world_of(cluster.objects, NOON + timedelta(seconds=30), tables=published(cluster.tables)))
    assert after_restart.applies == ()


def test_a_table_that_somebody_deleted_comes_back(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    del cluster.tables["default", "marlin-balanced-asia"]
    cluster.reconcile()
    assert cluster.tables["default", "marlin-balanced-asia"].plan is not None


def test_each_table_that_differs_has_a_higher_generation(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    cluster.change("Datacenter", "oregon", serviceState="Drained")
    cluster.reconcile()
    table = cluster.tables["default", "marlin-balanced"]
    assert table.generation == 2
    assert table.datacenter("oregon").service_state.value == "Drained"


def test_a_drained_site_gets_nothing_in_the_next_plan_however_much_it_had(objects: list[Raw]) -> None:
    cluster = enforced(objects, guardrails={"maxWeightChangePercent": 1}, dispatch="Shares")
    cluster.reconcile()
    cluster.change("Datacenter", "oregon", serviceState="Drained")
    cluster.now += timedelta(minutes=15)
    cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    assert dict(zip(plan["datacenters"], plan["pools"][0]["weights"], strict=True))["oregon"] == 0
    assert cluster.condition("Datacenter", "Ready", "oregon") == ("False", "Drained")


def test_paused_the_plan_in_force_stays_with_the_routers(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    plan = cluster.tables["default", "marlin-balanced"].plan
    cluster.change("MarlinPolicy", mode="Paused")
    cluster.now += timedelta(hours=2)
    cluster.reconcile()
    assert cluster.tables["default", "marlin-balanced"].plan == plan
    assert cluster.condition("MarlinPolicy", "Applied") == ("False", "Paused")


def test_an_override_holds_in_its_window_only(objects: list[Raw]) -> None:
    window = {
        "name": "launch",
        "startTime": "2026-05-04T12:15:00Z",
        "endTime": "2026-05-04T12:30:00Z",
        "mode": "CapacityProportional",
    }
    cluster = enforced(objects, overrides=[window])
    kinds = []
    for minutes in (0, 15, 30):
        cluster.now = NOON + timedelta(minutes=minutes)
        cluster.reconcile()
        kinds.append(cluster.status("MarlinPolicy")["plan"]["planner"])
    assert kinds == ["MeritOrder", "CapacityProportional", "MeritOrder"]


def test_a_shadow_is_shown_and_not_carried_out(objects: list[Raw]) -> None:
    cluster = enforced(objects, shadow={"kind": "RoundRobin", "scheme": "Balanced"})
    cluster.reconcile()
    assert cluster.status("MarlinPolicy")["shadow"]["plan"]["planner"] == "RoundRobin"
    plan = cluster.tables["default", "marlin-balanced"].plan
    assert plan is not None
    assert plan.planner.value == "MeritOrder"


def test_a_planner_that_does_not_exist_costs_the_plan_and_says_so(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    before = cluster.tables["default", "marlin-balanced"].plan
    cluster.change("MarlinPolicy", planner={"kind": "BestStatic", "scheme": "Balanced"})
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Planned") == ("False", "PlannerError")
    assert cluster.condition("MarlinPolicy", "Degraded")[0] == "True"
    assert "best-static" in cluster.status("MarlinPolicy")["message"]
    assert cluster.tables["default", "marlin-balanced"].plan == before


def test_a_missing_capacity_names_object_and_field(objects: list[Raw]) -> None:
    del the(objects, "InferencePool")["spec"]["backends"][0]["capacity"]
    cluster = Cluster(objects)
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Planned") == ("False", "PlannerError")
    assert "backend frankfurt: capacity is needed" in cluster.status("MarlinPolicy")["message"]


def test_of_two_policies_on_one_pool_the_older_has_it(objects: list[Raw]) -> None:
    second = json.loads(json.dumps(the(objects, "MarlinPolicy")))
    second["metadata"] |= {"name": "a-newer-one", "uid": "u", "creationTimestamp": "2026-03-01T00:00:00Z"}
    cluster = Cluster([second, *objects])
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Accepted", "balanced") == ("True", "Accepted")
    assert cluster.condition("MarlinPolicy", "Accepted", "a-newer-one") == ("False", "OverlappingPolicy")
    assert "balanced" in cluster.status("MarlinPolicy", "a-newer-one")["message"]
    assert "plan" not in cluster.status("MarlinPolicy", "a-newer-one")


def test_what_cannot_be_read_gets_a_condition_and_hinders_nobody(objects: list[Raw]) -> None:
    the(objects, "Datacenter", "oregon")["spec"]["futureField"] = 1
    cluster = Cluster(objects)
    cluster.reconcile()
    assert cluster.condition("Datacenter", "Ready", "oregon") == ("False", "InvalidSpec")
    assert "futureField" in cluster.status("Datacenter", "oregon")["message"]
    assert cluster.status("MarlinPolicy")["plan"]["datacenters"] == ["frankfurt", "singapore"]
    assert cluster.condition("InferencePool", "Accepted") == ("False", "DatacenterNotFound")


def test_a_broken_status_is_written_anew(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    good = json.loads(json.dumps(cluster.status("MarlinPolicy")))
    the(cluster.objects, "MarlinPolicy")["status"]["plan"]["hash"] = "0" * 64
    cluster.reconcile()
    assert cluster.status("MarlinPolicy") == good


def test_a_condition_keeps_its_time_until_its_status_changes(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    cluster.now += timedelta(hours=3)
    cluster.reconcile()
    times = {c["type"]: c["lastTransitionTime"] for c in cluster.status("MarlinPolicy")["conditions"]}
    assert set(times.values()) == {"2026-05-04T12:03:07Z"}
    cluster.change("MarlinPolicy", mode="Enforce")
    cluster.reconcile()
    times = {c["type"]: c["lastTransitionTime"] for c in cluster.status("MarlinPolicy")["conditions"]}
    assert times["Applied"] == "2026-05-04T15:03:07Z"
    assert times["Planned"] == "2026-05-04T12:03:07Z"


LIVE = {
    "carbonIntensity": {
        "provider": "ElectricityMaps",
        "electricityMaps": {"zone": "DE", "tokenSecretRef": {"name": "emaps"}},
        "staleAfterSeconds": 3600,
    }
}


def with_live_carbon(objects: list[Raw], rule: str) -> Cluster:
    the(objects, "Datacenter", "singapore")["spec"]["signals"] = LIVE
    cluster = enforced(objects, guardrails={"staleSignalPolicy": rule, "maxWeightChangePercent": 100})
    cluster.known["feeds"] = {("singapore", "carbonIntensity"): Feed().heard(Answer(Point(NOON, 50.0)), NOON)}
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Degraded") == ("False", "AsExpected")
    assert cluster.status("Datacenter", "singapore")["signals"]["carbonIntensity"]["value"] == "50"
    cluster.known["feeds"] = {}  # a restart, with the provider gone
    cluster.now += timedelta(hours=1)
    return cluster


def test_a_lost_signal_keeps_the_last_plan(objects: list[Raw]) -> None:
    cluster = with_live_carbon(objects, "KeepLastPlan")
    before = cluster.status("MarlinPolicy")["plan"]
    actions = cluster.reconcile()
    assert cluster.status("MarlinPolicy")["plan"] == before
    assert cluster.condition("MarlinPolicy", "Degraded") == ("True", "SignalsStale")
    assert cluster.condition("Datacenter", "SignalsFresh", "singapore") == ("False", "FallbackInUse")
    assert {event.reason for event in actions.events if event.type == "Warning"} >= {"SignalsStale", "FallbackInUse"}


def test_a_lost_signal_excludes_its_site_where_that_is_wanted(objects: list[Raw]) -> None:
    cluster = with_live_carbon(objects, "ExcludeDatacenter")
    cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    assert dict(zip(plan["datacenters"], plan["pools"][0]["weights"], strict=True))["singapore"] == 0
    assert cluster.condition("MarlinPolicy", "Degraded") == ("True", "SignalsStale")


def test_a_lost_signal_leads_to_capacity_where_that_is_wanted(objects: list[Raw]) -> None:
    cluster = with_live_carbon(objects, "CapacityProportional")
    cluster.reconcile()
    assert cluster.status("MarlinPolicy")["plan"]["planner"] == "CapacityProportional"


def test_what_was_forecast_is_planned_for_and_what_was_not_is_said(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    assert "half of capacity assumed: llama-2-70b" in cluster.status("MarlinPolicy")["plan"]["explanation"]
    cluster.known["forecasts"] = {("default", "llama-2-70b"): Forecast(1234.0, 1500.0)}
    cluster.now += timedelta(minutes=15)
    cluster.reconcile()
    assert cluster.status("MarlinPolicy")["forecastRequests"] == 1234
    assert "assumed" not in cluster.status("MarlinPolicy")["plan"]["explanation"]


def test_two_pools_of_one_model_name_are_refused_in_words(objects: list[Raw]) -> None:
    second = json.loads(json.dumps(the(objects, "InferencePool")))
    second["metadata"]["name"] = "copy"
    cluster = enforced([*objects, second])
    cluster.change("MarlinPolicy", poolRefs=[{"name": "llama-2-70b"}, {"name": "copy"}])
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Applied") == ("False", "TableRejected")
    assert "modelName" in next(
        c["message"] for c in cluster.status("MarlinPolicy")["conditions"] if c["type"] == "Applied"
    )


def test_statuses_are_what_the_crds_allow_and_tables_fit_into_a_config_map(objects: list[Raw]) -> None:
    cluster = enforced(objects)
    for apply in cluster.reconcile().applies:
        if apply.body["kind"] == "ConfigMap":
            assert len(apply.document["data"][CONFIG_MAP_KEY]) < 1_000_000
            assert apply.body["metadata"]["ownerReferences"][0]["name"] == "balanced"
        else:
            assert "phase" not in apply.body["status"]
            assert apply.body["status"]["observedGeneration"] == 1


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(hours=3), timedelta(seconds=-1), timedelta(days=-2)])
def test_a_clock_that_jumps_gives_a_plan_of_the_epoch_that_it_shows(objects: list[Raw], jump: timedelta) -> None:
    cluster = enforced(objects)
    cluster.reconcile()
    cluster.now += jump
    cluster.reconcile()
    plan = cluster.tables["default", "marlin-balanced"].plan
    assert plan is not None
    assert plan.epoch == int(cluster.now.timestamp()) // 900
    assert plan.valid_from < plan.valid_until
    assert plan.hash == plan.content_hash()
    assert cluster.reconcile().applies == ()

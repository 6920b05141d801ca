"""``marlin operator`` as a process under its shipped roles, against a real API server."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest
from control_plane import Cluster, Process, eventually, in_namespace
from worlds import sample, the

from marlin.api.plan import RoutingPlan
from marlin.api.table import CONFIG_MAP_KEY, RoutingTable

Start = Callable[[str], Process]
_numbers = itertools.count()


class Fleet:
    """The three-regions sample in a namespace of its own."""

    def __init__(self, hub: Cluster) -> None:
        self.hub = hub
        number = next(_numbers)
        self.namespace = f"test-{number}"
        self.prefix = f"t{number}-"
        hub.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.objects = in_namespace(sample(), self.namespace, self.prefix)

    @property
    def policy_path(self) -> str:
        return f"/apis/marlin.dev/v1alpha1/namespaces/{self.namespace}/marlinpolicies/balanced"

    def apply(self, **spec: Any) -> None:
        the(self.objects, "MarlinPolicy")["spec"] |= spec
        self.hub.apply(*self.objects)

    def status(self) -> dict[str, Any]:
        return dict(self.hub.call("GET", self.policy_path).get("status") or {})

    def condition(self, type_: str) -> tuple[str, str]:
        found = next(c for c in self.status()["conditions"] if c["type"] == type_)
        return found["status"], found["reason"]

    def table(self, origin: str = "") -> RoutingTable:
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/marlin-balanced{origin}"
        return RoutingTable.model_validate_json(self.hub.call("GET", path)["data"][CONFIG_MAP_KEY])

    def events(self) -> list[dict[str, Any]]:
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        return list(self.hub.call("GET", path)["items"])


@pytest.fixture
def fleet(hub: Cluster) -> Fleet:
    return Fleet(hub)


def test_objects_become_a_plan_a_table_conditions_and_events(fleet: Fleet, operator: Start) -> None:
    process = operator("one")
    eventually(process.leads)
    fleet.apply(mode="Enforce")
    plan = RoutingPlan.model_validate(eventually(lambda: fleet.status().get("plan")))
    assert eventually(lambda: fleet.condition("Ready") == ("True", "Ready"))
    assert fleet.table().plan == plan
    assert fleet.table("-asia").plan == plan
    site = fleet.hub.call("GET", f"/apis/marlin.dev/v1alpha1/datacenters/{fleet.prefix}oregon")
    assert site["status"]["signals"]["carbonIntensity"]["value"] == "120"
    pool = fleet.hub.call("GET", f"/apis/marlin.dev/v1alpha1/namespaces/{fleet.namespace}/inferencepools/llama-2-70b")
    assert sum(backend["weight"] for backend in pool["status"]["backends"]) == 10_000
    assert "event " not in process.log.read_text()
    assert eventually(lambda: [e for e in fleet.events() if e["reason"] == "PlanPublished"])
    assert process.end() == 0


def test_a_change_is_noticed_by_the_watch_long_before_the_next_full_pass(fleet: Fleet, operator: Start) -> None:
    eventually(operator("one").leads)
    fleet.apply()
    assert eventually(lambda: fleet.condition("Applied") == ("False", "DryRun"))
    fleet.apply(mode="Enforce")
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"), timeout_s=30)


def test_what_others_own_in_a_status_or_a_config_map_is_left_alone(fleet: Fleet, operator: Start) -> None:
    eventually(operator("one").leads)
    fleet.apply(mode="Enforce")
    table = eventually(fleet.table)
    name = f"/api/v1/namespaces/{fleet.namespace}/configmaps/marlin-balanced"
    theirs = {"metadata": {"annotations": {"gitops.example/owner": "ann"}}}
    fleet.hub.call("PATCH", name, theirs, "application/merge-patch+json")
    fleet.apply(planner={"kind": "MeritOrder", "scheme": "MinCarbon"})
    eventually(lambda: fleet.table().generation > table.generation)
    found = fleet.hub.call("GET", name)
    assert found["metadata"]["annotations"] == {"gitops.example/owner": "ann"}
    managers = {entry["manager"] for entry in found["metadata"]["managedFields"] if entry["operation"] == "Apply"}
    assert managers == {"marlin-operator"}


def test_of_two_operators_one_leads_and_the_other_takes_over(fleet: Fleet, operator: Start) -> None:
    first = operator("first")
    eventually(first.leads)
    second = operator("second")
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.status().get("plan"))
    assert not second.said("leading as")
    assert first.end(signal.SIGTERM) == 0  # gives the Lease back
    eventually(second.leads, timeout_s=30)
    before = fleet.status()["plan"]
    fleet.apply(planner={"kind": "CapacityProportional", "scheme": "Balanced"})
    eventually(lambda: fleet.status()["plan"]["planner"] == "CapacityProportional")
    assert fleet.status()["plan"]["epoch"] >= before["epoch"]


def test_after_a_kill_the_plan_in_force_is_valid_and_the_next_operator_goes_on(fleet: Fleet, operator: Start) -> None:
    first = operator("first")
    eventually(first.leads)
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.status().get("plan"))
    first.end(signal.SIGKILL)
    assert RoutingPlan.model_validate(fleet.status()["plan"]) == fleet.table().plan
    second = operator("second")
    eventually(second.leads, timeout_s=60)  # the Lease of the dead has to run out
    fleet.apply(planner={"kind": "RoundRobin", "scheme": "Balanced"})
    eventually(lambda: fleet.status()["plan"]["planner"] == "RoundRobin")

"""What users see while an API server misbehaves or an operator is killed: the plan in force stays, and then goes on."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_fleet import Fleet
from control_plane import Cluster, Process, eventually
from fault_proxy import FaultProxy

from marlin.api.plan import RoutingPlan

Start = Callable[[str], Process]

pytestmark = pytest.mark.timeout(300)  # a busy machine takes several times as long for each start of a process


@pytest.fixture
def proxy(hub: Cluster, tmp_path: Path) -> Iterator[FaultProxy]:
    one = FaultProxy(hub, tmp_path)
    yield one
    one.close()


@pytest.fixture
def behind_proxy(hub: Cluster, proxy: FaultProxy, tmp_path: Path) -> Iterator[Process]:
    """An operator that sees the hub through the proxy, and leads."""
    process = Process(
        hub, tmp_path, "proxied", hub.token_of("marlin-system", "marlin-operator"), server=proxy.server, ca=proxy.ca()
    )
    eventually(process.leads)
    yield process
    process.end(signal.SIGKILL)
    path = "/apis/coordination.k8s.io/v1/namespaces/marlin-system/leases"
    for lease in hub.call("GET", path)["items"]:
        hub.call("DELETE", f"{path}/{lease['metadata']['name']}")
    hub.call("DELETE", "/apis/marlin.dev/v1alpha1/datacenters")


def planned_by(fleet: Fleet, kind: str) -> bool:
    return bool(fleet.status()["plan"]["planner"] == kind)


def test_watches_that_break_off_or_are_gone_are_begun_anew(
    fleet: Fleet, proxy: FaultProxy, behind_proxy: Process
) -> None:
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    before = eventually(lambda: proxy.watches >= 3 and proxy.watches)
    assert proxy.cut_watches() == 3
    assert eventually(lambda: proxy.watches >= before + 3)
    fleet.apply(planner={"kind": "RoundRobin", "scheme": "Balanced"})
    assert eventually(lambda: planned_by(fleet, "RoundRobin"), timeout_s=20)
    proxy.watch_fault = (410, {})
    proxy.cut_watches()
    eventually(lambda: proxy.answered[410] >= 3)
    proxy.watch_fault = None
    fleet.apply(planner={"kind": "Nearest", "scheme": "Balanced"})
    assert eventually(lambda: planned_by(fleet, "Nearest"), timeout_s=90)
    assert behind_proxy.process.poll() is None


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "1"}), (503, {})], ids=["429", "503"])
def test_an_api_server_that_is_too_busy_delays_and_changes_nothing(
    status: int, headers: dict[str, str], fleet: Fleet, proxy: FaultProxy, behind_proxy: Process
) -> None:
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    plan = fleet.status()["plan"]
    conditions = fleet.status()["conditions"]
    proxy.fault = (status, headers)
    fleet.apply(planner={"kind": "RoundRobin", "scheme": "Balanced"})
    assert eventually(lambda: behind_proxy.page("/readyz")[0] == 503, timeout_s=90)
    assert behind_proxy.metric("marlin_operator_failed_rounds_total") >= 1
    assert behind_proxy.page("/healthz")[0] == 200
    assert fleet.status()["plan"] == plan
    assert fleet.status()["conditions"] == conditions
    proxy.fault = None
    assert eventually(lambda: planned_by(fleet, "RoundRobin"), timeout_s=60)
    assert behind_proxy.process.poll() is None


def test_an_api_server_that_restarts_is_found_again(fleet: Fleet, operator: Start) -> None:
    first = operator("first")
    eventually(first.leads)
    fleet.apply(mode="Enforce")
    table = eventually(fleet.table)
    hub = fleet.hub
    hub.stop()
    time.sleep(1.0)
    hub.start()
    assert fleet.table() == table
    # Whether it outlived the restart or its Lease ran out meanwhile: there is one that leads, or a next one will.
    second = operator("second")
    fleet.apply(planner={"kind": "RoundRobin", "scheme": "Balanced"})
    assert eventually(lambda: planned_by(fleet, "RoundRobin"), timeout_s=90)
    ended = first.process.poll()
    assert ended is None or (ended == 1 and first.said("the Lease"))
    assert (ended is None) or second.leads()


def test_killed_at_any_point_of_a_round_the_plan_in_force_is_valid(fleet: Fleet, operator: Start) -> None:
    rng = random.Random(20261128)
    lease = "/apis/coordination.k8s.io/v1/namespaces/marlin-system/leases/marlin-operator"
    tables = ("", "-europe", "-america", "-asia")
    first = operator("first")
    eventually(first.leads)
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    process = first
    for i in range(6):
        fleet.apply(planner={"kind": ("RoundRobin", "Nearest", "MeritOrder")[i % 3], "scheme": "Balanced"})
        time.sleep(rng.uniform(0.0, 1.2))  # a point of the round that this change began: reading, deciding, writing
        process.end(signal.SIGKILL)
        fleet.hub.call("DELETE", lease)  # so that the next one need not wait until it has run out
        RoutingPlan.model_validate(fleet.status()["plan"])
        for origin in tables:
            plan = fleet.table(origin).plan
            assert plan is not None
            assert plan.hash == plan.content_hash()
        process = operator(f"next-{i}")
        eventually(process.leads)
    fleet.apply(planner={"kind": "LeastLoaded", "scheme": "Balanced"})
    assert eventually(lambda: planned_by(fleet, "LeastLoaded"))
    assert {fleet.table(origin).plan for origin in tables} == {RoutingPlan.model_validate(fleet.status()["plan"])}

"""What users see while an API server misbehaves or an operator is killed: the plan in force stays, and then goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cluster_fleet import Fleet
from control_plane import Cluster, Etcd, Process, eventually, install, kubeconfig
from fault_proxy import FaultProxy, Interrupt
from operator_nursery import Nursery

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
    forget_the_lease(hub)
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


@pytest.fixture
def nursery(hub: Cluster, proxy: FaultProxy, tmp_path: Path) -> Iterator[Callable[..., Nursery]]:
    """Operators by fork, that see the hub through the proxy."""
    made: list[Nursery] = []

    def make(clock: Path | None = None) -> Nursery:
        token = hub.token_of("marlin-system", "marlin-operator")
        config = tmp_path / "nursery.kubeconfig"
        config.write_text(json.dumps(kubeconfig(hub, tmp_path, token, server=proxy.server, authority=proxy.ca())))
        options = ["--kubeconfig", str(config), "--namespace", "marlin-system", "--health-address", "127.0.0.1:0"]
        made.append(Nursery([*options, "--look-every", "2"], tmp_path / "nursery.log", clock))
        return made[-1]

    yield make
    for one in made:
        one.close()
    hub.call("DELETE", "/apis/marlin.dev/v1alpha1/datacenters")
    forget_the_lease(hub)


KILLS = 20
MOST_REQUESTS = 16
"""A first round with one policy to plan asks the API server about this often: reads, four tables, statuses, Events."""


def test_killed_at_any_point_of_a_planning_cycle_the_plan_in_force_is_valid(
    fleet: Fleet, proxy: FaultProxy, nursery: Callable[..., Nursery]
) -> None:
    """The point is the request at which it is killed, and whether the API server still carries that one out."""
    dice = random.Random(20261128)
    operators = nursery()
    pid = operators.start("first")
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    died_at: list[int] = []
    for i in range(KILLS):
        os.kill(pid, signal.SIGKILL)
        assert operators.ended() == -signal.SIGKILL
        forget_the_lease(fleet.hub)  # so that the next one need not wait until it has run out
        fleet.apply(planner={"kind": ("RoundRobin", "Nearest", "MeritOrder")[i % 3], "scheme": "Balanced"})
        at, dead = dice.randint(1, MOST_REQUESTS), threading.Event()
        proxy.interrupt = Interrupt(at, dice.random() < 0.5, dead.set)
        pid = operators.start(f"next-{i}")
        if dead.wait(10.0):  # else it asked for less: it is killed at rest
            died_at.append(at)
        os.kill(pid, signal.SIGSTOP)  # nothing moves while it is looked at; the next turn kills it
        proxy.interrupt = None
        assert valid_plans(fleet)
    assert len(set(died_at)) >= 8, "the points were not spread over the cycle"
    os.kill(pid, signal.SIGKILL)
    operators.ended()
    forget_the_lease(fleet.hub)
    fleet.apply(planner={"kind": "LeastLoaded", "scheme": "Balanced"})
    pid = operators.start("last")
    assert eventually(lambda: planned_by(fleet, "LeastLoaded"))
    assert eventually(lambda: set(valid_plans(fleet)) == {RoutingPlan.model_validate(fleet.status()["plan"])})
    operators.close(pid)


def test_a_clock_that_jumps_leaves_a_plan_of_the_time_it_shows(
    fleet: Fleet, nursery: Callable[..., Nursery], tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    operators = nursery(clock)
    pid = operators.start("one")
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    generation = fleet.table().generation
    for hours in (3, -5, 0):
        clock.write_text(str(3600 * hours))
        fleet.apply(planner={"kind": ("RoundRobin", "Nearest", "MeritOrder")[hours % 3], "scheme": "Balanced"})
        epochs = {int((time.time() + 3600 * hours + ahead) // 900) for ahead in (-60, 0, 60)}
        eventually(partial(is_planned_in, fleet, epochs))
        assert fleet.table().generation > generation  # or a router would take it for an older one
        generation = fleet.table().generation
    assert fleet.condition("Ready") == ("True", "Ready")
    operators.close(pid)


def test_an_api_server_that_is_away_for_longer_than_a_lease_ends_the_operator_and_the_next_one_goes_on(
    fleet: Fleet, proxy: FaultProxy, behind_proxy: Process, nursery: Callable[..., Nursery]
) -> None:
    """Two minutes of 503, or more, are this: it ends after ten seconds, and is started again until they are over."""
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    plans = valid_plans(fleet)
    proxy.fault = proxy.lease_fault = (503, {})
    assert behind_proxy.process.wait(60) == 1
    said = behind_proxy.log.read_text().strip().splitlines()[-1]
    assert said.startswith("Error: the Lease could not be renewed: ")
    assert "503" in said
    answered = proxy.answered[503]
    operators = nursery()
    pid = operators.start("next")
    eventually(lambda: proxy.answered[503] >= answered + 3)  # it waits, and does not end
    assert valid_plans(fleet) == plans
    proxy.fault = proxy.lease_fault = None
    fleet.apply(planner={"kind": "RoundRobin", "scheme": "Balanced"})
    assert eventually(lambda: planned_by(fleet, "RoundRobin"), timeout_s=90)
    operators.close(pid)


def test_an_etcd_that_lost_everything_and_is_restored_goes_on_from_what_it_holds(etcd: Etcd, tmp_path: Path) -> None:
    own = Etcd(etcd.binaries, tmp_path)
    own.start()
    hub = Cluster("lost", own, tmp_path / "lost")
    started: list[Process] = []

    def operator(name: str) -> Process:
        started.append(Process(hub, tmp_path, name, token))
        return started[-1]

    def with_data(move: Callable[[], object]) -> None:
        """Stops both, does something with etcd's folder, starts both."""
        hub.stop()
        own.stop()
        move()
        own.start()
        hub.start()

    try:
        hub.start()
        install(hub)
        fleet = Fleet(hub)
        token = hub.token_of("marlin-system", "marlin-operator")
        first = operator("first")
        fleet.apply(mode="Enforce")
        eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
        first.end(signal.SIGKILL)  # its Lease is in the backup, as it would be
        plans = valid_plans(fleet)
        data, backup = tmp_path / "etcd", tmp_path / "backup"
        with_data(lambda: data.rename(backup))
        lost = operator("lost")
        assert lost.process.wait(60) == 1
        said = lost.log.read_text().strip().splitlines()[-1]
        assert said.startswith("Error: no Lease: ")
        assert "its token is not accepted" in said or "not found" in said
        with_data(lambda: shutil.copytree(backup, emptied(data)))
        assert valid_plans(fleet) == plans
        restored = operator("restored")
        eventually(restored.leads)
        assert eventually(lambda: fleet.condition("Ready") == ("True", "Ready"))
        fleet.apply(planner={"kind": "Nearest", "scheme": "Balanced"})
        assert eventually(lambda: planned_by(fleet, "Nearest"))
        assert eventually(lambda: {plan.planner.value for plan in valid_plans(fleet)} == {"Nearest"})
    finally:
        for process in started:
            process.end(signal.SIGKILL)
        hub.stop()
        own.stop()


def emptied(folder: Path) -> Path:
    """Where a folder was."""
    shutil.rmtree(folder)
    return folder


TABLES = ("", "-europe", "-america", "-asia")


def valid_plans(fleet: Fleet) -> list[RoutingPlan]:
    """The plans that routers have, each checked against its hash, as is that of the status."""
    RoutingPlan.model_validate(fleet.status()["plan"])
    plans = [fleet.table(origin).plan for origin in TABLES]
    found = [plan for plan in plans if plan is not None]
    assert [plan.hash for plan in found] == [plan.content_hash() for plan in found]
    assert len(found) == len(TABLES)
    return found


def is_planned_in(fleet: Fleet, epochs: set[int]) -> bool:
    """Whether the status and all routers have a plan of these epochs."""
    return fleet.status()["plan"]["epoch"] in epochs and {plan.epoch for plan in valid_plans(fleet)} <= epochs


def forget_the_lease(hub: Cluster) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/marlin-system/leases"
    for lease in hub.call("GET", path)["items"]:
        hub.call("DELETE", f"{path}/{lease['metadata']['name']}")

"""``marlin operator`` as a process under its shipped roles, against a real API server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agents import small_artifact
from cluster_fleet import Fleet
from control_plane import Process, eventually
from otlp_collector import collecting

from marlin.api.plan import RoutingPlan

Start = Callable[[str], Process]

LEARNS = ("torch", "numba", "llvmlite")
"""Libraries that may be in the process of ``learning: Adapt``, and in that alone."""


def test_objects_become_a_plan_a_table_conditions_and_events(fleet: Fleet, operator: Start) -> None:
    process = operator("one")
    eventually(process.leads)
    fleet.apply(mode="Enforce")
    plan = RoutingPlan.model_validate(eventually(lambda: fleet.status().get("plan")))
    assert eventually(lambda: fleet.condition("Ready") == ("True", "Ready"))
    assert fleet.table().plan == plan
    assert fleet.table("-asia").plan == plan
    assert fleet.site("oregon")["status"]["signals"]["carbonIntensity"]["value"] == "120"
    assert sum(backend["weight"] for backend in fleet.pool()["status"]["backends"]) == 10_000
    assert "event " not in process.log.read_text()
    assert eventually(lambda: fleet.events("PlanPublished"))
    page = process.page("/metrics")[1]
    for row in plan.pools:
        shares = re.findall(rf'plan_share{{.*policy_namespace="{fleet.namespace}",pool="{row.name}"}} (\S+)', page)
        assert sum(map(float, shares)) == pytest.approx(1.0)
    assert not [name for name in LEARNS if name in process.maps()], "what learns is in no operator"
    assert process.end() == 0


def test_an_origin_aware_policy_is_published_with_a_row_for_each_origin(fleet: Fleet, operator: Start) -> None:
    process = operator("one")
    fleet.apply(mode="Enforce", dispatch="Shares", originAware=True)
    plan = RoutingPlan.model_validate(eventually(lambda: fleet.status().get("plan")))
    assert len(plan.origins) == len(plan.pools[0].by_origin) > 1
    assert len(set(plan.pools[0].by_origin)) > 1, "they differ"
    assert eventually(lambda: fleet.table("-asia").plan == plan)
    mapped = process.maps()
    assert "/highspy/" in mapped
    assert not [name for name in (*LEARNS, "/scipy/") if name in mapped], "one library solves it"
    assert process.end() == 0


@pytest.fixture
def account_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a pod, whose user is a number that no file gives a name."""
    (tmp_path / "sitecustomize.py").write_text(
        "import getpass\n\n\ndef nobody():\n    raise KeyError('getpwuid(): uid not found: 65532')\n\n\n"
        "getpass.getuser = nobody\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("account_without_a_name")
async def test_a_planning_cycle_is_a_trace_at_a_collector(fleet: Fleet, operator: Callable[..., Process]) -> None:
    async with collecting() as collector:
        await asyncio.to_thread(fleet.apply, mode="Enforce")
        process = operator("one", "--otlp-endpoint", collector.url)
        spans = await collector.wait_for(5)
        assert await asyncio.to_thread(process.end) == 0
    by_name = {span.name: span for span in spans if span.trace_id == spans[0].trace_id}
    assert by_name.keys() == {"round", "read", "decide", "plan", "write"}
    assert by_name["plan"].parent_id == by_name["decide"].span_id
    assert by_name["plan"].attributes["k8s.namespace.name"] == fleet.namespace
    assert by_name["round"].resource["service.name"] == "marlin-operator"
    assert by_name["decide"].began_ns <= by_name["plan"].began_ns <= by_name["plan"].ended_ns


def test_a_change_is_noticed_by_the_watch_long_before_the_next_full_pass(fleet: Fleet, operator: Start) -> None:
    process = operator("one")
    eventually(process.leads)
    fleet.apply()
    assert eventually(lambda: fleet.condition("Applied") == ("False", "DryRun"))
    fleet.apply(mode="Enforce")
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"), timeout_s=30)
    assert not process.said("the watch ended")


def test_what_others_own_in_a_status_or_a_config_map_is_left_alone(fleet: Fleet, operator: Start) -> None:
    eventually(operator("one").leads)
    fleet.apply(mode="Enforce")
    table = eventually(fleet.table)
    name = fleet.config_map_path()
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


def test_arrivals_that_an_earlier_operator_kept_are_planned_with(fleet: Fleet, operator: Start) -> None:
    epoch = int(time.time() // 900)
    kept = {
        "epochSeconds": 900.0,
        "lastEpoch": epoch - 1,
        "requests": {"llama-2-70b": [12_000.0] * 20},
        "meanTokens": {"llama-2-70b": [500.0, 100.0]},
        "originShares": {"llama-2-70b": {"asia": 1.0}},
    }
    fleet.hub.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "marlin-balanced.arrivals",
                "namespace": fleet.namespace,
                "labels": {"app.kubernetes.io/managed-by": "marlin-operator", "marlin.dev/record": "arrivals"},
            },
            "data": {"arrivals.json": json.dumps(kept)},
        }
    )
    router = {"name": "asia", "metricsUrl": "http://127.0.0.1:9/metrics", "tls": {"verification": "Disabled"}}
    fleet.apply(mode="Enforce", observation={"routers": [router]})
    process = operator("one")
    plan = eventually(lambda: fleet.status().get("plan"))
    assert 9_000 < fleet.status()["forecastRequests"] < 15_000
    assert "assumed" not in plan["explanation"]
    assert eventually(lambda: process.said("asia: 127.0.0.1/metrics cannot be reached"))
    assert process.metric("marlin_operator_failed_rounds_total") == 0


@pytest.fixture
def kopf_that_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """kopf ends with an error the first time it is run in a process."""

    def ends_with(error: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import kopf\n\nran, runs = [], kopf.operator\n\n\n"
            "async def operator(**options):\n    ran.append(1)\n    if len(ran) == 1:\n"
            f"        raise {error}('broken for a test')\n    await runs(**options)\n\n\nkopf.operator = operator\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return ends_with


def test_kopf_is_started_again_when_it_ends_and_changes_are_noticed_at_once_as_before(
    fleet: Fleet, operator: Start, kopf_that_ends: Callable[[str], None]
) -> None:
    kopf_that_ends("RuntimeError")
    process = operator("one")
    eventually(lambda: process.metric("marlin_operator_watch_restarts_total") == 1)
    fleet.apply()
    assert eventually(lambda: fleet.condition("Applied") == ("False", "DryRun"))
    assert process.page("/healthz") == (200, "ok")


def test_a_watch_that_is_dead_is_what_liveness_says(operator: Start, kopf_that_ends: Callable[[str], None]) -> None:
    kopf_that_ends("SystemExit")
    process = operator("one")
    eventually(process.leads)
    assert eventually(lambda: process.page("/healthz") == (503, "the watch's thread has ended"))


def test_a_trained_policy_is_shadowed_then_enforced_and_a_bad_one_leaves_it_in_use(
    fleet: Fleet, operator: Start, tmp_path: Path
) -> None:
    small_artifact(tmp_path / "artifact")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(tmp_path / "artifact", arcname="artifact")
    name = f"{fleet.namespace}-trained"
    fleet.hub.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "marlin-system"},
            "binaryData": {"artifact.tar": base64.b64encode(data.getvalue()).decode()},
        }
    )
    trained = {"kind": "Marlin", "scheme": "Balanced", "artifactRef": {"configMapRef": {"name": name}}}
    eventually(operator("one").leads)
    fleet.apply(mode="Enforce", shadow=trained)
    assert eventually(lambda: fleet.status()["shadow"]["plan"]["planner"]) == "Marlin"
    assert fleet.status()["plan"]["planner"] == "MeritOrder"
    fleet.apply(planner=trained, shadow=None)
    assert eventually(lambda: fleet.status()["plan"]["planner"] == "Marlin")
    assert len(fleet.status()["agents"]) == 4
    plan = eventually(lambda: fleet.table().plan)
    assert plan.planner.value == "Marlin"
    fleet.apply(planner=trained | {"artifactRef": {"configMapRef": {"name": "missing"}}})
    assert eventually(lambda: fleet.condition("ArtifactAccepted") == ("False", "ArtifactRejected"))
    assert fleet.condition("Planned")[0] == "True"
    assert eventually(lambda: fleet.events("ArtifactRejected"))

"""Each verb of the shipped roles, taken away in turn, ends in a condition, an Event or an exit that names it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from cluster_fleet import Fleet
from control_plane import ROOT, Cluster, Process, eventually
from worlds import the

Start = Callable[[str], Process]
ROLES = ROOT / "manifests" / "rbac" / "operator.yaml"

ENDS = [
    *((kind, "list") for kind in ("datacenters", "inferencepools", "marlinpolicies", "configmaps")),
    *(("leases", verb) for verb in ("get", "create", "update")),
]
WATCHES = [(kind, "watch") for kind in ("datacenters", "inferencepools", "marlinpolicies")]
STATUSES = [(f"{kind}/status", "patch") for kind in ("datacenters", "inferencepools", "marlinpolicies")]
TABLES = [("configmaps", "create"), ("configmaps", "patch")]
SIGNALS = [("secrets", "get"), ("configmaps", "get")]
EVENTS = [("events", "create")]


@pytest.fixture
def without(hub: Cluster) -> Iterator[Callable[[str, str], None]]:
    """Takes a verb away; the shipped roles are back afterwards."""

    def take(resource: str, verb: str) -> None:
        hub.without("marlin-operator", resource, verb)

    yield take
    hub.apply_file(ROLES)


def case(pair: tuple[str, str]) -> str:
    return "-".join(pair).replace("/", "-")


def test_the_cases_are_all_that_the_roles_grant() -> None:
    granted = [
        (resource, verb)
        for document in yaml.safe_load_all(ROLES.read_text())
        for rule in document.get("rules", ())
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert sorted(granted) == sorted(ENDS + WATCHES + STATUSES + TABLES + SIGNALS + EVENTS)


@pytest.mark.parametrize("right", ENDS, ids=case)
def test_without_what_it_cannot_do_without_it_ends_with_a_line_that_names_it(
    right: tuple[str, str], without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    resource, verb = right
    fleet.apply()
    without(resource, verb)
    process = operator("one")
    assert process.process.wait(60) == 1
    last = process.log.read_text().strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert f'cannot {verb} resource "{resource}"' in last
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("right", WATCHES, ids=case)
def test_without_a_watch_plans_are_made_and_the_log_names_the_right(
    right: tuple[str, str], without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    resource, verb = right
    without(resource, verb)
    fleet.apply(mode="Enforce")
    process = operator("one")
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    assert eventually(lambda: process.said(f'cannot {verb} resource "{resource}"'))
    assert process.page("/healthz")[0] == 200


@pytest.mark.parametrize("right", STATUSES, ids=case)
def test_a_status_that_may_not_be_written_becomes_an_event_and_the_rest_goes_on(
    right: tuple[str, str], without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    resource, verb = right
    without(resource, verb)
    fleet.apply(mode="Enforce")
    process = operator("one")
    where = "default" if resource.startswith("datacenters") else fleet.namespace
    event = eventually(lambda: fleet.events("StatusRefused", where))[0]
    assert f'cannot {verb} resource "{resource}"' in event["note"]
    assert event["type"] == "Warning"
    assert eventually(lambda: fleet.table().plan)
    assert f'cannot {verb} resource "{resource}"' in process.page("/readyz")[1]


@pytest.mark.parametrize("right", TABLES, ids=case)
def test_a_table_that_may_not_be_written_is_a_condition(
    right: tuple[str, str], without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    resource, verb = right
    without(resource, verb)
    fleet.apply(mode="Enforce")
    operator("one")
    assert eventually(lambda: fleet.condition("Applied") == ("False", "PartiallyApplied"))
    assert f'cannot {verb} resource "{resource}"' in fleet.message("Applied")
    assert fleet.condition("Ready")[0] == "False"


@pytest.mark.parametrize("right", SIGNALS, ids=case)
def test_what_a_signal_needs_and_may_not_be_read_is_a_condition(
    right: tuple[str, str], without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    resource, verb = right
    source: dict[str, Any] = {"provider": "ConfigMap", "configMap": {"name": "carbon", "key": "value"}}
    if resource == "secrets":
        key = base64.b64encode(b"k").decode()
        fleet.hub.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "emaps", "namespace": "marlin-system"},
                "data": {"token": key},
            }
        )
        source = {"provider": "ElectricityMaps", "electricityMaps": {"tokenSecretRef": {"name": "emaps"}}}
    the(fleet.objects, "Datacenter")["spec"]["signals"]["carbonIntensity"] = source
    without(resource, verb)
    fleet.apply()
    operator("one")
    assert eventually(lambda: fleet.site_condition("frankfurt", "SignalsFresh") == ("False", "FallbackInUse"))
    # The line of the status may be about something else that is wrong as well: here a router that nobody runs.
    conditions = {c["type"]: c["message"] for c in fleet.site("frankfurt")["status"]["conditions"]}
    assert "cannot be read (403)" in conditions["SignalsFresh"]


def test_without_events_the_plan_is_made_and_they_are_counted(
    without: Callable[[str, str], None], fleet: Fleet, operator: Start
) -> None:
    without("events", "create")
    fleet.apply(mode="Enforce")
    process = operator("one")
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    assert eventually(lambda: process.metric("marlin_operator_refused_events_total") > 0)

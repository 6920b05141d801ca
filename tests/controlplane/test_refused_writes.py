"""What a user sees of a write that the API server refuses: a condition and an Event, and everything else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster_fleet import Fleet
from control_plane import ROOT, Cluster, Process, eventually

Start = Callable[[str], Process]
ROLES = ROOT / "manifests" / "rbac" / "operator.yaml"


@pytest.fixture
def roles(hub: Cluster) -> Iterator[Callable[[], None]]:
    """Puts the shipped roles back; also at the end."""

    def restore() -> None:
        hub.apply_file(ROLES)

    yield restore
    restore()


def test_a_table_that_does_not_fit_is_said_and_the_others_are_written(fleet: Fleet, operator: Start) -> None:
    # Somebody else fills the ConfigMap up to its limit: what we would add is refused.
    hub = fleet.hub
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "marlin-balanced", "namespace": fleet.namespace},
        "data": {"theirs": "x" * 1_048_000},
    }
    hub.apply(body)
    process = operator("one")
    eventually(process.leads)
    fleet.apply(mode="Enforce")
    assert eventually(lambda: fleet.condition("Applied") == ("False", "PartiallyApplied"), timeout_s=30)
    assert "ConfigMap" in fleet.message("Applied")
    assert "1048576" in fleet.message("Applied")
    assert eventually(lambda: fleet.events("PartiallyApplied"))
    assert fleet.table("-asia").plan is not None
    rounds = process.metric("marlin_operator_rounds_total")
    hub.call("DELETE", fleet.config_map_path())
    fleet.apply(planner={"kind": "MeritOrder", "scheme": "MinCarbon"})
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"), timeout_s=30)
    assert fleet.table().plan is not None
    assert process.metric("marlin_operator_rounds_total") > rounds


def test_a_right_that_was_taken_away_is_said_and_comes_back(
    fleet: Fleet, operator: Start, roles: Callable[[], None]
) -> None:
    process = operator("one")
    eventually(process.leads)
    fleet.apply(mode="Enforce")
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"))
    fleet.hub.without("marlin-operator", "configmaps", "patch")
    fleet.apply(planner={"kind": "MeritOrder", "scheme": "MinCarbon"})
    assert eventually(lambda: fleet.condition("Applied") == ("False", "PartiallyApplied"), timeout_s=30)
    assert "forbidden" in fleet.message("Applied")
    roles()
    # Nothing rings for a role: the next full pass finds it.
    assert eventually(lambda: fleet.condition("Applied") == ("True", "Applied"), timeout_s=90)

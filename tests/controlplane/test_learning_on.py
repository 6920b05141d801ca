"""``learning: Adapt`` as its user sees it: an operator under its shipped roles on a real API server, a real process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_fleet import Fleet
from control_plane import Process, eventually
from lived_epochs import again, lived

from marlin.policy.history import append

pytest.importorskip("torch")


@pytest.mark.timeout(580)
def test_a_policy_learns_on_beside_the_operator_and_the_decision_is_in_status_event_and_metrics(
    fleet: Fleet, operator: Callable[..., Process], tmp_path: Path
) -> None:
    records = tmp_path / "records"
    records.mkdir()
    append(records / f"{fleet.namespace}_balanced.jsonl", again(lived()[0], 3))
    process = operator(
        "one", "--record", str(records), "--adapt-cpu-seconds", "1", "--adapt-core-share", "1", "--adapt-nice", "0"
    )
    fleet.apply(mode="Enforce", planner={"kind": "Marlin", "learning": "Adapt"})
    assert eventually(lambda: fleet.condition("Adapting") == ("True", "Learning"))
    assert eventually(lambda: fleet.condition("Planned")[0] == "True")
    assert running(process) == "1.0"
    decided = eventually(lambda: fleet.status().get("adaptation"), timeout_s=480)
    assert decided["decision"] in {"TookOver", "Discarded"}
    assert (decided["heldBackEpochs"], decided["learntFromEpochs"]) == (96, 48)
    assert fleet.condition("Adapting") == ("True", decided["decision"])
    assert decided["servingValue"] in fleet.message("Adapting")
    assert eventually(lambda: fleet.events(decided["decision"]))
    assert eventually(lambda: running(process) == "0.0")
    assert not [name for name in ("torch", "numba", "llvmlite") if name in process.maps()]
    assert process.end() == 0


def running(process: Process) -> str:
    found = re.search(r"^marlin_operator_adapt_running{.*} (\S+)$", process.page("/metrics")[1], re.MULTILINE)
    return found[1] if found else ""

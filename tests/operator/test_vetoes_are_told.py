"""A veto becomes an Event when it begins, and no further one while it goes on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from agents import small_artifact
from worlds import NOON, Cluster, sample, the

from marlin.operator.core import planning
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.negotiation import Negotiation

KEY = ("default", "balanced")
EPOCH = timedelta(minutes=15)


class Told:
    """A policy whose agents veto as the test says, epoch after epoch."""

    def __init__(self, folder: Path) -> None:
        small_artifact(folder)
        objects = sample()
        the(objects, "MarlinPolicy")["spec"]["planner"] = {"kind": "Marlin", "scheme": "Balanced"}
        self.pulls: dict[str, float] = {}
        self.cluster = Cluster(objects, NOON)
        self.cluster.known["artifacts"] = {(KEY, "planner"): ArtifactUse(folder)}

    def epoch(self, **pulls: float) -> list[str]:
        """The notes about vetoes of the next epoch's plan, after which the status holds who vetoed when."""
        self.pulls = pulls
        actions = self.cluster.reconcile()
        status = self.cluster.status("MarlinPolicy")
        for agent in status["agents"]:
            if agent["name"] in pulls:
                agent["lastVetoTime"] = status["plan"]["decidedTime"]
        self.cluster.now += EPOCH
        return [note.message for note in actions.events if note.reason == "Vetoed"]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    one = Told(tmp_path / "artifact")
    monkeypatch.setattr(planning, "negotiation_of", lambda _: Negotiation(pulls=one.pulls))
    return one


def test_a_veto_is_told_when_it_begins_and_not_while_it_goes_on(told: Told) -> None:
    (first,) = told.epoch(water=0.2)
    assert "water pulled the plan 20% of the way to its own" in first
    assert told.epoch(water=0.3) == []
    (both,) = told.epoch(water=0.3, carbon=0.05)
    assert "carbon" in both
    assert "water" not in both
    assert told.epoch() == []
    (again,) = told.epoch(water=0.1)
    assert "water" in again


def test_without_a_veto_nothing_is_told(told: Told) -> None:
    assert [told.epoch(), told.epoch()] == [[], []]

"""``spec.planner.lateWeight``: who states that late requests are dear has more replicas kept awake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from worlds import NOON, Cluster, sample, the

from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.planning import Planned

POOL, POLICY = ("default", "llama-2-70b"), ("default", "balanced")
UNSURE = Forecast(2_000.0, 12_000.0, 700.0, 150.0, {"europe": 0.5, "america": 0.2, "asia": 0.3})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_artifact(tmp_path / "policy")
    return tmp_path / "policy"


def awake(folder: Path, **stated: Any) -> int:
    """Replicas of the sample's pool, all in all, where replicas take minutes to wake."""
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["planner"] = {"kind": "Marlin", "scheme": "Balanced"} | stated
    the(objects, "InferencePool")["spec"]["powerDown"] = "ScaleToZero"
    cluster = Cluster(objects, NOON)
    cluster.known = {"forecasts": {POOL: UNSURE}, "artifacts": {(POLICY, "planner"): ArtifactUse(folder)}}
    (policy,) = cluster.reconcile().report.policies
    assert isinstance(policy.outcome, Planned)
    return sum(policy.outcome.plan.pools[0].replicas)


def test_the_dearer_late_requests_are_the_more_replicas_are_kept_awake(folder: Path) -> None:
    free, dear = awake(folder, lateWeight=0), awake(folder, lateWeight=100)
    assert free <= awake(folder) <= dear
    assert free < dear


def test_not_stated_it_is_one(folder: Path) -> None:
    assert awake(folder) == awake(folder, lateWeight=1)

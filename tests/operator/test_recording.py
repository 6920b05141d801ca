"""What the operator writes down of epochs that are over, and that a report can be made of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from worlds import NOON, Cluster, sample

from marlin.operator.arrivals.history import Ended
from marlin.operator.core.reconcile import Actions
from marlin.operator.recording import Recording
from marlin.operator.report.cli import report
from marlin.policy.history import read


class Watched:
    """A fleet of the sample that plans epoch after epoch, and what is recorded of it."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.cluster, self.recording, self.folder = Cluster(sample()), Recording(folder), folder
        self.cluster.change("MarlinPolicy", **spec)

    def plan(self) -> Actions:
        """Decides the next epoch."""
        actions = self.cluster.reconcile()
        self.cluster.now += timedelta(minutes=15)
        return actions

    def ended(self, actions: Actions, *missing: str) -> dict[tuple[str, str], Ended]:
        """What its routers saw of the epoch that was planned: a thousand requests of each pool."""
        (policy,) = actions.report.policies
        assert policy.outcome is not None
        pools = [pool.name for pool in policy.outcome.plan.pools if pool.name not in missing]  # type: ignore[union-attr]
        epoch = policy.outcome.plan.epoch  # type: ignore[union-attr]
        return {policy.key: Ended(epoch, dict.fromkeys(pools, 1000.0), {})}

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


async def test_an_epoch_that_is_over_is_written_once_with_its_plan_and_can_be_reported(tmp_path: Path) -> None:
    fleet = Watched(tmp_path, mode="Enforce")
    first, second = fleet.plan(), fleet.plan()
    for actions, ended in (
        (first, {}),
        (second, fleet.ended(first)),
        (second, fleet.ended(first)),  # the same news in the next round
        (second, fleet.ended(second)),
    ):
        await fleet.recording.heard(actions.report, ended)
    (file,) = fleet.files
    epochs = read(file)
    assert len(file.read_text().splitlines()) == len(epochs) == 2
    for one, actions in zip(epochs, (first, second), strict=True):
        outcome = actions.report.policies[0].outcome
        assert one.plan == outcome.plan  # type: ignore[union-attr]
        assert [sum(row) for row in one.arrived_requests] == pytest.approx([1000.0] * len(one.state.pools))
    day = ["--from", str((NOON - timedelta(hours=1)).isoformat()), "--to", str((NOON + timedelta(days=1)).isoformat())]
    said = CliRunner().invoke(report, ["--history", str(file), *day, "--format", "json"], catch_exceptions=False)
    found = json.loads(said.output)
    served = found["total"]["requests"] - found["reachedNoDatacenter"]["requests"]
    assert served == pytest.approx(2000.0 * len(epochs[0].state.pools), rel=0.01)
    assert found["total"]["energy_kwh"] > 0


async def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """A pool that nobody counted; an epoch that this process did not plan."""
    fleet = Watched(tmp_path)
    first = fleet.plan()
    pool = first.report.policies[0].outcome.plan.pools[0].name  # type: ignore[union-attr]
    await fleet.recording.heard(first.report, {})
    await fleet.recording.heard(fleet.plan().report, fleet.ended(first, pool))
    await Recording(tmp_path).heard(fleet.plan().report, fleet.ended(first))
    assert fleet.files == []


async def test_a_plan_that_nobody_carried_out_is_not_said_to_have_been(tmp_path: Path) -> None:
    fleet = Watched(tmp_path, mode="DryRun")
    first = fleet.plan()
    await fleet.recording.heard(first.report, {})
    await fleet.recording.heard(fleet.plan().report, fleet.ended(first))
    assert [one.plan for one in read(fleet.files[0])] == [None]


async def test_a_folder_that_cannot_be_written_to_stops_no_round_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Watched(tmp_path / "away")
    for _ in range(3):
        actions = fleet.plan()
        await fleet.recording.heard(actions.report, {})
        await fleet.recording.heard(actions.report, fleet.ended(actions))
    assert len([line for line in caplog.messages if "cannot be written" in line]) == 1

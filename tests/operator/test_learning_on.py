"""``learning: Adapt``: a process learns, what it decides is shown and kept, whatever befalls it serving goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from lived_epochs import lived
from worlds import NOON, Cluster, sample, the

from marlin.api.history import RecordedEpoch
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.observed import ObservedPolicy
from marlin.operator.learning.limits import SLICE_S, resting
from marlin.operator.learning.task import Learning, LearnSettings
from marlin.operator.telemetry.ledger import Ledger
from marlin.policy import artifact as artifacts
from marlin.policy.history import append

KEY = ("default", "balanced")
QUICK = LearnSettings(cpu_s=1.0, core_share=1.0, nice=0, held_back=24)
PLANNER = {"kind": "Marlin", "scheme": "Balanced", "learning": "Adapt"}


@pytest.fixture(scope="module")
def history() -> list[RecordedEpoch]:
    return lived()[0]


async def eventually(is_so: Callable[[], bool]) -> None:
    """A process of the system is waited for: nothing of ours rings when it is there."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class Learner:
    """The sample, whose policy learns on, with rounds as an operator does them."""

    def __init__(self, folder: Path, artifact: Path) -> None:
        self.folder, self.artifact = folder, artifact
        self.cluster = Cluster(sample())
        the(self.cluster.objects, "MarlinPolicy")["spec"]["planner"] = PLANNER
        self.rings = 0
        self.learning = self.started()

    def started(self, settings: LearnSettings = QUICK, **changes: Any) -> Learning:
        """An operator's, begun anew."""

        def ring() -> None:
            self.rings += 1

        folder = changes.pop("folder", self.folder)
        self.learning = Learning(folder, replace(settings, **changes), ring, lambda: self.cluster.now)
        return self.learning

    @property
    def policies(self) -> tuple[ObservedPolicy, ...]:
        return self.cluster.world().policies

    async def round(self) -> dict[str, Any]:
        """One round; the condition."""
        stated = {(KEY, "planner"): ArtifactUse(self.artifact)}
        uses = await self.learning.follow(self.policies, stated)
        self.cluster.known |= {"artifacts": uses, "adapting": self.learning.sights()}
        self.events = self.cluster.reconcile().events
        conditions = self.cluster.status("MarlinPolicy")["conditions"]
        return next(c for c in conditions if c["type"] == "Adapting")

    async def until_it_ended(self) -> dict[str, Any]:
        """A round that begins an attempt, and the one after its end."""
        assert (await self.round())["reason"] == "Learning"
        await self.rung()
        return await self.round()

    async def rung(self) -> None:
        """Until an attempt ended."""
        await eventually(lambda: self.rings > 0)
        self.rings = 0

    async def process(self) -> asyncio.subprocess.Process:
        """The one that learns, once it is there."""
        await eventually(lambda: self.learning.process is not None)
        assert self.learning.process is not None
        return self.learning.process

    def serves(self) -> str:
        """Digest of the artifact that the plan of the next epoch is made with."""
        self.cluster.now += timedelta(minutes=15)
        self.cluster.reconcile()
        plan: dict[str, Any] = self.cluster.status("MarlinPolicy")["plan"]
        return str(plan["artifactSha256"])

    @property
    def began_with(self) -> str:
        return artifacts.load(self.artifact).card.weights_sha256


@pytest.fixture
async def learner(tmp_path: Path, history: list[RecordedEpoch]) -> AsyncIterator[Learner]:
    small_artifact(tmp_path / "artifact")
    (tmp_path / "records").mkdir()
    append(tmp_path / "records" / "default_balanced.jsonl", history)
    learner = Learner(tmp_path / "records", tmp_path / "artifact")
    yield learner
    await learner.learning.close()


async def test_what_is_better_takes_over_is_kept_over_a_restart_and_leaves_with_the_artifact_it_began_with(
    learner: Learner, tmp_path: Path
) -> None:
    stated = the(learner.cluster.objects, "MarlinPolicy")["spec"]
    stated["negotiation"] = {"gradientSteps": 7, "vetoMaxPullPercent": 30}
    stated["planner"]["lateWeight"] = 3
    learner.started(margin=-1.0, cpu_s=8.0)
    found = await learner.until_it_ended()
    assert (found["status"], found["reason"]) == ("True", "TookOver"), found
    assert [event.reason for event in learner.events] == ["TookOver"]
    assert learner.learning.results() == [(KEY, "TookOver")]
    decision = learner.cluster.status("MarlinPolicy")["adaptation"]
    assert decision["heldBackEpochs"] == decision["learntFromEpochs"] == 24
    assert decision["artifactSha256"] == learner.serves() != learner.began_with
    assert decision["adaptedValue"] in found["message"]

    used = learner.learning.follow(learner.policies, {(KEY, "planner"): ArtifactUse(learner.artifact)})
    folder = (await used)[KEY, "planner"].folder
    assert folder is not None
    adapted = artifacts.load(folder).card.hyper_parameters["adapted"]
    game = adapted["game"]
    assert (game["steps"], game["veto"]["most"]) == (7, 0.3), "judged in another game than it serves in"
    assert adapted["late_weight"] == 3.0, "judged by another objective than it serves by"

    learner.started()
    assert (await learner.round())["reason"] == "TookOver"
    assert learner.serves() == decision["artifactSha256"]
    assert learner.learning.process is None, "it learnt within the day"

    small_artifact(tmp_path / "another", seed=1)
    learner.artifact = tmp_path / "another"
    await learner.round()
    assert learner.serves() == learner.began_with


async def test_what_is_no_better_is_thrown_away_and_it_learns_again_a_day_later(learner: Learner) -> None:
    learner.started(margin=1.0)
    found = await learner.until_it_ended()
    assert (found["status"], found["reason"]) == ("True", "Discarded"), found
    assert "thrown away" in found["message"]
    assert learner.serves() == learner.began_with
    assert not (learner.folder / "adapted" / "default_balanced" / "new").exists()
    learner.cluster.now += timedelta(hours=23)
    assert (await learner.round())["reason"] == "Discarded"
    learner.cluster.now += timedelta(hours=1)
    assert (await learner.round())["reason"] == "Learning"


async def test_a_process_that_is_killed_costs_what_it_had_learnt_and_is_begun_again_an_hour_later(
    learner: Learner,
) -> None:
    assert (await learner.round())["reason"] == "Learning"
    (await learner.process()).send_signal(signal.SIGKILL)
    await learner.rung()
    found = await learner.round()
    assert (found["status"], found["reason"], found["message"]) == ("False", "Failed", "it was ended by SIGKILL")
    assert learner.serves() == learner.began_with
    learner.cluster.now += timedelta(minutes=30)
    assert (await learner.round())["reason"] == "Failed"
    learner.cluster.now += timedelta(minutes=30)
    assert (await learner.round())["reason"] == "Learning"


async def test_an_operator_that_ends_takes_the_process_along_and_the_next_one_waits_an_hour(learner: Learner) -> None:
    await learner.round()
    process = await learner.process()
    await learner.learning.close()
    assert process.returncode == -signal.SIGKILL
    learner.started()
    found = await learner.round()
    assert (found["status"], found["reason"]) == ("Unknown", "Collecting")
    assert "came to no end" in found["message"]
    assert learner.learning.process is None
    learner.cluster.now += timedelta(hours=1)
    assert (await learner.round())["reason"] == "Learning"


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        (replace(QUICK, memory_mb=60), "False", "it may have 60 mb of memory"),
        (replace(QUICK, held_back=12), "Unknown", "at least 24 epochs must be held back"),
    ],
)
async def test_an_attempt_that_comes_to_no_verdict_says_why_and_leaves_what_serves(
    learner: Learner, settings: LearnSettings, status: str, said: str
) -> None:
    """Not enough memory to import what it needs; a refusal of ``marlin adapt``."""
    learner.started(settings)
    found = await learner.until_it_ended()
    assert found["status"] == status, found
    assert said in found["message"].lower()
    assert "\n" not in found["message"]
    assert learner.serves() == learner.began_with


@pytest.mark.parametrize("is_full", [True, False])
async def test_where_nothing_can_be_kept_nothing_is_learnt(learner: Learner, is_full: bool) -> None:
    """A full disk; something else where the folder should be."""
    folder = learner.folder / "adapted" / "default_balanced"
    if is_full:
        folder.mkdir(parents=True)
        (folder / ".state.json").symlink_to("/dev/full")
    else:
        (learner.folder / "adapted").write_text("")
    await learner.round()
    await learner.rung()
    found = await learner.round()
    assert (found["status"], found["reason"]) == ("False", "Failed")
    assert "cannot be written" in found["message"]
    assert learner.learning.process is None
    assert learner.serves() == learner.began_with


async def test_what_took_over_and_was_damaged_since_serves_no_more(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    folder = learner.folder / "adapted" / "default_balanced"
    folder.mkdir(parents=True)
    digest = "a" * 64
    small_artifact(folder / digest, seed=2)
    state = {"root": learner.began_with, "artifact": digest, "attempted": str(NOON), "attempts": 1, "last": None}
    (folder / "state.json").write_text(json.dumps(state))
    found = await learner.round()
    assert (found["reason"], "holds another artifact" in found["message"]) == ("Failed", True)
    assert learner.serves() == learner.began_with
    (folder / "state.json").write_text("{")
    learner.started()
    assert (await learner.round())["reason"] == "Learning", "it begins anew"
    assert any("state.json: cannot be read" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("start", "reason", "said"),
    [
        (lambda one: one.started(folder=None), "NoRecording", "--record"),
        (lambda one: one.started(held_back=96), "Collecting", "48 epochs are recorded, 120 are needed"),
    ],
)
async def test_what_is_missing_is_said(
    learner: Learner, start: Callable[[Learner], Learning], reason: str, said: str
) -> None:
    start(learner)
    found = await learner.round()
    assert (found["reason"], said in found["message"]) == (reason, True), found
    assert learner.serves() == learner.began_with


async def test_without_torch_the_condition_says_so(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    learner.started()
    found = await learner.round()
    assert (found["status"], found["reason"]) == ("False", "AdaptUnavailable")
    assert "marlin[train]" in found["message"]
    assert learner.serves() == learner.began_with


async def test_a_policy_that_is_not_to_learn_says_so_and_ends_what_learns(learner: Learner) -> None:
    await learner.round()
    process = await learner.process()
    learner.cluster.change("MarlinPolicy", planner={"kind": "Marlin"})
    found = await learner.round()
    assert (found["status"], found["reason"]) == ("Unknown", "NotNeeded")
    assert process.returncode == -signal.SIGKILL


async def test_one_policy_learns_at_a_time(learner: Learner) -> None:
    (policy,) = learner.policies
    other = replace(policy, key=("default", "other"))
    (learner.folder / "default_other.jsonl").write_bytes((learner.folder / "default_balanced.jsonl").read_bytes())
    stated = {(key, "planner"): ArtifactUse(learner.artifact) for key in (policy.key, other.key)}
    await learner.learning.follow((policy, other), stated)
    reasons = {key: sight.finding.reason for key, sight in learner.learning.sights().items()}
    assert reasons == {policy.key: "Learning", other.key: "Collecting"}


# --- the process ---------------------------------------------------------------------------------------------------

_STARTS = """
import os, subprocess, sys
limits = ["60", "2048", "0.5", "19"]
child = subprocess.Popen([sys.executable, "-m", "marlin.operator.learning.child", str(os.getpid()), *limits,
                          "--history", sys.argv[1], "--out", sys.argv[2]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_that_learns_ends_with_the_operator_however_that_ends(tmp_path: Path) -> None:
    """It reads a pipe that nobody writes to, where a history should be; then its parent is killed."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parent = subprocess.Popen(
        [sys.executable, "-c", _STARTS, str(pipe), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = Path("/proc") / parent.stdout.readline().strip()
    writing = _opened_once_somebody_reads(pipe)
    limits = (child / "limits").read_text()
    assert f"{2048 * 2**20}" in next(line for line in limits.splitlines() if line.startswith("Max data size"))
    assert next(line for line in limits.splitlines() if line.startswith("Max cpu time")).split()[3] == "60"
    assert (child / "stat").read_text().rpartition(")")[2].split()[16] == "19", "it does not stand back"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while child.exists() and _state(child) != "Z":
        assert time.monotonic() < deadline, "it outlived its parent"
        time.sleep(0.01)
    os.close(writing)


def _opened_once_somebody_reads(pipe: Path) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline, "nobody reads the history"
            time.sleep(0.01)


def _state(child: Path) -> str:
    try:
        return (child / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_one_whose_parent_is_gone_before_it_began_does_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "marlin.operator.learning.child", "1", "60", "2048", "0.5", "19"]
    done = subprocess.run([*command, "--history", str(tmp_path)], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_after_each_slice_of_processor_time_it_sleeps_for_as_long_as_its_share_asks() -> None:
    slept: list[float] = []
    resting(0.25, slept.append)(signal.SIGPROF, None)
    assert slept == [pytest.approx(3 * SLICE_S)]


def test_it_uses_no_more_than_its_share_of_a_core() -> None:
    """Others at work only make it use less."""
    code = (
        "import os, time\n"
        "from marlin.operator.learning.limits import Limits, hold_to\n"
        "hold_to(Limits(60, 2048, 0.25, nice=0), os.getppid())\n"
        "began = time.monotonic()\n"
        "used = time.process_time()\n"
        "while time.process_time() - used < 0.5: pass\n"
        "print((time.process_time() - used) / (time.monotonic() - began))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.35


def test_a_process_that_takes_long_to_go_down_still_ends_well() -> None:
    """Modules are taken down when the interpreter has given its signal handlers back; those of torch take a while."""
    code = (
        "import os, time\n"
        "from marlin.operator.learning.limits import Limits, hold_to\n"
        "class Slow:\n"
        "    def __del__(self, now=time.process_time):\n"
        "        until = now() + 0.25\n"
        "        while now() < until: pass\n"
        "hold_to(Limits(60, 2048, 0.9, nice=0), os.getppid())\n"
        "slow = Slow()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- metrics -------------------------------------------------------------------------------------------------------


async def test_attempts_are_counted_by_how_they_ended(learner: Learner) -> None:
    ledger = Ledger()
    await learner.round()
    ledger.heard(learner.cluster.reconcile().report)
    learner.cluster.now += timedelta(minutes=15)
    ledger.heard(learner.cluster.reconcile().report)
    ledger.learnt([(KEY, "Discarded"), (KEY, "Failed"), (KEY, "Discarded"), (("default", "gone"), "Failed")])
    labels = {"policy_namespace": "default", "policy": "balanced"}
    for result, many in (("Discarded", 2.0), ("Failed", 1.0)):
        name = "marlin_operator_adapt_runs_total"
        assert ledger.registry.get_sample_value(name, labels | {"result": result}) == many

"""Whose turn it is to learn on, what becomes of it, and which artifact serves.

One policy learns at a time, in a process within ``Limits``; rounds go on meanwhile and read what is known. Whatever
happens to that process, the artifact that serves goes on serving: another takes its place only once it is kept on disk.
When an attempt began is kept too, before it begins, so that an operator that is restarted again and again does not
learn again and again, and a full disk is noticed before anything is learnt.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from marlin.api.errors import InputError, MarlinError
from marlin.api.plan import Scheme
from marlin.api.policy import AdaptationStatus, AdaptDecision, MarlinPolicy, PlannerSpec
from marlin.operator.core.adapting import Adapting, in_words, learning_roles
from marlin.operator.core.artifact_use import ROLES, ArtifactUse
from marlin.operator.core.observed import Key, ObservedPolicy
from marlin.operator.learning.limits import Limits
from marlin.operator.learning.store import Learnt, Store
from marlin.operator.members.sighting import Finding
from marlin.policy.agents import shipped
from marlin.policy.agents.stated import text_of
from marlin.policy.objective import OPTION_NAMES

_log: Final = logging.getLogger(__name__)

LEAST_LEARNT: Final = 24
"""Epochs to learn from, six hours of quarter hours: ``marlin adapt`` takes no fewer."""

_NEVER: Final = datetime.min.replace(tzinfo=UTC)

RETRY_AFTER: Final = timedelta(hours=1)
"""After an attempt that came to no decision."""

_CRASHES: Final = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
"""How libraries that are not Python's end where memory is refused."""

_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "NUMBA_CACHE_DIR")
"""What of the environment the process gets: no secret is in these."""
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Uses = Mapping[tuple[Key, str], ArtifactUse]


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """How often and how much."""

    every: timedelta = timedelta(hours=24)
    """Between two attempts for one policy."""
    cpu_s: float = 300.0
    """Processor time for learning; compiling and judging come on top."""
    memory_mb: int = 2048
    core_share: float = 0.5
    nice: int = 19
    held_back: int = 96
    """Epochs at the end that only judge."""
    newest: int = 8 * 96
    """Epochs that are looked at."""
    margin: float = 0.001

    @property
    def limits(self) -> Limits:
        """Of the process: twice what it is to learn for, and five minutes to import, compile and judge."""
        return Limits(int(2 * self.cpu_s) + 300, self.memory_mb, self.core_share, self.nice)

    @property
    def deadline_s(self) -> float:
        """Time by the clock after which it is ended."""
        return 4 * self.limits.cpu_s / self.core_share


class _AttemptError(Exception):
    """An attempt came to no decision: reason of the condition, and one line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Wanted:
    policy: MarlinPolicy
    spec: PlannerSpec
    """The planner that is to learn on."""
    base: ArtifactUse
    """The artifact it begins with."""


@dataclass(slots=True)
class _Learner:
    store: Store
    learnt: Learnt
    trouble: Finding | None = None
    """Why the last attempt came to no decision."""
    epochs: int = 0
    """Lines of its history when they were counted last."""
    counted_size: int = -1


class Learning:
    """All policies that are to learn on.

    Args:
        folder: that of the recorded epochs; None: none are recorded.
        settings: how often and how much.
        ring: called when something is known anew.
        clock: the time.
        is_installed: whether what learning needs is there. Default: looked for.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: LearnSettings,
        ring: Callable[[], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        is_installed: bool | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._ring = ring
        self._clock = clock
        self._is_installed = is_installed if is_installed is not None else _has_what_trains()
        self._learners: dict[Key, _Learner] = {}
        self._wanted: dict[Key, _Wanted] = {}
        self._attempt: asyncio.Task[None] | None = None
        self._learning: Key | None = None
        self._results: list[tuple[Key, str]] = []
        self.process: asyncio.subprocess.Process | None = None
        """The one that learns; None: none does."""

    async def follow(self, policies: Iterable[ObservedPolicy], uses: Uses) -> Uses:
        """The artifacts that serve, what took over included; begins what is due, ends what nobody wants.

        Args:
            policies: all there are.
            uses: (policy, role) to the artifact that its spec states.
        """
        self._wanted = _wanted(policies, uses)
        for key in self._learners.keys() - self._wanted.keys():
            del self._learners[key]
        if self._learning is not None and self._learning not in self._wanted:
            await self._end()
        if self._folder is None:
            return uses
        for key, wanted in self._wanted.items():
            root = _digest(wanted.base)
            learner = self._learners.get(key)
            if learner is None:
                store = Store(self._folder, key)
                learnt, problem = await asyncio.to_thread(store.load)
                trouble = Finding(False, "Failed", problem) if problem else None
                if problem:
                    _log.warning("learning on of MarlinPolicy %s: %s", store.name, problem)
                learner = self._learners[key] = _Learner(store, learnt, trouble)
            if learner.learnt.root != root:
                if self._learning == key:
                    await self._end()
                if learner.learnt.root:  # another artifact is stated now
                    learner.trouble = None
                learner.learnt = Learnt(root)
        await self._begin()
        return self._serving(uses)

    def sights(self) -> dict[Key, Adapting]:
        """Policy to what is known of its learning on; policies that are not to are missing."""
        return {key: self._sight(key) for key in self._wanted}

    def results(self) -> list[tuple[Key, str]]:
        """Attempts that ended since this was asked last: policy and how, a reason of the condition."""
        found, self._results = self._results, []
        return found

    async def close(self) -> None:
        """Ends what learns."""
        await self._end()

    def _serving(self, uses: Uses) -> Uses:
        found = dict(uses)
        for key, wanted in self._wanted.items():
            learner = self._learners[key]
            if not learner.learnt.artifact:
                continue
            for role in learning_roles(wanted.policy):
                use = uses.get((key, role))
                if use is not None and use.is_usable and _digest(use) == learner.learnt.root:
                    found[key, role] = replace(use, folder=learner.store.artifact(learner.learnt))
        return found

    def _sight(self, key: Key) -> Adapting:
        learner = self._learners.get(key)
        last = None if learner is None else learner.learnt.last
        if not self._is_installed:
            said = "learning needs marlin[train], which is not installed where the operator runs"
            return Adapting(Finding(False, "AdaptUnavailable", said), last)
        if learner is None:
            return Adapting(Finding(False, "NoRecording", "the operator was started without --record"))
        if self._learning == key:
            assert learner.learnt.attempted is not None
            said = f"since {learner.learnt.attempted:%Y-%m-%dT%H:%M:%SZ}, in a process of its own"
            return Adapting(Finding(True, "Learning", said), last)
        if learner.trouble is not None:
            return Adapting(learner.trouble, last)
        if last is not None:
            return Adapting(Finding(True, last.decision.value, in_words(last)), last)
        if learner.learnt.attempted is not None:
            said = f"the attempt of {learner.learnt.attempted:%Y-%m-%dT%H:%M:%SZ} came to no end; another one follows"
        else:
            said = f"{learner.epochs} epochs are recorded, {self._settings.held_back + LEAST_LEARNT} are needed"
        return Adapting(Finding(None, "Collecting", said))

    async def _begin(self) -> None:
        """Begins the attempt that has waited longest, if one is due and none is under way."""
        if not self._is_installed or self._learning is not None:
            return
        now = self._clock()
        due = [key for key in self._wanted if self._is_due(self._learners[key].learnt, now)]
        for key in sorted(due, key=lambda key: self._learners[key].learnt.attempted or _NEVER):
            learner = self._learners[key]
            learner.epochs = await asyncio.to_thread(_counted, learner)
            if learner.epochs >= self._settings.held_back + LEAST_LEARNT:
                learnt = learner.learnt
                learner.learnt = replace(learnt, attempted=now.replace(microsecond=0), attempts=learnt.attempts + 1)
                self._learning = key
                self._attempt = asyncio.create_task(self._attempted(key, learner, self._wanted[key]))
                return

    def _is_due(self, learnt: Learnt, now: datetime) -> bool:
        if learnt.attempted is None:
            return True
        every = self._settings.every
        came_to_an_end = learnt.last is not None and learnt.last.decided_time >= learnt.attempted
        return now - learnt.attempted >= (every if came_to_an_end else min(every, RETRY_AFTER))

    async def _attempted(self, key: Key, learner: _Learner, wanted: _Wanted) -> None:
        try:
            await asyncio.to_thread(learner.store.begin, learner.learnt)
            verdict = await self._verdict(learner, wanted)
            result = await asyncio.to_thread(self._decide, learner, verdict)
            learner.trouble = None
        except (_AttemptError, MarlinError) as error:
            result = error.reason if isinstance(error, _AttemptError) else "Failed"
            message = " ".join(str(error).split())
            _log.warning("learning on of MarlinPolicy %s/%s: %s", *key, message)
            learner.trouble = Finding(None if result == "Refused" else False, result, message)
        except Exception as error:  # noqa: BLE001 a defect costs what was learnt, never the loop
            _log.exception("learning on of MarlinPolicy %s/%s failed", *key)
            result = "Failed"
            said = f"{type(error).__name__} in the operator; its log has the trace"
            learner.trouble = Finding(False, result, said)
        self._learning = None
        self._results.append((key, result))
        self._ring()

    def _decide(self, learner: _Learner, verdict: Mapping[str, Any]) -> str:
        """Keeps what was decided; only then it is so."""
        before = learner.learnt
        is_adopted = bool(verdict["adopted"])
        last = AdaptationStatus(
            decision=AdaptDecision.TOOK_OVER if is_adopted else AdaptDecision.DISCARDED,
            decided_time=self._clock().replace(microsecond=0),
            serving_value=f"{verdict['frozenValue']:.6f}",
            adapted_value=f"{verdict['adaptedValue']:.6f}",
            learnt_from_epochs=verdict["learntFromEpochs"],
            held_back_epochs=verdict["heldBackEpochs"],
            artifact_sha256=verdict["adaptedSha256"] if is_adopted else verdict["frozenSha256"],
        )
        if is_adopted:
            after = replace(before, artifact=last.artifact_sha256, last=last)
            learner.store.take(before, after)
        else:
            after = replace(before, last=last)
            learner.store.save(after)
        learner.learnt = after
        _log.info("learning on of MarlinPolicy %s: %s", learner.store.name, in_words(last))
        return last.decision.value

    async def _verdict(self, learner: _Learner, wanted: _Wanted) -> Mapping[str, Any]:
        """What the process says.

        Raises:
            _AttemptError: it came to no verdict.
        """
        settings, limits = self._settings, self._settings.limits
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "marlin.operator.learning.child",
            str(os.getpid()),
            *limits.words(),
            *_options(learner, wanted, settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _ONE_THREAD,
        )
        try:
            said, complained = await asyncio.wait_for(process.communicate(), settings.deadline_s)
        except TimeoutError:
            raise _AttemptError("Failed", f"it took longer than {settings.deadline_s:.0f} s and was ended") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self.process = None
        assert process.returncode is not None
        if process.returncode == 0:
            try:
                found: Mapping[str, Any] = json.loads(said)
            except ValueError:
                raise _AttemptError("Failed", "its verdict cannot be read") from None
            return found
        raise _AttemptError(*_why(process.returncode, complained.decode(errors="replace"), limits))

    async def _end(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        self._attempt = self._learning = None


def _wanted(policies: Iterable[ObservedPolicy], uses: Uses) -> dict[Key, _Wanted]:
    found = {}
    for policy in policies:
        if policy.model is None:
            continue
        for role in learning_roles(policy.model):
            use = uses.get((policy.key, role))
            spec = policy.model.spec.planner if role == ROLES[0] else policy.model.spec.shadow
            if use is not None and use.is_usable and spec is not None:
                found[policy.key] = _Wanted(policy.model, spec, use)
                break
    return found


def _has_what_trains() -> bool:
    """Whether the extra ``train`` is installed; nothing of it is imported here."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "numba"))


def _digest(use: ArtifactUse) -> str:
    try:
        return shipped.load(use.folder).card.weights_sha256
    except InputError:  # it vanished: planning says so
        return ""


def _counted(learner: _Learner) -> int:
    """Lines of a history; an unchanged one is not read again."""
    try:
        size = learner.store.history.stat().st_size
        if size != learner.counted_size:
            with learner.store.history.open("rb") as file:
                learner.epochs = sum(1 for _ in file)
            learner.counted_size = size
    except OSError:
        return 0
    return learner.epochs


def _options(learner: _Learner, wanted: _Wanted, settings: LearnSettings) -> list[str]:
    """Of ``marlin adapt``: for this policy, from the artifact that serves it now."""
    spec = wanted.policy.spec
    if wanted.spec.scheme is Scheme.CUSTOM:
        assert spec.objectives is not None, "a rule of the CRD holds objectives and Custom together"
        stated = spec.objectives
        weights = (stated.time_to_first_token, stated.carbon, stated.water, stated.cost)
        leaning = ("--weights", ",".join(f"{n}={w.weight}" for n, w in zip(OPTION_NAMES, weights, strict=True)))
    else:
        leaning = ("--scheme", wanted.spec.scheme.option)
    serves = learner.store.artifact(learner.learnt) if learner.learnt.artifact else wanted.base.folder
    artifact = () if serves is None else ("--artifact", str(serves))
    return [
        *("--history", str(learner.store.history)),
        *artifact,
        *leaning,
        *("--negotiation", text_of(spec.negotiation)),
        *(() if wanted.spec.late_weight is None else ("--late-weight", str(wanted.spec.late_weight))),
        *("--dispatch", spec.dispatch.value.lower()),
        *("--held-back", str(settings.held_back)),
        *("--newest", str(settings.newest)),
        *("--cpu-seconds", str(settings.cpu_s)),
        f"--margin={settings.margin}",
        *("--seed", str(learner.learnt.attempts)),
        *("--nice", "0"),
        *("--out", str(learner.store.new)),
        "--json",
    ]


def _why(code: int, complained: str, limits: Limits) -> tuple[str, str]:
    """Reason and message of an attempt that came to no verdict."""
    lines = [line for line in complained.splitlines() if line.strip()]
    last = lines[-1].removeprefix("Error: ").strip() if lines else "it said nothing"
    if code == 2:
        return "Refused", last
    if code == -signal.SIGXCPU:
        return "Failed", f"it had used {limits.cpu_s} s of processor time and was ended"
    if code < 0 and code not in _CRASHES:
        return "Failed", f"it was ended by {signal.Signals(-code).name}"
    # What memory that is refused looks like is another thing in each library.
    return "Failed", f"{last} (exit code {code}; it may have {limits.memory_mb} MB of memory)"

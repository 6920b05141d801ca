"""What adds up over rounds: how many decisions there were and what came of them, and what the last one thought.

A policy that is gone takes its numbers with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from marlin.operator.core.observed import Key
from marlin.operator.core.planning import Planned
from marlin.operator.core.predicting import Prediction
from marlin.operator.core.report import PolicyReport, Report
from marlin.operator.telemetry.catalogue import DECISION_BUCKETS_S, MEASURES, PREFIX, ROUND_BUCKETS_S

_KEPT_PREDICTIONS: Final = 4
"""Epochs whose prediction is remembered: the one that is over, the one that runs, the next, and one to be safe."""


@dataclass(slots=True)
class Last:
    """What is known of a policy's last decision, and of nothing that is written down."""

    took_s: float = 0.0
    planned: Planned | None = None
    predictions: deque[tuple[int, Mapping[str, Prediction]]] = field(
        default_factory=lambda: deque(maxlen=_KEPT_PREDICTIONS)
    )
    """Epoch to its prediction, the newest last; an epoch that was planned twice is there twice."""

    def predicted(self, epoch: int) -> Mapping[str, Prediction]:
        """What was expected of an epoch, when it was planned last; empty where that is not known."""
        return next((found for number, found in reversed(self.predictions) if number == epoch), {})


class Ledger:
    """Counts what rounds did.

    ``registry`` holds what it counts.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.last: dict[Key, Last] = {}
        """Policy to its last decision."""
        self._decisions = self._counter("decisions")
        self._vetoes = self._counter("agent_vetoes")
        self._guard = self._counter("guard_interventions")
        self._adapts = self._counter("adapt_runs")
        self._decision_s = self._histogram("decision_seconds", DECISION_BUCKETS_S)
        self._round_s = self._histogram("round_seconds", ROUND_BUCKETS_S)
        self._used: dict[Key, set[tuple[Counter, str]]] = {}

    def took(self, read_s: float, decide_s: float, write_s: float) -> None:
        """A round was read, decided and written."""
        for phase, seconds in (("read", read_s), ("decide", decide_s), ("write", write_s)):
            self._round_s.labels(phase).observe(seconds)

    def heard(self, report: Report) -> None:
        """What a round decided."""
        for policy in report.policies:
            if policy.outcome is not None:
                self._decided(policy)
        for key in self.last.keys() - {policy.key for policy in report.policies}:
            del self.last[key]
            for counter, label in self._used.pop(key):
                counter.remove(*key, label)

    def learnt(self, results: Iterable[tuple[Key, str]]) -> None:
        """Attempts to learn on that ended: policy and reason. Those of policies that are gone count no more."""
        for key, result in results:
            if key in self.last:
                self._count(self._adapts, key, result)

    def _decided(self, policy: PolicyReport) -> None:
        outcome = policy.outcome
        assert outcome is not None
        last = self.last.setdefault(policy.key, Last())
        last.took_s = outcome.took_s
        self._decision_s.observe(outcome.took_s)
        if not isinstance(outcome, Planned):
            self._count(self._decisions, policy.key, outcome.reason)
            return
        self._count(self._decisions, policy.key, "planned")
        last.planned = outcome
        last.predictions.append((outcome.plan.epoch, outcome.predicted))
        if (negotiation := outcome.negotiation) is not None:
            for agent in negotiation.pulls:
                self._count(self._vetoes, policy.key, agent)
            if negotiation.guard:
                self._count(self._guard, policy.key, negotiation.guard)

    def _count(self, counter: Counter, key: Key, label: str) -> None:
        counter.labels(*key, label).inc()
        self._used.setdefault(key, set()).add((counter, label))

    def _counter(self, name: str) -> Counter:
        measure = MEASURES[name]
        return Counter(f"{PREFIX}{name}", measure.help, measure.labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        measure = MEASURES[name]
        return Histogram(f"{PREFIX}{name}", measure.help, measure.labels, registry=self.registry, buckets=buckets)

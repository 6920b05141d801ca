"""A planning cycle as spans: the round, within it reading, deciding and writing, within deciding each policy's plan.

Only rounds that decided or wrote something are told of: one that found everything as it was is in the metrics. Pure;
``running`` hands the spans on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from marlin.api.tracing import Attribute, Span
from marlin.operator.core.planning import Planned
from marlin.operator.core.reconcile import Actions
from marlin.operator.core.report import PolicyReport

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Phases:
    """When a round did what, s on a clock that only grows."""

    began_s: float
    read_s: float
    decided_s: float
    wrote_s: float
    """Each when it was over."""


def cycle_spans(
    phases: Phases, actions: Actions, ahead_s: float, random: Callable[[int], bytes] = os.urandom
) -> list[Span]:
    """The spans of a round; none where it decided and wrote nothing.

    Args:
        phases: when it did what.
        actions: what it decided.
        ahead_s: what the time of day (Unix, s) is ahead of the clock of ``phases`` and of decisions.
        random: gives so many random bytes.
    """
    decided = [policy for policy in actions.report.policies if policy.outcome is not None]
    if not decided and not actions.applies:
        return []
    trace_id, root = random(16).hex(), random(8).hex()

    def span(name: str, parent: str, began_s: float, ended_s: float, **more: object) -> Span:
        began_ns, ended_ns = (round((s + ahead_s) * _NS) for s in (began_s, ended_s))
        own = root if not parent else random(8).hex()
        return Span(name, trace_id, own, began_ns, ended_ns, parent_id=parent, **more)  # type: ignore[arg-type]

    counts: dict[str, Attribute] = {
        "marlin.policies": len(actions.report.policies),
        "marlin.policies.decided": len(decided),
        "marlin.writes": len(actions.applies),
    }
    deciding = span("decide", root, phases.read_s, phases.decided_s)
    return [
        span("round", "", phases.began_s, phases.wrote_s, attributes=counts),
        span("read", root, phases.began_s, phases.read_s),
        deciding,
        *(_plan_span(policy, deciding.span_id, span) for policy in decided),
        span("write", root, phases.decided_s, phases.wrote_s),
    ]


def _plan_span(policy: PolicyReport, parent: str, span: Callable[..., Span]) -> Span:
    outcome = policy.outcome
    assert outcome is not None
    named: dict[str, Attribute] = {"k8s.namespace.name": policy.key[0], "marlin.policy": policy.key[1]}
    error = ""
    if isinstance(outcome, Planned):
        named |= {"marlin.epoch": outcome.plan.epoch, "marlin.planner": outcome.plan.planner.value}
        named |= {"marlin.pools": len(outcome.plan.pools), "marlin.datacenters": len(outcome.plan.datacenters)}
    else:
        error = f"{outcome.reason}: {outcome.message}"
    return span("plan", parent, outcome.began_s, outcome.began_s + outcome.took_s, attributes=named, error=error)

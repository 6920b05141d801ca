"""What is known of a policy that is to learn on: the condition it gives, and the last decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from marlin.api.plan import PlannerKind
from marlin.api.policy import AdaptationStatus, AdaptDecision, Learning, MarlinPolicy
from marlin.operator.core.artifact_use import ROLES
from marlin.operator.members.sighting import Finding


@dataclass(frozen=True, slots=True)
class Adapting:
    """One policy's learning on."""

    finding: Finding
    last: AdaptationStatus | None = None
    """The last decision; None: none was made."""


NOT_WANTED: Final = Adapting(Finding(None, "NotNeeded", "learning is Frozen"))
NOT_LOOKED_AT: Final = Adapting(Finding(None, "Collecting", "the artifact that it begins with is not there yet"))


def learning_roles(policy: MarlinPolicy) -> tuple[str, ...]:
    """The roles whose planner is to learn on, that of the plan in force first; empty where none is."""
    planners = zip(ROLES, (policy.spec.planner, policy.spec.shadow), strict=True)
    return tuple(
        role
        for role, spec in planners
        if spec is not None and spec.kind is PlannerKind.MARLIN and spec.learning is Learning.ADAPT
    )


def in_words(decision: AdaptationStatus) -> str:
    """A decision in one line."""
    seen = (
        f"{decision.adapted_value} against {decision.serving_value} (less is better) on {decision.held_back_epochs} "
        f"epochs held back, learnt from {decision.learnt_from_epochs}"
    )
    if decision.decision is AdaptDecision.TOOK_OVER:
        return f"what had learnt on took over: {seen}; artifact {decision.artifact_sha256[:12]}"
    return f"what had learnt on was thrown away: {seen}"

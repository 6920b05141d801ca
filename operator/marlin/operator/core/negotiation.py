"""How the agents came to a plan, as numbers: out of the planner's own account of its decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marlin.api.plan import RoutingPlan
from marlin.api.policy import AgentStatus
from marlin.policy.planner import Decision


@dataclass(frozen=True, slots=True)
class Negotiation:
    """One epoch's game. Mappings are by agent; they are empty where no game was played."""

    utility: Mapping[str, float] = field(default_factory=dict)
    """What each proposal is worth to its agent."""
    worth: Mapping[str, float] = field(default_factory=dict)
    """What the consensus is worth to each."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the proposals in the consensus."""
    pulls: Mapping[str, float] = field(default_factory=dict)
    """How far each veto pulled, 0 to 1; agents that did not object are missing."""
    guard: str = ""
    """Whose plan is published instead; empty: that of the agents."""


def newly_told(game: Negotiation, agents: Iterable[AgentStatus], before: RoutingPlan | None) -> dict[str, float]:
    """Vetoes to tell of: how far each pulled, of the agents that did not veto the plan before as well.

    An agent that objects goes on objecting for hours, and an Event each epoch would be read by nobody.

    Args:
        game: how the agents came to the plan.
        agents: their standing before it.
        before: the plan before.
    """
    since = None if before is None else before.decided_time.replace(microsecond=0)
    last = {agent.name: agent.last_veto_time for agent in agents}
    going_on = {name for name, time in last.items() if since is not None and time is not None and time >= since}
    return {name: pull for name, pull in sorted(game.pulls.items()) if name not in going_on}


def negotiation_of(decision: Decision) -> Negotiation | None:
    """None where the planner does not negotiate."""
    if decision.carried is None:
        return None
    record: Mapping[str, Any] = decision.record
    game = record.get("game") or {}
    coalition = record.get("coalition") or {}
    return Negotiation(
        utility=game.get("utility", {}),
        worth=game.get("worth", {}),
        weights=coalition.get("weights") or game.get("final_weights", {}),
        pulls={turn["agent"]: turn["pull"] for turn in game.get("vetoes", ()) if turn["pull"] > 0},
        guard=record.get("guard") or "",
    )

"""The agents' capital as a status keeps it, and as the planner takes it.

What is in the status is enough to go on after a restart, and to decide an epoch a second time from where it began.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marlin.api.plan import RoutingPlan
from marlin.api.policy import AgentStatus
from marlin.policy.objective import OPTION_NAMES
from marlin.policy.planner import Decision


def standing_document(agents: tuple[AgentStatus, ...], epoch: int, before: RoutingPlan | None) -> dict[str, Any] | None:
    """The standing for ``make_planner``; None where none was kept.

    Args:
        agents: as the status keeps them.
        epoch: the epoch to decide.
        before: the plan they stand after.
    """
    by_name = {agent.name: agent for agent in agents}
    if by_name.keys() != set(OPTION_NAMES):
        return None
    kept = [by_name[name] for name in OPTION_NAMES]
    capital = [float(agent.capital) for agent in kept]
    earlier = [float(agent.capital_before or agent.capital) for agent in kept]
    return {"capital": capital, "epoch": before.epoch if before is not None else epoch - 1, "before": earlier}


def agents_after(decision: Decision, agents: tuple[AgentStatus, ...], now: datetime) -> tuple[AgentStatus, ...]:
    """The standing after a decision, as the status keeps it."""
    assert decision.carried is not None
    known = {agent.name: agent for agent in agents}
    game = decision.record.get("game") or {}
    vetoed = {turn["agent"] for turn in game.get("vetoes", ()) if turn["pull"] > 0}
    capital = zip(OPTION_NAMES, decision.carried["capital"], decision.carried["before"], strict=True)
    return tuple(
        AgentStatus(
            name=name,
            capital=f"{after:.3f}",
            capital_before=f"{before:.3f}",
            last_veto_time=now if name in vetoed else known[name].last_veto_time if name in known else None,
        )
        for name, after, before in capital
    )

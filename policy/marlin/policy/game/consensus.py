"""The whole of phase 2 in one call, and its account for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marlin.policy.game.critics import Critic, Table, blend
from marlin.policy.game.veto import Objections, VetoSettings, object_in_turn
from marlin.policy.game.weights import ascend, first_weights, utilities
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class GameSettings:
    """How agents negotiate."""

    steps: int = 5
    """K_opt: gradient steps on the weights (section 6)."""
    rate: float = 0.05
    """Length of a step (section 6)."""
    looks: int = 1
    """Times that critics are asked for their slopes along the way; the paper's is one for each step. Five steps move a
    weight by 0.09 at most, over which slopes hardly change (docs/explanation/game.md)."""
    blends: bool = True
    """False takes the proposal with the largest first weight alone: the paper's ablation "without blending"."""
    veto: VetoSettings = field(default_factory=VetoSettings)


@dataclass(frozen=True, slots=True)
class Consensus:
    """What was agreed, and how it came about."""

    action: FloatArray  # (*A)
    utility: FloatArray  # (J,) what each proposal is worth to its agent, floored
    path: FloatArray  # (K + 1, J) weights along the ascent; one row where nothing is blended
    chosen: int
    """Row of ``path`` whose blend was taken into the vetoes: where slopes were looked at, or the last one."""
    blended: FloatArray  # (J,) worth of that blend to each agent
    objections: Objections
    worth: FloatArray  # (J,) worth of the consensus to each agent

    @property
    def weights(self) -> FloatArray:
        """(J,) weights of the blend before the vetoes."""
        return np.asarray(self.path[self.chosen])

    @property
    def final_weights(self) -> FloatArray:
        """(J,) weights of the consensus."""
        return self.objections.weights


def negotiate(
    critic: Critic,
    proposals: FloatArray,  # (J, *A)
    capital: FloatArray,  # (J,) not negative
    importance: FloatArray | None = None,  # (J,) not negative, not all zero; default: equal
    settings: GameSettings | None = None,
) -> Consensus:
    """Algorithm 2 up to line 18. A function of its arguments alone: the same game has the same outcome.

    Args:
        critic: says what an action is worth to each agent.
        proposals: one action of each agent.
        capital: of each agent, before the epoch.
        importance: what each agent's metric weighs with the user; an agent of no importance may not object.
        settings: how they negotiate.

    Raises:
        ValueError: shapes or values are not as described, or the critic does not answer with finite numbers.
    """
    settings = settings or GameSettings()
    agents = len(proposals)
    weight = np.ones(agents) if importance is None else np.asarray(importance, dtype=np.float64)
    capital = np.asarray(capital, dtype=np.float64)
    for name, given in (("capital", capital), ("importance", weight)):
        if given.shape != (agents,) or not np.isfinite(given).all() or (given < 0).any():
            raise ValueError(f"{name} must be {agents} numbers that are not negative")
    if weight.sum() <= 0:
        raise ValueError("importance must be above 0 for one agent")
    weight = weight / weight.sum()

    table = Table(critic, proposals)
    utility = utilities(table)
    start = first_weights(utility, capital, weight)
    if settings.blends:
        path, judged = ascend(table, start, weight, steps=settings.steps, rate=settings.rate, looks=settings.looks)
    else:
        path, judged = np.eye(agents)[[int(start.argmax())]], [0]
    # The best of the path and not its end: a step can be too long, and then negotiating would do harm.
    chosen = max(judged, key=lambda step: float(table.worth(path[step]) @ weight))
    entitled = (weight > 0).astype(np.float64)
    objections = object_in_turn(table, path[chosen], utility, capital, entitled, settings.veto)
    return Consensus(
        action=blend(objections.weights, proposals),
        utility=utility,
        path=path,
        chosen=chosen,
        blended=table.worth(path[chosen]),
        objections=objections,
        worth=table.worth(objections.weights),
    )


def explain(consensus: Consensus, agents: Sequence[str], capital: FloatArray) -> dict[str, Any]:
    """The account of a consensus, JSON-able: for ``--explain`` and for the operator's record of decisions.

    Args:
        consensus: what was agreed.
        agents: their names, J of them.
        capital: (J,) before the epoch.
    """

    def each(numbers: FloatArray) -> dict[str, float]:
        return {name: round(number, 6) for name, number in zip(agents, numbers.tolist(), strict=True)}

    return {
        "utility": each(consensus.utility),
        "capital": each(capital),
        "first_weights": each(consensus.path[0]),
        "weights": each(consensus.weights),
        "steps": consensus.chosen,
        "blend_worth": each(consensus.blended),
        "vetoes": [
            {
                "agent": agents[turn.agent],
                "loss": round(turn.loss, 6),
                "asked": round(turn.asked, 6),
                "pull": round(turn.pull, 6),
                "worth_before": round(turn.value_before, 6),
                "worth_after": round(turn.value_after, 6),
            }
            for turn in consensus.objections.turns
            if turn.asked > 0
        ],
        "unsatisfied": [agents[j] for j in consensus.objections.unsatisfied],
        "final_weights": each(consensus.final_weights),
        "worth": each(consensus.worth),
    }

"""Who is in it: the consensus of some of the agents, where the twin expects the user to gain by it.

Learned critics say what a blend is worth near what they have seen, and not that a little of everybody's sites keeps all
of them awake. So where replicas can power down all coalitions (``game.coalitions``) are tried in the twin, in one call;
of those that no agent objects to by what the twin expects for it, the best by the user's weights is agreed on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.policy.agents.critics import intent_of, worth_over
from marlin.policy.agents.situation import Situation
from marlin.policy.game import VetoSettings, bearable, coalitions
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Coalition:
    """Who agreed in the end, and on what."""

    weights: FloatArray  # (J,) of the blend; 0 for those outside
    action: FloatArray  # (3, V, D)
    gained: float
    """What it is worth over the consensus of all, in units of the objective."""
    objected: int
    """Coalitions that somebody objected to."""


def coalition_of(
    situation: Situation,
    weights: FloatArray,  # (J,) of the consensus
    proposals: FloatArray,  # (J, 3, V, D)
    goal: FloatArray,  # (J, 4) what each agent goes by
    entitled: NDArray[np.bool_],  # (J,) agents that may object
    veto: VetoSettings,
) -> Coalition:
    """The best coalition that nobody objects to; that of all, unless another is better."""
    sets = coalitions(weights)  # (C, J)
    tries = np.concatenate([sets, np.eye(len(weights))[weights <= 0]])  # bounds need everybody's own proposal
    actions = np.tensordot(tries, proposals, axes=1)  # (C + those of no weight, 3, V, D)
    outcome = situation.tried(situation.plans(intent_of(actions)))
    worth = worth_over(situation.baseline, outcome, goal, situation)  # (C + those of no weight, J)
    own = worth[(tries == 1.0).argmax(axis=0), np.arange(len(weights))]
    may = bearable(worth[: len(sets)], own, entitled, veto)
    values = outcome.values(situation.objective)[: len(sets)]
    best = int(np.where(may, values, np.inf).argmin())
    return Coalition(sets[best], actions[best], float(values[0] - values[best]), int((~may).sum()))

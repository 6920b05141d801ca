"""Phase 2 of the paper: agents that want different things agree on one plan (section 5.3, Algorithm 2).

``negotiate`` takes what the agents propose, the capital they have earned and a critic that says what a plan is worth
to each, and returns a consensus with its whole story; ``earned`` turns what the consensus then achieved into the
capital for the next epoch. Everything between is a pure function over arrays: ``weights`` (who counts how much),
``veto`` (who may object, and how far), ``capital`` (who gains influence), ``simplex``. ``coalitions`` restricts a
consensus to some of the agents. ``exploit`` measures how much an agent could gain by proposing something else.

An action here is any array whose convex combinations are actions too: shares (V, D), or shares, fill levels and awake
margins laid out flat. So blends keep rows on the simplex and masked sites at exactly zero without being told to.

Where Algorithm 2 cannot be built as printed, the reading is said at the line; J counts agents, K ascent steps.
"""

from marlin.policy.game.capital import CapitalSettings, bonus, earned, performance
from marlin.policy.game.coalitions import bearable, coalitions
from marlin.policy.game.consensus import Consensus, GameSettings, explain, negotiate
from marlin.policy.game.critics import Critic, blend
from marlin.policy.game.exploit import exploitability
from marlin.policy.game.simplex import project
from marlin.policy.game.veto import Objections, Turn, VetoRule, VetoSettings, object_in_turn
from marlin.policy.game.weights import ascend, first_weights, utilities

__all__ = [
    "CapitalSettings",
    "Consensus",
    "Critic",
    "GameSettings",
    "Objections",
    "Turn",
    "VetoRule",
    "VetoSettings",
    "ascend",
    "bearable",
    "blend",
    "bonus",
    "coalitions",
    "earned",
    "explain",
    "exploitability",
    "first_weights",
    "negotiate",
    "object_in_turn",
    "performance",
    "project",
    "utilities",
]

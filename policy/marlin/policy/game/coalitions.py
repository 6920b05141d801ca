"""Coalitions: a consensus restricted to some of the agents, for blends that are worth less than their parts.

Where replicas can power down, the worth of a blend is not concave: a little of everybody's sites keeps all of them
awake. No weights near those of the game get out of that, but those of fewer agents do. Within a coalition the game's
weights decide as before; a coalition that costs an agent with a right to object more than it puts up with is not to be
had. Ours: the paper agrees on the blend of all.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.policy.game.critics import floored
from marlin.policy.game.veto import VetoRule, VetoSettings
from marlin.simulator.physics import FloatArray

_ROUNDING: Final = 1e-9
"""Worth by which a coalition may fall short of a bound without being below it."""


def coalitions(weights: FloatArray) -> FloatArray:
    """(C, J) what weights (J,) on the simplex leave to each set of agents that have any, made to sum to 1.

    All of them first, then ever fewer, and each alone at last.
    """
    members = np.flatnonzero(weights > 0).tolist()
    sets = [chosen for many in range(len(members), 0, -1) for chosen in combinations(members, many)]
    rows = np.zeros((len(sets), len(weights)))
    for row, chosen in zip(rows, sets, strict=True):
        row[list(chosen)] = weights[list(chosen)]
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def bearable(
    worth: FloatArray,  # (C, J) of each coalition to each agent, the consensus of all first
    own: FloatArray,  # (J,) of each agent's own proposal to it
    entitled: NDArray[np.bool_],  # (J,) agents that may object
    settings: VetoSettings,
) -> NDArray[np.bool_]:
    """(C,) coalitions that nobody objects to; that of all is one of them.

    An agent's bound is that of a veto: the loss it puts up with, or what it has under the consensus of all if that is
    less. So a coalition takes from nobody what the vetoes have won it.
    """
    if settings.rule is VetoRule.NONE:
        return np.ones(len(worth), dtype=np.bool_)
    bound = np.minimum((1.0 - settings.loss) * floored(own), floored(worth[0]))  # (J,)
    return np.asarray(((floored(worth) >= bound - _ROUNDING) | ~entitled).all(axis=1))

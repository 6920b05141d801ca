"""The best blend of what the agents propose: what a negotiation could come to at most, for comparison.

The game looks for weights of its blend by critics, a few steps from where it begins. Here blends from all over the
simplex are tried in the twin and judged by the user's weights. Evaluation holds the consensus against it; nobody is
served by it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np

from marlin.policy.agents.situation import Situation
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

PARTS: Final = 10
"""A weight is a multiple of one part in so many: 286 blends of four proposals."""


def all_blends(agents: int, parts: int = PARTS) -> FloatArray:
    """(B, J) weights of all blends in multiples of 1 / ``parts``; rows sum to 1, each proposal alone is among them."""
    # Each choice of J - 1 bars among parts + J - 1 places splits the parts among J agents.
    last = parts + agents - 1
    edges = np.array([(-1, *bars, last) for bars in combinations(range(last), agents - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / parts)


def best_blend(situation: Situation, proposals: FloatArray) -> FloatArray:
    """The blend (3, V, D) of proposals (J, 3, V, D) that the twin expects the user to gain most from."""
    blends = np.tensordot(all_blends(len(proposals)), proposals, axes=1)  # (B, 3, V, D)
    intents = Intent(blends[:, 0], blends[:, 1], blends[:, 2])
    values = situation.tried(situation.plans(intents)).values(situation.objective)
    return np.asarray(blends[int(values.argmin())])

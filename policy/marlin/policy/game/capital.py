"""Who gains influence: what an epoch's consensus achieved becomes each agent's capital (Algorithm 2, lines 19-24).

Line 21 as printed divides by zero for the best agent and grows when the consensus gets worse; and Perf and Bonus near 1
never add up to the 150 that a veto needs. Here Perf is the part that was realised of the gain that was possible, and
capital is a moving average on a scale of 0 to 300, so that 150 is its middle. An agent is the one of a metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.simulator.physics import FloatArray

SCALE: Final = 300.0
"""Most capital there is."""

_EPSILON: Final = 1e-6
"""Smallest possible gain, as a part of capacity-proportional's metric, that counts as one."""

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class CapitalSettings:
    """How fast capital follows what was achieved."""

    memory: float = 0.9
    """eta: weight of the capital so far. The paper names no value; 0.9 forgets half in 6.6 epochs."""
    bonus: float = 0.5
    """beta: weight of Bonus beside Perf. The paper names no value."""
    start: float = SCALE / 2.0
    """Capital before the first epoch."""


def performance(
    metrics: FloatArray,  # (J,) of the consensus
    proposed: FloatArray,  # (J, J) metric j of proposal i
    baseline: FloatArray,  # (J,) of capacity-proportional routing
) -> FloatArray:
    """Perf_j in [0, 1]: the part of the best possible gain on metric j that the consensus realised. Line 21.

    Where no proposal gains anything there is nothing to realise: 1 unless the consensus is worse than the baseline.
    """
    least = _EPSILON * np.maximum(np.abs(baseline), _TINY)
    possible = np.maximum(baseline - proposed.min(axis=0), 0.0) + least
    # The same little on both sides makes the baseline's own outcome a full mark when nothing better was proposed.
    return np.asarray(np.clip((baseline - metrics + least) / possible, 0.0, 1.0))


def bonus(metrics: FloatArray, proposed: FloatArray) -> FloatArray:
    """Bonus_j in [0, 1]: how close the consensus comes to what the agent's own proposal would do. Line 22, clipped."""
    own = np.diagonal(proposed)
    return np.asarray(np.clip(1.0 - np.abs(own - metrics) / np.maximum(np.abs(own), _TINY), 0.0, 1.0))


def earned(
    capital: FloatArray,  # (J,) before
    metrics: FloatArray,
    proposed: FloatArray,
    baseline: FloatArray,
    settings: CapitalSettings,
) -> FloatArray:
    """Capital (J,) for the next epoch, in [0, 300]. Line 23; the arrays are those of ``performance``."""
    achieved = performance(metrics, proposed, baseline) + settings.bonus * bonus(metrics, proposed)
    target = SCALE * achieved / (1.0 + settings.bonus)
    return np.asarray(np.clip(settings.memory * capital + (1.0 - settings.memory) * target, 0.0, SCALE))

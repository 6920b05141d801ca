"""What a step is worth to each of the four agents (marlin-model, section 6).

r_j = gain_j + trend_j + asleep - late: the gain over capacity-proportional routing on metric j, how far the gain is
above the agent's own moving average of it, the share of replicas asleep, and the share of requests beyond the limit on
the time to first token.

Capacity-proportional runs its own day beside the agent's, with its own queue; it does not restart from the agent's
state, so a queue passed on to the next epoch is paid for. Gains are divided by its mean epoch of the same day, not by
its same epoch: the mean gain over a day then is the share of the day's metric that was saved, which is what policies
are judged by, and a quiet epoch weighs as little as it costs. (Read literally, a ratio per epoch would make a quiet
night count as much as a busy noon.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Weights of the terms, and the memory of the moving average."""

    trend: float = 1.0
    asleep: float = 1.0
    late: float = 1.0
    smoothing: float = 0.1
    """Weight of the last step in the moving average of the gain."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Parts of N rewards, unweighted, so that a transition can be relabelled."""

    gain: FloatArray  # (N, 4)
    trend: FloatArray  # (N, 4)
    asleep: FloatArray  # (N,)
    late: FloatArray  # (N,)

    def rewards(self, settings: RewardSettings) -> FloatArray:
        """(N, 4) one for each agent."""
        shared = settings.asleep * self.asleep - settings.late * self.late
        return np.asarray(self.gain + settings.trend * self.trend + shared[:, None])


def terms(
    totals: FloatArray,  # (N, 4) request-seconds, gCO2, L, USD of the plan
    baseline_totals: FloatArray,  # (N, 4) of capacity-proportional in the same epoch of its own day
    scale: FloatArray,  # (N, 4) of its mean epoch; positive
    average_gain: FloatArray,  # (N, 4) before the step
    asleep: FloatArray,  # (N,)
    late: FloatArray,  # (N,)
) -> Terms:
    """The parts of N rewards."""
    gain = (baseline_totals - totals) / scale
    return Terms(gain, gain - average_gain, asleep, late)


def averaged(average_gain: FloatArray, gain: FloatArray, settings: RewardSettings) -> FloatArray:
    """The moving average after a step, (N, 4)."""
    return np.asarray(average_gain + settings.smoothing * (gain - average_gain))


def scale_of(baseline_totals: FloatArray) -> FloatArray:
    """(4,) mean size of an epoch (E, 4) of capacity-proportional routing: the unit of gains.

    A raw wholesale price can be negative, therefore sizes; a metric that is nothing all day long has no unit, and its
    gain stays what it is.
    """
    size = np.abs(baseline_totals).mean(axis=0)
    return np.asarray(np.where(size > 0, size, 1.0))

"""The demands that may come in an epoch, a few of them standing for all.

A forecast is a median and an upper quantile. What comes is taken to be spread around the median as the predictor's
errors are: seven values of equal chance. Whoever has to choose one plan for whatever comes tries every candidate on
each of them (``trials``). Fewer do harm: between two demands that are looked at, a plan that fills sites exactly to the
rate of one of them is dear, and three demands do not show it.

Where replicas can power down, the highest seventh is looked at in three parts. A surge that finds a site asleep waits
minutes for it to wake, so that one epoch of a hundred decides what a day was worth; a mean of the seventh does not show
it, and a planner that looks no further keeps too little awake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from marlin.api.state import FleetState

UPPER_Z: Final = 1.645
"""Standard deviations from the median to the upper quantile of a forecast (0.95)."""

UNKNOWN_SPREAD: Final = 0.4
"""Standard deviation of log demand where the forecast has no upper quantile (assumption: as on BurstGPT's epochs). A
forecast that is certain says so: its upper quantile is itself."""

_POINTS: Final = (-4.0, -1.0, -0.35, 0.0, 0.35, 0.7, 1.5)
"""Middles of sevenths of the predictor's errors, in units of the distance to the upper quantile over ``UPPER_Z``. On
BurstGPT's days 9 to 27 at three loads: the upper half is that of a normal distribution, the lower one has a long tail,
because demand can fall to nothing."""

_TAIL: Final = ((1.25, 6 / 7, 0.95), (2.04, 0.95, 0.99), (3.05, 0.99, 1.0))
"""Parts of the highest seventh: the middle of each in the same units, and the chances between which it lies. From the
same days at mean30 and mean56."""

_FEW: Final = (1, 3, 5)
"""Positions of those that plans are made for: low, middle, high. The parts of the tail come after them."""


@dataclass(frozen=True, slots=True)
class Demands:
    """S demands, as factors on the forecast."""

    factors: FloatArray  # (S, V)
    chances: FloatArray  # (S,) they add up to one

    def __len__(self) -> int:
        """S."""
        return len(self.chances)

    def few(self) -> Demands:
        """A low, a middle and a high one, and the far ones where there are: to make plans for, not to judge them by."""
        if len(self) < len(_POINTS):
            return self
        kept = [*_FEW, *range(len(_POINTS), len(self))]
        chances = self.chances[kept]
        return Demands(self.factors[kept], chances / chances.sum())


def spread_of(state: FleetState) -> FloatArray:
    """(V,) standard deviation of the logarithm of each pool's demand; 0 where nothing is expected."""
    spread = np.zeros(len(state.pools))
    for v, pool in enumerate(state.pools):
        if (expected := sum(pool.forecast_requests)) > 0:
            upper = pool.forecast_upper_requests
            spread[v] = UNKNOWN_SPREAD if upper is None else np.log(max(upper / expected, 1.0)) / UPPER_Z
    return spread


def demands_of(state: FleetState, most: FloatArray, *, is_tailed: bool = False) -> Demands:
    """The demands that stand for what a state's forecast may turn out to be.

    All pools are taken to be high or low together: the fleet must carry them together. More than the fleet can carry,
    ``most`` (V,) in forecasts, is not looked at: no plan can help it, and its cost would drown what plans differ in.

    Args:
        state: whose forecast.
        most: (V,) what can be carried at all, in forecasts.
        is_tailed: whether the highest seventh is looked at in parts, because replicas may be asleep when it comes.
    """
    spread = spread_of(state)
    if not spread.any():
        return Demands(np.ones((1, len(spread))), np.ones(1))
    points = np.array(_POINTS)
    chances = np.full(len(points), 1.0 / len(points))
    if is_tailed:
        points = np.concatenate([points[:-1], [middle for middle, _, _ in _TAIL]])
        chances = np.concatenate([chances[:-1], [above - below for _, below, above in _TAIL]])
    factors = np.minimum(np.exp(points[:, None] * spread), np.maximum(most, 1.0))
    return Demands(factors, chances)

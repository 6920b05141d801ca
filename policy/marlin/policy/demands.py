"""The demands that may come in an epoch, a few of them standing for all.

A forecast is a median and an upper quantile. Between them and beyond the demand is taken to be log-normal, and three
values of it carry its mean, spread and symmetry. Whoever has to choose one plan for whatever comes tries every
candidate on each of them (``trials``).
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

_POINTS: Final = ((-1.2816, 0.3), (0.0, 0.4), (1.2816, 0.3))
"""Demands that stand for all: standard deviations from the median, and probability. Right to the second moment."""


@dataclass(frozen=True, slots=True)
class Demands:
    """S demands, as factors on the forecast."""

    factors: FloatArray  # (S, V)
    chances: FloatArray  # (S,) they add up to one

    def __len__(self) -> int:
        """S."""
        return len(self.chances)


def spread_of(state: FleetState) -> FloatArray:
    """(V,) standard deviation of the logarithm of each pool's demand; 0 where nothing is expected."""
    spread = np.zeros(len(state.pools))
    for v, pool in enumerate(state.pools):
        if (expected := sum(pool.forecast_requests)) > 0:
            upper = pool.forecast_upper_requests
            spread[v] = UNKNOWN_SPREAD if upper is None else np.log(max(upper / expected, 1.0)) / UPPER_Z
    return spread


def demands_of(state: FleetState, most: FloatArray) -> Demands:
    """The demands that stand for what a state's forecast may turn out to be.

    All pools are taken to be high or low together: the fleet must carry them together. More than the fleet can carry,
    ``most`` (V,) in forecasts, is not looked at: no plan can help it, and its cost would drown what plans differ in.
    """
    spread = spread_of(state)
    if not spread.any():
        return Demands(np.ones((1, len(spread))), np.ones(1))
    z, chances = (np.array(column) for column in zip(*_POINTS, strict=True))
    return Demands(np.minimum(np.exp(z[:, None] * spread), np.maximum(most, 1.0)), chances)

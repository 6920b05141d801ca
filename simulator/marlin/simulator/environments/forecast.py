"""What is expected of an epoch, from the epochs before it alone.

The default is the one ``experiment`` plans with, so that a policy meets the same forecast in training and in a study,
with an interval around it. A better predictor is another function of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.simulator.physics import FloatArray

SMOOTHING: Final = 0.7
"""Weight of the last epoch in the forecast, as in ``experiment``."""

ERROR_SMOOTHING: Final = 0.2
"""Weight of the last epoch in the variance of the forecast's error."""

INTERVAL_Z: Final = 1.645
"""Half the width of the interval in standard deviations: it is meant to hold nine epochs of ten."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests expected; row E is for the epoch after the last."""

    mean: FloatArray  # (E + 1, V)
    low: FloatArray  # (E + 1, V)
    high: FloatArray  # (E + 1, V)


Forecaster = Callable[[FloatArray], Forecast]
"""From arrivals (E, V) to forecasts. Row e may be made from the rows before e only."""


def smoothed(arrived: FloatArray) -> Forecast:
    """An exponentially weighted moving average of arrivals (E, V), and of its squared error.

    The variance is never below that of chance (Poisson). For the first epoch nothing came before: as in
    ``experiment``, its own arrivals are the forecast.
    """
    epochs, models = arrived.shape
    mean, variance = np.zeros((epochs + 1, models)), np.zeros((epochs + 1, models))
    mean[0] = arrived[0]
    for e in range(epochs):
        error = arrived[e] - mean[e]
        mean[e + 1] = mean[e] + SMOOTHING * error
        variance[e + 1] = variance[e] + ERROR_SMOOTHING * (error**2 - variance[e])
    half = INTERVAL_Z * np.sqrt(np.maximum(variance, mean))
    return Forecast(mean, np.maximum(mean - half, 0.0), mean + half)

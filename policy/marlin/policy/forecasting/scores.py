"""How good forecasts were; every score takes arrays of one shape and returns one number.

Errors are weighed by requests: an epoch of ten that was expected to be twenty must not count as much as one of ten
thousand.
"""

from __future__ import annotations

import numpy as np

from marlin.simulator.physics import FloatArray


def accuracy(series: FloatArray, forecast: FloatArray) -> float:
    """One minus the sum of absolute errors over the sum of requests; 1 is perfect, below 0 worse than nothing."""
    return float(1.0 - np.abs(series - forecast).sum() / series.sum())


def coverage(series: FloatArray, low: FloatArray, high: FloatArray) -> float:
    """Share of epochs within the bounds."""
    return float(((series >= low) & (series <= high)).mean())


def pinball(series: FloatArray, quantile: FloatArray, level: float) -> float:
    """Loss of a forecast of the ``level`` quantile, over the mean of the series; lowest for the true quantile."""
    above = series - quantile
    return float(np.maximum(level * above, (level - 1.0) * above).sum() / series.sum())


def poisson_floor(series: FloatArray, requests_per_unit: float = 1.0) -> float:
    """Accuracy that chance alone allows, if every rate were known in advance.

    A Poisson count misses its rate m by sqrt(2 m / pi) on average (to a percent from m = 10 on; below that, by less).
    The counts stand in for their rates.

    Args:
        series: of counts, or of tokens.
        requests_per_unit: E[S] / E[S^2] of what a request adds; 1 for counts. For tokens the sum is compound Poisson,
            whose variance is m x E[S^2] / E[S].
    """
    variance = series / requests_per_unit
    return float(1.0 - np.sqrt(2.0 * variance / np.pi).sum() / series.sum())

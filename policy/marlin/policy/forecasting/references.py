"""Forecasts that anybody would try first; what a predictor has to beat.

Each takes a whole series (T, C) and returns forecasts of the same shape, of which row t uses the rows before t alone.
Rows that nothing precedes hold the first value.
"""

from __future__ import annotations

import numpy as np

from marlin.simulator.physics import FloatArray


def last_value(series: FloatArray) -> FloatArray:
    """As the epoch before."""
    return seasonal_naive(series, 1)


def seasonal_naive(series: FloatArray, period: int) -> FloatArray:
    """As one period before; as the epoch before while there is no such."""
    forecast = np.concatenate([series[:1], series[:-1]])
    forecast[period:] = series[:-period]
    return forecast


def moving_average(series: FloatArray, smoothing: float) -> FloatArray:
    """Exponentially weighted, the newest epoch with weight ``smoothing``."""
    forecast = np.empty_like(series)
    average = series[0]
    for t, row in enumerate(series):
        forecast[t] = average
        average = average + smoothing * (row - average)
    return forecast

"""What the regression sees of the past: logarithms of counts, relative to their recent level.

Counts of a service grow and shrink by factors, so that a regression on logarithms carries over from one service to
another, and from one scale to another. Below an offset differences are noise and not news: log(count + offset) is
nearly flat there.

Level, averages and lags are all weighted sums of the same logarithms, so that one matrix makes them; it depends on how
far the history reaches and on nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray

FEATURES: Final = ("constant", "last", "average", "day", "day_before_last", "week", "week_before_last")
"""(F,) names: the last epoch; the moving average; the same epoch yesterday and a week ago, and the ones before those.

The latter tell what the seasonal ones add: not how much there was, but how it went on from there."""

_WINDOW: Final = 48
"""Epochs the averages look back; what is older weighs less than a hundredth."""

_CONSTANT: Final = 0.3
"""Size of the constant: as large as the others usually are, so that one prior suits all."""


def features(
    history: FloatArray,  # (T, C) requests, newest last; T >= 1
    offset: FloatArray,  # (C,) requests
    epochs_per_day: int,
    smoothing: float,
    level_smoothing: float,
) -> tuple[FloatArray, FloatArray]:
    """Features (C, F) and level (C,), both in logarithms. What the history does not reach is as the level."""
    back, matrix = _sums(min(len(history), 7 * epochs_per_day + 1), epochs_per_day, smoothing, level_smoothing)
    sums = (matrix @ np.log(history[-back] + offset)).T  # (C, 1 + F)
    sums[:, 1] = _CONSTANT
    return sums[:, 1:], sums[:, 0]


@lru_cache(maxsize=4096)
def _sums(
    length: int, epochs_per_day: int, smoothing: float, level_smoothing: float
) -> tuple[NDArray[np.int64], FloatArray]:
    """How many epochs back (K,) to look, and the matrix (1 + F, K) to level and features; row 1 is left empty."""
    window = min(length, _WINDOW)
    day, week = epochs_per_day, 7 * epochs_per_day
    lags = [lag if lag <= length else 0 for lag in (day, day + 1, week, week + 1)]
    # Within the first week yesterday stands in for a week ago.
    lags[2:] = [lag or lags[i] for i, lag in enumerate(lags[2:])]
    back = np.array([*range(1, window + 1), *(lag or 1 for lag in lags)])
    matrix = np.zeros((1 + len(FEATURES), len(back)))
    level = _decay(level_smoothing, window)
    matrix[0, :window] = level
    matrix[2, 0] = 1.0
    matrix[3, :window] = _decay(smoothing, window)
    for i, lag in enumerate(lags):
        if lag:
            matrix[4 + i, window + i] = 1.0
    reached = [2, 3, *(4 + i for i, lag in enumerate(lags) if lag)]
    matrix[reached, :window] -= level
    return back, matrix


def _decay(smoothing: float, window: int) -> FloatArray:
    """(K,) weights of a moving average, newest first; they add up to one."""
    weights = smoothing * (1.0 - smoothing) ** np.arange(window)
    return np.asarray(weights / weights.sum())

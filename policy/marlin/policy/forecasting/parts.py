"""All that may come in the next epoch, from the errors that were made at such levels of traffic before.

One bound says what is exceeded in one epoch of twenty, whatever the traffic. But in logarithms a quiet hour is less
sure than a busy one: a surge comes on top of little, and nothing comes on top of a full fleet. So the predictor
remembers its errors of a week with the level that each was made at, and what may come is what came then: errors count
by how near their level is to the one expected now, and by their age. No shape is assumed; where little is known of a
level, the usual errors fill in, at the scale of the bound.

The distribution is told as means of parts of fixed chances (``api.state.FORECAST_CHANCES``), so that a planner that
tries its plans on them expects what it would expect of all errors.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.api.state import FORECAST_CHANCES
from marlin.simulator.physics import FloatArray

USUAL_POINTS: Final = (-4.0, -0.85, -0.2, 0.12, 0.4, 0.69, 1.0, 1.41, 1.82, 2.12, 2.48, 2.9, 3.8)
"""(S,) means of the parts of logarithms of what came over what was expected, where nothing else is known of them, in
units of the distance to the upper quantile over 1.645: of BurstGPT's days 9 to 27 at three loads."""

_NEAR: Final = 0.4
"""Standard deviation of the levels that count, in logarithms."""

USUAL_EPOCHS: Final = 20.0
"""Epochs that the usual errors count for: they are of many days and know of surges that this week had none of."""

_EDGES: Final = np.concatenate([[0.0], np.cumsum(FORECAST_CHANCES)[:-1], [1.0]])
_CHANCES: Final = np.array(FORECAST_CHANCES)


def parts_of_errors(
    errors: FloatArray,  # (T, C) of logarithms, oldest first
    levels: FloatArray,  # (T, C) each was made at; NaN where nothing was learnt
    level: FloatArray,  # (C,) expected now
    usual: FloatArray,  # (S, C) errors in each part where nothing else is known
    memory: float,
) -> FloatArray:
    """(S, C) mean error in each part, not falling.

    Args:
        errors: that were made.
        levels: that they were made at.
        level: that is expected now.
        usual: errors, for what was not seen yet.
        memory: weight of an error after an epoch more.
    """
    age = np.arange(len(errors), 0, -1)[:, None]
    far = (levels - level) / _NEAR
    weights = np.where(np.isnan(far), 0.0, memory**age * np.exp(-0.5 * np.nan_to_num(far) ** 2))  # (T, C)
    values = np.concatenate([errors, usual])  # (T + S, C)
    weights = np.concatenate([weights, np.tile(USUAL_EPOCHS * _CHANCES[:, None], (1, len(level)))])
    order = np.argsort(values, axis=0, kind="stable")
    values, weights = np.take_along_axis(values, order, axis=0), np.take_along_axis(weights, order, axis=0)
    begin = np.zeros((1, len(level)))
    share = np.concatenate([begin, np.cumsum(weights / weights.sum(axis=0), axis=0)])  # (T + S + 1, C)
    below = np.concatenate([begin, np.cumsum(weights / weights.sum(axis=0) * values, axis=0)])
    # The integral of the quantile function up to each edge; errors in between are divided.
    to_edge = [np.interp(_EDGES, share[:, c], below[:, c]) for c in range(len(level))]
    return np.asarray(np.diff(np.array(to_edge), axis=1).T / _CHANCES[:, None])

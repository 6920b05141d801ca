"""Bounds of a prediction that keep their promise whatever the errors look like.

A bound lies so many standard deviations away; how many is learnt from how often it was broken: each time it is, it
moves out, and otherwise a little in, so that in the long run it is broken as often as it should be (adaptive conformal
inference: Gibbs and Candes 2021). Nothing is assumed about the errors' distribution, which has no name in bursty
traffic.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.simulator.physics import FloatArray

FIRST_DISTANCE: Final = 1.645
"""Where bounds begin: right for nine of ten if errors were normal."""


def moved(distance: FloatArray, excess: FloatArray, miss: float, step: float) -> FloatArray:
    """Distances (...) of bounds after an epoch, in standard deviations.

    Args:
        distance: before.
        excess: (...) error towards the bound, in standard deviations; the bound was broken where it is larger.
        miss: share of epochs in which the bound may be broken.
        step: how fast it moves; in proportion to the distance above 1, so that far bounds come back as fast.
    """
    broken = (excess > distance).astype(np.float64)
    return np.asarray(np.maximum(distance + step * np.maximum(distance, 1.0) * (broken - miss), 0.0))

"""The nearest point of the probability simplex."""

from __future__ import annotations

import numpy as np

from marlin.simulator.physics import FloatArray


def project(point: FloatArray) -> FloatArray:
    """The point of the simplex nearest to ``point`` (J,) in the Euclidean sense.

    One threshold is taken off all coordinates and what falls below zero is cut; sorting finds the threshold (Held,
    Wolfe and Crowder 1974; Duchi et al. 2008).
    """
    # A shift along (1, ..., 1) does not change the projection; this one keeps the sums below small and exact.
    falling = np.sort(point - point.max())[::-1]
    thresholds = (np.cumsum(falling) - 1.0) / np.arange(1, len(falling) + 1)
    kept = int(np.flatnonzero(falling > thresholds)[-1])
    cut = np.maximum(point - point.max() - thresholds[kept], 0.0)
    return np.asarray(cut / cut.sum())

"""Which model a request asks for: classes of the trace to models of the fleet.

The trace has a smaller and a larger model (ChatGPT and GPT-4). Only the total share of the larger is published; how it
divides between the classes is an assumption that agrees with it, and is swept. The expectation suits a forecast, the
draw what really comes.
"""

from __future__ import annotations

import numpy as np

from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.trace import IntArray, Trace


def model_shares(trace: Trace) -> FloatArray:
    """Share (C, 2) of each class that asks for the smaller and for the larger model."""
    return np.stack([1.0 - trace.large_share, trace.large_share], axis=1)


def expected_by_model(counts: IntArray, shares: FloatArray) -> FloatArray:
    """Requests (E, V) expected for each model.

    Args:
        counts: (E, C) requests of each class.
        shares: (C, V), rows add up to one.
    """
    return np.asarray(counts @ shares)


def draw_by_model(counts: IntArray, shares: FloatArray, rng: np.random.Generator) -> IntArray:
    """Requests (E, V) of each model: each request chooses on its own. Every request goes to exactly one model.

    Args:
        counts: (E, C) requests of each class.
        shares: (C, V), rows add up to one.
        rng: makes the choices.
    """
    return np.asarray(rng.multinomial(counts, shares).sum(axis=1))

"""What one more request costs, and what a token costs: figures at moderate load for sorting, tables and headers."""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.simulator.fluid.coefficients import footprint_per_joule
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

MODERATE_LOAD: Final = 0.6
"""Utilisation at which marginal figures are taken: where fleets are meant to run."""

_STEP: Final = 0.01
_TINY: Final = 1e-12


def marginal_metrics(twin: TwinState) -> FloatArray:
    """(V, D, 4): time to first token, gCO2, L and USD of one more request at each site, at moderate load.

    Where a model has no replicas the figures are zero; a mask keeps them from being used.
    """
    low, high = MODERATE_LOAD * (1.0 - _STEP), MODERATE_LOAD * (1.0 + _STEP)
    capacity = twin.capacity_rps
    more_w = _site(twin, twin.power_knots_w, high) - _site(twin, twin.power_knots_w, low)
    joules = np.divide(more_w, capacity * (high - low), out=np.zeros_like(capacity), where=capacity > 0)  # (V, D)
    per_joule = footprint_per_joule(twin)  # (D, 4)
    first_s = np.divide(
        _site(twin, twin.first_token_knots_s * twin.replica_rps[..., None], MODERATE_LOAD),
        capacity,
        out=np.zeros_like(capacity),
        where=capacity > 0,
    )
    return np.concatenate([(first_s + twin.mean_rtt_s)[..., None], joules[..., None] * per_joule[:, 1:]], axis=-1)


def joules_per_token(twin: TwinState) -> tuple[FloatArray, FloatArray]:
    """(V, D) each: energy per prompt token and per output token, J, PUE included, at moderate load.

    A request is charged its part of all that its replica and the replica's share of the host draw, idling included;
    between prompt and answer that is split by the time each takes the replica.
    """
    rate = MODERATE_LOAD * twin.capacity_rps  # (V, D)
    power_w = _site(twin, twin.power_knots_w, MODERATE_LOAD)
    per_request = np.divide(power_w, rate, out=np.zeros_like(rate), where=rate > 0) * twin.total_over_it
    # At capacity a replica is never idle: what it does not spend reading it spends decoding.
    weight = twin.replicas / np.maximum(twin.replicas.sum(axis=2, keepdims=True), _TINY)
    reading = (weight * twin.prefill_s * twin.replica_rps).sum(axis=2)  # (V, D)
    return (
        per_request * reading / twin.prompt_tokens[:, None],
        per_request * (1.0 - reading) / twin.output_tokens[:, None],
    )


def _site(twin: TwinState, knots: FloatArray, utilization: float) -> FloatArray:
    """(V, D) sum over all replicas of a curve (V, D, L, K) at one utilisation."""
    i = int(np.searchsorted(KNOTS, utilization, side="right")) - 1
    i = min(i, len(KNOTS) - 2)
    part = (utilization - KNOTS[i]) / (KNOTS[i + 1] - KNOTS[i])
    total: FloatArray = (twin.replicas * (knots[..., i] * (1.0 - part) + knots[..., i + 1] * part)).sum(axis=2)
    return total

"""One replica under load: how many requests it decodes together, how much it can carry, what its GPUs draw.

A replica alternates between reading prompts and decoding. At ``rate`` requests per second it reads for a share
``rate x prefill`` of its time. In the rest it decodes: with b requests together, each step takes step(b). Little's law
ties them: b = rate x T x step(b) / (1 - rate x prefill). step is piecewise linear, so b has a closed form on each piece
and no iteration is needed. All shapes are (..., V, D, L): L counts the deployments of a model at a site.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.simulator.physics import FloatArray

BATCH_KNOTS: Final = np.array([1.0, 8.0, 16.0, 32.0, 64.0, 4096.0])
"""(K,) batches between which step time and power are linear, for every profile."""

_TINY: Final = 1e-12


def at_batch(batch: FloatArray, knots: FloatArray) -> FloatArray:
    """The value at ``batch`` of a curve given at ``BATCH_KNOTS``; level below batch 1.

    Args:
        batch: (..., V, D, L).
        knots: (V, D, L, K).
    """
    clipped = np.clip(batch, BATCH_KNOTS[0], BATCH_KNOTS[-1])
    value = np.broadcast_to(knots[..., 0], clipped.shape)
    for k in range(len(BATCH_KNOTS) - 1):
        slope = (knots[..., k + 1] - knots[..., k]) / (BATCH_KNOTS[k + 1] - BATCH_KNOTS[k])
        value = np.where(clipped > BATCH_KNOTS[k], knots[..., k] + slope * (clipped - BATCH_KNOTS[k]), value)
    return value


def capacity_per_replica_rps(
    prefill_s: FloatArray, step_knots_s: FloatArray, output_tokens: FloatArray, batch_limit: FloatArray
) -> FloatArray:
    """Most requests per second one replica carries: 1 / (prefill + T x step(b_max) / b_max).

    Args:
        prefill_s: (V, D, L) time to read a mean prompt.
        step_knots_s: (V, D, L, K) decode step.
        output_tokens: (V, 1, 1) mean answer T.
        batch_limit: (V, D, L) largest batch.
    """
    step_s = at_batch(batch_limit, step_knots_s)
    return 1.0 / (prefill_s + output_tokens * step_s / batch_limit)


def decode_batch(
    rate_rps: FloatArray,
    prefill_s: FloatArray,
    step_knots_s: FloatArray,
    output_tokens: FloatArray,
    batch_limit: FloatArray,
) -> FloatArray:
    """Mean number of requests decoded together at ``rate_rps`` per replica, by Little's law; below 1 the replica idles.

    Shapes as in ``capacity_per_replica_rps``; ``rate_rps`` may have axes in front.
    """
    # q is the batch per second of step time that the rate demands; b / step(b) rises with b, so the piece of the
    # curve is found by comparing q with it at the knots.
    q = rate_rps * output_tokens / np.maximum(1.0 - rate_rps * prefill_s, _TINY)
    batch = q * step_knots_s[..., 0]
    for k in range(len(BATCH_KNOTS) - 1):
        b0, t0 = BATCH_KNOTS[k], step_knots_s[..., k]
        slope = (step_knots_s[..., k + 1] - t0) / (BATCH_KNOTS[k + 1] - b0)
        on_piece = q * (t0 - slope * b0) / np.maximum(1.0 - q * slope, _TINY)
        batch = np.where(q > b0 / t0, on_piece, batch)
    return np.minimum(batch, batch_limit)


def gpu_power_w(
    rate_rps: FloatArray,
    batch: FloatArray,
    prefill_s: FloatArray,
    prefill_w: FloatArray,
    decode_knots_w: FloatArray,
    idle_w: FloatArray,
) -> FloatArray:
    """Mean power of one replica's GPUs, W: reading, decoding and idling, each for its share of the time.

    Args:
        rate_rps: (..., V, D, L) requests per second of one replica.
        batch: (..., V, D, L) from ``decode_batch``.
        prefill_s: (V, D, L) time to read a mean prompt.
        prefill_w: (V, D, L) power while reading.
        decode_knots_w: (V, D, L, K) power while decoding.
        idle_w: (V, D, L) power with the model in memory and nothing to do.
    """
    reading = np.minimum(rate_rps * prefill_s, 1.0)
    decoding = (1.0 - reading) * np.minimum(batch, 1.0)
    idling = 1.0 - reading - decoding
    return reading * prefill_w + decoding * at_batch(batch, decode_knots_w) + idling * idle_w

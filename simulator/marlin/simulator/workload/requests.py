"""One epoch's requests, each with its arrival, model, origin and length, from how many there are.

The request-level engine and the demo call this epoch by epoch. Given the count, arrivals are those of a Poisson
process: uniform in the epoch and independent. Prompt and output are drawn together, independently for each request
(plain draws, not low-discrepancy ones: a stratified draw would hide the very variance the engine is there to show).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.sizes import token_shape
from marlin.simulator.workload.trace import IntArray


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in the order they arrive; all arrays (N,)."""

    arrival_s: NDArray[np.float64]
    """Since the epoch's start, ascending, at least 0 and below the epoch's length."""
    model: NDArray[np.int32]
    origin: NDArray[np.int32]
    prompt_tokens: NDArray[np.int32]
    """At least 1."""
    output_tokens: NDArray[np.int32]
    """At least 1."""

    def __len__(self) -> int:
        return len(self.arrival_s)


def draw_requests(counts: IntArray, sizes: FloatArray, epoch_s: float, rng: np.random.Generator) -> Requests:
    """The requests of one epoch.

    A length is drawn as 1 + (mean - 1) x shape, and rounded up or down at random, so that each is at least one token
    and the expectation is exactly the mean. (Scaling the shape as it is and lifting what falls below one token to it
    would raise the mean; the two differ by less than a token where lengths are common.)

    Args:
        counts: (V, R) requests of each model from each origin.
        sizes: (V, 2) mean prompt and output tokens of each model; below 1 they count as 1.
        epoch_s: length of the epoch, s.
        rng: draws everything.
    """
    models, origins = counts.shape
    total = int(counts.sum())
    # Sorted uniform arrivals without sorting: n + 1 exponential gaps over their sum. Which request comes when is then
    # a random order of the requests. Together they are as likely as independent arrivals that were sorted.
    gaps = rng.standard_exponential(total + 1)
    times = np.cumsum(gaps, out=gaps)
    arrival_s = np.minimum(times[:-1] * (epoch_s / times[-1]), np.nextafter(epoch_s, 0.0))
    pair = np.repeat(np.arange(models * origins, dtype=np.int32), counts.ravel())  # (N,) model x R + origin
    rng.shuffle(pair)
    model, origin = np.divmod(pair, np.int32(origins))
    shape = token_shape()  # (S, 2)
    lengths = (1.0 + (np.maximum(sizes, 1.0)[:, None, :] - 1.0) * shape).reshape(-1, 2)  # (V x S, 2)
    drawn = model * np.int32(len(shape)) + rng.integers(0, len(shape), total, dtype=np.int32)  # (N,)
    return Requests(
        arrival_s=arrival_s,
        model=model,
        origin=origin,
        prompt_tokens=_rounded(lengths[:, 0], drawn, rng),
        output_tokens=_rounded(lengths[:, 1], drawn, rng),
    )


def _rounded(lengths: FloatArray, drawn: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """``lengths[drawn]``, up or down at random so that the expectation stays."""
    down = np.floor(lengths).astype(np.int32)
    up = (lengths - down).astype(np.float32)
    return np.asarray(down[drawn] + (rng.random(len(drawn), dtype=np.float32) < up[drawn]), dtype=np.int32)

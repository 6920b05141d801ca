"""What an epoch amounted to: counts, energy, and a histogram of the time to first token.

The histogram has bins of one percent, so that quantiles are exact to half of that and memory does not depend on how
many requests there were; those of several epochs are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.fleet import Ints

FIRST_BIN_S: Final = 1e-3
LOG_BIN_WIDTH: Final = 0.01
BINS: Final = 1320
"""From 1 ms to 540 s."""


class TallyArrays(NamedTuple):
    """What ``kernel`` adds to. S = V x D sites."""

    served: Ints  # (S,) first tokens
    ttft_s: FloatArray  # (S,) sum over them
    rejected: Ints  # (V,)
    late: Ints  # (V,) beyond the limit, rejected ones included
    waiting: Ints  # (S,) at the end, without a first token
    preempted: Ints  # (V,) requests that had to be read again
    joules: FloatArray  # (D,) energy of the replicas and their part of the hosts
    histogram: Ints  # (V, BINS)


def empty_tally(models: int, sites: int) -> TallyArrays:
    """Nothing yet."""
    each = models * sites
    return TallyArrays(
        served=np.zeros(each, dtype=np.int64),
        ttft_s=np.zeros(each),
        rejected=np.zeros(models, dtype=np.int64),
        late=np.zeros(models, dtype=np.int64),
        waiting=np.zeros(each, dtype=np.int64),
        preempted=np.zeros(models, dtype=np.int64),
        joules=np.zeros(sites),
        histogram=np.zeros((models, BINS), dtype=np.int64),
    )


def quantiles_s(histogram: Ints, quantiles: Sequence[float]) -> FloatArray:
    """Quantiles (Q,) of a histogram (BINS,); 0 when it is empty."""
    total = histogram.sum()
    if total == 0:
        return np.zeros(len(quantiles))
    first = int(np.argmax(histogram > 0))
    filled = np.flatnonzero(histogram > 0)
    done = np.concatenate([[0.0], np.cumsum(histogram)[filled] / total])
    edges = np.log(FIRST_BIN_S) + LOG_BIN_WIDTH * np.concatenate([[first], filled + 1])
    return np.asarray(np.exp(np.interp(quantiles, done, edges)))


def counted_at(histogram: Ints, time_s: float, count: int) -> Ints:
    """The histogram (BINS,) with some more at one time: those who left count at the end of their patience."""
    place = int(np.log(max(time_s, FIRST_BIN_S) / FIRST_BIN_S) / LOG_BIN_WIDTH)
    more = histogram.copy()
    more[min(place, BINS - 1)] += count
    return more

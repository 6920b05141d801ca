"""What an epoch amounted to: counts, energy, and a histogram of the time to first token.

The histogram has bins of one percent, so that quantiles are exact to half of that and memory does not depend on how
many requests there were; those of several epochs are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.fleet import Ints, Records

FIRST_BIN_S: Final = 1e-3
LOG_BIN_WIDTH: Final = 0.01
BINS: Final = 1320
"""From 1 ms to 540 s."""


_PLACE_TALLY: Final = np.dtype(
    [
        ("served", "i8"),  # first tokens
        ("waiting", "i8"),  # without a first token at the end
        ("ttft_s", "f8"),  # sum over first tokens
    ]
)
_MODEL_TALLY: Final = np.dtype(
    [
        ("rejected", "i8"),
        ("late", "i8"),  # beyond the limit, rejected ones included
        ("preempted", "i8"),  # times a request had to be read again
    ]
)


class TallyArrays(NamedTuple):
    """What ``kernel`` adds to. S = V x D places."""

    sites: Records  # (S,) _PLACE_TALLY
    models: Records  # (V,) _MODEL_TALLY
    joules: FloatArray  # (D,) energy of the replicas and their part of the hosts
    histogram: Ints  # (V, BINS)


def empty_tally(models: int, sites: int) -> TallyArrays:
    """Nothing yet."""
    return TallyArrays(
        sites=np.zeros(models * sites, dtype=_PLACE_TALLY),
        models=np.zeros(models, dtype=_MODEL_TALLY),
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

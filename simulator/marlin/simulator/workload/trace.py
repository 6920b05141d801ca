"""A trace as a value: how many requests of each class arrived in each period, and how long they were.

Loaders (``burstgpt``, ``azure``) and generators (``synthetic``) make it; ``epochs`` cuts days out of it. Periods are
counted from a local midnight, because traces know the hour of the day and seldom the calendar; days are cut at midnight
UTC, because the grid's signals are UTC. ``utc_offset_h`` ties the two, and is swept with ``dataclasses.replace``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import NO_BAD_ROWS, BadRows

IntArray = NDArray[np.int64]

S_PER_HOUR: Final = 3600
S_PER_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals period by period, as recorded: not scaled to any fleet."""

    name: str
    """As messages call it."""
    classes: tuple[str, ...]
    """(C,) kinds of request, each with its own model share."""
    counts: IntArray = field(repr=False)
    """(P, C) requests of each class in each period, from a local midnight on."""
    period_s: int
    """Length of a period, s; divides an hour."""
    mean_tokens: FloatArray = field(repr=False)
    """(local days, 2) mean prompt and output tokens of a request on each local day; zeros on a day without any."""
    large_share: FloatArray = field(repr=False)
    """(C,) share of each class that asks for the larger model."""
    utc_offset_h: int = 0
    """Local time minus UTC, h."""
    bad_rows: BadRows = NO_BAD_ROWS
    """What was left out while reading, when that was allowed."""

    def __post_init__(self) -> None:
        periods, classes = self.counts.shape
        local_days = -(-periods * self.period_s // S_PER_DAY)
        assert S_PER_HOUR % self.period_s == 0, self.period_s
        assert classes == len(self.classes) == len(self.large_share), (self.counts.shape, self.classes)
        assert self.mean_tokens.shape[0] >= local_days, (self.mean_tokens.shape, local_days)
        assert self.mean_tokens.shape[1:] == (2,), self.mean_tokens.shape

    @property
    def days(self) -> int:
        """Whole days, each from midnight to midnight UTC."""
        return max(0, len(self.counts) * self.period_s - self._lead_s) // S_PER_DAY

    @property
    def _lead_s(self) -> int:
        """Local time of the first midnight UTC, s."""
        return self.utc_offset_h % 24 * S_PER_HOUR

    def day_periods(self, day: int) -> slice:
        """The periods of a day UTC, as rows of ``counts``."""
        first = (day * S_PER_DAY + self._lead_s) // self.period_s
        return slice(first, first + S_PER_DAY // self.period_s)

    def epoch_sizes(self, day: int, epoch_s: int) -> FloatArray:
        """Mean prompt and output tokens (E, 2) in each epoch of a day UTC: those of the local day it lies in."""
        starts_s = day * S_PER_DAY + self._lead_s + np.arange(S_PER_DAY // epoch_s) * epoch_s
        return np.asarray(self.mean_tokens[starts_s // S_PER_DAY])

    def day_sizes(self, day: int) -> FloatArray:
        """Mean prompt and output tokens (2,) over the requests of a day UTC, which lies in up to two local days."""
        weights = self.counts[self.day_periods(day)].sum(axis=1).astype(np.float64)  # (P,)
        if not weights.any():
            weights = np.ones_like(weights)
        return np.asarray(np.average(self.epoch_sizes(day, self.period_s), axis=0, weights=weights))

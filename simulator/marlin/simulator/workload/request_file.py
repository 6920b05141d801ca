"""Per-request traces, whichever service they are of, as batches of arrays.

``burstgpt`` and ``azure`` describe their files as a ``RequestFile``; reading one yields ``Batch``es in the file's
order, in memory that does not depend on its length. ``aggregate`` counts them into a ``Trace``, ``replay`` hands them
to the request-level engine one by one.

A failed request (no output tokens) did arrive and is counted; it has no size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.columns import Column, read_columns
from marlin.simulator.workload.trace import S_PER_DAY, IntArray, Trace

MAX_DAYS: Final = 3660
"""A row ten years after the first is a mistake, and must not make the counts ten years long."""
MAX_TOKENS: Final = 10_000_000
"""Far above any context window."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some requests in the order of their file; all arrays (N,)."""

    time_s: FloatArray
    """Since the local midnight before the trace's first request, s, never falling."""
    kind: IntArray
    """Index into the trace's classes."""
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    """0 where the request failed."""


@dataclass(frozen=True, slots=True)
class RequestFile:
    """A per-request CSV file and how it is read."""

    path: Path
    classes: tuple[str, ...]
    large_share: FloatArray  # (C,) of each class
    utc_offset_h: int
    columns: Sequence[Column]
    """Time, prompt tokens, output tokens, and whatever tells the class."""
    kind: Callable[[Sequence[FloatArray]], IntArray]
    """Values of ``columns`` (N,) each to classes (N,)."""
    counts_from_first_day: bool
    """Whether times are dates, so that the first one's midnight is where the trace begins."""

    def batches(self, judge: RowJudge) -> Iterator[Batch]:
        """The requests, a few megabytes of the file at a time.

        Raises:
            InputError: the file cannot be read, or has a bad row that may not be skipped.
        """
        begin_s: float | None = None if self.counts_from_first_day else 0.0
        for values in read_columns(self.path, self.columns, judge):
            if begin_s is None:
                begin_s = float(values[0][0]) // S_PER_DAY * S_PER_DAY
            time_s = values[0] - begin_s
            if time_s[-1] >= MAX_DAYS * S_PER_DAY:
                raise InputError(
                    f"{self.path}: has a row more than {MAX_DAYS} days after its first; mend or remove that row"
                )
            yield Batch(time_s, self.kind(values), values[1], values[2])


def aggregate(file: RequestFile, period_s: int, *, skip_bad_rows: bool) -> Trace:
    """The file's requests per period and its mean tokens per day; one pass, memory as for the result.

    Mean tokens are those of successful requests. A trace shorter than a day is repeated until it fills one, because
    epochs are cut out of whole days; its name says so.

    Raises:
        InputError: as ``RequestFile.batches``, or no row was good.
    """
    judge = RowJudge(str(file.path), skip_bad_rows)
    classes = len(file.classes)
    counts = np.zeros((0, classes), dtype=np.int64)
    sums = np.zeros((0, 3))  # successful requests, their prompt and output tokens, by local day
    first_s, last_s = np.inf, -np.inf
    for batch in file.batches(judge):
        first_s, last_s = min(first_s, float(batch.time_s[0])), float(batch.time_s[-1])
        periods, days = int(last_s // period_s) + 1, int(last_s // S_PER_DAY) + 1
        cell = (batch.time_s // period_s).astype(np.int64) * classes + batch.kind
        counts = _with_rows(counts, periods)
        counts[:periods] += np.bincount(cell, minlength=periods * classes).reshape(periods, classes)
        day = (batch.time_s // S_PER_DAY).astype(np.int64)
        succeeded = batch.output_tokens > 0
        sums = _with_rows(sums, days)
        for i, weights in enumerate((succeeded, batch.prompt_tokens * succeeded, batch.output_tokens)):
            sums[:days, i] += np.bincount(day, weights=weights, minlength=days)
    if last_s < 0:
        raise InputError(f"{file.path}: has no good row")
    first, last = int(first_s // period_s), int(last_s // period_s)
    counts, sums = counts[: last + 1], sums[: int(last_s // S_PER_DAY) + 1]
    name = str(file.path)
    if last_s < S_PER_DAY:
        # Two local days hold one whole day UTC, whatever the offset.
        counts, sums = np.resize(counts[first:], (2 * S_PER_DAY // period_s, classes)), np.resize(sums, (2, 3))
        name += " (shorter than a day, repeated)"
    return Trace(
        name=name,
        classes=file.classes,
        counts=counts,
        period_s=period_s,
        mean_tokens=sums[:, 1:] / np.maximum(sums[:, :1], 1.0),
        large_share=file.large_share,
        utc_offset_h=file.utc_offset_h,
        bad_rows=judge.found,
    )


_Table = TypeVar("_Table", IntArray, FloatArray)


def _with_rows(table: _Table, rows: int) -> _Table:
    """The table with at least so many rows, zeros below; doubled, so that a long trace is copied a few times only."""
    if rows <= len(table):
        return table
    grown = np.zeros((max(rows, 2 * len(table)), table.shape[1]), dtype=table.dtype)
    grown[: len(table)] = table
    return grown

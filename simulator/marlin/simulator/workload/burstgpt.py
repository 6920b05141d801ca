"""BurstGPT from files: the hourly and daily aggregates of a folder of full data, or the original per-request CSV.

The CSV's Timestamp counts seconds from the trace's first local midnight. Its failed requests (response tokens 0) are
arrivals without a size: they count, and the mean tokens are those of the others. The daily aggregate cannot tell them
apart: its means are about 2 % lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.columns import Column, read_columns
from marlin.simulator.workload.facts import fact
from marlin.simulator.workload.request_file import MAX_DAYS, MAX_TOKENS, RequestFile
from marlin.simulator.workload.shipped import BURSTGPT_CLASSES, burstgpt_large_shares
from marlin.simulator.workload.sizes import published_sizes, sizes_from_totals
from marlin.simulator.workload.trace import S_PER_DAY, S_PER_HOUR, IntArray, Trace

HOURLY_FILE: Final = "burstgpt/burstgpt1_hourly_counts.csv"
DAILY_FILE: Final = "burstgpt/burstgpt1_daily.csv"

HOURLY_COLUMNS: Final = (
    Column("day", high=MAX_DAYS, is_whole=True, never_falls=True),
    Column("hour", high=23, is_whole=True),
    *(Column(name, high=1e12, is_whole=True) for name in BURSTGPT_CLASSES),
)
_DAILY_COLUMNS: Final = (
    Column("day", high=MAX_DAYS, is_whole=True, never_falls=True),
    Column("mean_tokens_per_request", high=MAX_TOKENS),
)

REQUEST_CLASSES: Final = ("conversation, ChatGPT", "conversation, GPT-4", "api, ChatGPT", "api, GPT-4")
"""Of the per-request file, which says which model was asked: nothing has to be assumed about the split."""
_MODELS: Final = {"ChatGPT": 0, "GPT-4": 1}
_LOG_TYPES: Final = {"Conversation log": 0, "API log": 1}
REQUEST_COLUMNS: Final = (
    Column("Timestamp", high=MAX_DAYS * S_PER_DAY - 1, never_falls=True),
    Column("Request tokens", high=MAX_TOKENS, is_whole=True),
    Column("Response tokens", high=MAX_TOKENS, is_whole=True),
    Column("Model", labels=_MODELS, high=1),
    Column("Log Type", labels=_LOG_TYPES, high=1),
)


def burstgpt_requests(path: Path) -> RequestFile:
    """The original per-request CSV: Timestamp, Model, Request tokens, Response tokens, Total tokens, Log Type."""
    return RequestFile(
        path=path,
        classes=REQUEST_CLASSES,
        large_share=np.array([0.0, 1.0, 0.0, 1.0]),
        utc_offset_h=int(fact("trace_utc_offset_h")),
        columns=REQUEST_COLUMNS,
        kind=_kind,
        counts_from_first_day=False,
    )


def _kind(values: Sequence[FloatArray]) -> IntArray:
    return np.asarray(2 * values[4] + values[3], dtype=np.int64)


def aggregates_from(folder: Path, *, skip_bad_rows: bool = False) -> Trace:
    """All the days of BurstGPT in a folder of full data.

    Raises:
        InputError: a file is missing, or a row of it is not as documented (file, line and reason).
    """
    paths = folder / HOURLY_FILE, folder / DAILY_FILE
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: No such file; --data names a folder of full data")
    hours = hourly_counts(paths[0], skip_bad_rows=skip_bad_rows)
    judge = RowJudge(str(paths[1]), skip_bad_rows)
    totals = np.zeros(len(hours.counts) // 24)
    for day, mean in read_columns(paths[1], _DAILY_COLUMNS, judge):
        known = day < len(totals)
        totals[day[known].astype(np.int64)] = mean[known]
    return Trace(
        name=str(folder),
        classes=hours.classes,
        counts=hours.counts,
        period_s=hours.period_s,
        mean_tokens=sizes_from_totals(totals),
        large_share=hours.large_share,
        utc_offset_h=hours.utc_offset_h,
        bad_rows=hours.bad_rows + judge.found,
    )


def hourly_counts(path: Path, *, skip_bad_rows: bool = False) -> Trace:
    """Hourly counts by class (day, hour, conversation, api), with the published mean tokens on every day.

    Hours that the file leaves out had no requests.

    Raises:
        InputError: the file cannot be read, or has a bad row.
    """
    judge = RowJudge(str(path), skip_bad_rows)
    blocks = list(read_columns(path, HOURLY_COLUMNS, judge))
    if not blocks:
        raise InputError(f"{path}: has no good row")
    day, hour, *classes = (np.concatenate(values) for values in zip(*blocks, strict=True))
    counts = np.zeros(((int(day.max()) + 1) * 24, len(classes)), dtype=np.int64)
    np.add.at(counts, (day * 24 + hour).astype(np.int64), np.stack(classes, axis=1).astype(np.int64))
    mean = np.tile(published_sizes(), (len(counts) // 24, 1))
    return Trace(
        name=str(path),
        classes=BURSTGPT_CLASSES,
        counts=counts,
        period_s=S_PER_HOUR,
        mean_tokens=mean,
        large_share=burstgpt_large_shares(),
        utc_offset_h=int(fact("trace_utc_offset_h")),
        bad_rows=judge.found,
    )

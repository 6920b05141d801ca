"""Azure's LLM inference traces from files: the per-request ones of 2023 and 2024, and hourly counts.

Times are UTC. The files do not say which model was asked: BurstGPT's total share stands in (assumption).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.columns import Column, read_columns
from marlin.simulator.workload.request_file import MAX_DAYS, MAX_TOKENS, RequestFile
from marlin.simulator.workload.shipped import total_large_share
from marlin.simulator.workload.sizes import mean_pair
from marlin.simulator.workload.trace import S_PER_DAY, S_PER_HOUR, IntArray, Trace

_LATEST_S: Final = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
REQUEST_COLUMNS: Final = (
    Column("TIMESTAMP", high=_LATEST_S, is_moment=True, never_falls=True),
    Column("ContextTokens", high=MAX_TOKENS, is_whole=True),
    Column("GeneratedTokens", high=MAX_TOKENS, is_whole=True),
)
HOURLY_COLUMNS: Final = (
    Column("date_utc", high=_LATEST_S, is_moment=True, never_falls=True),
    Column("hour_utc", high=23, is_whole=True),
    Column("requests", high=1e12, is_whole=True),
)


def azure_requests(path: Path) -> RequestFile:
    """A per-request file: TIMESTAMP, ContextTokens, GeneratedTokens."""
    return RequestFile(
        path=path,
        classes=("all",),
        large_share=total_large_share(1),
        utc_offset_h=0,
        columns=REQUEST_COLUMNS,
        kind=_kind,
        counts_from_first_day=True,
    )


def _kind(values: Sequence[FloatArray]) -> IntArray:
    return np.zeros(len(values[0]), dtype=np.int64)


def azure_hourly(path: Path, *, skip_bad_rows: bool = False) -> Trace:
    """Hourly counts (date_utc, hour_utc, requests); token sizes are those of the 2023 trace (assumption).

    Hours that the file leaves out had no requests.

    Raises:
        InputError: the file cannot be read, or has a bad row.
    """
    judge = RowJudge(str(path), skip_bad_rows)
    blocks = list(read_columns(path, HOURLY_COLUMNS, judge))
    if not blocks:
        raise InputError(f"{path}: has no good row")
    moment, hour, requests = (np.concatenate(values) for values in zip(*blocks, strict=True))
    day = ((moment - moment[0]) // S_PER_DAY).astype(np.int64)
    if day[-1] > MAX_DAYS:
        raise InputError(f"{path}: has a row more than {MAX_DAYS} days after its first; mend or remove that row")
    counts = np.zeros(((int(day[-1]) + 1) * 24, 1), dtype=np.int64)
    np.add.at(counts[:, 0], day * 24 + hour.astype(np.int64), requests.astype(np.int64))
    return Trace(
        name=str(path),
        classes=("conversation",),
        counts=counts,
        period_s=S_PER_HOUR,
        mean_tokens=np.tile(mean_pair(), (len(counts) // 24, 1)),
        large_share=total_large_share(1),
        utc_offset_h=0,
        bad_rows=judge.found,
    )

"""A trace by name: what a person writes after ``--trace``.

A built-in name, a name with a path (``burstgpt:PATH``), a generator with parameters (``mmpp:burst_ratio=20``), or just
a path, whose header says what it is. The command line and experiments come in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.workload.azure import HOURLY_COLUMNS as AZURE_HOURLY
from marlin.simulator.workload.azure import REQUEST_COLUMNS as AZURE_REQUESTS
from marlin.simulator.workload.azure import azure_hourly, azure_requests
from marlin.simulator.workload.blocks import first_line
from marlin.simulator.workload.burstgpt import HOURLY_COLUMNS as BURSTGPT_HOURLY
from marlin.simulator.workload.burstgpt import REQUEST_COLUMNS as BURSTGPT_REQUESTS
from marlin.simulator.workload.burstgpt import aggregates_from, burstgpt_requests, hourly_counts
from marlin.simulator.workload.request_file import RequestFile, aggregate
from marlin.simulator.workload.shipped import shipped_azure_2024, shipped_week
from marlin.simulator.workload.synthetic import GENERATORS, generate, generator_from
from marlin.simulator.workload.trace import Trace

PERIOD_S: Final = 900
"""Period into which per-request files are counted, s."""

BUILT_IN: Final[Mapping[str, Callable[[], Trace]]] = MappingProxyType(
    {"burstgpt": shipped_week, "azure2024": shipped_azure_2024}
)
WITH_PATH: Final = ("burstgpt", "azure2023", "azure2024")


def trace_names() -> tuple[str, ...]:
    """What may be written for a trace, as shown to a person."""
    return (*BUILT_IN, *GENERATORS, *(f"{name}:PATH" for name in WITH_PATH), "PATH")


def trace_by_name(name: str, *, seed: int = 0, skip_bad_rows: bool = False, utc_offset_h: int | None = None) -> Trace:
    """The trace called ``name``.

    Args:
        name: one of ``trace_names()``; a generator takes parameters, as in ``diurnal:days=14,amplitude=0.8``.
        seed: of the synthetic generators; recorded traces are what they are.
        skip_bad_rows: leave bad rows of a file out, counted in ``Trace.bad_rows``. Default: the first is refused.
        utc_offset_h: local time of the trace minus UTC, h. Default: the trace's own.

    Raises:
        InputError: there is no such trace, a file cannot be read, or has a bad row.
    """
    trace = _trace(name, seed, skip_bad_rows)
    return trace if utc_offset_h is None else replace(trace, utc_offset_h=utc_offset_h)


def request_file(name: str) -> RequestFile | None:
    """The per-request file behind a name, for replay; None where the trace is not one.

    Raises:
        InputError: the name has a path that cannot be read.
    """
    word, _, after = name.partition(":")
    path = Path(after if word in WITH_PATH else name)
    if not path.is_file():
        return None
    names = _header(path)
    if {column.name for column in BURSTGPT_REQUESTS} <= names:
        return burstgpt_requests(path)
    return azure_requests(path) if {column.name for column in AZURE_REQUESTS} <= names else None


def _trace(name: str, seed: int, skip_bad_rows: bool) -> Trace:
    word, colon, after = name.partition(":")
    if not colon and word in BUILT_IN:
        return BUILT_IN[word]()
    if word in GENERATORS:
        return generate(name, generator_from(word, after), np.random.default_rng(seed))
    path = Path(after if word in WITH_PATH and after else name)
    if not path.exists():
        raise _unknown(name, word, after)
    if path.is_dir():
        return aggregates_from(path, skip_bad_rows=skip_bad_rows)
    requests = request_file(name)
    if requests is not None:
        return aggregate(requests, PERIOD_S, skip_bad_rows=skip_bad_rows)
    names = _header(path)
    for columns, read in ((BURSTGPT_HOURLY, hourly_counts), (AZURE_HOURLY, azure_hourly)):
        if {column.name for column in columns} <= names:
            return read(path, skip_bad_rows=skip_bad_rows)
    kinds = (BURSTGPT_REQUESTS, AZURE_REQUESTS, BURSTGPT_HOURLY, AZURE_HOURLY)
    known = "; or ".join(", ".join(column.name for column in columns) for columns in kinds)
    raise InputError(f"{path}:1: is not a trace that is known; its columns must be {known}")


def _header(path: Path) -> set[str]:
    return {cell.strip().strip('"') for cell in first_line(path).split(",")}


def _unknown(name: str, word: str, after: str) -> InputError:
    if word in WITH_PATH or "/" in name or Path(name).suffix:
        return InputError(f"trace {name}: there is no file or folder {after or name}")
    near = get_close_matches(word, [*BUILT_IN, *GENERATORS, *WITH_PATH], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return InputError(f"trace {name!r} is not known; {hint}there are {', '.join(trace_names())}")

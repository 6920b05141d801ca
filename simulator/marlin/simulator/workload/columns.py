"""Rows of a CSV file as arrays of numbers, checked.

A file kind says which columns it needs and what may stand in them (``Column``); ``read_columns`` yields the rows, a
block at a time, as one float array per column. Each block is first parsed as a whole by polars, where that is
installed; if anything in it is not plainly right, it is parsed again line by line, and that slow reading alone decides
what is bad and says where. So a clean file of millions of rows is read fast, and a dirty one with exact line numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.blocks import BLOCK_BYTES, Block, read_blocks

_FRACTION_FORMAT: Final = "%Y-%m-%d %H:%M:%S%.f"
_ZONED_FORMAT: Final = "%Y-%m-%d %H:%M:%S%.f%z"


@dataclass(frozen=True, slots=True)
class Column:
    """One column that a file must have, and what may stand in it."""

    name: str
    low: float = 0.0
    high: float = np.inf
    is_whole: bool = False
    is_moment: bool = False
    """A date and time, read as seconds since 1970; without a zone it is UTC."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Where words stand instead of numbers: each word and the number it is read as."""
    never_falls: bool = False
    """Whether a value below the row before's is a mistake."""

    def number(self, text: str) -> float | str:
        """The value of a cell, or what is wrong with it."""
        if self.labels:
            code = self.labels.get(text)
            return f"{self.name} is none of {', '.join(self.labels)}" if code is None else float(code)
        value = _moment(text) if self.is_moment else plain_number(text)
        if value is None:
            return f"{self.name} is not a {'date and time' if self.is_moment else 'number'}"
        if self.is_whole and value == value and abs(value) < np.inf and value != int(value):  # noqa: PLR0124 not NaN
            return f"{self.name} is not a whole number"
        if not self.low <= value <= self.high:
            return f"{self.name} is not between {self.low:g} and {self.high:g}"
        return value


def read_columns(
    path: Path, columns: Sequence[Column], judge: RowJudge, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[FloatArray, ...]]:
    """The good rows, as one array (N,) per column and block.

    Args:
        path: a CSV file with a header, plain or gzip-compressed; other columns than the named ones are ignored.
        columns: what is needed.
        judge: hears of bad rows, and refuses them or lets them be left out.
        block_bytes: how much is read at once.

    Raises:
        InputError: the file cannot be read, lacks a column, has no row, or has a bad one (file, line and reason).
    """
    blocks = read_blocks(path, block_bytes)
    names = _header(next(blocks))
    _refuse_missing(path, [column.name for column in columns], names)
    places = [names.index(column.name) for column in columns]
    last: list[float] = [-np.inf] * len(columns)  # value of each column in the last good row
    is_any = False
    for block in blocks:
        parsed = _parse_fast(block, len(names), columns, places, last)
        if parsed is None:
            parsed = _parse_slowly(block, len(names), columns, places, last, judge)
        is_any = True
        if len(parsed[0]):
            last = [float(values[-1]) for values in parsed]
            yield parsed
    if not is_any:
        raise InputError(f"{path}: has no rows below its header")


def read_cells(path: Path, names: Sequence[str], judge: RowJudge) -> Iterator[tuple[int, list[str]]]:
    """The rows as text, for tables with free words in them: line number, and one cell per name.

    A name with a question mark behind it is a column that need not be there; its cell is then empty.

    Raises:
        InputError: as ``read_columns``.
    """
    blocks = read_blocks(path)
    header = _header(next(blocks))
    needed = [name for name in names if not name.endswith("?")]
    _refuse_missing(path, needed, header)
    places = [header.index(name) if (name := given.removesuffix("?")) in header else None for given in names]
    is_any = False
    for block in blocks:
        for line, raw in _lines(block):
            is_any = True
            cells = _cells(raw, line, len(header), judge)
            if cells is not None:
                yield line, ["" if place is None else cells[place].strip() for place in places]
    if not is_any:
        raise InputError(f"{path}: has no rows below its header")


def _header(block: Block) -> list[str]:
    return [name.strip() for name in next(csv.reader([block.data.decode("utf-8", "replace").strip()]), [])]


def _refuse_missing(path: Path, needed: Sequence[str], header: Sequence[str]) -> None:
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(f"{path}:1: has no column {missing[0]!r}; it needs {', '.join(needed)}")


def _lines(block: Block) -> Iterator[tuple[int, bytes]]:
    return enumerate(block.data.removesuffix(b"\n").split(b"\n"), start=block.first_line)


def _parse_fast(
    block: Block, fields: int, columns: Sequence[Column], places: Sequence[int], last: Sequence[float]
) -> tuple[FloatArray, ...] | None:
    """The block as arrays, or None when it has to be read line by line."""
    polars = _polars()
    if polars is None:
        return None
    try:
        frame = polars.read_csv(
            io.BytesIO(block.data),
            has_header=False,
            schema={f"c{i}": polars.String for i in range(fields)},
        )
    except polars.exceptions.PolarsError:
        return None
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    if frame.height != lines:
        return None
    arrays = []
    for column, place, before in zip(columns, places, last, strict=True):
        values = _fast_values(polars, frame[f"c{place}"], column)
        if values is None or not _is_fine(values, column, before):
            return None
        arrays.append(values)
    return tuple(arrays)


def _fast_values(polars: ModuleType, text: Any, column: Column) -> FloatArray | None:
    if column.labels:
        numbers = text.replace_strict(dict(column.labels), default=None, return_dtype=polars.Float64)
    elif column.is_moment:
        moments = text.str.strptime(polars.Datetime("ns"), _FRACTION_FORMAT, strict=False)
        if moments.null_count():
            zoned = text.str.strptime(polars.Datetime("ns", "UTC"), _ZONED_FORMAT, strict=False)
            moments = zoned.dt.replace_time_zone(None)
        numbers = moments.dt.epoch("us").cast(polars.Float64) / 1e6
    else:
        numbers = text.cast(polars.Float64, strict=False)
    return None if numbers.null_count() else np.asarray(numbers.to_numpy(), dtype=np.float64)


def _is_fine(values: FloatArray, column: Column, before: float) -> bool:
    with np.errstate(invalid="ignore"):
        if not bool(np.all((values >= column.low) & (values <= column.high))):
            return False
        if column.is_whole and not bool(np.all(values == np.floor(values))):
            return False
    return not column.never_falls or bool(values[0] >= before and np.all(np.diff(values) >= 0))


def _parse_slowly(
    block: Block,
    fields: int,
    columns: Sequence[Column],
    places: Sequence[int],
    last: Sequence[float],
    judge: RowJudge,
) -> tuple[FloatArray, ...]:
    rows: list[list[float]] = []
    before = list(last)
    for line, raw in _lines(block):
        row = _row(raw, line, fields, columns, places, judge)
        if row is None:
            continue
        falling = [c for c, x, b in zip(columns, row, before, strict=True) if c.never_falls and x < b]
        if falling:
            judge.bad(line, f"{falling[0].name} goes back", raw.decode("utf-8", "replace").strip())
            continue
        rows.append(row)
        before = row
    table = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    return tuple(np.ascontiguousarray(table[:, i]) for i in range(len(columns)))


def _row(
    raw: bytes, line: int, fields: int, columns: Sequence[Column], places: Sequence[int], judge: RowJudge
) -> list[float] | None:
    cells = _cells(raw, line, fields, judge)
    if cells is None:
        return None
    row = []
    for column, place in zip(columns, places, strict=True):
        cell = cells[place].strip()
        value = column.number(cell)
        if isinstance(value, str):
            judge.bad(line, value, cell or "nothing")
            return None
        row.append(value)
    return row


def _cells(raw: bytes, line: int, fields: int, judge: RowJudge) -> list[str] | None:
    try:
        cells = next(csv.reader([raw.decode("utf-8").rstrip("\r")], strict=True), [])
    except UnicodeDecodeError:
        judge.bad(line, "the line is not UTF-8")
        return None
    except csv.Error as error:
        judge.bad(line, f"the line is not CSV: {error}")
        return None
    if len(cells) != fields:
        judge.bad(line, f"the line has not {fields} fields", f"{len(cells)} fields" if cells else "nothing")
        return None
    return cells


def plain_number(text: str) -> float | None:
    """The number a cell holds, or None.

    Python would also read underscores and digits of other scripts; a trace that has them was damaged.
    """
    if not text.isascii() or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


@cache
def _polars() -> ModuleType | None:
    """Polars where it is installed (the extra ``sim``); without it files are read line by line, only slower."""
    try:
        import polars as pl  # noqa: PLC0415
    except ImportError:
        return None
    return pl

"""An experiment's epochs as tables in files, for notebooks and spreadsheets.

Four tables, each with one thing per row, because energy is known by site, a queue by model and an order by neither:
``sites`` (epoch and datacenter) is what ``--out`` names; with ``detail`` come ``epochs``, ``pools`` and ``routes``
beside it. The suffix says the format: ``.parquet`` needs polars, ``.csv`` nothing.

Memory holds one day of rows at most. Files appear under their names when all of them are whole; until then, and after
any failure, there is nothing but what was there before. Columns are documented here and nowhere else; the reference
page is made from them.
"""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import numpy as np

from marlin.api.errors import InputError, MarlinError
from marlin.api.values import SHARE_SCALE
from marlin.simulator.experiment import Epoch
from marlin.simulator.physics import FloatArray

SUFFIXES: Final = (".parquet", ".csv")
_ROWS_AT_ONCE: Final = 10_000

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    type: type
    description: str


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of rows."""

    name: str
    has: str
    """What one row is."""
    columns: tuple[Column, ...]
    rows: Callable[[int, Epoch], list[Row]] = field(repr=False)
    """Rows of an epoch, given its number."""


_TIME: Final = (
    Column("epoch", int, "Number of the epoch, from 0."),
    Column("start_time", datetime, "When it starts, UTC."),
    Column("is_run_out", bool, "Whether this is the time after the last epoch, in which the queue empties."),
)
_FOOTPRINT: Final = (
    Column("energy_kwh", float, "All energy, cooling and infrastructure included, kWh."),
    Column("carbon_gco2", float, "gCO2eq."),
    Column("water_l", float, "Water consumed, on site and by the grid, L."),
    Column("cost_usd", float, "Cost of the energy, USD."),
)
_SHARES: Final = (
    Column(
        "share_planned",
        float,
        "Part of the requests that the plan's weights give it; with dispatch ordered, what the planner expects.",
    ),
    Column("share_served", float, "Part of the requests served that were served here."),
    Column("served", float, "Requests served here."),
)
_AWAKE: Final = Column("awake_replicas", float, "Replicas awake at the end of the epoch.")
_TTFT: Final = Column("ttft_s", float, "Mean time to first token of the requests served, network included, s.")


def _site_rows(number: int, epoch: Epoch) -> list[Row]:
    outcome = epoch.outcome
    planned = epoch.forecast @ _weights(epoch) / max(float(epoch.forecast.sum()), 1e-12)  # (D,)
    served = outcome.served.sum(axis=0)  # (D,)
    ttft_s = (outcome.ttft_s * outcome.served).sum(axis=0) / np.maximum(served, 1e-12)
    share = served / max(float(served.sum()), 1e-12)
    footprint = (outcome.energy_kwh, outcome.carbon_gco2, outcome.water_l, outcome.cost_usd)
    columns = (planned, share, served, outcome.awake.sum(axis=0), ttft_s, *footprint)
    head = (number, epoch.start_time, epoch.is_run_out)
    return [(*head, name, *(float(column[d]) for column in columns)) for d, name in enumerate(epoch.plan.datacenters)]


def _epoch_rows(number: int, epoch: Epoch) -> list[Row]:
    outcome = epoch.outcome
    _, *sums = (float(x) for x in outcome.metrics)
    return [
        (
            number,
            epoch.start_time,
            epoch.is_run_out,
            *(float(x.sum()) for x in (epoch.forecast, epoch.arrived, outcome.served, outcome.queued)),
            float(outcome.rejected.sum()),
            float(outcome.metrics[0]),
            *(float(x) for x in outcome.ttft_quantiles_s),
            outcome.late_share,
            outcome.awake_share,
            float(outcome.energy_kwh.sum()),
            *sums,
        )
    ]


def _pool_rows(number: int, epoch: Epoch) -> list[Row]:
    outcome = epoch.outcome
    served = outcome.served.sum(axis=1)  # (V,)
    ttft_s = (outcome.ttft_s * outcome.served).sum(axis=1) / np.maximum(served, 1e-12)
    columns = (epoch.forecast, epoch.arrived, served, outcome.queued, outcome.rejected, ttft_s)
    head = (number, epoch.start_time, epoch.is_run_out)
    return [(*head, pool.name, *(float(c[v]) for c in columns)) for v, pool in enumerate(epoch.plan.pools)]


def _route_rows(number: int, epoch: Epoch) -> list[Row]:
    outcome = epoch.outcome
    share = outcome.served / np.maximum(outcome.served.sum(axis=1, keepdims=True), 1e-12)
    columns = (_weights(epoch), share, outcome.served, outcome.utilization, outcome.awake, outcome.ttft_s)
    head = (number, epoch.start_time, epoch.is_run_out)
    return [
        (*head, pool.name, name, *(float(column[v, d]) for column in columns))
        for v, pool in enumerate(epoch.plan.pools)
        for d, name in enumerate(epoch.plan.datacenters)
    ]


def _weights(epoch: Epoch) -> FloatArray:
    """Planned shares (V, D)."""
    return np.array([pool.weights for pool in epoch.plan.pools]) / SHARE_SCALE


_POOL: Final = Column("pool", str, "Name of the InferencePool.")
_DATACENTER: Final = Column("datacenter", str, "Name of the Datacenter.")
_DEMAND: Final = (
    Column("forecast", float, "Requests the plan was made for."),
    Column("arrived", float, "Requests that came."),
    Column("served", float, "Requests served."),
    Column("queued", float, "Requests that wait at the end; they are counted when they are served or leave."),
    Column("rejected", float, "Requests that left because they would have waited too long."),
)

SITES: Final = Table(
    "sites", "an epoch at a datacenter", (*_TIME, _DATACENTER, *_SHARES, _AWAKE, _TTFT, *_FOOTPRINT), _site_rows
)
TABLES: Final = (
    SITES,
    Table(
        "epochs",
        "an epoch",
        (
            *_TIME,
            *_DEMAND,
            Column("ttft_s", float, "Mean time to first token, s; a request that left counts with its patience."),
            Column("ttft_p50_s", float, "Median, s."),
            Column("ttft_p95_s", float, "95th percentile, s."),
            Column("ttft_p99_s", float, "99th percentile, s."),
            Column("late_share", float, "Part of the requests beyond the limit of their pool."),
            Column("awake_share", float, "Part of the replicas awake at the end."),
            _FOOTPRINT[0],
            Column("carbon_gco2", float, "gCO2eq, the charge for requests that left included."),
            Column("water_l", float, "L, the charge included."),
            Column("cost_usd", float, "USD, the charge included."),
        ),
        _epoch_rows,
    ),
    Table("pools", "an epoch of a pool", (*_TIME, _POOL, *_DEMAND, _TTFT), _pool_rows),
    Table(
        "routes",
        "an epoch of a pool at a datacenter",
        (
            *_TIME,
            _POOL,
            _DATACENTER,
            *_SHARES,
            Column("utilization", float, "Load over the capacity that is awake."),
            _AWAKE,
            _TTFT,
        ),
        _route_rows,
    ),
)


class Sink(Protocol):
    """Where the rows of one table go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Takes some rows."""

    def finish(self) -> Path:
        """Writes what is left; the path of the whole file, which is not yet in its place."""


class ResultsWriter:
    """Writes an experiment epoch by epoch; a context manager, whose end puts the files in their place."""

    def __init__(self, out: Path, metadata: Mapping[str, str], *, detail: bool = False) -> None:
        """Opens what will be written, so that a path that cannot be is refused before anything is computed.

        Args:
            out: the file of the sites; the others get their table's name before the suffix.
            metadata: kept in Parquet files; CSV has no place for it.
            detail: whether to write all tables.

        Raises:
            InputError: the suffix is unknown.
            MarlinError: the folder cannot be written to, or polars is not installed.
        """
        if out.suffix not in SUFFIXES:
            raise InputError(f"{out}: results end in {' or '.join(SUFFIXES)}")
        self._out = out
        self._epochs = 0
        if out.suffix == ".parquet":
            _polars()
        if out.is_dir():
            raise MarlinError(f"{out}: cannot be written: it is a folder")
        try:
            # Beside the files, so that putting them in their place is a rename, which is whole or not at all.
            self._folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        except OSError as error:
            raise _unwritable(out, error) from error
        self._sinks: dict[Path, tuple[Table, Sink]] = {}
        for table in TABLES if detail else (SITES,):
            target = out if table is SITES else out.with_name(f"{out.stem}.{table.name}{out.suffix}")
            work = self._folder / table.name
            sink: Sink = _Csv(table, work) if out.suffix == ".csv" else _Parquet(table, work, metadata)
            self._sinks[target] = (table, sink)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is there in the end."""
        return tuple(self._sinks)

    def add(self, epoch: Epoch) -> None:
        """Takes one epoch.

        Raises:
            MarlinError: the disk is full, or the like.
        """
        try:
            for table, sink in self._sinks.values():
                sink.write(table.rows(self._epochs, epoch))
        except OSError as error:
            raise _unwritable(self._out, error) from error
        self._epochs += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                whole = [(sink.finish(), target) for target, (_, sink) in self._sinks.items()]
                for file, target in whole:
                    os.replace(file, target)  # noqa: PTH105 says more plainly that the old file is replaced
        except OSError as failed:
            raise _unwritable(self._out, failed) from failed
        finally:
            for _, sink in self._sinks.values():
                if isinstance(sink, _Csv):
                    sink.close()
            shutil.rmtree(self._folder, ignore_errors=True)


class _Csv:
    """Rows as text, straight to the file."""

    def __init__(self, table: Table, file: Path) -> None:
        self._path = file
        self._file: IO[str] = file.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow([column.name for column in table.columns])

    def write(self, rows: Sequence[Row]) -> None:
        """See ``Sink``."""
        self._writer.writerows([_text(cell) for cell in row] for row in rows)

    def finish(self) -> Path:
        """See ``Sink``."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._path

    def close(self) -> None:
        """Closes the file, whole or not."""
        try:
            self._file.close()
        except OSError:  # a full disk again, of which the first write told
            return


class _Parquet:
    """Rows in parts of a day or so, which are joined in the end, piece by piece."""

    def __init__(self, table: Table, folder: Path, metadata: Mapping[str, str]) -> None:
        self._pl = _polars()
        types = {int: self._pl.Int64, float: self._pl.Float64, str: self._pl.String, bool: self._pl.Boolean}
        times = self._pl.Datetime("us", "UTC")
        self._schema = {column.name: types.get(column.type, times) for column in table.columns}
        descriptions = {f"column.{column.name}": column.description for column in table.columns}
        self._metadata = {**metadata, **descriptions}
        self._folder = folder
        self._folder.mkdir()
        self._rows: list[Row] = []
        self._parts = 0

    def write(self, rows: Sequence[Row]) -> None:
        """See ``Sink``."""
        self._rows.extend(rows)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._write_part()

    def finish(self) -> Path:
        """See ``Sink``."""
        self._write_part()
        whole = self._folder / "whole"
        self._guarded(
            lambda: self._pl.scan_parquet(self._folder / "*.part").sink_parquet(
                whole, metadata=self._metadata, row_group_size=_ROWS_AT_ONCE
            )
        )
        return whole

    def _write_part(self) -> None:
        frame = self._pl.DataFrame(self._rows, schema=self._schema, orient="row")
        self._guarded(lambda: frame.write_parquet(self._folder / f"{self._parts:08}.part"))
        self._rows.clear()
        self._parts += 1

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except self._pl.exceptions.PolarsError as error:
            raise OSError(str(error).splitlines()[0]) from error


def _text(cell: object) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat()
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)


def _polars() -> Any:
    try:
        return importlib.import_module("polars")
    except ModuleNotFoundError as error:
        raise MarlinError("Parquet needs polars: pip install 'marlin[sim]', or write .csv") from error


def _unwritable(out: Path, error: OSError) -> MarlinError:
    return MarlinError(f"{out}: cannot be written: {error.strerror or error}; nothing was written")

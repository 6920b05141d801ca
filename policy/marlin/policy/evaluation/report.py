"""An evaluation as a table, as JSON, as a file with a row per score, and as a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.box import HEAVY_HEAD, MARKDOWN
from rich.table import Table

from marlin.api.errors import InputError, MarlinError
from marlin.policy.evaluation.claim import Judged, Verdict
from marlin.policy.evaluation.frameworks import BASELINE, CLAIRVOYANT, MARLIN, SIMPLE
from marlin.policy.evaluation.scoring import Chosen, Score
from marlin.policy.evaluation.statistics import Interval, Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES: Final = (".parquet", ".csv")

_LEAST_ROOM: Final = 0.002
"""Of capacity-proportional, between the best simple policy and the bound: shares of less are not printed."""


Choices = Mapping[tuple[str, str], Chosen]
"""The best simple policies, by cell and scheme."""


def tables(lines: Sequence[Line], chosen: Choices, *, is_terminal: bool) -> list[str | Table]:
    """One for each cell and scheme, each after its heading; where there are several, one more puts them side by side.

    Args:
        lines: of the evaluation.
        chosen: what they were compared with.
        is_terminal: else tables are Markdown.
    """
    box = HEAVY_HEAD if is_terminal else MARKDOWN
    found: list[str | Table] = []
    for cell, scheme in dict.fromkeys((line.cell, line.scheme) for line in lines):
        best = chosen[cell, scheme]
        by_name = {line.framework: line for line in lines if (line.cell, line.scheme) == (cell, scheme)}
        table = Table(box=box)
        for heading in ("", "value", "vs best simple", "captured", "recovered", "served", "late", "guard"):
            table.add_column(heading, justify="right" if heading else "left")
        for line in by_name.values():
            table.add_row(
                line.framework,
                f"{line.value.value:.4f}",
                _percent(line.against_simple, "+.2%") if line.framework != SIMPLE else "",
                _percent(line.captured, ".1%") if line.framework not in {BASELINE, CLAIRVOYANT} else "",
                _recovered(line, by_name) if line.framework not in {BASELINE, SIMPLE, CLAIRVOYANT} else "",
                f"{line.served_share:.3%}",
                f"{line.late_share:.3%}",
                f"{line.held_share:.0%}" if line.held_share else "",
            )
        chosen_as = f"best simple policy on the tuning days: {best.name} ({best.value:.4f} there)"
        found += [f"{scheme} ({cell}); {chosen_as}", table]
    if len(chosen) > 1:
        found += ["marlin everywhere", overview(lines, chosen, is_terminal=is_terminal)]
    return found


def overview(lines: Sequence[Line], chosen: Choices, *, is_terminal: bool) -> Table:
    """MARLIN in every cell and scheme, beside the best simple policy and the bound; capacity-proportional is 1."""
    table = Table(box=HEAVY_HEAD if is_terminal else MARKDOWN)
    for heading in ("cell", "scheme", "best simple policy"):
        table.add_column(heading)
    headings = (
        "its value",
        "marlin",
        "vs best simple",
        "clairvoyant",
        "captured",
        "recovered",
        "served",
        "late, over it",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for (cell, scheme), best in chosen.items():
        by_name = {line.framework: line for line in lines if (line.cell, line.scheme) == (cell, scheme)}
        if MARLIN not in by_name:
            continue
        simple, ours, bound = by_name[SIMPLE], by_name[MARLIN], by_name[CLAIRVOYANT]
        table.add_row(
            cell,
            scheme,
            best.name,
            f"{simple.value.value:.4f}",
            f"{ours.value.value:.4f}",
            _percent(ours.against_simple, "+.2%"),
            f"{bound.value.value:.4f}",
            f"{ours.captured.value:.1%}",
            _recovered(ours, by_name),
            f"{ours.served_share:.3%}",
            f"{100 * (ours.late_share - simple.late_share):+.3f} points",
        )
    return table


def claim_table(judged: Sequence[Judged], *, is_terminal: bool) -> Table:
    """The claim line by line: what can be said of each, in how many cells, and the one nearest to its limit."""
    table = Table(box=HEAVY_HEAD if is_terminal else MARKDOWN)
    for heading in ("line", "verdict", "holds", "does not", "open", "figure", "limit", "where"):
        table.add_column(heading, justify="right" if heading in {"holds", "does not", "open"} else "left")
    for one in judged:
        counts = [str(one.counts.get(verdict, 0)) for verdict in (Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED)]
        figure = "" if one.worst is None else _percent(one.worst.figure, "+.2%")
        where = "" if one.worst is None else f"{one.worst.scheme} ({one.worst.cell})"
        table.add_row(one.line, one.verdict.value, *counts, figure, f"{one.limit:+.1%}", where)
    return table


def as_json(lines: Sequence[Line], chosen: Choices, about: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything, for a script; an interval is ``value``, ``low`` and ``high``."""
    return {
        "cells": list(about),
        "best_simple_policies": [
            {"cell": cell, "scheme": scheme, "name": best.name, "value_on_tuning_days": best.value}
            for (cell, scheme), best in chosen.items()
        ],
        "lines": [asdict(line) for line in lines],
    }


def check_file(file: Path) -> None:
    """Asks before the work whether a file can be written.

    Raises:
        InputError: its suffix is not known, or there is no such folder.
        MarlinError: Parquet needs a library that is not installed.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(f"--out: {file}: the name must end in {' or '.join(SUFFIXES)}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--out: {file}: there is no folder {file.absolute().parent}")
    if file.suffix == ".parquet":
        _polars()


def write(scores: Sequence[Score], file: Path) -> None:
    """A row for each score.

    Raises:
        MarlinError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        if file.suffix == ".csv":
            with part.open("w", newline="", encoding="utf-8") as opened:
                writer = csv.DictWriter(opened, [f.name for f in fields(Score)])
                writer.writeheader()
                writer.writerows(asdict(score) for score in scores)
        else:
            _polars().DataFrame([asdict(score) for score in scores]).write_parquet(part)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MarlinError(f"{file}: cannot be written: {error.strerror or error}") from error


def figure(lines: Sequence[Line]) -> Figure:
    """What each framework captures of what could be saved, with intervals: cells down, schemes across."""
    from matplotlib.figure import Figure as Drawn  # noqa: PLC0415 needs the extra [sim]

    cells = list(dict.fromkeys(line.cell for line in lines))
    schemes = list(dict.fromkeys(line.scheme for line in lines))
    names = [n for n in dict.fromkeys(line.framework for line in lines) if n not in {BASELINE, CLAIRVOYANT}]
    size = (2.0 + 2.6 * len(schemes), len(cells) * (0.8 + 0.32 * len(names)))
    drawn = Drawn(figsize=size, layout="constrained")
    panels = drawn.subplots(len(cells), len(schemes), sharey=True, squeeze=False)
    for (row, cell), (column, scheme) in product(enumerate(cells), enumerate(schemes)):
        panel = panels[row, column]
        of_scheme = {line.framework: line for line in lines if (line.cell, line.scheme) == (cell, scheme)}
        for y, name in enumerate(reversed(names)):
            found = of_scheme[name].captured
            low, high = (found.value if end is None else end for end in (found.low, found.high))
            ends = [[100 * (found.value - low)], [100 * (high - found.value)]]
            panel.errorbar(100 * found.value, y, xerr=ends, fmt="o", ms=4, color="#1f4e79")
        panel.set_yticks(range(len(names)), list(reversed(names)))
        panel.axvline(100 * of_scheme[SIMPLE].captured.value, color="#999999", lw=0.8, ls="--")
        panel.set_title(f"{scheme}\n{cell}", fontsize=9)
        panel.set_xlabel("captured saving, %")
        panel.grid(axis="x", lw=0.3)
    return drawn


def _recovered(line: Line, by_name: Mapping[str, Line]) -> str:
    """The share of what the best simple policy leaves, where it leaves something."""
    room = by_name[SIMPLE].value.value - by_name[CLAIRVOYANT].value.value
    return f"{line.recovered.value:.0%}" if room >= _LEAST_ROOM else "no room"


def _percent(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _polars() -> Any:
    try:
        import polars as pl  # noqa: PLC0415 only where a Parquet file is asked for
    except ModuleNotFoundError as error:
        raise MarlinError("a .parquet file needs polars: pip install 'marlin[sim]', or name a .csv file") from error
    return pl

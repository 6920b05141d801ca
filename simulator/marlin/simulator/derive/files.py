"""Reading source tables and writing shipped ones, the same bytes on every machine."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from marlin.api.errors import InputError

Cell = str | int | float


def read(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a source table, plain or gzip-compressed.

    Raises:
        InputError: the file is not there.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"{path} does not exist: --data must name the folder that holds {name}")
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="") as compressed:
            return list(csv.DictReader(compressed))
    with path.open(encoding="utf-8", newline="") as plain:
        return list(csv.DictReader(plain))


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """A CSV file. Numbers are written as given: round before, so that the digits are meant."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        assert len(row) == len(columns), (columns, row)
        writer.writerow(row)
    return out.getvalue().encode("utf-8")


def manifest(contents: Mapping[str, bytes]) -> bytes:
    """One line per file: SHA-256, two spaces, name, as ``sha256sum --check`` reads it."""
    lines = (f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    return "".join(lines).encode("ascii")

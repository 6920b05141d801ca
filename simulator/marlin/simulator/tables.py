"""The shipped data files, read once.

Every small table of the twin lies as CSV in ``data/``, computed by ``marlin.simulator.derive``. This module is the
only one that opens them. Standard library only, because the emulator reads its profile through here.
"""

from __future__ import annotations

import csv
import io
from functools import cache
from importlib.resources import files
from typing import Final

DATA_PACKAGE: Final = "marlin.simulator"
DATA_FOLDER: Final = "data"


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of ``data/<name>``, each by column name.

    Raises:
        FileNotFoundError: the package was built without its data.
    """
    return tuple(csv.DictReader(io.StringIO(text(name))))


def text(name: str) -> str:
    """The content of ``data/<name>``, with line ends as written."""
    return files(DATA_PACKAGE).joinpath(DATA_FOLDER, name).read_bytes().decode("utf-8")

"""Command line of ``marlin.simulator.fitting``; the only module of it that writes files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from marlin.api.errors import InputError
from marlin.simulator.fitting.report import fill, measured_tables, shipped_tables

_ABOUT = """Fits an analytic model of time and power to measurements, predicts what was held out, and prints the errors.

Without --data it uses the shipped tables: leave-one-out over GPU counts and batches. With the folder of full data it
adds whole runs, power, and the energy of Llama 3.1 that ML.ENERGY measured and no fit saw."""

_EXAMPLES = """examples:
  python -m marlin.simulator.fitting
  python -m marlin.simulator.fitting --data full-data
  python -m marlin.simulator.fitting --data full-data --page docs/explanation/validation-measurements.md"""


def main(arguments_given: Sequence[str] | None = None) -> int:
    """Prints the tables, or puts them into a page. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m marlin.simulator.fitting",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of full data (see docs/reference/data.md)")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the tables between the marks of this page instead of printing"
    )
    options = parser.parse_args(arguments_given)
    try:
        measured = (
            measured_tables(options.data) if options.data else {}
        )  # first, so that a wrong folder is told at once
        tables = shipped_tables() | measured
        if options.page:
            options.page.write_text(fill(_text(options.page), tables), encoding="utf-8")
            return 0
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n\n".join(f"## {name}\n\n{table}" for name, table in tables.items()))
    return 0


def _text(page: Path) -> str:
    if not page.is_file():
        raise InputError(f"{page} does not exist: --page names a page with marks such as <!-- energy -->")
    return page.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""Command line of ``marlin.simulator.derive``; the only module of it that writes files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from marlin.api.errors import InputError
from marlin.simulator.derive import derive

SHIPPED = Path(__file__).resolve().parent.parent / "data"


def main(arguments_given: Sequence[str] | None = None) -> int:
    """Writes the tables, or says whether they equal what it computes. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m marlin.simulator.derive", description="Compute the shipped tables."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the source files")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the tables (default: the package's)")
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit code 1 on a difference")
    arguments = parser.parse_args(arguments_given)
    try:
        contents = derive(arguments.data)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.check:
        different = [n for n, c in contents.items() if not (p := arguments.out / n).is_file() or p.read_bytes() != c]
        for name in different:
            print(f"{arguments.out / name} differs from what {arguments.data} gives")
        return 1 if different else 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (arguments.out / name).write_bytes(content)
        print(f"{name} {len(content)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

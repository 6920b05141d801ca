"""Runs benchmark groups and prints one line per figure: ``NAME VALUE UNIT``.

    benchmarks/run.py                    every group there is
    benchmarks/run.py --only demo        one group
    benchmarks/run.py --json FILE        the same as JSON beside it (default: .cache/bench.json)

Exits with 1 when a promised figure is missing, with 2 when a group is not known.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import demo
import environments
import operator_size
import policy
import router_figures
import twin
from figures import Group, missing

ROOT = Path(__file__).resolve().parent.parent

GROUPS: dict[str, Group] = {
    group.name: group
    for group in (demo.GROUP, twin.GROUP, environments.GROUP, policy.GROUP, router_figures.GROUP, operator_size.GROUP)
}


def main(arguments: list[str]) -> int:
    """Runs what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description="Runs benchmark groups, one line per figure: NAME VALUE UNIT.")
    parser.add_argument("--only", metavar="GROUP", help=f"one of {', '.join(GROUPS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, default=ROOT / ".cache" / "bench.json")
    options = parser.parse_args(arguments)
    if options.only is not None and options.only not in GROUPS:
        print(f"bench: group {options.only} is not known; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    results: dict[str, dict[str, object]] = {}
    absent: list[str] = []
    for group in [GROUPS[options.only]] if options.only else GROUPS.values():
        values = group.measure()
        for figure in group.figures:
            if figure.name in values:
                print(f"{figure.name} {values[figure.name]:.6g} {figure.unit}", flush=True)
                results[figure.name] = {"value": values[figure.name], "unit": figure.unit}
        absent += missing(group, values)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if absent:
        print(f"bench: missing: {', '.join(absent)}", file=sys.stderr)
    return int(bool(absent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

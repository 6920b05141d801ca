"""Runs the test suite part by part and prints what each took.

    scripts/run_tests.py [PART ...]

Each part is one pytest run over the folders below, so that a slow part is seen as what it is. Fails when a part fails,
or when a part collects no test.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "frame": ("tests/api", "tests/frame"),
    "twin": ("tests/simulator",),
    "policy": ("tests/policy",),
    "router": ("tests/router",),
    "operator": ("tests/operator",),
    "chart": ("tests/chart",),
    "cluster": ("tests/controlplane",),
}

WORKERS: Final = "2"
"""Test processes at once: the suite is made for two cores."""


def main(names: list[str]) -> int:
    """Runs the parts called ``names``, or all; returns the exit code."""
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    results: dict[str, tuple[int, float]] = {}
    for name in names or list(PARTS):
        print(f"--- {name}", flush=True)
        started_s = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-Im", "pytest", "-q", "-n", WORKERS, *PARTS[name]], cwd=ROOT, check=False
        )
        results[name] = (run.returncode, time.monotonic() - started_s)
    print("\npart        seconds  result")
    for name, (code, seconds) in results.items():
        print(f"{name:<10} {seconds:>8.1f}  {'ok' if code == 0 else f'FAILED ({code})'}")
    print(f"{'total':<10} {sum(seconds for _, seconds in results.values()):>8.1f}")
    return int(any(code for code, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

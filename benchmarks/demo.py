"""``demo.*``: what a person meets first: how long set-up and demo take, how large they are, whether a request was lost.

Measured in a fresh clone of the committed state with an environment of its own. The package cache of this machine is
used as it is, so ``demo.setup_seconds`` is a warm figure where the cache is warm; docs/reference/benchmarks.md has the
cold one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from figures import Figure, Group

ROOT = Path(__file__).resolve().parent.parent


def measure() -> Mapping[str, float]:
    """Clones, sets up, runs the demo once."""
    with tempfile.TemporaryDirectory(prefix="marlin-bench-") as folder:
        clone = Path(folder) / "marlin"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        started_s = time.monotonic()
        subprocess.run(["scripts/setup.sh", "demo"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        setup_s = time.monotonic() - started_s
        size = subprocess.run(["du", "-sm", ".venv"], cwd=clone, check=True, capture_output=True, text=True).stdout
        started_s = time.monotonic()
        subprocess.run(
            [".venv/bin/marlin", "demo", "--json", "result.json"],
            cwd=clone,
            check=False,
            stdout=subprocess.DEVNULL,
            timeout=300,
        )
        run_s = time.monotonic() - started_s
        columns = json.loads((clone / "result.json").read_text())["columns"]
    return {
        "demo.setup_seconds": setup_s,
        "demo.venv_mb": float(size.split()[0]),
        "demo.run_seconds": run_s,
        "demo.requests_sent": sum(column["sent"] for column in columns),
        "demo.requests_failed": sum(column["failed"] + column["lost"] for column in columns),
    }


GROUP = Group(
    name="demo",
    figures=(
        Figure("demo.setup_seconds", "s", "set-up of a fresh clone, with this machine's package cache as it is"),
        Figure("demo.venv_mb", "MB", "size of the demo's environment on disk"),
        Figure("demo.run_seconds", "s", "the demo, from its start to its end"),
        Figure("demo.requests_sent", "requests", "sent, all planners together"),
        Figure("demo.requests_failed", "requests", "failed or lost, all planners together; 0 or something is broken"),
    ),
    measure=measure,
)

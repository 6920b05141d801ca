"""``twin.*`` beside published simulators: the same day in MARLIN's twin, in Vessim and in Kavier.

The twin simulates a day of round robin over eight datacenters; what it computed, with the carbon and the prices it
used, is handed to the other two, each in an environment of its own below ``.cache/``, at pinned versions and in the way
that is fastest for it (see ``published_vessim.py`` and ``published_kavier.py``). No figure here means anything without
``docs/reference/twin-vs-published.md``, which says what is the same and what is not.

    python benchmarks/published_simulator.py        measures and prints every figure
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from figures import Figure

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / ".cache" / "published"
DAY: Final = (
    "--scenario",
    "paper-8",
    "--planner",
    "round-robin",
    "--dispatch",
    "shares",
    "--days",
    "1",
    "--no-compare",
)
LOWEST_CARBON_DAY: Final = (
    "--scenario",
    "paper-8",
    "--planner",
    "merit-order",
    "--scheme",
    "min-carbon",
    "--days",
    "1",
    "--no-compare",
)
PERIOD_S: Final = 900
RUNS: Final = 3
JOULES_PER_KWH: Final = 3.6e6

LARGE_SHARE: Final = 0.104
"""Share of the trace's requests that went to the larger model, as in ``derive/workload.py``."""
KAVIER_MODELS: Final = (("llama-7b", 1.0 - LARGE_SHARE), ("llama2-70b", LARGE_SHARE))
"""Kavier has no Llama-2-7b; LLaMA-7b has the same size."""


@dataclass(frozen=True, slots=True)
class Published:
    """A simulator from the package index."""

    name: str
    requirements: tuple[str, ...]
    """Everything it needs, pinned, so that a figure can be had again."""

    @property
    def script(self) -> Path:
        """What runs in its environment."""
        return Path(__file__).with_name(f"published_{self.name}.py")


VESSIM: Final = Published("vessim", ("vessim==0.16.0", "loguru==0.7.3", "numpy==2.4.6", "pandas==3.1.1"))
KAVIER: Final = Published(
    "kavier",
    (
        "kavier==0.5.3", "cachetools==8.0.2", "numpy==2.4.6", "pandas==3.1.1", "pyarrow==26.0.1", "pydantic==2.14.4",
        "pyyaml==6.0.4", "rich==15.0.0", "tqdm==4.70.1",
    ),
)  # fmt: skip

FIGURES: Final = (
    Figure("twin.day_command_s", "s", "one day of round robin over 8 sites, from the command line"),
    Figure("twin.day_seconds", "s", "the same after start-up: within a process, the best of three"),
    Figure("twin.day_mb", "MB", "peak memory of the command"),
    Figure("twin.vessim_command_s", "s", "the twin's day replayed in Vessim, from the command line", needs_index=True),
    Figure("twin.vessim_replay_warm_s", "s", "the same within a process, warm: power is given", needs_index=True),
    Figure(
        "twin.vessim_round_robin_warm_s",
        "s",
        "Vessim with a round-robin controller and linear power, warm",
        needs_index=True,
    ),
    Figure("twin.vessim_mb", "MB", "peak memory of the command", needs_index=True),
    Figure("twin.vessim_replay_cost_ratio", "1", "cost, Vessim's replay over the twin", needs_index=True),
    Figure(
        "twin.vessim_replay_carbon_ratio",
        "1",
        "carbon, Vessim's replay over the twin (no carbon of water)",
        needs_index=True,
    ),
    Figure(
        "twin.vessim_round_robin_carbon_ratio",
        "1",
        "carbon, round robin with linear power over the twin",
        needs_index=True,
    ),
    Figure("twin.day_saving_percent", "%", "carbon that merit order saves against round robin, says the twin"),
    Figure("twin.vessim_saving_percent", "%", "the same placement and linear power, says Vessim", needs_index=True),
    Figure(
        "twin.kavier_command_s",
        "s",
        "the day's rows in Kavier, one request for each, from the command line",
        needs_index=True,
    ),
    Figure("twin.kavier_warm_s", "s", "the same within a process, warm", needs_index=True),
    Figure("twin.kavier_mb", "MB", "peak memory of the command", needs_index=True),
    Figure(
        "twin.kavier_requests_per_s", "1/s", "requests Kavier simulates per second, each on its own", needs_index=True
    ),
    Figure("twin.kavier_carbon_ratio", "1", "carbon, Kavier over the twin", needs_index=True),
)


class NotInstallableError(Exception):
    """An environment could not be made; one line that says why."""


def measure(marlin: Sequence[str] = (str(ROOT / ".venv" / "bin" / "marlin"),)) -> Mapping[str, float]:
    """Every figure that can be had; for a simulator that does not install, a line on stderr and none of its figures.

    Args:
        marlin: the command of the twin.
    """
    with tempfile.TemporaryDirectory(prefix="marlin-bench-") as folder:
        day_file = Path(folder) / "day.json"
        commands = [_command((*marlin, "simulate", *DAY)) for _ in range(RUNS)]
        totals, rows = _written((*marlin, "simulate", *DAY), Path(folder) / "day.csv")
        lowest, lowest_rows = _written((*marlin, "simulate", *LOWEST_CARBON_DAY), Path(folder) / "lowest.csv")
        day_file.write_text(json.dumps(_day(rows, lowest_rows)), encoding="utf-8")
        values = {
            "twin.day_saving_percent": _saving_percent(lowest["carbon_gco2"], totals["carbon_gco2"]),
            "twin.day_command_s": min(c.wall_s for c in commands),
            "twin.day_mb": max(c.peak_mb for c in commands),
        }
        for measured in (_vessim, _kavier):
            try:
                values |= measured(day_file, totals)
            except NotInstallableError as error:
                print(f"bench: {error}", file=sys.stderr)
        # Last, because it loads libraries into this process, and peak memory of a child begins with its parent's.
        values["twin.day_seconds"] = min(_warm_s() for _ in range(RUNS + 1))
    return values


def _vessim(day_file: Path, totals: Mapping[str, float]) -> dict[str, float]:
    python = environment(VESSIM)
    once = [_command((str(python), str(VESSIM.script), str(day_file))) for _ in range(RUNS)]
    result = json.loads(_command((str(python), str(VESSIM.script), str(day_file), "--measure")).output)
    return {
        "twin.vessim_command_s": min(c.wall_s for c in once),
        "twin.vessim_replay_warm_s": result["replay_s"],
        "twin.vessim_round_robin_warm_s": result["round_robin_s"],
        "twin.vessim_mb": max(c.peak_mb for c in once),
        "twin.vessim_replay_cost_ratio": result["cost_usd"] / totals["cost_usd"],
        "twin.vessim_replay_carbon_ratio": result["carbon_gco2"] / totals["carbon_gco2"],
        "twin.vessim_round_robin_carbon_ratio": result["round_robin_carbon_gco2"] / totals["carbon_gco2"],
        "twin.vessim_saving_percent": _saving_percent(result["lowest_carbon_gco2"], result["round_robin_carbon_gco2"]),
    }


def _kavier(day_file: Path, totals: Mapping[str, float]) -> dict[str, float]:
    python = environment(KAVIER)
    once = [_command((str(python), str(KAVIER.script), str(day_file))) for _ in range(RUNS)]
    result = json.loads(_command((str(python), str(KAVIER.script), str(day_file), "--measure")).output)
    return {
        "twin.kavier_command_s": min(c.wall_s for c in once),
        "twin.kavier_warm_s": result["day_s"],
        "twin.kavier_mb": max(c.peak_mb for c in once),
        "twin.kavier_requests_per_s": result["requests_per_s"],
        "twin.kavier_carbon_ratio": result["carbon_gco2"] / totals["carbon_gco2"],
    }


def environment(published: Published) -> Path:
    """The interpreter of an environment that holds the simulator; made on first use.

    Raises:
        NotInstallableError: there is no uv, or the index does not give the packages.
    """
    uv = shutil.which("uv", path=f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise NotInstallableError(f"{published.name} is not compared: there is no uv (pip install uv)")
    folder = CACHE / published.requirements[0].replace("==", "-")
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(published.requirements)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    for command in (
        (uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)),
        (uv, "pip", "install", "--quiet", "--python", str(python), *published.requirements),
    ):
        finished = subprocess.run(command, check=False, capture_output=True, text=True)
        if finished.returncode != 0:
            reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1].strip()
            raise NotInstallableError(f"{published.name} is not compared: it does not install here: {reason}")
    done.write_text(wanted, encoding="utf-8")
    return python


@dataclass(frozen=True, slots=True)
class _Finished:
    """A command that ended well."""

    wall_s: float
    peak_mb: float
    output: str


def _command(command: Sequence[str]) -> _Finished:
    """Runs a command; its peak memory is the kernel's own figure for that process.

    Raises:
        RuntimeError: it failed; the message ends with the last line it said.
    """
    started_s = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
    ):
        process = subprocess.Popen(command, stdout=output, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said.seek(0)
        if process.returncode != 0:
            last = (said.read().strip().splitlines() or ["nothing"])[-1]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {last}")
        return _Finished(wall_s, usage.ru_maxrss / 1024.0, output.read())


def _warm_s() -> float:
    """One day in this process, s; what it prints goes nowhere. The first call warms up, the shortest counts."""
    from marlin.policy.simulate_cli import simulate  # noqa: PLC0415 its import is not what is timed

    started_s = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        simulate.main(list(DAY), standalone_mode=False)
    return time.perf_counter() - started_s


def _saving_percent(value: float, against: float) -> float:
    return 100.0 * (1.0 - value / against)


Rows = Mapping[str, Sequence[Mapping[str, str]]]
"""Rows of the twin's CSV, by datacenter, in the order of time."""


def _written(command: Sequence[str], csv_file: Path) -> tuple[dict[str, float], Rows]:
    """Sums and rows of a day of the twin."""
    finished = _command((*command, "--json", "--out", str(csv_file)))
    rows: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    with csv_file.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["datacenter"]].append(row)
    return json.loads(finished.output.splitlines()[-1]), rows


def _day(by_site: Rows, lowest_carbon: Rows) -> dict[str, Any]:
    """What the others need of the twin's day: requests, energy, carbon and price per site and period.

    For those who have to make power out of requests there is a line per site, from its idlest period of both days to
    its busiest: the usual model of a datacenter's power.
    """
    from marlin.simulator.signals import zone_signals  # noqa: PLC0415
    from marlin.simulator.workload.shipped import shipped_week  # noqa: PLC0415

    sites = []
    for name, rows in by_site.items():
        signals = [zone_signals(name.upper(), datetime.fromisoformat(row["start_time"])) for row in rows]
        points = [(float(r["served"]), float(r["energy_kwh"])) for r in (*rows, *lowest_carbon[name])]
        (fewest, idle_kwh), (most, full_kwh) = min(points), max(points)
        w_per_request = (full_kwh - idle_kwh) / (most - fewest) * JOULES_PER_KWH / PERIOD_S
        sites.append(
            {
                "name": name,
                "energy_kwh": [float(row["energy_kwh"]) for row in rows],
                "carbon_kg_per_kwh": [s.carbon_gco2_per_kwh / 1000.0 for s in signals],
                "price_usd_per_kwh": [s.price_usd_per_kwh for s in signals],
                "idle_w": idle_kwh * JOULES_PER_KWH / PERIOD_S - w_per_request * fewest,
                "w_per_request": w_per_request,
                "lowest_carbon_requests": [float(row["served"]) for row in lowest_carbon[name]],
            }
        )
    first = next(iter(by_site.values()))
    prompt_tokens, output_tokens = shipped_week().day_sizes(0)
    return {
        "start": first[0]["start_time"],
        "period_s": PERIOD_S,
        "requests": [sum(float(rows[e]["served"]) for rows in by_site.values()) for e in range(len(first))],
        "sites": sites,
        "prompt_tokens": round(prompt_tokens),
        "output_tokens": round(output_tokens),
        "models": [{"kavier": name, "share": share} for name, share in KAVIER_MODELS],
    }


if __name__ == "__main__":
    measured = measure()
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(measured))
    else:
        for figure_name, value in measured.items():
            print(f"{figure_name} {value:.6g}")

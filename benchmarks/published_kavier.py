"""One day in Kavier: what each site's share of requests takes, emits and how long. Runs in Kavier's own environment.

    python published_kavier.py DAY.json      prints one line of JSON: the day's sum; with --measure also seconds

``published_simulator.py`` writes DAY.json and calls this. Kavier predicts batches of identical requests at a flat
carbon intensity; so a row is a (period, site, model). Its requests do not meet, hence one stands for all of a row and
is counted as often as there are requests: the fastest way, and exact. ``requests_per_s`` says how fast it is without
that. It is called as a library, and writes no files.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from kavier.sdk.inference import facade  # type: ignore[import-not-found]  # of Kavier's environment

RUNS = 3
SAMPLE_REQUESTS = 5_000
GPU = "H100-SXM"


def rows(day: dict[str, Any]) -> list[dict[str, Any]]:
    """One representative request per (period, site, model), with the period's carbon intensity."""
    return [
        {
            "model": model["kavier"],
            "gpu": GPU,
            "num_requests": 1,
            "input_tokens": day["prompt_tokens"],
            "output_tokens": day["output_tokens"],
            "intensity": 1000.0 * site["carbon_kg_per_kwh"][period],
            "counted": requests / len(day["sites"]) * model["share"],
        }
        for period, requests in enumerate(day["requests"])
        for site in day["sites"]
        for model in day["models"]
    ]


def run(day: dict[str, Any]) -> float:
    """Simulates the day. Returns its gCO2."""
    predicted = facade.carbon(rows(day))
    return float((predicted["total_co2_g"] * predicted["counted"]).sum())


def main(arguments: list[str]) -> int:
    """Simulates once, or measures with ``--measure``; returns the exit code."""
    day = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    result = {"carbon_gco2": run(day)}
    if "--measure" in arguments:
        result["day_s"] = min(_timed_s(day) for _ in range(RUNS))
        one = {**rows(day)[0], "num_requests": SAMPLE_REQUESTS}
        started_s = time.perf_counter()
        facade.performance([one])
        result["requests_per_s"] = SAMPLE_REQUESTS / (time.perf_counter() - started_s)
    print(json.dumps(result))
    return 0


def _timed_s(day: dict[str, Any]) -> float:
    started_s = time.perf_counter()
    run(day)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

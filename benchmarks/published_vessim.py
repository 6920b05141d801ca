"""One day in Vessim: sites, their grid's carbon and price, and a dispatcher. Runs in Vessim's own environment.

    python published_vessim.py DAY.json      prints one line of JSON: the day's sums; with --measure also seconds

``published_simulator.py`` writes DAY.json and calls this. Vessim has no model of serving, so a site's power comes in:
``REPLAY`` takes it as MARLIN's twin computed it; ``ROUND_ROBIN`` is what a Vessim user would write, a controller that
divides each period's requests and a power that is linear in them; ``LOWEST_CARBON`` has the same power and the requests
as MARLIN's merit order placed them. All use what makes Vessim fastest: its native engine, steps of one period, no
recorded time series, no files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]  # of Vessim's environment
import vessim  # type: ignore[import-not-found]  # the same

RUNS = 7
JOULES_PER_KWH = 3.6e6


class Work(StrEnum):
    """Where a site's power comes from."""

    REPLAY = "replay"
    ROUND_ROBIN = "round robin"
    LOWEST_CARBON = "lowest carbon"


class RoundRobin(vessim.Controller):  # type: ignore[misc]  # Vessim's types are not visible from here
    """Divides each period's requests equally; decided one period ahead, as a controller acts after sampling."""

    def __init__(self, day: dict[str, Any], sites: dict[str, vessim.Consumer]) -> None:
        self._day = day
        self._sites = sites
        self._period = 0
        self._set_power()

    def step(self, now: object, microgrid_states: object) -> None:
        """Sets the next period's power, whatever the sites' states are."""
        self._period += 1
        if self._period < len(self._day["requests"]):
            self._set_power()

    def _set_power(self) -> None:
        each = self._day["requests"][self._period] / len(self._sites)
        for site in self._day["sites"]:
            self._sites[site["name"]].signal = power_w(site, each)


def power_w(site: dict[str, Any], requests: float) -> float:
    """Power of a site that serves so many requests in a period: a line, but never below nothing."""
    return float(max(0.0, site["idle_w"] + site["w_per_request"] * requests))


def run(day: dict[str, Any], work: Work) -> tuple[float, float]:
    """Builds and simulates the day. Returns its gCO2 and USD."""
    period_s = day["period_s"]
    count = len(day["requests"])
    seconds = [i * period_s for i in range(count)]
    environment = vessim.Environment(sim_start=day["start"], step_size=period_s)
    consumers: dict[str, vessim.Consumer] = {}
    carbon, cost = [], []
    for site in day["sites"]:
        name = site["name"]
        consumers[name] = vessim.Consumer("it", 0.0)
        if work is Work.REPLAY:
            watts = [kwh * JOULES_PER_KWH / period_s for kwh in site["energy_kwh"]]
            consumers[name].signal = vessim.Trace(pd.Series(watts, index=seconds))
        elif work is Work.LOWEST_CARBON:
            watts = [power_w(site, requests) for requests in site["lowest_carbon_requests"]]
            consumers[name].signal = vessim.Trace(pd.Series(watts, index=seconds))
        environment.add_microgrid(
            actors=[consumers[name]],
            dispatchables=[vessim.GridConnection()],
            grid_signals={
                "carbon": vessim.Trace(pd.Series(site["carbon_kg_per_kwh"], index=seconds)),
                "price": vessim.Trace(pd.Series(site["price_usd_per_kwh"], index=seconds)),
            },
            name=name,
        )
        carbon.append(vessim.GridImportEmissions(name, "carbon"))
        cost.append(vessim.ElectricityImportCost(name, "price", currency="USD"))
    if work is Work.ROUND_ROBIN:
        environment.add_controller(RoundRobin(day, consumers))
    environment.add_controller(
        vessim.Recorder(metrics=False, timeseries=False, custom_metrics={"carbon": carbon, "cost": cost})
    )
    environment.run(until=count * period_s)
    return 1000.0 * sum(metric.value for metric in carbon), sum(metric.value for metric in cost)


def best_of(work: Callable[[], object]) -> float:
    """Shortest of several runs, s: everything is loaded and warm after the first."""
    seconds = []
    for _ in range(RUNS):
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def main(arguments: list[str]) -> int:
    """Simulates once, or measures with ``--measure``; returns the exit code."""
    day = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    carbon_gco2, cost_usd = run(day, Work.REPLAY)
    result = {"carbon_gco2": carbon_gco2, "cost_usd": cost_usd}
    if "--measure" in arguments:
        result["round_robin_carbon_gco2"], _ = run(day, Work.ROUND_ROBIN)
        result["lowest_carbon_gco2"], _ = run(day, Work.LOWEST_CARBON)
        result["replay_s"] = best_of(lambda: run(day, Work.REPLAY))
        result["round_robin_s"] = best_of(lambda: run(day, Work.ROUND_ROBIN))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

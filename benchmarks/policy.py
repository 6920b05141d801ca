"""``policy.*``: what planning costs on this machine.

Decisions are timed in a process of their own that does what ``marlin plan`` does: load an artifact, and for every epoch
predict, propose, negotiate and explain, on twelve sites and one core. The artifact is the one shipped with the package.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
from figures import Figure, Group

from marlin.policy.forecasting import observe, predict, replay

if TYPE_CHECKING:
    from marlin.api.state import FleetState
    from marlin.policy.planner import Planner

REPEATS: Final = 3000
DECISIONS: Final = 300
FLEET: Final = "paper-12"
ONE_CORE: Final = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def measure() -> Mapping[str, float]:
    """Medians over many calls; the predictor's in this process, decisions in another."""
    history = np.random.default_rng(0).poisson(100.0, (700, 2)).astype(np.float64)  # a week of two classes
    state = replay(history)
    return {
        "policy.predictor_us": _median_us(lambda: predict(state)),
        "policy.predictor_epoch_us": _median_us(lambda: observe(state, history[0])),
        **_decisions(),
    }


def _median_us(call: Callable[[], object]) -> float:
    call()
    times_s = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began)
    return float(np.median(times_s)) * 1e6


def _decisions() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, str(time.time())],
        env={**ONE_CORE, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _decide_many(began: float) -> dict[str, float]:
    """The other process: what a serving process loads, and what a decision takes."""
    from marlin.api.plan import Dispatch, PlannerKind, Scheme  # noqa: PLC0415
    from marlin.api.pool import PowerDown  # noqa: PLC0415
    from marlin.policy.origins import origin_aware  # noqa: PLC0415
    from marlin.policy.planners import make_planner  # noqa: PLC0415
    from marlin.simulator.fleet import Builder, loaded_state  # noqa: PLC0415
    from marlin.simulator.scenario import scenario_documents  # noqa: PLC0415

    planner = make_planner(PlannerKind.MARLIN, scheme=Scheme.BALANCED, dispatch=Dispatch.ORDERED)
    first = loaded_state(Builder(scenario_documents(FLEET)), datetime(2023, 6, 15, 12, tzinfo=UTC), 0.5)
    planner.decide(first)
    ready_s = time.time() - began
    _freeze()
    times_s = _decision_times_s(planner, first)
    peak_mb = _peak_mb()
    sleeping = tuple(pool.model_copy(update={"power_down": PowerDown.SCALE_TO_ZERO}) for pool in first.pools)
    asleep = first.model_copy(update={"pools": sleeping})
    asleep_s = _decision_times_s(planner, asleep)
    by_shares = make_planner(PlannerKind.MARLIN, scheme=Scheme.BALANCED, dispatch=Dispatch.SHARES)
    with_rows = origin_aware(by_shares, Dispatch.SHARES)
    with_rows.decide(asleep)
    _freeze()
    rows_s = _decision_times_s(with_rows, asleep)
    return {
        "policy.decision_ms_median": float(np.median(times_s)) * 1e3,
        "policy.decision_ms_p99": float(np.quantile(times_s, 0.99)) * 1e3,
        "policy.decision_asleep_ms_median": float(np.median(asleep_s)) * 1e3,
        "policy.decision_asleep_ms_p99": float(np.quantile(asleep_s, 0.99)) * 1e3,
        "policy.decision_rows_ms_median": float(np.median(rows_s)) * 1e3,
        "policy.decision_rows_ms_p99": float(np.quantile(rows_s, 0.99)) * 1e3,
        "policy.process_rss_mb": peak_mb,
        "policy.ready_s": ready_s,
    }


def _freeze() -> None:
    """What is there already is left alone by the garbage collector, as the operator does when it starts."""
    import gc  # noqa: PLC0415

    gc.collect()
    gc.freeze()


def _decision_times_s(planner: Planner, first: FleetState) -> list[float]:
    """Of many epochs, one after the other: a prediction, a decision and its account as JSON each."""
    asked = np.array([sum(pool.forecast_requests) for pool in first.pools])
    rng = np.random.default_rng(0)
    expectation = replay(rng.poisson(asked, (200, len(asked))).astype(np.float64))
    times_s = []
    for epoch in range(DECISIONS):
        began_s = time.perf_counter()
        found = predict(expectation)
        pools = tuple(
            pool.model_copy(
                update={
                    "forecast_requests": (expected / len(first.origins),) * len(first.origins),
                    "forecast_upper_requests": high,
                }
            )
            for pool, expected, high in zip(first.pools, found.expected.tolist(), found.high.tolist(), strict=True)
        )
        state = first.model_copy(update={"epoch": epoch, "pools": pools})
        decision = planner.decide(state)
        json.dumps(decision.record)
        times_s.append(time.perf_counter() - began_s)
        expectation = observe(expectation, rng.poisson(asked).astype(np.float64))
    return times_s


def _peak_mb() -> float:
    """Most memory that this process held, MB."""
    import resource  # noqa: PLC0415

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


GROUP: Final = Group(
    "policy",
    (
        Figure("policy.predictor_us", "us", "one prediction: two classes, a week of history, bounds included"),
        Figure("policy.predictor_epoch_us", "us", "taking one epoch's arrivals in"),
        Figure("policy.decision_ms_median", "ms", "one epoch's decision on 12 sites, one core: predict to explain"),
        Figure("policy.decision_ms_p99", "ms", "the same, the slowest of a hundred"),
        Figure("policy.decision_asleep_ms_median", "ms", "the same median where replicas can scale to zero"),
        Figure("policy.decision_asleep_ms_p99", "ms", "and the slowest of a hundred there"),
        Figure("policy.decision_rows_ms_median", "ms", "the same median under shares, with a row for each origin"),
        Figure("policy.decision_rows_ms_p99", "ms", "and the slowest of a hundred with rows"),
        Figure("policy.process_rss_mb", "MB", "most memory of the process that decides"),
        Figure("policy.ready_s", "s", "from starting that process to its first plan"),
    ),
    measure,
)

if __name__ == "__main__":
    print(json.dumps(_decide_many(float(sys.argv[1]))))

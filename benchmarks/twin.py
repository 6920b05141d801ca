"""``twin.*``: how fast the digital twin is, on the fleets of the paper.

The fluid engine is timed on a full model: eight sites of six kinds of node, two models, power-down, a queue, ordered
dispatch with caps and awake replicas, 4,096 plans in a call, both forms on the same plans and held equal while at it.
The request-level engine is timed on a stationary load with everything on, requests drawn included. A day is timed in a
process of its own, from after start-up. Each figure is the best of several rounds, because what else the machine does
can only make it slower; forms are timed in turn, so that a ratio compares the same minutes.

    python benchmarks/twin.py            prints every figure, and what stands beside the promised ones
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import published_simulator
from figures import Figure, Group

PLANS: Final = 4096
ROUNDS: Final = 25
SINGLE_CALLS: Final = 200
LOAD: Final = 0.6
REQUEST_EPOCHS: Final = {"8x12": 6, "8x120": 2, "8x1000": 1}
"""Epochs timed of each fleet: some millions of requests."""
SIZES: Final = (621.0, 222.0)
"""Prompt tokens of BurstGPT, and the output tokens that the figure is promised for."""

FIGURES: Final = (
    Figure("twin.fluid.plan_epochs_per_s", "1/s", "fluid, Numba, two cores, 4,096 plans in a call, D=8, V=2, G=6"),
    Figure("twin.fluid.vs_numpy", "x", "the same over the NumPy form, in the same run"),
    Figure("twin.fluid.numpy_plan_epochs_per_s", "1/s", "the NumPy form on one core"),
    Figure("twin.fluid.single_call_ms", "ms", "one plan, Numba"),
    Figure("twin.fluid.single_call_numpy_ms", "ms", "one plan, NumPy"),
    Figure("twin.fluid.cost_d12_vs_d8", "x", "time per plan with 12 sites over 8"),
    Figure("twin.fluid.cost_d64_vs_d8", "x", "time per plan with 64 sites over 8"),
    Figure("twin.fluid.batch_mb", "MB", "peak memory of a process that simulates 4,096 plans"),
    Figure("twin.request.requests_per_s", "1/s", "request-level, 8x120 at 60 %, one core, drawing included"),
    Figure("twin.request.8x12_requests_per_s", "1/s", "the same on 8x12"),
    Figure("twin.request.8x1000_requests_per_s", "1/s", "the same on 8x1000 (paper-8)"),
)


def measure() -> Mapping[str, float]:
    """Every figure; some minutes."""
    from marlin.simulator.fluid import Form, simulate_epochs  # noqa: PLC0415 their import is not what is timed
    from marlin.simulator.fluid.coefficients import conditions  # noqa: PLC0415

    by_sites = {sites: _twin_and_plans(sites) for sites in (8, 12, 64)}

    def run(sites: int, form: Form, plans: int) -> Callable[[], object]:
        twin, all_plans = by_sites[sites]
        now, some = conditions(twin), all_plans.take(slice(plans))
        return lambda: simulate_epochs(twin, now, some, form)

    cases = {
        "numba": run(8, Form.NUMBA, PLANS),
        "numpy": run(8, Form.NUMPY, PLANS),
        "d12": run(12, Form.NUMBA, PLANS),
        "d64": run(64, Form.NUMBA, PLANS // 8),
    }
    _same(cases["numba"](), cases["numpy"]())
    best_s = _best_s(cases, ROUNDS)
    single = {"numba": run(8, Form.NUMBA, 1), "numpy": run(8, Form.NUMPY, 1)}
    single_s = _best_s({name: _many(call) for name, call in single.items()}, ROUNDS)
    per_s = {name: _requests_per_s(name, epochs) for name, epochs in REQUEST_EPOCHS.items()}
    return {
        "twin.fluid.plan_epochs_per_s": PLANS / best_s["numba"],
        "twin.fluid.vs_numpy": best_s["numpy"] / best_s["numba"],
        "twin.fluid.numpy_plan_epochs_per_s": PLANS / best_s["numpy"],
        "twin.fluid.single_call_ms": 1000 * single_s["numba"] / SINGLE_CALLS,
        "twin.fluid.single_call_numpy_ms": 1000 * single_s["numpy"] / SINGLE_CALLS,
        "twin.fluid.cost_d12_vs_d8": best_s["d12"] / best_s["numba"],
        "twin.fluid.cost_d64_vs_d8": 8 * best_s["d64"] / best_s["numba"],
        "twin.fluid.batch_mb": _batch_mb(),
        "twin.request.requests_per_s": per_s["8x120"],
        "twin.request.8x12_requests_per_s": per_s["8x12"],
        "twin.request.8x1000_requests_per_s": per_s["8x1000"],
        **_published(),
    }


def _published() -> Mapping[str, float]:
    """Measured in a process of its own, because peak memory of a child begins with that of its parent."""
    command = [sys.executable, published_simulator.__file__, "--json"]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {str(name): float(value) for name, value in json.loads(finished.stdout).items()}


def _best_s(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Shortest time of each case, s; the first round, which may compile, does not count."""
    best = dict.fromkeys(cases, float("inf"))
    for n in range(rounds + 1):
        for name, call in cases.items():
            started_s = time.perf_counter()
            call()
            took_s = time.perf_counter() - started_s
            best[name] = min(best[name], took_s) if n else best[name]
    return best


def _many(call: Callable[[], object]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(SINGLE_CALLS):
            call()

    return calls


def _same(one: object, other: object) -> None:
    """Refuses to time two forms that do not agree."""
    ours, theirs = np.asarray(one.metrics), np.asarray(other.metrics)  # type: ignore[attr-defined]
    error = np.abs(ours / theirs - 1.0).max()
    if not error < 1e-9:
        raise RuntimeError(f"the two forms of the fluid engine differ by {error:.1e}")


def _twin_and_plans(sites: int) -> tuple[Any, Any]:
    """A fleet at 60 % that can sleep, with a queue, and plans drawn at random: a ``TwinState`` and ``Plans``."""
    from marlin.simulator.fluid import Plans  # noqa: PLC0415
    from marlin.simulator.twin_state import arrays_from  # noqa: PLC0415

    twin = arrays_from(_fleet(sites))
    rng = np.random.default_rng(sites)
    models, _ = twin.all_replicas.shape
    shape = (PLANS, models, sites)
    backlog = rng.uniform(0.0, 0.02, (models, sites)) * twin.capacity_rps * twin.epoch_s
    twin = replace(twin, backlog_requests=backlog, awake_before=np.floor(0.9 * twin.all_replicas))
    plans = Plans(
        shares=rng.dirichlet(np.ones(sites), shape[:2]),
        order=np.argsort(rng.random(shape), axis=2),
        cap=rng.uniform(0.5, 1.0, shape),
        awake=np.floor(rng.uniform(0.6, 1.0, shape) * twin.all_replicas),
    )
    return twin, plans


def _fleet(sites: int) -> Any:
    """The state of ``paper-8`` or ``paper-12``; beyond that the sites of ``paper-8`` again, under other names."""
    from marlin.api.pool import PowerDown  # noqa: PLC0415
    from marlin.simulator.experiment import FIRST_DATE  # noqa: PLC0415
    from marlin.simulator.fleet import Builder, loaded_state  # noqa: PLC0415
    from marlin.simulator.scenario import scenario_documents  # noqa: PLC0415

    name = f"paper-{sites}" if sites <= 12 else "paper-8"
    state = loaded_state(Builder(scenario_documents(name)), FIRST_DATE, LOAD)
    copies = sites // len(state.datacenters)

    def again(values: tuple[Any, ...], rename: str | None = None) -> tuple[Any, ...]:
        return tuple(
            value if rename is None else value.model_copy(update={rename: f"{getattr(value, rename)}-{copy}"})
            for copy in range(copies)
            for value in values
        )

    pools = tuple(
        pool.model_copy(
            update={
                "power_down": PowerDown.SLEEP,
                "forecast_requests": tuple(copies * r for r in pool.forecast_requests),
                "deployments": again(pool.deployments, "datacenter"),
                "allowed": again(pool.allowed),
                "backlog_requests": (),
                "awake_replicas": (),
            }
        )
        for pool in state.pools
    )
    changes = {
        "datacenters": again(state.datacenters, "name"),
        "pools": pools,
        "rtt_ms": tuple(again(row) for row in state.rtt_ms),
    }
    return state.model_copy(update=changes)


def _requests_per_s(fleet: str, epochs: int) -> float:
    """Requests that the request-level engine draws and follows in a second, on one core."""
    from marlin.simulator.experiment import FIRST_DATE  # noqa: PLC0415
    from marlin.simulator.fleet import Builder, loaded_state  # noqa: PLC0415
    from marlin.simulator.fluid import Plans  # noqa: PLC0415
    from marlin.simulator.request_level.engine import RequestLevelEngine  # noqa: PLC0415
    from marlin.simulator.scenario import scenario_documents  # noqa: PLC0415
    from marlin.simulator.twin_state import arrays_from  # noqa: PLC0415
    from marlin.simulator.workload.requests import draw_requests  # noqa: PLC0415

    documents = scenario_documents("paper-8" if fleet == "8x1000" else fleet)
    # A tenth of an epoch of the largest fleet has a million requests: memory holds one piece at a time.
    epoch_s = 90.0 if fleet == "8x1000" else 900.0
    state = loaded_state(Builder(documents), FIRST_DATE, LOAD, epoch_s=epoch_s)
    sizes = {"mean_prompt_tokens": SIZES[0], "mean_output_tokens": SIZES[1]}
    twin = arrays_from(state.model_copy(update={"pools": tuple(p.model_copy(update=sizes) for p in state.pools)}))
    counts = LOAD * twin.capacity_rps.sum(axis=1) * epoch_s / len(twin.origins)  # (V,) of each origin
    whole = np.repeat(np.rint(counts).astype(np.int64)[:, None], len(twin.origins), axis=1)
    plans = Plans(twin.capacity_rps[None] / twin.capacity_rps.sum(axis=1)[None, :, None])
    engine, rng = RequestLevelEngine(), np.random.default_rng(0)
    left, best_per_s = None, 0.0
    for n in range(epochs + 1):  # the first one fills the fleet, and may compile
        started_s = time.perf_counter()
        requests = draw_requests(whole, np.tile(SIZES, (len(whole), 1)), epoch_s, rng)
        _, left = engine.replay(twin, plans, left, requests, epoch_s)
        per_s = len(requests) / (time.perf_counter() - started_s)
        best_per_s = max(best_per_s, per_s) if n else best_per_s
    return best_per_s


def _batch_mb() -> float:
    """Peak memory of a process that simulates the batch of 4,096 once, its imports included.

    The kernel's figure of the process's own memory: ``ru_maxrss`` would begin with what its parent held.
    """
    command = [sys.executable, __file__, "--batch"]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(finished.stdout)


def _batch_in_this_process() -> float:
    from marlin.simulator.fluid import Form, simulate_epochs  # noqa: PLC0415
    from marlin.simulator.fluid.coefficients import conditions  # noqa: PLC0415

    twin, plans = _twin_and_plans(8)
    simulate_epochs(twin, conditions(twin), plans, Form.NUMBA)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024.0


GROUP: Final = Group(name="twin", figures=(*FIGURES, *published_simulator.FIGURES), measure=measure)


if __name__ == "__main__":
    if sys.argv[1:] == ["--batch"]:
        print(_batch_in_this_process())
    else:
        measured = measure()
        for figure in GROUP.figures:
            print(
                f"{figure.name} {measured[figure.name]:.6g} {figure.unit}"
                if figure.name in measured
                else f"{figure.name} missing"
            )

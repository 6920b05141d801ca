"""The fluid engine judged by the request-level engine, on the same fleets and loads.

``python -m marlin.simulator.validation`` prints the tables of docs/explanation/validation.md. Loads are stationary
(after epochs that are not counted) or a day of the trace; plans are capacity-proportional shares, because the engines
are compared here, not planners. Both engines see the same counts; the request-level engine draws each request.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import click
import numpy as np

from marlin.api.pool import PowerDown
from marlin.simulator.constants import DEFAULT_SETTINGS, Balancer, Settings
from marlin.simulator.demand import day_demand
from marlin.simulator.engines import Left
from marlin.simulator.experiment import EPOCH_S, FIRST_DATE
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.fluid import FluidResult, Plans, awake_for, simulate, ttft_quantiles
from marlin.simulator.outcome import Outcome
from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.engine import Inside, RequestLevelEngine
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import TwinState, arrays_from, in_proportion
from marlin.simulator.workload.requests import draw_requests
from marlin.simulator.workload.shipped import shipped_week

LOADS: Final = (0.10, 0.30, 0.60, 0.80, 0.95)
SURPRISES: Final = ((0.30, 1.1), (0.30, 1.4), (0.30, 2.0), (0.60, 1.1), (0.60, 1.4))
"""Loads of the fleet, and of the replicas that the plan keeps awake: more comes than they can carry."""
OVER_THE_LIMIT: Final = (0.96, 0.98)
"""Loads of the fleet between what sites are filled to and what they can carry."""
SIZES: Final = ((621.0, 126.0), (1155.0, 211.0), (300.0, 222.0))
"""Mean prompt and output tokens: BurstGPT's, Azure's, and short questions with long answers."""
WARM_EPOCHS: Final = 2
COUNTED_EPOCHS: Final = 6


@dataclass(frozen=True, slots=True)
class Comparison:
    """Fluid over request-level, less one."""

    case: str
    requests: float
    ttft_s: float
    """The request-level engine's mean."""
    ttft: float
    p50: float
    p95: float
    p99: float
    energy: float
    carbon: float
    water: float
    cost: float
    served_fluid: float
    served: float
    """Share served by each engine."""
    late_fluid: float
    late: float
    """Share of late requests in each engine."""
    awake_fluid: float
    awake: float
    """Part of the replicas awake when an epoch ends, in each engine."""


@dataclass(frozen=True, slots=True)
class Steady:
    """A constant load on a built-in fleet."""

    scenario: str
    load: float
    """Part of each model's capacity."""
    sizes: tuple[float, float] = SIZES[0]
    """Mean prompt and output tokens."""
    settings: Settings = DEFAULT_SETTINGS
    power_down: PowerDown = PowerDown.NONE
    awake_utilization: float | None = None
    """Keep as many awake as carry the load at this utilisation. None: all."""
    epochs: int = COUNTED_EPOCHS
    """How many are counted."""
    epoch_s: float = EPOCH_S
    seed: int = 0


def stationary(case: Steady) -> Comparison:
    """Compares the engines at a constant load, after epochs that are not counted."""
    state = loaded_state(Builder(scenario_documents(case.scenario)), FIRST_DATE, case.load, epoch_s=case.epoch_s)
    changes = {"mean_prompt_tokens": case.sizes[0], "mean_output_tokens": case.sizes[1], "power_down": case.power_down}
    pools = tuple(pool.model_copy(update=changes) for pool in state.pools)
    twin = arrays_from(state.model_copy(update={"pools": pools}), case.settings)
    capacity = twin.capacity_rps.sum(axis=1)  # (V,)
    each = np.rint(case.load * capacity * twin.epoch_s / len(twin.origins))
    counts = np.repeat(each[:, None], len(twin.origins), axis=1)
    twin = replace(twin, requests=counts)
    shares = twin.capacity_rps / capacity[:, None]
    awake = None
    if case.awake_utilization is not None:
        awake = awake_for(twin, shares * case.load * capacity[:, None], case.awake_utilization)
        twin = replace(twin, awake_before=awake)
    plans = Plans(shares[None], awake=None if awake is None else awake[None])
    rng = np.random.default_rng(case.seed)
    outcomes: list[Outcome] = []
    left: Left[Inside] | None = None
    for _ in range(WARM_EPOCHS + case.epochs):
        requests = draw_requests(counts.astype(np.int64), np.tile(case.sizes, (len(counts), 1)), twin.epoch_s, rng)
        outcome, left = RequestLevelEngine().replay(twin, plans, left, requests, twin.epoch_s)
        outcomes.append(outcome)
    flow = simulate(twin, shares, awake=awake)
    name = f"{case.scenario}, {case.load:.0%}, {case.sizes[0]:.0f} / {case.sizes[1]:.0f} tokens"
    return _compared(name, [(twin, flow)] * case.epochs, outcomes[WARM_EPOCHS:])


def day(scenario: str, load: str, *, first_day: int = 0, seed: int = 0) -> Comparison:
    """A day of the trace, epoch by epoch, queues carried over by both engines."""
    builder = Builder(scenario_documents(scenario))
    demand = day_demand(
        builder,
        shipped_week(),
        first_day,
        load=load,
        start=FIRST_DATE,
        epoch_s=EPOCH_S,
        rng=np.random.default_rng(seed),
    )
    draw = np.random.default_rng(seed + 1)
    state = loaded_state(builder, FIRST_DATE, 0.5)
    sizes = {"mean_prompt_tokens": float(demand.sizes[0]), "mean_output_tokens": float(demand.sizes[1])}
    pools = tuple(pool.model_copy(update=sizes) for pool in state.pools)
    base = arrays_from(state.model_copy(update={"pools": pools, "epoch_s": float(EPOCH_S)}))
    shares = base.capacity_rps / base.capacity_rps.sum(axis=1, keepdims=True)
    flows: list[tuple[TwinState, FluidResult]] = []
    outcomes: list[Outcome] = []
    left: Left[Inside] | None = None
    waiting = np.zeros_like(base.backlog_requests)
    for e, counts in enumerate(demand.requests):
        twin = _at(base, builder, e)
        twin = replace(twin, requests=counts.astype(np.float64), backlog_requests=waiting)
        flow = simulate(twin, shares)
        waiting = in_proportion(twin, flow.queued[0])
        flows.append((twin, flow))
        requests = draw_requests(counts, np.tile(demand.sizes, (len(counts), 1)), EPOCH_S, draw)
        outcome, left = RequestLevelEngine().replay(twin, Plans(shares[None]), left, requests, EPOCH_S)
        outcomes.append(outcome)
    return _compared(f"{scenario}, {load} day {first_day}", flows, outcomes)


def _at(base: TwinState, builder: Builder, e: int) -> TwinState:
    """The same fleet with the signals of epoch ``e``."""
    state = loaded_state(builder, FIRST_DATE + timedelta(seconds=e * EPOCH_S), 0.5)
    return replace(
        base,
        carbon_gco2_per_kwh=np.array([site.carbon_gco2_per_kwh for site in state.datacenters]),
        price_usd_per_kwh=np.array([site.price_usd_per_kwh for site in state.datacenters]),
    )


def _compared(case: str, flows: list[tuple[TwinState, FluidResult]], outcomes: list[Outcome]) -> Comparison:
    counted = np.array([outcome.counted for outcome in outcomes])
    weight = counted / counted.sum()
    flow_metrics = np.array([flow.metrics[0] for _, flow in flows])
    metrics = np.array([outcome.metrics for outcome in outcomes])
    flow_quantiles = weight @ np.array([ttft_quantiles(twin, flow)[0] for twin, flow in flows])
    quantiles = weight @ np.array([outcome.ttft_quantiles_s for outcome in outcomes])
    p50, p95, p99 = (float(x) for x in flow_quantiles / quantiles - 1.0)
    ttft_s = float(weight @ metrics[:, 0])
    carbon, water, cost = (float(x) for x in flow_metrics[:, 1:].sum(axis=0) / metrics[:, 1:].sum(axis=0) - 1.0)

    def share_served(served: FloatArray, rejected: FloatArray) -> float:
        return float(served.sum() / max(served.sum() + rejected.sum(), 1.0))

    return Comparison(
        case=case,
        requests=float(counted.sum()),
        ttft_s=ttft_s,
        ttft=float(weight @ flow_metrics[:, 0]) / ttft_s - 1.0,
        p50=p50,
        p95=p95,
        p99=p99,
        energy=sum(float(flow.energy_kwh.sum()) for _, flow in flows)
        / sum(float(outcome.energy_kwh.sum()) for outcome in outcomes)
        - 1.0,
        carbon=carbon,
        water=water,
        cost=cost,
        served_fluid=share_served(
            np.array([flow.served.sum() for _, flow in flows]), np.array([flow.rejected.sum() for _, flow in flows])
        ),
        served=share_served(
            np.array([outcome.served.sum() for outcome in outcomes]),
            np.array([outcome.rejected.sum() for outcome in outcomes]),
        ),
        late_fluid=float(weight @ np.array([flow.late_share[0] for _, flow in flows])),
        late=float(weight @ np.array([outcome.late_share for outcome in outcomes])),
        awake_fluid=float(np.mean([flow.awake.sum() / twin.all_replicas.sum() for twin, flow in flows])),
        awake=float(np.mean([outcome.awake_share for outcome in outcomes])),
    )


def comparisons(*, full: bool) -> Iterator[Comparison]:
    """All cases of the page; without ``full`` those that take seconds."""
    for sizes in SIZES:
        for load in LOADS:
            yield stationary(Steady("8x12", load, sizes))
    for load in LOADS[1:]:
        yield replace(
            stationary(Steady("8x12", load, settings=Settings(balancer=Balancer.PACK))), case=f"8x12, {load:.0%}, pack"
        )
    for load in LOADS[1:4]:
        yield replace(
            stationary(Steady("8x12", load, power_down=PowerDown.SLEEP, awake_utilization=0.85)),
            case=f"8x12, {load:.0%}, Sleep, awake for 85 %",
        )
    yield day("8x12", "peak95")
    yield day("8x12", "mean56", first_day=3)
    if full:
        for load in LOADS[1:]:
            # Ten times the requests of 8x12 in each epoch: chance is smaller already.
            yield stationary(Steady("8x120", load, epochs=2))


def surprises() -> Iterator[Comparison]:
    """More comes, epoch after epoch, than the plan keeps replicas awake for, or than sites are filled to."""
    for power_down in (PowerDown.SLEEP, PowerDown.SCALE_TO_ZERO):
        for load, asked in SURPRISES:
            case = Steady("8x12", load, power_down=power_down, awake_utilization=asked)
            yield replace(stationary(case), case=f"{power_down.value}, {load:.0%}, {asked:.0%} of those kept awake")
    for load in OVER_THE_LIMIT:
        yield replace(stationary(Steady("8x12", load)), case=f"all awake, {load:.0%}")


def table_of_surprises(rows: list[Comparison]) -> str:
    """Markdown."""
    lines = [
        "| 8x12, load | mean TTFT, both, s | late, both | awake at the end, both | energy | cost | served, both |",
        "|---|---|---|---|---|---|---|",
    ]
    lines.extend(
        f"| {row.case} | {row.ttft_s * (1.0 + row.ttft):.3f}, {row.ttft_s:.3f} | "
        f"{row.late_fluid:.1%}, {row.late:.1%} | "
        f"{row.awake_fluid:.0%}, {row.awake:.0%} | {row.energy:+.1%} | {row.cost:+.1%} | "
        f"{row.served_fluid:.2%}, {row.served:.2%} |"
        for row in rows
    )
    return "\n".join(lines)


def table(rows: list[Comparison]) -> str:
    """Markdown."""
    lines = [
        "| case | requests | mean TTFT, s | mean | p50 | p95 | p99 | energy | carbon | water | cost | served, both |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = " | ".join(
            f"{error:+.1%}"
            for error in (row.ttft, row.p50, row.p95, row.p99, row.energy, row.carbon, row.water, row.cost)
        )
        lines.append(
            f"| {row.case} | {row.requests:,.0f} | {row.ttft_s:.3f} | {errors} | "
            f"{row.served_fluid:.2%}, {row.served:.2%} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--full", is_flag=True, help="Also fleets of 8 x 120: half an hour more.")
def main(full: bool) -> None:
    """Compare the fluid engine with the request-level engine and print the errors, as Markdown.

    \b
    Example:
      python -m marlin.simulator.validation --full
    """  # noqa: D301 the backslash is click's mark for a block to keep
    sys.stdout.write(table(_told(comparisons(full=full))) + "\n\n")
    sys.stdout.write(table_of_surprises(_told(surprises())) + "\n")


def _told(rows: Iterator[Comparison]) -> list[Comparison]:
    """All of them; each is named as soon as it is there."""
    found = []
    for row in rows:
        found.append(row)
        click.echo(row.case, err=True)
    return found


if __name__ == "__main__":
    main()

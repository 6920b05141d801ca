"""A planner over days: plan each epoch from a forecast, carry the plan out on what really came, carry the rest over.

The plan for an epoch is made from the epochs before it and never sees its arrivals. Planners come in as a function,
because they live above the twin; signals are those of the scenario's zones on the day simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import RoutingPlan
from marlin.api.state import FleetState
from marlin.simulator.fleet import Builder, Demand
from marlin.simulator.fluid import FluidResult, simulate_plan
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.epochs import epoch_requests
from marlin.simulator.workload.mix import expected_by_model, model_shares
from marlin.simulator.workload.scaling import fit_scaling
from marlin.simulator.workload.shipped import shipped_week
from marlin.simulator.workload.trace import Trace

FIRST_DAY: Final = datetime(2023, 6, 12, tzinfo=UTC)
"""The day whose signals the first trace day is paired with: inside the training months."""

EPOCH_S: Final = 900.0
_SMOOTHING: Final = 0.7
"""Weight of the last epoch in the forecast."""

Decide = Callable[[FleetState], RoutingPlan]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of an experiment."""

    start_time: datetime
    plan: RoutingPlan
    forecast: FloatArray  # (V,) requests
    arrived: FloatArray  # (V,) requests
    result: FluidResult  # of one plan

    @property
    def metrics(self) -> FloatArray:
        """(4,) in the order of METRIC_NAMES."""
        return np.asarray(self.result.metrics[0])


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over an experiment; the time to first token is a mean over requests."""

    ttft_s: float
    carbon_gco2: float
    water_l: float
    cost_usd: float
    requests: float
    served_share: float
    forecast_error: float
    """Mean absolute error of the forecast, over the mean demand."""


def run(
    builder: Builder,
    decide: Decide,
    *,
    days: int,
    load: str,
    seed: int,
    first_day: int = 0,
    trace: Trace | None = None,
) -> Iterator[Epoch]:
    """Simulates ``days`` days, epoch by epoch.

    Args:
        builder: the fleet.
        decide: the planner.
        days: how many.
        load: how the trace is scaled, one of ``scaling.LOADS``.
        seed: of the split of hours into epochs.
        first_day: day of the trace to begin with.
        trace: whose arrivals. Default: the shipped week.

    Raises:
        InputError: the trace has fewer days, or the fleet cannot be simulated.
    """
    trace = trace or shipped_week()
    if first_day + days > trace.days:
        raise InputError(f"{trace.name} has days 0 to {trace.days - 1}: {days} from day {first_day} on is too many")
    rng = np.random.default_rng(seed)
    names = [pool.metadata.name for pool in builder.pools]
    origins = len(builder.origins())
    expected: FloatArray | None = None
    waiting = np.zeros((len(names), len(builder.documents.datacenters)))  # (V, D) requests
    for day in range(days):
        counts = epoch_requests(trace, first_day + day, int(EPOCH_S), rng)  # (E, C)
        prompt, output = trace.day_sizes(first_day + day)
        sizes = (float(prompt), float(output))
        raw = expected_by_model(counts, model_shares(trace))  # (E, 2)
        arrivals = _arrivals(builder, names, raw, load, sizes)  # (E, V)
        for e, arrived in enumerate(arrivals):
            start = FIRST_DAY + timedelta(days=day, seconds=e * EPOCH_S)

            def state(
                requests: FloatArray,
                start: datetime = start,
                sizes: tuple[float, float] = sizes,
                waiting: FloatArray = waiting,
            ) -> FleetState:
                return builder.state(
                    start,
                    {
                        name: Demand((float(n) / origins,) * origins, *sizes, backlog_requests=tuple(map(float, w)))
                        for name, n, w in zip(names, requests, waiting, strict=True)
                    },
                    epoch=int(start.timestamp() // EPOCH_S),
                    epoch_s=EPOCH_S,
                    start_time=start,
                )

            forecast = arrived if expected is None else expected
            plan = decide(state(forecast))
            twin = arrays_from(state(arrived))
            result = simulate_plan(twin, plan)
            yield Epoch(start, plan, forecast, arrived, result)
            expected = forecast + _SMOOTHING * (arrived - forecast)
            waiting = _placed(twin, result)


def summarise(epochs: list[Epoch]) -> Summary:
    """What an experiment amounts to."""
    metrics = np.array([epoch.metrics for epoch in epochs])  # (E, 4)
    handled = np.array([e.result.served.sum() + e.result.rejected.sum() for e in epochs])
    served = float(sum(e.result.served.sum() for e in epochs))
    arrived = np.array([e.arrived for e in epochs])
    forecast = np.array([e.forecast for e in epochs])
    sums = dict(zip(METRIC_NAMES, (float(x) for x in metrics.sum(axis=0)), strict=True))
    return Summary(
        ttft_s=float((metrics[:, 0] * handled).sum() / max(handled.sum(), 1e-12)),
        carbon_gco2=sums["carbon_gco2"],
        water_l=sums["water_l"],
        cost_usd=sums["cost_usd"],
        requests=float(arrived.sum()),
        served_share=served / max(float(handled.sum()), 1e-12),
        forecast_error=float(np.abs(forecast - arrived).sum() / max(arrived.sum(), 1e-12)),
    )


def _arrivals(
    builder: Builder, names: list[str], by_model: FloatArray, load: str, sizes: tuple[float, float]
) -> FloatArray:
    """Requests (E, V) of each pool in each epoch of a day, scaled to the fleet.

    The trace has a smaller and a larger model. With two pools they are the first and the second; otherwise every pool
    gets the trace's total in proportion to its capacity.
    """
    nothing = {name: Demand((0.0,) * len(builder.origins()), *sizes) for name in names}
    twin = arrays_from(builder.state(FIRST_DAY, nothing, epoch=0, epoch_s=EPOCH_S, start_time=FIRST_DAY))
    capacity = twin.capacity_rps.sum(axis=1) * EPOCH_S  # (V,)
    raw = by_model if len(names) == 2 else by_model.sum(axis=1)[:, None] * (capacity / capacity.sum())
    # Each pool is scaled on its own: the busiest epoch of each needs what the load says of its own capacity.
    needed = raw / capacity
    scaled = np.stack([fit_scaling(need, load).apply(need) for need in needed.T], axis=1)
    return np.asarray(np.rint(scaled * capacity))


def _placed(twin: TwinState, result: FluidResult) -> FloatArray:
    """(V, D) where requests that wait are waiting: spread by capacity, as they may be served anywhere."""
    carried = twin.allowed * twin.capacity_rps
    share = carried / np.maximum(carried.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(result.queued[0][:, None] * share)

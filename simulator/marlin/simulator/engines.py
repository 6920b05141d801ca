"""The two engines behind one interface: a plan and an epoch in, an ``Outcome`` and what is carried over out.

``FluidEngine`` treats requests as a flow: milliseconds for a fleet of any size. ``RequestLevelEngine`` follows each
request through its replica: slower, and the judge of the first. ``experiment`` drives either over days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from marlin.api.plan import Dispatch, RoutingPlan
from marlin.simulator.fluid import FluidResult, Form, plans_of, simulate_epochs, simulate_plan, stacked, ttft_quantiles
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.fluid.quantiles import PERCENTILES
from marlin.simulator.outcome import Outcome
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, in_proportion

MOST_RUN_OUT_S = 3600.0
"""A queue that is not empty after this much more time never will be: nothing may serve it."""

Carried = TypeVar("Carried")


@dataclass(frozen=True, slots=True)
class Left(Generic[Carried]):
    """What an epoch leaves for the next."""

    waiting: FloatArray  # (V, D) requests
    awake: FloatArray  # (V, D) replicas
    inside: Carried
    """The engine's own: requests in flight, for one that knows them."""


class Engine(Protocol[Carried]):
    """Carries plans out."""

    def run(
        self, twin: TwinState, plan: RoutingPlan, before: Left[Carried] | None, rng: np.random.Generator
    ) -> tuple[Outcome, Left[Carried]]:
        """One epoch.

        Args:
            twin: the fleet, with the requests that really come.
            plan: for that fleet.
            before: what the epoch before left; none at the start.
            rng: draws what is left to chance.
        """

    def run_out(
        self, twin: TwinState, plan: RoutingPlan, before: Left[Carried]
    ) -> tuple[Outcome, Left[Carried]] | None:
        """Goes on without arrivals until nobody waits; none when nobody does."""


@dataclass(frozen=True, slots=True)
class FluidEngine:
    """Requests as a flow."""

    form: Form = Form.NUMPY
    has_quantiles: bool = True
    """Whether quantiles of the time to first token are worked out, a third of the time; else they are NaN."""

    def run(
        self, twin: TwinState, plan: RoutingPlan, before: Left[None] | None, rng: np.random.Generator
    ) -> tuple[Outcome, Left[None]]:
        """See ``Engine.run``; nothing is left to chance."""
        if before is not None:
            twin = replace(twin, backlog_requests=before.waiting, awake_before=before.awake)
        result = simulate_plan(twin, plan, self.form)
        quantiles = ttft_quantiles(twin, result) if self.has_quantiles else _unknown(1)
        return _row_of(twin, result, 0, quantiles)

    def run_all(
        self, twin: TwinState, plans: Sequence[RoutingPlan], before: Sequence[Left[None] | None]
    ) -> list[tuple[Outcome, Left[None]]]:
        """One epoch under each of several plans, each after an epoch of its own; what ``run`` says of each alone.

        Args:
            twin: the fleet, with the requests that really come.
            plans: for that fleet.
            before: what the epoch before left under each; none at the start.
        """
        found: dict[int, tuple[Outcome, Left[None]]] = {}
        for dispatch in Dispatch:
            rows = [i for i, plan in enumerate(plans) if plan.pools[0].dispatch is dispatch]
            if rows:
                of_rows = self._of_dispatch(twin, [plans[i] for i in rows], [before[i] for i in rows])
                found |= dict(zip(rows, of_rows, strict=True))
        return [found[i] for i in range(len(plans))]

    def _of_dispatch(
        self, twin: TwinState, plans: Sequence[RoutingPlan], before: Sequence[Left[None] | None]
    ) -> list[tuple[Outcome, Left[None]]]:
        now, each = conditions(twin), [plans_of(twin, plan) for plan in plans]
        backlog = [now.backlog[0] if left is None else left.waiting.sum(axis=1) for left in before]
        awake = [now.awake_before[0] if left is None else left.awake for left in before]
        epochs = replace(
            now,
            requests=np.repeat(now.requests, len(plans), axis=0),
            backlog=np.array(backlog),
            awake_before=np.array(awake),
        )
        result = simulate_epochs(twin, epochs, stacked(twin, each), self.form)
        quantiles = ttft_quantiles(twin, result) if self.has_quantiles else _unknown(len(plans))
        return [_row_of(twin, result, row, quantiles) for row in range(len(plans))]

    def run_out(self, twin: TwinState, plan: RoutingPlan, before: Left[None]) -> tuple[Outcome, Left[None]] | None:
        """See ``Engine.run_out``."""
        waiting = before.waiting.sum(axis=1)  # (V,)
        if not waiting.any():
            return None
        kept = plans_of(twin, plan).awake
        needed_s = time_to_empty_s(twin, waiting, twin.allowed, None if kept is None else kept[0])
        quiet = replace(twin, requests=np.zeros_like(twin.requests), epoch_s=needed_s)
        return self.run(quiet, plan, before, np.random.default_rng(0))


def time_to_empty_s(
    twin: TwinState,
    waiting: FloatArray,  # (V,) requests
    allowed: FloatArray | NDArray[np.bool_],  # (V, D) 1 where a site may serve the model
    awake: FloatArray | None,  # (V, D) replicas that the plan keeps awake; None is all
) -> float:
    """Time in which what stays awake works a queue off when nobody else comes, s; at most ``MOST_RUN_OUT_S``.

    A model for which nobody waits takes no time, even where no site may serve it.
    """
    everyone = twin.all_replicas
    kept = everyone if awake is None else np.minimum(awake, everyone)
    part = np.divide(kept, everyone, out=np.zeros_like(everyone), where=everyone > 0)
    # A lower bound of what is awake: its best replicas are at least as fast as the mean.
    limit = (allowed * twin.capacity_rps * part * twin.max_utilization).sum(axis=1)  # (V,)
    needed_s = np.divide(waiting, limit, out=np.full_like(limit, MOST_RUN_OUT_S), where=limit > 0)
    longest_s = float(np.where(waiting > 0, needed_s, 0.0).max())
    return min(max(longest_s, 1.0) * 1.01, MOST_RUN_OUT_S)


def _unknown(plans: int) -> FloatArray:
    return np.full((plans, len(PERCENTILES)), np.nan)


def _row_of(
    twin: TwinState,
    result: FluidResult,
    row: int,
    quantiles_s: FloatArray,  # (B, 3)
) -> tuple[Outcome, Left[None]]:
    """One plan of a result, and what it leaves."""
    outcome = Outcome(
        metrics=result.metrics[row],
        served=result.served[row],
        queued=result.queued[row],
        rejected=result.rejected[row],
        energy_kwh=result.energy_kwh[row],
        carbon_gco2=result.carbon_gco2[row],
        water_l=result.water_l[row],
        cost_usd=result.cost_usd[row],
        ttft_s=result.ttft_s[row],
        ttft_quantiles_s=quantiles_s[row],
        late_share=float(result.late_share[row]),
        utilization=result.utilization[row],
        awake=result.awake[row],
        awake_share=float(result.awake[row].sum() / max(twin.all_replicas.sum(), 1.0)),
    )
    return outcome, Left(in_proportion(twin, result.queued[row]), result.awake[row].copy(), None)

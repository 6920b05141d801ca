"""The two engines behind one interface: a plan and an epoch in, an ``Outcome`` and what is carried over out.

``FluidEngine`` treats requests as a flow: milliseconds for a fleet of any size. ``RequestLevelEngine`` follows each
request through its replica: slower, and the judge of the first. ``experiment`` drives either over days.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from marlin.api.plan import RoutingPlan
from marlin.simulator.fluid import FluidResult, Form, plans_of, simulate_plan, ttft_quantiles
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

    def run(
        self, twin: TwinState, plan: RoutingPlan, before: Left[None] | None, rng: np.random.Generator
    ) -> tuple[Outcome, Left[None]]:
        """See ``Engine.run``; nothing is left to chance."""
        if before is not None:
            twin = replace(twin, backlog_requests=before.waiting, awake_before=before.awake)
        result = simulate_plan(twin, plan, self.form)
        return _outcome(twin, result), Left(in_proportion(twin, result.queued[0]), result.awake[0].copy(), None)

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


def _outcome(twin: TwinState, result: FluidResult) -> Outcome:
    """The first plan of a result."""
    return Outcome(
        metrics=result.metrics[0],
        served=result.served[0],
        queued=result.queued[0],
        rejected=result.rejected[0],
        energy_kwh=result.energy_kwh[0],
        carbon_gco2=result.carbon_gco2[0],
        water_l=result.water_l[0],
        cost_usd=result.cost_usd[0],
        ttft_s=result.ttft_s[0],
        ttft_quantiles_s=ttft_quantiles(twin, result)[0],
        late_share=float(result.late_share[0]),
        utilization=result.utilization[0],
        awake=result.awake[0],
        awake_share=float(result.awake[0].sum() / max(twin.all_replicas.sum(), 1.0)),
    )

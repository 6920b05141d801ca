"""Sites filled in turn, in an order that is sorted anew each epoch or given: merit order and best static order.

The knobs are those that tuning turns (``yardsticks``); as they stand, it is the merit order everybody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy.building import Proposal, build_plan, fill_in_order
from marlin.policy.deciding import AWAKE_UTILIZATION, Ground, decision_of, replicas_awake
from marlin.policy.objective import OPTION_NAMES, Weights
from marlin.policy.planner import Decision
from marlin.simulator.fluid import marginal_metrics

if TYPE_CHECKING:
    from marlin.api.plan import RoutingPlan
    from marlin.api.state import FleetState


@dataclass(frozen=True, slots=True)
class InOrder:
    """Fills sites in turn."""

    scheme: Scheme
    dispatch: Dispatch
    weights: Weights
    fill: float | None = None
    """Part of its capacity each site is filled to before the next gets something. Default: the state's limit."""
    quantile: float = 0.0
    """Demand it counts on: 0 is the forecast, 1 its upper bound, between them in proportion."""
    awake_load: float = AWAKE_UTILIZATION
    """Load for which replicas are kept awake, where a pool can power down."""
    static: Mapping[str, tuple[str, ...]] | None = None
    """Names of sites in the order of filling, by pool. Default: by merit, in each epoch."""

    @property
    def kind(self) -> PlannerKind:
        """BestStatic with an order that is given, else MeritOrder."""
        return PlannerKind.MERIT_ORDER if self.static is None else PlannerKind.BEST_STATIC

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``; a sort takes well under a millisecond, so that a deadline changes nothing."""
        ground = Ground.of(state)
        return decision_of(state, ground.twin, self.plan_on(ground, now), self._record(ground))

    def plan_on(self, ground: Ground, now: datetime | None = None) -> RoutingPlan:
        """See ``Plain``."""
        state, capacity = ground.state, ground.capacity
        orders = self._orders(ground)
        fill = state.max_utilization if self.fill is None else min(self.fill, state.max_utilization)
        shares = np.zeros_like(capacity)
        for v, pool in enumerate(state.pools):
            expected = sum(pool.forecast_requests)
            upper = pool.forecast_upper_requests or expected
            demand_rps = (expected + self.quantile * (upper - expected)) / state.epoch_s
            shares[v] = fill_in_order(orders[v], demand_rps, capacity[v], fill)
        proposal = Proposal(shares, orders, cap=np.full_like(capacity, fill))
        first = " > ".join(state.datacenters[d].name for d in orders[0][:3])
        return build_plan(
            state,
            proposal,
            ground.allowed,
            kind=self.kind,
            scheme=self.scheme,
            dispatch=self.dispatch,
            now=now,
            explanation=f"{self.kind.option} {self.scheme.option}: {state.pools[0].name} fills {first}",
            awake=replicas_awake(state, ground.twin, proposal, ground.allowed, self.awake_load),
        )

    def _orders(self, ground: Ground) -> tuple[tuple[int, ...], ...]:
        if self.static is None:
            return ground.by_merit(self.weights)[0].order
        position = {site.name: d for d, site in enumerate(ground.state.datacenters)}
        return tuple(
            tuple(position[s] for s in self.static[pool.name] if s in position and ground.allowed[v, position[s]])
            for v, pool in enumerate(ground.state.pools)
        )

    def _record(self, ground: Ground) -> dict[str, Any]:
        state, score, orders = ground.state, ground.by_merit(self.weights)[1], self._orders(ground)
        marginal = marginal_metrics(ground.twin)
        return {
            "weights": dict(zip(OPTION_NAMES, self.weights, strict=True)),
            "pools": [
                {
                    "name": pool.name,
                    "order": [
                        {"datacenter": state.datacenters[d].name, "score": round(float(score[v, d]), 4)}
                        | {m: float(marginal[v, d, i]) for i, m in enumerate(METRIC_NAMES)}
                        for d in orders[v]
                    ],
                }
                for v, pool in enumerate(state.pools)
            ],
        }

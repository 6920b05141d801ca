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
from marlin.policy.building import Proposal, allowed_sites, build_plan, fill_in_order
from marlin.policy.deciding import AWAKE_UTILIZATION, decision_of, replicas_awake
from marlin.policy.merit import merit_order
from marlin.policy.objective import OPTION_NAMES, Weights
from marlin.policy.planner import Decision
from marlin.simulator.fluid import capacity_rps, marginal_metrics
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        twin = arrays_from(state)
        capacity = capacity_rps(twin)
        allowed = allowed_sites(state, capacity)
        marginal = marginal_metrics(twin)
        by_merit, score = merit_order(state, capacity, marginal, allowed, self.weights)
        orders = by_merit.order if self.static is None else self._given(state, self.static, allowed)
        fill = state.max_utilization if self.fill is None else min(self.fill, state.max_utilization)
        shares = np.zeros_like(capacity)
        for v, pool in enumerate(state.pools):
            expected = sum(pool.forecast_requests)
            upper = pool.forecast_upper_requests or expected
            demand_rps = (expected + self.quantile * (upper - expected)) / state.epoch_s
            shares[v] = fill_in_order(orders[v], demand_rps, capacity[v], fill)
        proposal = Proposal(shares, orders, cap=np.full_like(capacity, fill))
        first = " > ".join(state.datacenters[d].name for d in orders[0][:3])
        plan = build_plan(
            state,
            proposal,
            allowed,
            kind=self.kind,
            scheme=self.scheme,
            dispatch=self.dispatch,
            now=now,
            explanation=f"{self.kind.option} {self.scheme.option}: {state.pools[0].name} fills {first}",
            awake=replicas_awake(state, twin, proposal, allowed, self.awake_load),
        )
        return decision_of(state, twin, plan, self._record(state, orders, score, marginal))

    def _given(
        self, state: FleetState, static: Mapping[str, tuple[str, ...]], allowed: NDArray[np.bool_]
    ) -> tuple[tuple[int, ...], ...]:
        position = {site.name: d for d, site in enumerate(state.datacenters)}
        return tuple(
            tuple(position[name] for name in static[pool.name] if name in position and allowed[v, position[name]])
            for v, pool in enumerate(state.pools)
        )

    def _record(
        self, state: FleetState, orders: tuple[tuple[int, ...], ...], score: FloatArray, marginal: FloatArray
    ) -> dict[str, Any]:
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

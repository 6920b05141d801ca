"""What planners share on the way to a decision: the ground they plan on, replicas awake, and what the twin expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.policy import baselines
from marlin.policy.building import Proposal, allowed_sites, build_plan
from marlin.policy.merit import merit_order
from marlin.policy.planner import Decision, Planner
from marlin.simulator.constants import constant
from marlin.simulator.fluid import awake_for, capacity_rps, estimate, marginal_metrics
from marlin.simulator.twin_state import TwinState, arrays_from

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from marlin.api.state import FleetState
    from marlin.policy.objective import Weights

Rule = Callable[["FleetState", "NDArray[np.float64]", "NDArray[np.bool_]"], Proposal]
"""From a fleet, capacities (V, D) and allowed sites (V, D) to what it wants."""

AWAKE_UTILIZATION: Final = constant("awake_utilization")


@dataclass(frozen=True, slots=True)
class Ground:
    """A state as those who plan by a rule look at it; made once for as many of them as there are."""

    state: FleetState
    twin: TwinState
    capacity: NDArray[np.float64]  # (V, D) requests per second
    allowed: NDArray[np.bool_]  # (V, D)
    _sorted: dict[Weights, tuple[Proposal, NDArray[np.float64]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, state: FleetState, twin: TwinState | None = None) -> Ground:
        """The ground that a state is.

        Args:
            state: the fleet.
            twin: its arrays, where they have been made.

        Raises:
            InfeasibleError: a pool has no site that may serve it.
        """
        twin = arrays_from(state) if twin is None else twin
        capacity = capacity_rps(twin)
        return cls(state, twin, capacity, allowed_sites(state, capacity))

    def by_merit(self, weights: Weights) -> tuple[Proposal, NDArray[np.float64]]:
        """Merit order by some weights, see ``merit_order``; sorted once."""
        if weights not in self._sorted:
            marginal = marginal_metrics(self.twin)
            self._sorted[weights] = merit_order(self.state, self.capacity, marginal, self.allowed, weights)
        return self._sorted[weights]


class Plain(Planner, Protocol):
    """A planner that remembers nothing and looks at nothing but the state: many can share the work of looking."""

    def plan_on(self, ground: Ground, now: datetime | None = None) -> RoutingPlan:
        """The plan that ``decide`` makes of the ground's state."""


def decision_of(state: FleetState, twin: TwinState, plan: RoutingPlan, record: dict[str, Any]) -> Decision:
    """Adds what the twin expects of the plan, and of capacity-proportional routing."""
    return Decision(
        plan=plan,
        expect=lambda: estimate(twin, plan),
        expect_of_baseline=lambda: estimate(
            twin,
            plan_by(baselines.capacity_proportional, Ground.of(state, twin), kind=PlannerKind.CAPACITY_PROPORTIONAL),
        ),
        record=record,
    )


def replicas_awake(
    state: FleetState,
    twin: TwinState,
    proposal: Proposal,
    allowed: NDArray[np.bool_],  # (V, D)
    utilization: float = AWAKE_UTILIZATION,
) -> NDArray[np.float64] | None:
    """Replicas to keep awake (V, D), None where no pool can power down: the paper's consolidation.

    Enough for the upper quantile of the forecast, or the forecast itself where there is none, at a usual load.
    """
    if not twin.can_sleep.any():
        return None
    shares = np.where(allowed, proposal.shares, 0.0)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    return awake_for(twin, shares * upper_requests(state)[:, None] / twin.epoch_s, utilization)


def upper_requests(state: FleetState) -> NDArray[np.float64]:
    """(V,) requests that replicas are kept awake for; the forecast itself where it has no upper bound."""
    return np.array([pool.forecast_upper_requests or sum(pool.forecast_requests) for pool in state.pools])


def plan_by(
    rule: Rule,
    ground: Ground,
    *,
    kind: PlannerKind,
    dispatch: Dispatch = Dispatch.SHARES,
    now: datetime | None = None,
    explanation: str = "",
    awake_utilization: float = AWAKE_UTILIZATION,
) -> RoutingPlan:
    """The plan of a rule that looks at no signal."""
    proposal = rule(ground.state, ground.capacity, ground.allowed)
    return build_plan(
        ground.state,
        proposal,
        ground.allowed,
        kind=kind,
        scheme=Scheme.BALANCED,
        dispatch=dispatch,
        now=now,
        explanation=explanation,
        awake=replicas_awake(ground.state, ground.twin, proposal, ground.allowed, awake_utilization),
    )

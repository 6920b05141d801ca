"""What planners share on the way from a proposal to a decision: replicas awake, and what the twin expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.policy import baselines
from marlin.policy.building import Proposal, allowed_sites, build_plan
from marlin.policy.planner import Decision
from marlin.simulator.constants import constant
from marlin.simulator.fluid import awake_for, capacity_rps, estimate

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from marlin.api.state import FleetState
    from marlin.simulator.twin_state import TwinState

Rule = Callable[["FleetState", "NDArray[np.float64]", "NDArray[np.bool_]"], Proposal]
"""From a fleet, capacities (V, D) and allowed sites (V, D) to what it wants."""

AWAKE_UTILIZATION: Final = constant("awake_utilization")


def decision_of(state: FleetState, twin: TwinState, plan: RoutingPlan, record: dict[str, Any]) -> Decision:
    """Adds what the twin expects of the plan, and of capacity-proportional routing."""
    return Decision(
        plan=plan,
        expect=lambda: estimate(twin, plan),
        expect_of_baseline=lambda: estimate(
            twin, plan_by(baselines.capacity_proportional, state, twin, kind=PlannerKind.CAPACITY_PROPORTIONAL)
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
    state: FleetState,
    twin: TwinState,
    *,
    kind: PlannerKind,
    dispatch: Dispatch = Dispatch.SHARES,
    now: datetime | None = None,
    explanation: str = "",
    awake_utilization: float = AWAKE_UTILIZATION,
) -> RoutingPlan:
    """The plan of a rule that looks at no signal."""
    capacity = capacity_rps(twin)
    allowed = allowed_sites(state, capacity)
    proposal = rule(state, capacity, allowed)
    return build_plan(
        state,
        proposal,
        allowed,
        kind=kind,
        scheme=Scheme.BALANCED,
        dispatch=dispatch,
        now=now,
        explanation=explanation,
        awake=replicas_awake(state, twin, proposal, allowed, awake_utilization),
    )

"""The planners by name.

``make_planner`` is how everyone gets one: the command line with ``--planner merit-order``, the operator with
``spec.planner.kind: MeritOrder``. A kind that is in the contract but not built yet is refused by name, so that nobody
believes to run what does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.policy import baselines
from marlin.policy.building import Proposal, allowed_sites, build_plan
from marlin.policy.merit import merit_order
from marlin.policy.objective import OPTION_NAMES, Weights, scheme_weights
from marlin.policy.oracle.planner import Oracle
from marlin.policy.planner import Decision, Planner
from marlin.simulator.constants import constant
from marlin.simulator.fluid import awake_for, capacity_rps, estimate, marginal_metrics
from marlin.simulator.twin_state import arrays_from

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from marlin.api.state import FleetState
    from marlin.simulator.twin_state import TwinState

AWAKE_UTILIZATION: Final = constant("awake_utilization")

_Rule = Callable[["FleetState", "NDArray[np.float64]", "NDArray[np.bool_]"], Proposal]

_BASELINES: Final[dict[PlannerKind, tuple[_Rule, str]]] = {
    PlannerKind.CAPACITY_PROPORTIONAL: (baselines.capacity_proportional, "in proportion to capacity"),
    PlannerKind.NEAREST: (baselines.nearest, "each origin to the site with the shortest round trip"),
    PlannerKind.LEAST_LOADED: (baselines.least_loaded, "to where capacity is free"),
    PlannerKind.ROUND_ROBIN: (baselines.round_robin, "the same number to each site"),
}

AVAILABLE: Final[tuple[PlannerKind, ...]] = (PlannerKind.MERIT_ORDER, PlannerKind.ORACLE, *_BASELINES)
"""The kinds that can be made today."""


def planner_kind(option: str) -> PlannerKind:
    """The kind behind a command-line name.

    Raises:
        InputError: the name is unknown, or not built yet.
    """
    names = ", ".join(kind.option for kind in AVAILABLE)
    for kind in PlannerKind:
        if kind.option == option:
            if kind not in AVAILABLE:
                raise InputError(f"planner {option} is not built yet; there are {names}")
            return kind
    raise InputError(f"planner {option!r} is not known; there are {names}")


def scheme_of(option: str) -> Scheme:
    """The scheme behind a command-line name.

    Raises:
        InputError: there is none of that name.
    """
    for scheme in Scheme:
        if scheme.option == option:
            return scheme
    raise InputError(f"scheme {option!r} is not known; there are {', '.join(s.option for s in Scheme)}")


def make_planner(
    kind: PlannerKind,
    *,
    scheme: Scheme = Scheme.BALANCED,
    dispatch: Dispatch = Dispatch.ORDERED,
    weights: Weights | None = None,
    awake_utilization: float = AWAKE_UTILIZATION,
) -> Planner:
    """A planner.

    Args:
        kind: which.
        scheme: what it leans towards; baselines ignore it.
        dispatch: how its plans are to be carried out.
        weights: the weights of scheme Custom.
        awake_utilization: load for which replicas are kept awake, where a pool can power down.

    Raises:
        InputError: the kind is not built yet, or scheme and weights do not fit.
    """
    if kind is PlannerKind.MERIT_ORDER:
        return MeritOrder(scheme, dispatch, scheme_weights(scheme, weights), awake_utilization)
    if kind is PlannerKind.ORACLE:
        return Oracle(scheme, dispatch, scheme_weights(scheme, weights))
    if kind in _BASELINES:
        rule, reason = _BASELINES[kind]
        return Baseline(kind, dispatch, rule, reason, awake_utilization)
    raise InputError(f"planner {kind.option} is not built yet; there are {', '.join(k.option for k in AVAILABLE)}")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A planner that looks at no signal."""

    kind: PlannerKind
    dispatch: Dispatch
    rule: _Rule
    reason: str
    awake_utilization: float = AWAKE_UTILIZATION

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``; these take microseconds, so a deadline changes nothing."""
        twin = arrays_from(state)
        capacity = capacity_rps(twin)
        allowed = allowed_sites(state, capacity)
        proposal = self.rule(state, capacity, allowed)
        plan = build_plan(
            state,
            proposal,
            allowed,
            kind=self.kind,
            scheme=Scheme.BALANCED,
            dispatch=self.dispatch,
            now=now,
            explanation=f"{self.kind.option}: {self.reason}",
            awake=replicas_awake(state, twin, proposal, allowed, self.awake_utilization),
        )
        return decision_of(state, twin, plan, {})


@dataclass(frozen=True, slots=True)
class MeritOrder:
    """Sorts the sites by what one more request costs there."""

    scheme: Scheme
    dispatch: Dispatch
    weights: Weights
    awake_utilization: float = AWAKE_UTILIZATION

    @property
    def kind(self) -> PlannerKind:
        """MeritOrder."""
        return PlannerKind.MERIT_ORDER

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``; a sort takes well under a millisecond, so a deadline changes nothing."""
        twin = arrays_from(state)
        capacity = capacity_rps(twin)
        allowed = allowed_sites(state, capacity)
        marginal = marginal_metrics(twin)
        proposal, score = merit_order(state, capacity, marginal, allowed, self.weights)
        names = [site.name for site in state.datacenters]
        first = " > ".join(names[d] for d in proposal.order[0][:3])
        plan = build_plan(
            state,
            proposal,
            allowed,
            kind=self.kind,
            scheme=self.scheme,
            dispatch=self.dispatch,
            now=now,
            explanation=f"merit-order {self.scheme.option}: {state.pools[0].name} fills {first}",
            awake=replicas_awake(state, twin, proposal, allowed, self.awake_utilization),
        )
        record = {
            "weights": dict(zip(OPTION_NAMES, self.weights, strict=True)),
            "pools": [
                {
                    "name": pool.name,
                    "order": [
                        {"datacenter": names[d], "score": round(float(score[v, d]), 4)}
                        | {m: float(marginal[v, d, i]) for i, m in enumerate(METRIC_NAMES)}
                        for d in proposal.order[v]
                    ],
                }
                for v, pool in enumerate(state.pools)
            ],
        }
        return decision_of(state, twin, plan, record)


def decision_of(state: FleetState, twin: TwinState, plan: RoutingPlan, record: dict[str, Any]) -> Decision:
    """Adds what the twin expects of the plan, and of capacity-proportional routing."""
    return Decision(
        plan=plan,
        expect=lambda: estimate(twin, plan),
        expect_of_baseline=lambda: estimate(twin, _baseline_plan(state, twin)),
        record=record,
    )


def _baseline_plan(state: FleetState, twin: TwinState) -> RoutingPlan:
    capacity = capacity_rps(twin)
    allowed = allowed_sites(state, capacity)
    proposal = baselines.capacity_proportional(state, capacity, allowed)
    return build_plan(
        state,
        proposal,
        allowed,
        kind=PlannerKind.CAPACITY_PROPORTIONAL,
        scheme=Scheme.BALANCED,
        dispatch=Dispatch.SHARES,
        now=None,
        explanation="",
        awake=replicas_awake(state, twin, proposal, allowed),
    )


def replicas_awake(
    state: FleetState,
    twin: TwinState,
    proposal: Proposal,
    allowed: NDArray[np.bool_],
    utilization: float = AWAKE_UTILIZATION,
) -> NDArray[np.float64] | None:
    """Replicas to keep awake (V, D), None where no pool can power down: the paper's consolidation.

    Enough for the upper quantile of the forecast, or the forecast itself where there is none, at a usual load.
    """
    if not twin.can_sleep.any():
        return None
    expected = np.array([pool.forecast_upper_requests or sum(pool.forecast_requests) for pool in state.pools])
    shares = np.where(allowed, proposal.shares, 0.0)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    return awake_for(twin, shares * expected[:, None] / twin.epoch_s, utilization)

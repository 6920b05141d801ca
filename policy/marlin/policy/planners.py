"""The planners by name.

``make_planner`` is how everyone gets one: the command line with ``--planner merit-order``, the operator with
``spec.planner.kind: MeritOrder``. BestStatic, whose order is chosen on past days, is refused by name, so that nobody
believes to run what does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy import baselines
from marlin.policy.deciding import AWAKE_UTILIZATION, Ground, Rule, decision_of, plan_by
from marlin.policy.in_order import InOrder
from marlin.policy.objective import Weights, scheme_weights
from marlin.policy.oracle.planner import Oracle
from marlin.policy.planner import Decision, Planner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from marlin.api.plan import RoutingPlan
    from marlin.api.state import FleetState
    from marlin.policy.agents.planner import MarlinSettings

_BASELINES: Final[dict[PlannerKind, tuple[Rule, str]]] = {
    PlannerKind.CAPACITY_PROPORTIONAL: (baselines.capacity_proportional, "in proportion to capacity"),
    PlannerKind.NEAREST: (baselines.nearest, "each origin to the site with the shortest round trip"),
    PlannerKind.LEAST_LOADED: (baselines.least_loaded, "to where capacity is free"),
    PlannerKind.ROUND_ROBIN: (baselines.round_robin, "the same number to each site"),
}

AVAILABLE: Final[tuple[PlannerKind, ...]] = (
    PlannerKind.MARLIN,
    PlannerKind.MERIT_ORDER,
    PlannerKind.ORACLE,
    *_BASELINES,
)
"""The kinds that plan from a state alone; best-static is chosen on past days, by ``evaluation``."""

_NAMES: Final = ", ".join(kind.option for kind in AVAILABLE)

FILLED_IN_TURN: Final = (PlannerKind.MARLIN, PlannerKind.MERIT_ORDER, PlannerKind.ORACLE)
"""Planners that a scheme means something to, and whose own way is an order of sites; the others' is shares."""


def planner_kind(option: str) -> PlannerKind:
    """The kind behind a command-line name.

    Raises:
        InputError: the name is unknown, or no planner of that kind plans from a state alone.
    """
    for kind in PlannerKind:
        if kind.option == option:
            if kind not in AVAILABLE:
                raise _elsewhere(kind)
            return kind
    raise InputError(f"planner {option!r} is not known; there are {_NAMES}")


def _elsewhere(kind: PlannerKind) -> InputError:
    """What to say of a kind that this room does not make."""
    return InputError(
        f"planner {kind.option} is chosen on past days, which only marlin evaluate does; here there are {_NAMES}"
    )


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
    artifact: Path | None = None,
    agents: MarlinSettings | None = None,
    carried: Mapping[str, Any] | None = None,
) -> Planner:
    """A planner.

    Args:
        kind: which.
        scheme: what it leans towards; baselines ignore it.
        dispatch: how its plans are to be carried out.
        weights: the weights of scheme Custom.
        awake_utilization: load for which replicas are kept awake, where a pool can power down.
        artifact: folder of the trained policy, for marlin. Default: the one shipped with the package.
        agents: how they decide, for marlin.
        carried: what the last decision said is to be carried on (``Decision.carried``). Default: a first epoch.

    Raises:
        InputError: the kind does not plan from a state alone, scheme and weights do not fit, or the artifact cannot be
            had.
    """
    if kind is PlannerKind.MARLIN:
        from marlin.policy.agents import shipped  # noqa: PLC0415 a sort needs no networks
        from marlin.policy.agents.planner import Marlin, MarlinSettings  # noqa: PLC0415
        from marlin.policy.agents.standing import standing_of  # noqa: PLC0415

        return Marlin(
            artifact=shipped.load(artifact),
            scheme=scheme,
            dispatch=dispatch,
            weights=scheme_weights(scheme, weights),
            settings=agents or MarlinSettings(),
            standing=standing_of(carried),
        )
    if kind is PlannerKind.MERIT_ORDER:
        return InOrder(scheme, dispatch, scheme_weights(scheme, weights), awake_load=awake_utilization)
    if kind is PlannerKind.ORACLE:
        return Oracle(scheme, dispatch, scheme_weights(scheme, weights))
    if kind in _BASELINES:
        rule, reason = _BASELINES[kind]
        return Baseline(kind, dispatch, rule, reason, awake_utilization)
    raise _elsewhere(kind)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A planner that looks at no signal."""

    kind: PlannerKind
    dispatch: Dispatch
    rule: Rule
    reason: str
    awake_utilization: float = AWAKE_UTILIZATION

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``; these take microseconds, so a deadline changes nothing."""
        ground = Ground.of(state)
        return decision_of(state, ground.twin, self.plan_on(ground, now), {})

    def plan_on(self, ground: Ground, now: datetime | None = None) -> RoutingPlan:
        """See ``Plain``."""
        return plan_by(
            self.rule,
            ground,
            kind=self.kind,
            dispatch=self.dispatch,
            now=now,
            explanation=f"{self.kind.option}: {self.reason}",
            awake_utilization=self.awake_utilization,
        )

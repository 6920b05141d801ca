"""Origin-aware dispatch: who serves whom, once it is settled how much everybody serves.

Carbon, water and cost depend only on how much each site gets. Which origin's requests those are is free, and decides
the network's part of the time to first token. So the plan's shares stay as they are, and a transport problem (least
mean round trip, the origins' volumes on one side and the sites' shares on the other) says how every origin divides its
requests (``transport``). Plans that differ in what they keep awake alone have the same rows, so that those found last
are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, largest_remainder
from marlin.api.values import MAX_ORIGINS
from marlin.policy.deciding import Ground, Plain
from marlin.policy.in_order import InOrder
from marlin.policy.oracle.planner import Oracle
from marlin.policy.planner import Decision, Planner
from marlin.policy.planners import Baseline
from marlin.policy.transport import least_cost_flow, quiet_solver
from marlin.simulator.fluid import estimate
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from

if TYPE_CHECKING:
    from marlin.api.state import FleetState

_LEAST_PART: Final = 1e-6
"""Of all requests: what an origin must bring to be looked at. HiGHS balances to 1e-7."""


@dataclass(frozen=True, slots=True)
class OriginAware:
    """A planner whose plans also say where each origin's requests go.

    Pools that are filled in turn are left alone: the order decides there, request by request. So are pools whose
    planner has said it already.
    """

    inner: Planner

    @property
    def kind(self) -> PlannerKind:
        """The inner planner's: how much every site gets is still its decision."""
        return self.inner.kind

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``. A transport problem takes milliseconds, so that a deadline changes nothing.

        Raises:
            InfeasibleError: as the inner planner.
            MarlinError: highspy is not installed.
        """
        decision = self.inner.decide(state, now=now, deadline_s=deadline_s)
        plan = with_rows(decision.plan, state)
        if plan is decision.plan:
            return decision
        return replace(decision, plan=plan, expect=lambda: estimate(arrays_from(state), plan))


@dataclass(frozen=True, slots=True)
class OriginAwarePlain(OriginAware):
    """The same of a planner that looks at nothing but the state: many of them can share the work of looking."""

    inner: Plain

    def plan_on(self, ground: Ground, now: datetime | None = None) -> RoutingPlan:
        """See ``Plain``."""
        return with_rows(self.inner.plan_on(ground, now), ground.state)


def origin_aware(planner: Planner, dispatch: Dispatch) -> Planner:
    """The planner, with origins.

    Raises:
        InputError: it fills sites in turn.
        MarlinError: highspy is not installed.
    """
    if dispatch is not Dispatch.SHARES:
        raise InputError("origin-aware needs dispatch shares: filled in turn, the order decides request by request")
    return _aware(planner)


def as_evaluated(planner: Planner, dispatch: Dispatch) -> Planner:
    """The planner as ``marlin evaluate`` has it play: with origins, where its dispatch has room for them.

    ``nearest`` writes rows by itself, and what they are worth is no merit of how it divides requests. So all are given
    them, whoever is compared.

    Raises:
        MarlinError: highspy is not installed.
    """
    if dispatch is not Dispatch.SHARES:
        return planner
    return _aware(planner)


def _aware(planner: Planner) -> Planner:
    """With rows; whoever tries plans beforehand is told, so that plans are compared as they will be carried out.

    The solver is loaded here: whoever lacks it hears so before there is anything to decide, and no decision waits for
    it.
    """
    quiet_solver()
    if isinstance(planner, InOrder | Baseline):
        return OriginAwarePlain(planner)
    if isinstance(planner, Oracle):
        planner = replace(planner, origin_aware=True)
    if planner.kind is PlannerKind.MARLIN:
        from marlin.policy.agents.planner import Marlin  # noqa: PLC0415 a sort needs no networks

        if isinstance(planner, Marlin):
            planner = replace(planner, settings=replace(planner.settings, origin_aware=True))
    return OriginAware(planner)


def with_rows(plan: RoutingPlan, state: FleetState) -> RoutingPlan:
    """The plan with rows of origins at the least network time for its shares; itself, where it has no use for them.

    Args:
        plan: whose pools have rows already, are filled in turn, or get rows.
        state: its fleet; pools that are not in it stay as they are.

    Raises:
        MarlinError: highspy is not installed.
    """
    if plan.origins not in {(), state.origins} or len(state.origins) > MAX_ORIGINS:
        return plan
    expected = {pool.name: pool.forecast_requests for pool in state.pools}
    pools = tuple(
        pool.model_copy(update={"by_origin": _rows(pool.weights, expected[pool.name], state.rtt_ms)})
        if pool.dispatch is Dispatch.SHARES and not pool.by_origin and pool.name in expected
        else pool
        for pool in plan.pools
    )
    if pools == plan.pools:
        return plan
    return plan.model_copy(update={"pools": pools, "origins": state.origins, "hash": None}).sealed()


@lru_cache(maxsize=256)
def _rows(
    weights: tuple[int, ...], volume: tuple[float, ...], rtt_ms: tuple[tuple[float, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """``nearest_rows`` as a plan has them."""
    rows = nearest_rows(np.array(weights, dtype=np.float64), np.array(volume), np.array(rtt_ms))
    return tuple(largest_remainder(row.tolist()) for row in rows)


def nearest_rows(
    shares: FloatArray,  # (D,) not negative, not all zero
    volume: FloatArray,  # (R,) requests, not negative
    rtt_ms: FloatArray,  # (R, D)
) -> FloatArray:
    """Rows (R, D) on the simplex whose volume-weighted mean is ``shares`` and whose mean round trip is least.

    An origin without requests, or with fewer than a millionth of all (which a solver cannot tell from none), follows
    the shares: nothing is known of where it should go, and whatever comes from it after all must not all meet at one
    site.

    Raises:
        MarlinError: highspy is not installed.
    """
    wanted = shares / shares.sum()
    rows = np.tile(wanted, (len(volume), 1))
    known = np.flatnonzero(volume > _LEAST_PART * volume.sum())
    used = np.flatnonzero(wanted > 0)
    if len(known) == 0 or len(used) == 1:
        return rows
    flow = least_cost_flow(rtt_ms[np.ix_(known, used)], volume[known] / volume[known].sum(), wanted[used])
    rows[known] = 0.0
    rows[np.ix_(known, used)] = flow / flow.sum(axis=1, keepdims=True)
    return rows

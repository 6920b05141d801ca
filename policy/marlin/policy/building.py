"""From what a planner wants to a valid plan.

A planner thinks in real-valued shares over (pool, datacenter); routers read integers out of 10,000. Everything that
makes a plan valid happens here, once for all planners: masked sites get exactly zero, rows add up, an order names each
allowed site once, the content is sealed with its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.errors import MarlinError
from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, Scheme, largest_remainder
from marlin.api.values import MAX_ORIGINS, SHARE_SCALE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marlin.api.state import FleetState


class InfeasibleError(MarlinError):
    """A pool has no site that may serve it; no plan can change that."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a planner wants, before it becomes a plan."""

    shares: NDArray[np.float64]  # (V, D) non-negative; rows need not add up to one
    order: tuple[tuple[int, ...], ...]  # V tuples of positions, first to be filled first
    by_origin: NDArray[np.float64] | None = None  # (V, R, D) or None
    cap: NDArray[np.float64] | None = None  # (V, D) part of live capacity to fill a site to, in turn; None is the limit


def allowed_sites(state: FleetState, capacity_rps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which site may serve which pool: up, not excluded by residency, and with capacity for it. Shape (V, D).

    Raises:
        InfeasibleError: a pool has none.
    """
    up = np.array([site.is_available for site in state.datacenters])  # (D,)
    resident = np.array([pool.allowed or (True,) * len(up) for pool in state.pools])  # (V, D)
    allowed: NDArray[np.bool_] = up & resident & (capacity_rps > 0)
    for pool, row in zip(state.pools, allowed, strict=True):
        if not row.any():
            raise InfeasibleError(
                f"pool {pool.name}: no datacenter may serve it: none is up, allowed and has replicas of its model"
            )
    return allowed


def epoch_bounds(state: FleetState) -> tuple[datetime, datetime]:
    """When the state's epoch starts and ends."""
    return state.start_time, state.start_time + timedelta(seconds=state.epoch_s)


def build_plan(  # noqa: PLR0913 all of a plan, by name
    state: FleetState,
    proposal: Proposal,
    allowed: NDArray[np.bool_],  # (V, D)
    *,
    kind: PlannerKind,
    scheme: Scheme,
    dispatch: Dispatch,
    now: datetime | None,
    explanation: str,
    awake: NDArray[np.float64] | None = None,  # (V, D) replicas, where pools can power down
    artifact_sha256: str | None = None,
) -> RoutingPlan:
    """The sealed plan of a proposal."""
    valid_from, valid_until = epoch_bounds(state)
    by_origin = proposal.by_origin if len(state.origins) <= MAX_ORIGINS else None
    pools = []
    for v, pool in enumerate(state.pools):
        mask = allowed[v]
        order = tuple(d for d in proposal.order[v] if mask[d])
        order += tuple(int(d) for d in np.flatnonzero(mask) if d not in order)
        pools.append(
            PoolPlan(
                name=pool.name,
                dispatch=dispatch,
                weights=_row(proposal.shares[v], mask),
                order=order if dispatch is Dispatch.ORDERED else (),
                cap=_caps(mask, state, proposal, v) if dispatch is Dispatch.ORDERED else (),
                replicas=() if awake is None else tuple(int(count) for count in awake[v]),
                by_origin=() if by_origin is None else tuple(_row(row, mask) for row in by_origin[v]),
            )
        )
    return RoutingPlan(
        epoch=state.epoch,
        decided_time=now or valid_from,
        valid_from=valid_from,
        valid_until=valid_until,
        planner=kind,
        scheme=scheme,
        artifact_sha256=artifact_sha256,
        datacenters=tuple(site.name for site in state.datacenters),
        origins=() if by_origin is None else state.origins,
        pools=tuple(pools),
        explanation=explanation,
    ).sealed()


def _row(shares: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[int, ...]:
    masked = np.where(mask, shares, 0.0)
    return largest_remainder((masked if masked.sum() > 0 else mask.astype(np.float64)).tolist())


def _caps(mask: NDArray[np.bool_], state: FleetState, proposal: Proposal, v: int) -> tuple[int, ...]:
    wanted = np.full(len(mask), 1.0) if proposal.cap is None else proposal.cap[v]
    # Not rounded up: nothing may be filled beyond the limit.
    caps = (np.clip(wanted, 0.0, state.max_utilization) * SHARE_SCALE + 1e-9).astype(np.int64)
    return tuple(int(cap) if allowed else 0 for cap, allowed in zip(caps, mask, strict=True))


def fill_in_order(
    order: Sequence[int],
    demand_rps: float,
    capacity_rps: NDArray[np.float64],  # (D,)
    cap: float,
) -> NDArray[np.float64]:
    """Shares (D,) when sites are filled in turn up to ``cap`` of their capacity.

    What exceeds them all is spread by capacity: nothing may be dropped in a plan.
    """
    shares = np.zeros_like(capacity_rps)
    rest = max(demand_rps, 1e-12)
    for d in order:
        shares[d] = min(rest, cap * capacity_rps[d])
        rest -= shares[d]
        if rest <= 0:
            return shares
    if (total := capacity_rps[list(order)].sum()) > 0:
        shares[list(order)] += rest * capacity_rps[list(order)] / total
    return shares

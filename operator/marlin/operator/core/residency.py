"""Residency: whose requests may be served where.

A rule without origins holds for a pool wherever its requests come from; it is in the fleet's state (``pool.allowed``),
so that planners see it. A rule that names origins holds for those alone: their routers' tables say so, and the plan's
rows are settled within it afterwards, because what planners decide is how much every site gets of all origins together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PoolPlan, RoutingPlan, largest_remainder
from marlin.api.policy import MarlinPolicy, ResidencyRule
from marlin.api.state import FleetState, PoolState
from marlin.api.values import MAX_ORIGINS, SHARE_SCALE


def rules_for(policy: MarlinPolicy, pool: str) -> tuple[ResidencyRule, ...]:
    """The rules that hold for a pool, wherever its requests come from."""
    return tuple(rule for rule in policy.spec.residency if not rule.pools or pool in rule.pools)


def allowed_regions(
    policy: MarlinPolicy, pool: str, regions: Iterable[str], origin: str | None = None
) -> tuple[str, ...] | None:
    """The regions that may serve a pool's requests; None: no rule holds, and all may.

    Args:
        policy: whose rules hold.
        pool: the pool.
        regions: where there are sites.
        origin: of the requests; None: not known, so that only rules for all origins hold.

    Raises:
        InputError: none is left, which an empty tuple would not say: to a router it allows all.
    """
    rules = [rule for rule in rules_for(policy, pool) if not rule.origins or origin in rule.origins]
    if not rules:
        return None
    left = tuple(region for region in sorted(set(regions)) if all(region in rule.allowed_regions for rule in rules))
    if not left:
        names = ", ".join(rule.name for rule in rules[:5])
        whose = "" if origin is None else f" from origin {origin}"
        raise InputError(f"residency {names} leaves no datacenter for pool {pool}{whose}")
    return left


def within_residency(plan: RoutingPlan, state: FleetState, policy: MarlinPolicy) -> RoutingPlan:
    """The plan with rows for each origin of the pools that a rule for single origins holds for.

    An origin's row keeps the proportions that the plan gives the sites it may use, and the pool's weights become the
    mean of the rows, by expected requests. An order of sites cannot say whose requests fill them: such a pool is
    carried out as fixed shares. A pool that no such rule holds for stays as it is.

    Args:
        plan: of some of the state's pools.
        state: its fleet.
        policy: whose rules hold.

    Raises:
        InputError: an origin's requests may go nowhere.
    """
    if not any(rule.origins for rule in policy.spec.residency) or not 0 < len(state.origins) <= MAX_ORIGINS:
        return plan
    by_name = {pool.name: pool for pool in state.pools}
    if plan.datacenters != tuple(site.name for site in state.datacenters):
        return plan
    rows = tuple(
        _settled(row, by_name[row.name], plan, state, policy) if row.name in by_name else row for row in plan.pools
    )
    if rows == plan.pools:
        return plan
    return plan.model_copy(update={"pools": rows, "origins": state.origins, "hash": None}).sealed()


def _settled(row: PoolPlan, pool: PoolState, plan: RoutingPlan, state: FleetState, policy: MarlinPolicy) -> PoolPlan:
    if not any(origin in rule.origins for rule in rules_for(policy, pool.name) for origin in state.origins):
        return row
    regions = [site.region for site in state.datacenters]
    usable = _usable(pool, state)  # (D,)
    rows: list[tuple[int, ...]] = []
    for origin in state.origins:
        left = allowed_regions(policy, pool.name, regions, origin)
        mask = usable & np.array([left is None or region in left for region in regions])
        wanted = row.by_origin[plan.origins.index(origin)] if row.by_origin else row.weights
        rows.append(_row(wanted, mask, f"pool {pool.name} from origin {origin}"))
    volume = np.array(pool.forecast_requests, dtype=np.float64)  # (R,)
    parts = volume / volume.sum() if volume.sum() > 0 else np.full(len(volume), 1 / len(volume))
    weights = largest_remainder((parts @ np.array(rows, dtype=np.float64)).tolist())
    shares = {"dispatch": Dispatch.SHARES, "order": (), "cap": ()}
    return row.model_copy(update=shares | {"weights": weights, "by_origin": tuple(rows)})


def _usable(pool: PoolState, state: FleetState) -> NDArray[np.bool_]:
    """(D,) sites that are up, allowed for all origins, and have replicas."""
    here = {deployment.datacenter for deployment in pool.deployments if deployment.replicas}
    allowed = pool.allowed or (True,) * len(state.datacenters)
    sites = zip(state.datacenters, allowed, strict=True)
    return np.array([site.is_available and may and site.name in here for site, may in sites], dtype=np.bool_)


def _row(wanted: Sequence[int], mask: NDArray[np.bool_], what: str) -> tuple[int, ...]:
    """Weights (D,) that add up to ``SHARE_SCALE``, on the mask's sites alone."""
    kept = np.where(mask, np.array(wanted, dtype=np.float64), 0.0)
    if kept.sum() <= 0:
        if not mask.any():
            raise InputError(f"residency leaves {what} no datacenter that is up and has replicas")
        kept = mask.astype(np.float64)  # the plan gives its sites nothing: nothing says more than evenly
    row = largest_remainder((kept / kept.sum()).tolist())
    assert sum(row) == SHARE_SCALE
    return row

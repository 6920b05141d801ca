"""Residency: whose requests may be served where.

A rule without origins holds for a pool wherever its requests come from; it is in the fleet's state (``pool.allowed``),
so that planners see it. A rule that names origins holds for those alone: their routers' tables say so, and the plan's
rows are settled within it afterwards, because what planners decide is how much every site gets of all origins together.
``settled`` does that with a planner's decision: what goes by the user's objective is searched for within the rule, and
what both the plan and its baseline are expected to come to is said with the rule kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES, Metrics
from marlin.api.plan import Dispatch, RoutingPlan, largest_remainder
from marlin.api.policy import MarlinPolicy, ResidencyRule
from marlin.api.state import FleetState
from marlin.api.values import SHARE_SCALE
from marlin.policy.bound_rows import Fleet, improved
from marlin.policy.deciding import upper_requests
from marlin.policy.objective import Weights, relative_score
from marlin.policy.planner import Decision
from marlin.simulator.fluid import capacity_rps, estimate
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from

_EVENLY: Final[Weights] = (0.25, 0.25, 0.25, 0.25)
"""What is looked at where nothing is searched for."""


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
    masks = _masks(state, policy)
    if not any(mask is not None for mask in masks) or plan.datacenters != _names(state):
        return plan
    return _with_rows(plan, state, _kept(plan, state, masks), masks)


def settled(decision: Decision, state: FleetState, policy: MarlinPolicy, weights: Weights | None) -> Decision:
    """A planner's decision about all of the state's pools, within rules for single origins.

    Args:
        decision: what the planner wants.
        state: its fleet.
        policy: whose rules hold.
        weights: the user's, by which rows are searched for from the planner's on; None: its planner goes by none, and
            its proportions are kept.

    Raises:
        InputError: an origin's requests may go nowhere.
    """
    masks = _masks(state, policy)
    if not any(mask is not None for mask in masks):
        return decision
    twin = arrays_from(state)
    capacity = capacity_rps(twin)  # (V, D)
    bound = np.array([mask is not None for mask in masks])  # (V,)
    everywhere = _usable(state)  # (V, D)
    may = np.array(
        [
            np.broadcast_to(everywhere[v], (len(state.origins), len(state.datacenters))) if mask is None else mask
            for v, mask in enumerate(masks)
        ]
    )  # (V, R, D)
    by_capacity = may * capacity[:, None, :]
    by_capacity /= np.maximum(by_capacity.sum(axis=2, keepdims=True), 1e-12)
    fleet = Fleet(twin, upper_requests(state), weights or _EVENLY, np.ones(4))
    reference = fleet.metrics(by_capacity[None])[0]
    baseline = Metrics(**dict(zip(METRIC_NAMES, map(float, reference), strict=True)))
    fleet = replace(fleet, reference=reference)
    rows = _kept(decision.plan, state, masks)
    note = ""
    if weights is not None:
        starts = np.array([rows, np.where(bound[:, None, None], by_capacity, rows)])
        rows = improved(fleet, starts[int(fleet.values(starts).argmin())], may, bound)
    plan = _with_rows(decision.plan, state, rows, masks, fleet.awake(fleet.totals(rows)))
    expect = partial(estimate, twin, plan)
    if weights is not None:
        free, kept = (
            float(relative_score(np.array(metrics.as_tuple()), reference, weights))
            for metrics in (decision.estimate, expect())
        )
        note = f"; residency by origin: objective {kept / free - 1.0:+.1%}"
    plan = plan.model_copy(update={"explanation": plan.explanation[: 512 - len(note)] + note, "hash": None}).sealed()
    return replace(decision, plan=plan, expect=expect, expect_of_baseline=lambda: baseline)


def _masks(state: FleetState, policy: MarlinPolicy) -> list[NDArray[np.bool_] | None]:
    """V masks (R, D) of the sites that each origin's requests may use; None where no rule names one of the origins.

    Raises:
        InputError: an origin's requests may go nowhere.
    """
    regions = [site.region for site in state.datacenters]
    masks: list[NDArray[np.bool_] | None] = []
    for pool, usable in zip(state.pools, _usable(state), strict=True):
        if not any(origin in rule.origins for rule in rules_for(policy, pool.name) for origin in state.origins):
            masks.append(None)
            continue
        rows = []
        for origin in state.origins:
            left = allowed_regions(policy, pool.name, regions, origin)
            row = usable & np.array([left is None or region in left for region in regions])
            if not row.any():
                raise InputError(
                    f"residency leaves pool {pool.name} from origin {origin} no datacenter that is up and has replicas"
                )
            rows.append(row)
        masks.append(np.array(rows))
    return masks


def _names(state: FleetState) -> tuple[str, ...]:
    return tuple(site.name for site in state.datacenters)


def _usable(state: FleetState) -> NDArray[np.bool_]:
    """(V, D) sites that are up, allowed for all origins, and have replicas."""
    rows = []
    for pool in state.pools:
        here = {deployment.datacenter for deployment in pool.deployments if deployment.replicas}
        allowed = pool.allowed or (True,) * len(state.datacenters)
        sites = zip(state.datacenters, allowed, strict=True)
        rows.append([site.is_available and may and site.name in here for site, may in sites])
    return np.array(rows, dtype=np.bool_)


def _kept(plan: RoutingPlan, state: FleetState, masks: Sequence[NDArray[np.bool_] | None]) -> FloatArray:
    """(V, R, D) rows that keep a plan's proportions on the masks' sites; by replicas where it gives them nothing.

    A pool that is not in the plan has rows of zeros.
    """
    shape = (len(state.origins), len(state.datacenters))
    rows = np.zeros((len(state.pools), *shape))
    for v, (pool, mask) in enumerate(zip(state.pools, masks, strict=True)):
        stated = plan.pool(pool.name)
        if stated is None:
            continue
        wanted = np.broadcast_to(np.array(stated.by_origin or stated.weights, dtype=np.float64), shape)
        if stated.by_origin and plan.origins != state.origins:
            wanted = np.array([stated.by_origin[plan.origins.index(origin)] for origin in state.origins])
        kept = wanted if mask is None else np.where(mask, wanted, 0.0)
        if mask is not None:
            here = np.array([sum(d.replicas for d in pool.deployments if d.datacenter == n) for n in _names(state)])
            kept = np.where(kept.sum(axis=1, keepdims=True) > 0, kept, mask * here)
        rows[v] = kept / kept.sum(axis=1, keepdims=True)
    return rows


def _with_rows(
    plan: RoutingPlan,
    state: FleetState,
    rows: FloatArray,  # (V, R, D)
    masks: Sequence[NDArray[np.bool_] | None],
    awake: FloatArray | None = None,  # (V, D); None: what the plan keeps awake stays so
) -> RoutingPlan:
    """The plan with these rows for the pools that have a mask."""
    pools = []
    at = {pool.name: v for v, pool in enumerate(state.pools)}
    for pool in plan.pools:
        v = at.get(pool.name)
        if v is None or masks[v] is None:
            pools.append(pool)
            continue
        by_origin = tuple(largest_remainder(row.tolist()) for row in rows[v])
        volume = np.array(state.pools[v].forecast_requests, dtype=np.float64)  # (R,)
        parts = volume / volume.sum() if volume.sum() > 0 else np.full(len(volume), 1 / len(volume))
        weights = largest_remainder((parts @ np.array(by_origin, dtype=np.float64)).tolist())
        assert all(sum(row) == SHARE_SCALE for row in by_origin)
        replicas = pool.replicas
        if replicas and awake is not None:
            replicas = tuple(int(count) for count in awake[v])
        changes = {"dispatch": Dispatch.SHARES, "order": (), "cap": (), "replicas": replicas}
        pools.append(pool.model_copy(update=changes | {"weights": weights, "by_origin": by_origin}))
    if tuple(pools) == plan.pools:
        return plan
    return plan.model_copy(update={"pools": tuple(pools), "origins": state.origins, "hash": None}).sealed()

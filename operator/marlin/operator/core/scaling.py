"""Prewarming (paper, section 5.1): replicas that a plan wants awake, as orders to the workloads behind backends. Pure.

A plan names replicas for each site where the pool can power down: enough for the upper quantile of the forecast. They
are divided over the site's backends by capacity and kept within the bounds of ``scaling``. What sleeps has to be awake
before the plan takes effect, so growing is due at once; shrinking waits until the plan is in force, and is never below
what the requests in flight need. Where nobody knows what is in flight nothing shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from marlin.api.plan import RoutingPlan, largest_remainder
from marlin.api.pool import InferencePool, ScaleTargetRef, ScalingMode
from marlin.api.table import RoutingTable


@dataclass(frozen=True, slots=True)
class ScaleOrder:
    """How many replicas a workload is to have."""

    target: ScaleTargetRef
    replicas: int
    shrink_from: datetime | None
    """When it may become smaller; None: not, because what is in flight is not known."""


def wanted_replicas(pool: InferencePool, plan: RoutingPlan) -> dict[str, int]:
    """Backend to the replicas that the plan wants of it; empty where scaling is off or the plan names none.

    Backends without a stated capacity are left out: theirs is what is ready, which follows what we would ask for.
    """
    scaling = pool.spec.scaling
    if scaling.mode is ScalingMode.OFF:
        return {}
    row = plan.pool(pool.metadata.name)
    if row is None or not row.replicas:
        return {}
    found: dict[str, int] = {}
    for site, replicas in zip(plan.datacenters, row.replicas, strict=True):
        here = {
            b.name: b.capacity.replicas
            for b in pool.spec.backends
            if b.datacenter_name == site and b.capacity is not None and b.capacity.replicas > 0
        }
        if here:
            parts = largest_remainder(list(here.values()), replicas)
            found |= dict(zip(here, parts, strict=True))
    return {name: min(max(n, scaling.min_replicas), scaling.max_replicas) for name, n in found.items()}


def replicas_in_use(
    pool: InferencePool, table: RoutingTable | None, in_flight: Mapping[str, float], routers: int
) -> dict[str, int] | None:
    """Backend to the replicas that its requests in flight fill; None where the table does not say how many one takes.

    Args:
        pool: the pool.
        table: a published table of its policy.
        in_flight: site to the pool's requests there now.
        routers: origins that share the concurrency a table states.
    """
    rows = {} if table is None else {row.name: row for row in table.pools}
    if pool.metadata.name not in rows:
        return None
    stated = {b.name: b for b in rows[pool.metadata.name].backends}
    capacity = {b.name: b.capacity.replicas for b in pool.spec.backends if b.capacity is not None}
    found = {}
    for backend in pool.spec.backends:
        entry, replicas = stated.get(backend.name), capacity.get(backend.name, 0)
        if entry is None or entry.concurrency_at_capacity is None or not replicas:
            continue
        here = sum(capacity.get(b.name, 0) for b in pool.spec.backends if b.datacenter_name == backend.datacenter_name)
        mine = in_flight.get(backend.datacenter_name, 0.0) * replicas / here
        found[backend.name] = math.ceil(mine / (entry.concurrency_at_capacity * max(1, routers) / replicas))
    return found


def scale_orders(pool: InferencePool, plan: RoutingPlan, in_use: Mapping[str, int] | None) -> dict[str, ScaleOrder]:
    """Backend to its order, where ``scaling.mode`` is Scale and the backend names a workload.

    Args:
        pool: the pool.
        plan: the plan that is enforced.
        in_use: backend to the replicas that requests in flight fill; None: not known.
    """
    if pool.spec.scaling.mode is not ScalingMode.SCALE:
        return {}
    wanted = wanted_replicas(pool, plan)
    targets = {b.name: b.scale_target_ref for b in pool.spec.backends if b.scale_target_ref is not None}
    most = pool.spec.scaling.max_replicas
    return {
        name: ScaleOrder(
            target,
            min(most, max(wanted[name], 0 if in_use is None else in_use.get(name, 0))),
            None if in_use is None or name not in in_use else plan.valid_from,
        )
        for name, target in targets.items()
        if name in wanted
    }

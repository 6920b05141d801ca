"""How far a plan may move away from the one before it.

A row of weights may move by at most ``maxWeightChangePercent`` of a pool's requests in one epoch: half the L1 distance
between the two rows. Leaving a site that may not be used any more is exempt, because keeping requests there would be
worse than any jump: what it had is handed to the others first, in proportion, and the change is measured from there.

An order cannot be half changed: a router that fills sites in turn would jump at once. So a row that is held back is
carried out as fixed shares for that epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from marlin.api.plan import Dispatch, PoolPlan, RoutingPlan, largest_remainder
from marlin.api.values import SHARE_SCALE


def within_change(
    plan: RoutingPlan,
    before: RoutingPlan | None,
    max_change_percent: int,
    usable: Mapping[str, Set[str]],
) -> tuple[RoutingPlan, tuple[str, ...]]:
    """The plan, held back where it moves too far.

    Args:
        plan: what the planner wants.
        before: the plan in force; None when there is none, and nothing to hold on to.
        max_change_percent: most of a pool's requests that may move.
        usable: pool to the sites that may serve it; leaving any other is exempt.

    Returns:
        The plan, sealed, and the names of the pools that were held back.
    """
    if before is None or max_change_percent >= 100:
        return plan, ()
    pools: list[PoolPlan] = []
    held: list[str] = []
    for pool in plan.pools:
        earlier = before.pool(pool.name)
        start = None
        if earlier is not None:
            by_name = dict(zip(before.datacenters, earlier.weights, strict=True))
            start = _handed_over(plan.datacenters, by_name, usable[pool.name])
        row = None if start is None else _held_back(pool, start, max_change_percent / 100)
        pools.append(row or pool)
        if row is not None:
            held.append(pool.name)
    if not held:
        return plan, ()
    changed = plan.model_copy(update={"pools": tuple(pools), "hash": None})
    return changed.sealed(), tuple(held)


def change(before: Sequence[float], after: Sequence[float]) -> float:
    """Half the L1 distance of two rows: the part of the requests that moves, when both add up to 1."""
    return sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2


def _held_back(wanted: PoolPlan, start: tuple[float, ...], most: float) -> PoolPlan | None:
    """The row between ``start`` and the wanted one; None when the wanted one is near enough."""
    goal = tuple(weight / SHARE_SCALE for weight in wanted.weights)
    distance = change(start, goal)
    if distance <= most:
        return None
    part = most / distance
    weights = largest_remainder([a + part * (b - a) for a, b in zip(start, goal, strict=True)])
    return wanted.model_copy(
        update={"dispatch": Dispatch.SHARES, "weights": weights, "order": (), "cap": (), "by_origin": ()}
    )


def _handed_over(names: tuple[str, ...], earlier: Mapping[str, int], usable: Set[str]) -> tuple[float, ...] | None:
    """The earlier row (D,) with what lay on unusable sites spread over the others; None when nothing is left."""
    kept = tuple(float(earlier.get(name, 0)) if name in usable else 0.0 for name in names)
    total = sum(kept)
    return tuple(share / total for share in kept) if total > 0 else None

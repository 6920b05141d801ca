"""A sort of sites with replicas awake for one of the demands that may come, and the best of many plans model by model.

A sort that keeps replicas awake in proportion to what each site is expected to get keeps them where a surge finds
everything full already, and lets those sleep that come next in the order. Here a demand is chosen, sites are filled
with it in turn, and what it needs there is awake, whatever comes. Which demand, and how full, is tried on all of them.

What a model costs depends on no other model, so that each takes the plan that is best for it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.api.plan import Dispatch
from marlin.policy.agents.situation import Situation
from marlin.policy.building import fill_in_order
from marlin.simulator.fluid import Plans, awake_for
from marlin.simulator.physics import FloatArray

IntArray = NDArray[np.int64]

_LOADS: Final = (0.95, 0.85, 0.75)
"""Loads of what is awake when the demand comes that it is awake for."""


def awake_in_turn(situation: Situation, orders: Sequence[Sequence[int]]) -> Plans:
    """A plan for each demand that may come and each load of what is awake then.

    Args:
        situation: where; its replicas can power down.
        orders: V of them, positions of sites.
    """
    twin, allowed, capacity = situation.twin, situation.allowed, situation.twin.capacity_rps
    demand_rps = (situation.demands.requests + twin.backlog_requests.sum(axis=1)) / twin.epoch_s  # (S, V)
    loads = [min(load, twin.max_utilization) for load in _LOADS]
    rate = np.zeros((len(loads) * len(demand_rps), *capacity.shape))
    for n, (load, demands) in enumerate(product(loads, demand_rps)):
        for v, row in enumerate(orders):
            rate[n, v] = fill_in_order(row, float(demands[v]), capacity[v], load)
    awake = awake_for(twin, rate / np.repeat(loads, len(demand_rps))[:, None, None], 1.0)
    # A model of which nothing comes has a row all the same.
    shares = np.where(rate.sum(axis=2, keepdims=True) > 0, rate, capacity * allowed)
    shares /= shares.sum(axis=2, keepdims=True)
    if situation.dispatch is Dispatch.SHARES:
        return Plans(shares=shares, awake=awake)
    return Plans(
        shares=shares,
        order=np.repeat(rows_of(orders, capacity.shape[1])[None], len(shares), axis=0),
        cap=np.full(shares.shape, twin.max_utilization),
        awake=awake,
    )


def rows_of(orders: Sequence[Sequence[int]], sites: int) -> IntArray:
    """Orders as an array (V, D), -1 where no site is left."""
    order = np.full((len(orders), sites), -1, dtype=np.int64)
    for v, row in enumerate(orders):
        order[v, : len(row)] = row
    return order


def models_apart(situation: Situation, plans: Plans) -> Plans:
    """The best of some plans, and each model's own best put together."""
    own = situation.values_by_model(plans)  # (N, V)
    best, of_each = int(own.sum(axis=1).argmin()), own.argmin(axis=0)
    if len(of_each) == 1:
        return plans.take([best])
    return _picked(plans, np.stack([np.full_like(of_each, best), of_each]))


def _picked(plans: Plans, rows: IntArray) -> Plans:
    """Plans whose models are each of the plan that ``rows`` (N, V) says."""
    models = np.arange(rows.shape[1])

    def of(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else values[rows, models]

    return replace(
        plans,
        shares=plans.shares[rows, models],
        order=None if plans.order is None else plans.order[rows, models],
        cap=of(plans.cap),
        awake=of(plans.awake),
    )

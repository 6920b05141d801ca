"""Capacity-proportional routing, the measure of every reward: each site gets requests in proportion to its capacity.

It lives here as arrays, because rewards need it for thousands of drawn days; ``policy.baselines`` has it as a planner
for people, and a test holds the two together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.constants import constant
from marlin.simulator.environments.lanes import Fleets, groups
from marlin.simulator.fluid import Plans, awake_for
from marlin.simulator.physics import FloatArray


def proportional_plans(
    fleets: Fleets,
    index: NDArray[np.int64],  # (B,)
    allowed: NDArray[np.bool_],  # (B, V, D) as known when the plan is made
    high: FloatArray,  # (B, V) upper forecast, requests
) -> Plans:
    """B plans. Where a pool can power down, the usual part of its replicas stays awake for the upper forecast."""
    shares = by_capacity(fleets.capacity_rps[index], allowed)
    return Plans(shares=shares, awake=awake_replicas(fleets, index, expected_rps(fleets, index, shares, high)))


def by_capacity(capacity_rps: FloatArray, allowed: NDArray[np.bool_]) -> FloatArray:
    """Shares (..., V, D) in proportion to capacity; a model that no site may serve goes by capacity all the same.

    An engine needs a row that is not empty; nothing will be served by a closed site.
    """
    open_rps = capacity_rps * allowed
    closed = ~(open_rps.sum(axis=-1, keepdims=True) > 0)
    rps = np.where(closed, np.maximum(capacity_rps, 1e-12), open_rps)
    return np.asarray(rps / rps.sum(axis=-1, keepdims=True))


def expected_rps(fleets: Fleets, index: NDArray[np.int64], shares: FloatArray, requests: FloatArray) -> FloatArray:
    """Requests per second at each site (B, V, D) when ``requests`` (B, V) come in the epoch."""
    return np.asarray(shares * (requests / fleets.epoch_s[index][:, None])[:, :, None])


def awake_replicas(
    fleets: Fleets,
    index: NDArray[np.int64],
    rate_rps: FloatArray,  # (B, V, D)
) -> FloatArray | None:
    """Replicas to keep awake (B, V, D) for a rate at the usual load; None where no pool can power down."""
    if not fleets.can_power_down:
        return None
    awake = np.empty_like(rate_rps)
    for i, rows in groups(index):
        awake[rows] = awake_for(fleets.twins[i], rate_rps[rows], constant("awake_utilization"))
    return awake

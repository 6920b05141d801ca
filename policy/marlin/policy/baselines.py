"""The planners everybody knows, made as well as they can be: what MARLIN is measured against.

Each is a pure function from the fleet to a ``Proposal``; ``planners`` wraps them. They look at no carbon, water or
price. Left weak they would flatter everything else, so all of them get the router's spill-over, the utilisation cap
and the same forecast as every other planner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marlin.policy.building import Proposal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marlin.api.state import FleetState


def capacity_proportional(
    state: FleetState,
    capacity_rps: NDArray[np.float64],  # (V, D)
    allowed: NDArray[np.bool_],  # (V, D)
) -> Proposal:
    """Every site gets requests in proportion to what it can carry."""
    shares = np.where(allowed, capacity_rps, 0.0)
    return Proposal(shares, _by_descending(shares))


def nearest(state: FleetState, capacity_rps: NDArray[np.float64], allowed: NDArray[np.bool_]) -> Proposal:
    """Every origin's requests go to the site with the shortest round trip; what does not fit spills at the router.

    A router without an origin uses the volume-weighted mean of the origins' rows.
    """
    rtt_ms = np.asarray(state.rtt_ms)  # (R, D)
    volume = np.array([pool.forecast_requests for pool in state.pools])  # (V, R)
    volume = np.where(volume.sum(axis=1, keepdims=True) > 0, volume, 1.0)
    by_origin = np.zeros((len(state.pools), *rtt_ms.shape))  # (V, R, D)
    mean_rtt_ms = np.zeros_like(capacity_rps)  # (V, D)
    for v in range(len(state.pools)):
        masked_ms = np.where(allowed[v], rtt_ms, np.inf)
        by_origin[v, np.arange(len(rtt_ms)), masked_ms.argmin(axis=1)] = 1.0
        mean_rtt_ms[v] = volume[v] @ rtt_ms / volume[v].sum()
    shares = np.einsum("vr,vrd->vd", volume, by_origin)
    return Proposal(shares, _by_descending(-mean_rtt_ms), by_origin)


def least_loaded(state: FleetState, capacity_rps: NDArray[np.float64], allowed: NDArray[np.bool_]) -> Proposal:
    """Requests go where capacity is free after the requests that already wait or run there."""
    busy_rps = np.array([_occupied(pool.backlog_requests, pool.in_flight_requests, state) for pool in state.pools])
    free_rps = np.where(allowed, np.maximum(capacity_rps - busy_rps / state.epoch_s, 0.0), 0.0)
    load = np.where(capacity_rps > 0, busy_rps / np.maximum(capacity_rps, 1e-12), np.inf)
    return Proposal(free_rps, _by_descending(np.where(load > 0, -load, capacity_rps)))


def round_robin(state: FleetState, capacity_rps: NDArray[np.float64], allowed: NDArray[np.bool_]) -> Proposal:
    """Every site gets the same number of requests."""
    shares = allowed.astype(np.float64)
    return Proposal(shares, tuple(tuple(range(shares.shape[1])) for _ in shares))


def _occupied(backlog: tuple[float, ...], in_flight: tuple[float, ...], state: FleetState) -> NDArray[np.float64]:
    nothing = (0.0,) * len(state.datacenters)
    occupied: NDArray[np.float64] = np.asarray(backlog or nothing) + np.asarray(in_flight or nothing)
    return occupied


def _by_descending(values: NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
    """For each row the positions by falling value; equal values keep the order of the datacenters."""
    return tuple(tuple(int(d) for d in np.argsort(-row, kind="stable")) for row in values)

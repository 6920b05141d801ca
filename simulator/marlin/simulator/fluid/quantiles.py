"""Quantiles of the time to first token, on request: the tail that the means of the fluid engine do not show.

Each deployment's distribution at its utilisation (``tail``), moved by each origin's round trip, is mixed in the
proportion in which the requests are served. Requests that waited before all sites wait between nothing and twice their
mean wait, evenly (the queue of an epoch grows or shrinks in a line); those who left count at the limit of their
patience.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from marlin.simulator.constants import Balancer
from marlin.simulator.fluid.coefficients import TINY
from marlin.simulator.fluid.outcome import FluidResult
from marlin.simulator.load_curves import KNOTS, TokenSizes
from marlin.simulator.machines import arrival_scv
from marlin.simulator.physics import FloatArray
from marlin.simulator.replica import ReplicaModel
from marlin.simulator.tail import TIMES_S, exceedance, interpolate
from marlin.simulator.twin_state import TwinState

PERCENTILES = (0.5, 0.95, 0.99)

_WAITS = (np.arange(8) + 0.5) / 8.0
"""Points at which a wait spread evenly is taken, as parts of the longest."""

_SHARE_STEPS = 256

_tables: WeakKeyDictionary[TwinState, FloatArray] = WeakKeyDictionary()


def ttft_quantiles(
    twin: TwinState, result: FluidResult, quantiles: Sequence[float] = PERCENTILES, *, by_model: bool = False
) -> FloatArray:
    """Quantiles of the time to first token under each plan, s.

    Args:
        twin: the fleet the result was computed on.
        result: of B plans.
        quantiles: between 0 and 1.
        by_model: each model on its own, (B, V, Q); else all together, (B, Q). Without requests they are 0.
    """
    table = _network_included(twin)  # (V, D, L, K, T)
    weights = twin.replicas * twin.replica_rps  # (V, D, L)
    weights = weights / np.maximum(weights.sum(axis=2, keepdims=True), TINY)
    beyond = np.stack([_beyond(twin, result, table, weights, plan) for plan in range(len(result.metrics))])  # (B, V, T)
    counted = result.served.sum(axis=2) + result.rejected  # (B, V)
    if by_model:
        return np.stack(
            [
                np.stack([_solve(row, n, quantiles) for row, n in zip(rows, counts, strict=True)])
                for rows, counts in zip(beyond, counted, strict=True)
            ]
        )
    return np.stack([_solve(rows.sum(axis=0), n.sum(), quantiles) for rows, n in zip(beyond, counted, strict=True)])


def _beyond(twin: TwinState, result: FluidResult, table: FloatArray, weights: FloatArray, plan: int) -> FloatArray:
    """Requests of each model that take longer than each of ``TIMES_S``: (V, T)."""
    load = np.maximum(result.utilization[plan], _packed_to(twin))  # (V, D)
    segment = np.clip(np.searchsorted(KNOTS, load, side="right") - 1, 0, len(KNOTS) - 2)
    along = ((load - KNOTS[segment]) / (KNOTS[segment + 1] - KNOTS[segment]))[..., None, None]
    v, d = np.indices(load.shape)
    at_load = table[v, d, :, segment] * (1.0 - along) + table[v, d, :, segment + 1] * along  # (V, D, L, T)
    chance = (weights[..., None] * at_load).sum(axis=2)  # (V, D, T)
    served = result.served[plan]  # (V, D)
    late = (served[..., None] * chance).sum(axis=1)  # (V, T)
    mean_wait_s = result.waited_s[plan] / np.maximum(served.sum(axis=1) + result.queued[plan], TINY)
    for model in np.flatnonzero(mean_wait_s > 0):
        longest_s = min(2.0 * mean_wait_s[model], twin.settings.patience_s)
        everyone = served[model].sum()
        share = late[model] / max(everyone, TINY)
        late[model] = everyone * np.mean([interpolate(share, TIMES_S - part * longest_s) for part in _WAITS], axis=0)
    return np.asarray(late + result.rejected[plan][:, None] * (twin.settings.patience_s > TIMES_S))


def _packed_to(twin: TwinState) -> float:
    """Least utilisation of a replica that has requests at all."""
    return twin.settings.pack_utilization if twin.settings.balancer is Balancer.PACK else 0.0


def _solve(beyond: FloatArray, counted: float, quantiles: Sequence[float]) -> FloatArray:
    """The times at which only 1 - q of the requests take longer, (Q,)."""
    if counted <= 0:
        return np.zeros(len(quantiles))
    done = np.maximum.accumulate(1.0 - beyond / counted)
    return np.exp(np.interp(quantiles, done, np.log(TIMES_S)))


def _network_included(twin: TwinState) -> FloatArray:
    """(V, D, L, K, T) chance that a request takes longer than each of ``TIMES_S``, mixed over its origins."""
    known = _tables.get(twin)
    if known is not None:
        return known
    models, sites, deployments = twin.replicas.shape
    site_rps = twin.capacity_rps
    table = np.zeros((models, sites, deployments, len(KNOTS), len(TIMES_S)))
    for v in range(models):
        sizes = TokenSizes(float(twin.prompt_tokens[v]), float(twin.output_tokens[v]))
        # Shares that differ by a part in 256 move no quantile by what could be seen, and find the same table again.
        mix = tuple(np.rint(twin.origin_share[v] * _SHARE_STEPS).astype(np.int64).tolist())
        for d in range(sites):
            way_s = tuple(twin.rtt_s[:, d].tolist())
            for i in range(deployments):
                if twin.model_index[v, d, i] >= 0:
                    model = twin.models[twin.model_index[v, d, i]]
                    scv = arrival_scv(twin.settings, float(twin.replica_rps[v, d, i]), float(site_rps[v, d]))
                    table[v, d, i] = _mixed(model, sizes, scv, way_s, mix)
    _tables[twin] = table
    return table


@lru_cache(maxsize=4096)
def _mixed(
    model: ReplicaModel, sizes: TokenSizes, arrival_scv: float, way_s: tuple[float, ...], mix: tuple[int, ...]
) -> FloatArray:
    """One deployment's table (K, T), each origin's part moved by its round trip."""
    weights = np.array(mix, dtype=np.float64)
    weights = weights / weights.sum() if weights.any() else np.full(len(mix), 1.0 / len(mix))
    return np.asarray(np.tensordot(weights, _moved(model, sizes, arrival_scv, way_s), axes=(0, 1)))


@lru_cache(maxsize=256)
def _moved(model: ReplicaModel, sizes: TokenSizes, arrival_scv: float, way_s: tuple[float, ...]) -> FloatArray:
    """The table as each origin sees it (K, R, T). With the hour only the mix of origins changes, so these are kept."""
    return interpolate(exceedance(model, sizes, arrival_scv), TIMES_S - np.array(way_s)[:, None])

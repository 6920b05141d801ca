"""A fleet's replicas as arrays: what stays while only signals, requests and queues change.

An experiment makes a state for every epoch, and most of two states in a row is the same deployments. ``machines`` keeps
what it worked out for the last few different ones; its argument names all that the result depends on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.pool import PowerDown
from marlin.api.state import FleetState, NodeGroupState, PoolDeployment
from marlin.simulator.constants import Balancer, Settings
from marlin.simulator.load_curves import KNOTS, LoadCurves, TokenSizes, load_curves
from marlin.simulator.physics import FloatArray
from marlin.simulator.power import accelerator
from marlin.simulator.replica import ReplicaModel, host_w_per_accelerator, replica_model
from marlin.simulator.tail import exceedance, interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKED_SCV = 2.0
"""Variability of arrivals under ``pack``, above chance because places become free in groups (assumption; it brings the
mean time to first token to within 10 % of the request-level engine up to 80 % load, docs/explanation/validation.md)."""

USUAL_UTILIZATION = 0.6
USUAL_SIZES = TokenSizes(621.0, 126.0)
"""Load and mean tokens at which deployments are ranked by energy per request. They are fixed, so that whose turn it is
to sleep does not change with the day's prompts: replicas keep their places from epoch to epoch."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One model: what of it decides about its replicas."""

    profile: str
    sizes: TokenSizes
    weights_bytes: float | None
    power_down: PowerDown
    deployments: tuple[PoolDeployment, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that ``machines`` depends on."""

    settings: Settings
    sites: tuple[str, ...]
    node_groups: tuple[tuple[NodeGroupState, ...], ...]  # of each site
    pools: tuple[Deployed, ...]

    @classmethod
    def of(cls, state: FleetState, settings: Settings) -> Inventory:
        """What a state says of its machines."""
        return cls(
            settings=settings,
            sites=tuple(site.name for site in state.datacenters),
            node_groups=tuple(site.node_groups for site in state.datacenters),
            pools=tuple(
                Deployed(
                    profile=pool.profile,
                    sizes=TokenSizes(pool.mean_prompt_tokens, pool.mean_output_tokens),
                    weights_bytes=pool.weights_bytes,
                    power_down=pool.power_down,
                    deployments=pool.deployments,
                )
                for pool in state.pools
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Machines:
    """L deployments of a model at a site, padded with zero replicas, least energy per request first."""

    models: tuple[ReplicaModel, ...]
    """The different replicas there are."""
    kinds: tuple[tuple[tuple[ReplicaModel, float], ...], ...]
    """Of each model: the different pairs of a replica and the variability of arrivals at it."""
    kind_index: NDArray[np.int32]  # (V, D, L) into the model's kinds; -1 where there is no deployment
    model_index: NDArray[np.int32]  # (V, D, L) into models; -1 where there is no deployment
    replicas: FloatArray  # (V, D, L)
    replica_rps: FloatArray  # (V, D, L)
    batch_limit: FloatArray  # (V, D, L)
    prefill_s: FloatArray  # (V, D, L)
    power_knots_w: FloatArray  # (V, D, L, K)
    first_token_knots_s: FloatArray  # (V, D, L, K)
    in_flight_knots: FloatArray  # (V, D, L, K)
    asleep_w: FloatArray  # (V, D, L)
    wake_s: FloatArray  # (V, D, L)
    base_w: FloatArray  # (D,)


_SCALARS = ("replicas", "replica_rps", "batch_limit", "prefill_s", "asleep_w", "wake_s")
_KNOTTED = ("power_knots_w", "first_token_knots_s", "in_flight_knots")
_Placed = list[list[list[tuple[ReplicaModel, float, LoadCurves]]]]


@lru_cache(maxsize=64)
def machines(inventory: Inventory) -> Machines:
    """The arrays of an inventory; nobody may write into them, because they are handed out again.

    Raises:
        UnknownProfileError: a deployment's model, GPU and tensor parallelism have no measurements.
        InputError: an accelerator's power is not known.
    """
    placed = _placed(inventory)
    shape = (len(inventory.pools), len(inventory.sites), max(1, *(len(cell) for row in placed for cell in row)))
    scalars = {name: np.zeros(shape) for name in _SCALARS}
    knots = {name: np.zeros((*shape, len(KNOTS))) for name in _KNOTTED}
    model_index, kind_index = np.full(shape, -1, dtype=np.int32), np.full(shape, -1, dtype=np.int32)
    models: dict[ReplicaModel, int] = {}
    kinds: list[dict[tuple[ReplicaModel, float], int]] = [{} for _ in inventory.pools]
    hosted_gpus = np.zeros(len(inventory.sites))
    for v, pool in enumerate(inventory.pools):
        for d in range(len(inventory.sites)):
            total_rps = sum(count * curves.capacity_rps for _, count, curves in placed[v][d])
            for i, (model, count, even) in enumerate(placed[v][d]):
                scv = arrival_scv(inventory.settings, even.capacity_rps, total_rps)
                curves = load_curves(model, pool.sizes, scv, inventory.settings.first_token)
                model_index[v, d, i] = models.setdefault(model, len(models))
                kind_index[v, d, i] = kinds[v].setdefault((model, scv), len(kinds[v]))
                scalars["replicas"][v, d, i] = count
                scalars["replica_rps"][v, d, i] = curves.capacity_rps
                scalars["batch_limit"][v, d, i] = curves.batch_limit
                scalars["prefill_s"][v, d, i] = curves.reading[-1] / curves.capacity_rps
                scalars["asleep_w"][v, d, i] = model.asleep_w
                scalars["wake_s"][v, d, i] = model.wake_s
                knots["power_knots_w"][v, d, i] = curves.power_w
                knots["first_token_knots_s"][v, d, i] = curves.first_token_s
                knots["in_flight_knots"][v, d, i] = curves.in_flight
                hosted_gpus[d] += count * model.tensor_parallel
    base_w = [
        _base_w(groups, float(gpus), inventory.settings)
        for groups, gpus in zip(inventory.node_groups, hosted_gpus, strict=True)
    ]
    return Machines(
        models=tuple(models),
        kinds=tuple(tuple(of_pool) for of_pool in kinds),
        kind_index=kind_index,
        model_index=model_index,
        base_w=np.array(base_w),
        **scalars,
        **knots,
    )


def arrival_scv(settings: Settings, replica_rps: float, site_rps: float) -> float:
    """Squared variability of the times between arrivals at one replica of a site.

    A round robin evens chance out in proportion to the number of replicas; under ``pack`` a replica takes several at
    once, whenever places became free.
    """
    return PACKED_SCV if settings.balancer is Balancer.PACK else round(replica_rps / site_rps, 3)


def late_knots(
    kept: Machines, pools: tuple[Deployed, ...], limits_s: tuple[float, ...], rtt_s: FloatArray, volume: FloatArray
) -> FloatArray:
    """(V, D, L, K) share of a pool's requests that come too late at each deployment and knot.

    Args:
        kept: the machines of ``pools``.
        pools: (V,) for their token sizes.
        limits_s: (V,) time to first token that the service level allows.
        rtt_s: (R, D) round trips.
        volume: (V, R) share of each model's requests from each origin.
    """
    late = np.zeros((*kept.kind_index.shape, len(KNOTS)))
    sites = np.arange(kept.kind_index.shape[1])[:, None]
    distances = tuple(map(tuple, rtt_s.tolist()))
    for v, pool in enumerate(pools):
        if not kept.kinds[v]:
            continue
        of_origins = _late_of_kinds(kept, v, pool.sizes, limits_s[v], distances)
        tables = np.tensordot(of_origins, volume[v], axes=(2, 0))  # (kinds, K, D)
        index = kept.kind_index[v]  # (D, L)
        late[v] = np.where((index >= 0)[..., None], tables[index, :, sites], 0.0)
    return late


@lru_cache(maxsize=64)
def _late_of_kinds(
    kept: Machines, v: int, sizes: TokenSizes, limit_s: float, distances: tuple[tuple[float, ...], ...]
) -> FloatArray:
    """(kinds, K, R, D) of one model's kinds; machines are told apart as the values they are, at no cost."""
    return np.stack([_late_by_origin(model, sizes, scv, limit_s, distances) for model, scv in kept.kinds[v]])


@lru_cache(maxsize=512)
def _late_by_origin(
    model: ReplicaModel, sizes: TokenSizes, scv: float, limit_s: float, distances: tuple[tuple[float, ...], ...]
) -> FloatArray:
    """(K, R, D) share of late requests at each knot, from each origin to each site."""
    return np.asarray(interpolate(exceedance(model, sizes, scv), limit_s - np.asarray(distances)))


def _placed(inventory: Inventory) -> _Placed:
    """For each model and site its replicas, how many, and their curves; least energy per request first."""
    position = {name: d for d, name in enumerate(inventory.sites)}
    placed: _Placed = [[[] for _ in position] for _ in inventory.pools]
    groups = {
        (name, group.name): group
        for name, of_site in zip(inventory.sites, inventory.node_groups, strict=True)
        for group in of_site
    }
    for v, pool in enumerate(inventory.pools):
        for deployment in pool.deployments:
            group = groups[deployment.datacenter, deployment.node_group]
            model = _replica(pool, deployment, group, inventory.settings)
            curves = load_curves(model, pool.sizes, 0.0, inventory.settings.first_token)
            if deployment.replicas > 0:
                placed[v][position[deployment.datacenter]].append((model, deployment.replicas, curves))
        for cell in placed[v]:
            cell.sort(key=lambda entry: _usual_joules_per_request(entry[0], inventory.settings))
    return placed


def _usual_joules_per_request(model: ReplicaModel, settings: Settings) -> float:
    curves = load_curves(model, USUAL_SIZES, 0.0, settings.first_token)
    return float(np.interp(USUAL_UTILIZATION, KNOTS, curves.power_w)) / (USUAL_UTILIZATION * curves.capacity_rps)


def _replica(pool: Deployed, deployment: PoolDeployment, group: NodeGroupState, settings: Settings) -> ReplicaModel:
    return replica_model(
        pool.profile,
        group.accelerator,
        deployment.tensor_parallel,
        settings=settings,
        power_down=pool.power_down,
        node_w_per_accelerator=_node_w_per_accelerator(group),
        idle_accelerator_w=group.idle_accelerator_w,
        weights_bytes=pool.weights_bytes,
    )


def _node_w_per_accelerator(group: NodeGroupState) -> float | None:
    return None if group.node_power_w is None else group.node_power_w / group.accelerators_per_node


def _base_w(groups: tuple[NodeGroupState, ...], hosted_gpus: float, settings: Settings) -> float:
    """Power of the GPUs without a replica, and of their part of the hosts, which no plan changes."""
    gpus, idle_w = 0.0, 0.0
    for group in groups:
        in_group = group.nodes * group.accelerators_per_node
        gpu = accelerator(group.accelerator, _node_w_per_accelerator(group), settings)
        gpus += in_group
        own_idle_w = settings.idle_accelerator_w if group.idle_accelerator_w is None else group.idle_accelerator_w
        unloaded_w = min(own_idle_w, settings.unloaded_accelerator_w)
        idle_w += in_group * (unloaded_w + host_w_per_accelerator(gpu.node_w, gpu.tdp_w, settings))
    return (idle_w / gpus if gpus else 0.0) * max(0.0, gpus - hosted_gpus)

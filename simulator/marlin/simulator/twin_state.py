"""``FleetState`` to arrays: everything the engines multiply, looked up once.

Shapes: V models, D datacenters, R origins, L deployments of a model at a site (padded with zero replicas, in order of
energy per request: the first ones stay awake longest), K knots of utilisation. A ``TwinState`` is a value; the engines
never change one. It is hashable by identity, so that what an engine prepares from it can be kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.pool import PowerDown
from marlin.api.state import DatacenterState, FleetState, NodeGroupState, PoolDeployment, PoolState
from marlin.simulator.constants import DEFAULT_SETTINGS, Balancer, Settings
from marlin.simulator.load_curves import KNOTS, LoadCurves, TokenSizes, load_curves
from marlin.simulator.physics import FloatArray, heat_over_it_energy, total_over_it_energy
from marlin.simulator.power import accelerator
from marlin.simulator.replica import ReplicaModel, host_w_per_accelerator, replica_model
from marlin.simulator.tail import exceedance, interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKED_SCV = 2.0
"""Variability of arrivals under ``pack``, above chance because places become free in groups (assumption; it brings the
mean time to first token to within 15 % of the request-level engine, docs/explanation/validation.md)."""

USUAL_UTILIZATION = 0.6
"""Load at which deployments are ranked by energy per request."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class TwinState:
    """A fleet in one epoch, as arrays."""

    settings: Settings
    epoch_s: float
    max_utilization: float
    pool_names: tuple[str, ...]
    datacenter_names: tuple[str, ...]
    origins: tuple[str, ...]

    requests: FloatArray  # (V, R) expected in the epoch
    backlog_requests: FloatArray  # (V, D) still waiting from before
    awake_before: FloatArray  # (V, D) replicas awake when the epoch starts
    allowed: NDArray[np.bool_]  # (V, D) up, and allowed by residency
    rtt_s: FloatArray  # (R, D) there and back
    prompt_tokens: FloatArray  # (V,) means
    output_tokens: FloatArray  # (V,)
    ttft_limit_s: FloatArray  # (V,)
    can_sleep: NDArray[np.bool_]  # (V,) whether the pool's replicas can power down

    models: tuple[ReplicaModel, ...]
    """The different replicas there are."""
    model_index: NDArray[np.int32]  # (V, D, L) into models; -1 where there is no deployment
    replicas: FloatArray  # (V, D, L)
    replica_rps: FloatArray  # (V, D, L) capacity of one replica at the largest batch
    batch_limit: FloatArray  # (V, D, L) largest mean batch of one replica
    prefill_s: FloatArray  # (V, D, L) mean time to read a prompt
    power_knots_w: FloatArray  # (V, D, L, K) one replica, its part of the host included
    first_token_knots_s: FloatArray  # (V, D, L, K) without network
    late_knots: FloatArray  # (V, D, L, K) share of requests beyond the limit, network included
    in_flight_knots: FloatArray  # (V, D, L, K) requests at one replica, those being read included
    asleep_w: FloatArray  # (V, D, L) one replica
    wake_s: FloatArray  # (V, D, L) from asleep to ready

    base_w: FloatArray  # (D,) nodes, or parts of nodes, that hold no replica
    total_over_it: FloatArray  # (D,) PUE
    heat_over_it: FloatArray  # (D,)
    cycles_of_concentration: FloatArray  # (D,)
    carbon_gco2_per_kwh: FloatArray  # (D,)
    water_l_per_kwh: FloatArray  # (D,)
    price_usd_per_kwh: FloatArray  # (D,)

    @property
    def capacity_rps(self) -> FloatArray:
        """(V, D) requests per second with all replicas awake."""
        total: FloatArray = (self.replicas * self.replica_rps).sum(axis=2)
        return total

    @property
    def all_replicas(self) -> FloatArray:
        """(V, D) replicas, awake or not."""
        total: FloatArray = self.replicas.sum(axis=2)
        return total

    @property
    def arriving(self) -> FloatArray:
        """(V,) requests expected in the epoch, the backlog not included."""
        total: FloatArray = self.requests.sum(axis=1)
        return total

    @property
    def origin_share(self) -> FloatArray:
        """(V, R) part of each model's requests that comes from each origin; even where there are none."""
        total = self.requests.sum(axis=1, keepdims=True)
        even = np.full_like(self.requests, 1.0 / self.requests.shape[1])
        return np.asarray(np.divide(self.requests, total, out=even, where=total > 0))

    @property
    def mean_rtt_s(self) -> FloatArray:
        """(V, D) round trip to each site, a mean over the origins."""
        mean: FloatArray = self.origin_share @ self.rtt_s
        return mean


def arrays_from(state: FleetState, settings: Settings = DEFAULT_SETTINGS) -> TwinState:
    """The arrays of a fleet.

    Raises:
        UnknownProfileError: a deployment's model, GPU and tensor parallelism have no measurements.
        InputError: an accelerator's power is not known.
    """
    sites = {site.name: d for d, site in enumerate(state.datacenters)}
    origin_rtt_s = np.asarray(state.rtt_ms) / 1000.0  # (R, D)
    placed = _deployments(state, sites, settings)
    shape = (len(state.pools), len(sites), max(1, *(len(cell) for row in placed for cell in row)))
    scalars = {name: np.zeros(shape) for name in _REPLICA_FIELDS}
    knots = {name: np.zeros((*shape, len(KNOTS))) for name in _KNOT_FIELDS}
    model_index = np.full(shape, -1, dtype=np.int32)
    models: dict[ReplicaModel, int] = {}
    hosted_gpus = np.zeros(len(sites))
    for v, pool in enumerate(state.pools):
        sizes = TokenSizes(pool.mean_prompt_tokens, pool.mean_output_tokens)
        late_at = _LateShares(sizes, pool.ttft_limit_s - origin_rtt_s, _origin_share(pool))
        for d in range(len(sites)):
            total_rps = sum(count * curves.capacity_rps for _, count, curves in placed[v][d])
            for i, (model, count, even) in enumerate(placed[v][d]):
                scv = arrival_scv(settings, even.capacity_rps, total_rps)
                curves = load_curves(model, sizes, scv, settings.first_token)
                model_index[v, d, i] = models.setdefault(model, len(models))
                scalars["replicas"][v, d, i] = count
                scalars["replica_rps"][v, d, i] = curves.capacity_rps
                scalars["batch_limit"][v, d, i] = curves.batch_limit
                scalars["prefill_s"][v, d, i] = curves.reading[-1] / curves.capacity_rps
                scalars["asleep_w"][v, d, i] = model.asleep_w
                scalars["wake_s"][v, d, i] = model.wake_s
                knots["power_knots_w"][v, d, i] = curves.power_w
                knots["first_token_knots_s"][v, d, i] = curves.first_token_s
                knots["in_flight_knots"][v, d, i] = curves.in_flight
                knots["late_knots"][v, d, i] = late_at.knots(model, scv)[:, d]
                hosted_gpus[d] += count * model.tensor_parallel
    pue, heat = _energy_factors(state, settings)
    every = scalars["replicas"].sum(axis=2)
    awake = [pool.awake_replicas or tuple(row) for pool, row in zip(state.pools, every, strict=True)]
    return TwinState(
        settings=settings,
        epoch_s=state.epoch_s,
        max_utilization=state.max_utilization,
        pool_names=tuple(pool.name for pool in state.pools),
        datacenter_names=tuple(sites),
        origins=state.origins,
        requests=np.array([pool.forecast_requests for pool in state.pools]),
        backlog_requests=np.array([pool.backlog_requests or (0.0,) * len(sites) for pool in state.pools]),
        awake_before=np.minimum(np.array(awake, dtype=np.float64), every),
        allowed=np.array(
            [
                [
                    s.is_available and a
                    for s, a in zip(state.datacenters, p.allowed or (True,) * len(sites), strict=True)
                ]
                for p in state.pools
            ]
        ),
        rtt_s=origin_rtt_s,
        prompt_tokens=np.array([pool.mean_prompt_tokens for pool in state.pools]),
        output_tokens=np.array([pool.mean_output_tokens for pool in state.pools]),
        ttft_limit_s=np.array([pool.ttft_limit_s for pool in state.pools]),
        can_sleep=np.array([pool.power_down is not PowerDown.NONE for pool in state.pools]),
        models=tuple(models),
        model_index=model_index,
        base_w=np.array([_base_w(site, hosted_gpus[d], settings) for d, site in enumerate(state.datacenters)]),
        total_over_it=pue,
        heat_over_it=heat,
        cycles_of_concentration=np.array([site.cycles_of_concentration for site in state.datacenters]),
        carbon_gco2_per_kwh=np.array([site.carbon_gco2_per_kwh for site in state.datacenters]),
        water_l_per_kwh=np.array([site.water_l_per_kwh for site in state.datacenters]),
        price_usd_per_kwh=np.array([site.price_usd_per_kwh for site in state.datacenters]),
        **scalars,
        **knots,
    )


def arrival_scv(settings: Settings, replica_rps: float, site_rps: float) -> float:
    """Squared variability of the times between arrivals at one replica of a site.

    A round robin evens chance out in proportion to the number of replicas; under ``pack`` a replica takes several at
    once, whenever places became free.
    """
    return PACKED_SCV if settings.balancer is Balancer.PACK else round(replica_rps / site_rps, 3)


_REPLICA_FIELDS = ("replicas", "replica_rps", "batch_limit", "prefill_s", "asleep_w", "wake_s")
_KNOT_FIELDS = ("power_knots_w", "first_token_knots_s", "late_knots", "in_flight_knots")

_Placed = list[list[list[tuple[ReplicaModel, float, LoadCurves]]]]


def _deployments(state: FleetState, sites: dict[str, int], settings: Settings) -> _Placed:
    """For each model and site its replicas, how many, and their curves; least energy per request first."""
    placed: _Placed = [[[] for _ in sites] for _ in state.pools]
    groups = {(site.name, group.name): group for site in state.datacenters for group in site.node_groups}
    for v, pool in enumerate(state.pools):
        sizes = TokenSizes(pool.mean_prompt_tokens, pool.mean_output_tokens)
        for deployment in pool.deployments:
            model = _replica(pool, deployment, groups[deployment.datacenter, deployment.node_group], settings)
            curves = load_curves(model, sizes, 0.0, settings.first_token)
            if deployment.replicas > 0:
                placed[v][sites[deployment.datacenter]].append((model, deployment.replicas, curves))
        for cell in placed[v]:
            cell.sort(key=lambda entry: _joules_per_request(entry[2]))
    return placed


@dataclass(frozen=True, slots=True)
class _LateShares:
    """Share of a pool's requests that come too late; replicas alike are looked up once."""

    sizes: TokenSizes
    left_s: FloatArray  # (R, D) what the network leaves of the limit
    volume: FloatArray  # (R,) share of the requests from each origin
    known: dict[tuple[ReplicaModel, float], FloatArray] = field(default_factory=dict)

    def knots(self, model: ReplicaModel, arrival_scv: float) -> FloatArray:
        """(K, D) at each knot and site."""
        key = (model, arrival_scv)
        if key not in self.known:
            table = interpolate(exceedance(model, self.sizes, arrival_scv), self.left_s)  # (K, R, D)
            self.known[key] = np.tensordot(table, self.volume, axes=(1, 0))
        return self.known[key]


def _joules_per_request(curves: LoadCurves) -> float:
    return float(np.interp(USUAL_UTILIZATION, KNOTS, curves.power_w)) / (USUAL_UTILIZATION * curves.capacity_rps)


def _replica(pool: PoolState, deployment: PoolDeployment, group: NodeGroupState, settings: Settings) -> ReplicaModel:
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


def _origin_share(pool: PoolState) -> FloatArray:
    volume = np.asarray(pool.forecast_requests)
    return np.asarray(volume / volume.sum() if volume.sum() > 0 else np.full(len(volume), 1.0 / len(volume)))


def _base_w(site: DatacenterState, hosted_gpus: float, settings: Settings) -> float:
    """Power of the GPUs without a replica, and of their part of the hosts, which no plan changes."""
    gpus, idle_w = 0.0, 0.0
    for group in site.node_groups:
        in_group = group.nodes * group.accelerators_per_node
        gpu = accelerator(group.accelerator, _node_w_per_accelerator(group))
        gpus += in_group
        own_idle_w = settings.idle_accelerator_w if group.idle_accelerator_w is None else group.idle_accelerator_w
        unloaded_w = min(own_idle_w, settings.unloaded_accelerator_w)
        idle_w += in_group * (unloaded_w + host_w_per_accelerator(gpu.node_w, gpu.tdp_w, settings))
    return (idle_w / gpus if gpus else 0.0) * max(0.0, gpus - hosted_gpus)


def _energy_factors(state: FleetState, settings: Settings) -> tuple[FloatArray, FloatArray]:
    """(D,) total over IT energy, and heat over IT energy. A stated PUE stands for itself."""
    totals, heats = [], []
    for site in state.datacenters:
        overhead = site.infrastructure_overhead
        total = site.pue
        if total is None:
            assert site.cooling_cop is not None, site.name
            total = float(total_over_it_energy(site.cooling_cop, overhead, settings))
        totals.append(total)
        heats.append(float(heat_over_it_energy(total, overhead)))
    return np.array(totals), np.array(heats)


def in_proportion(twin: TwinState, total: FloatArray) -> FloatArray:
    """(V, D) of ``total`` (V,) at each site that may serve, by capacity: where requests without a place wait."""
    carried = twin.allowed * twin.capacity_rps
    whole = carried.sum(axis=1, keepdims=True)
    share = np.divide(carried, whole, out=np.zeros_like(carried), where=whole > 0)
    return np.asarray(total[:, None] * share)


def with_demand(twin: TwinState, requests: FloatArray) -> TwinState:
    """The same fleet asked for other requests (V, R). The share of late requests keeps the old origins' weights."""
    return replace(twin, requests=requests)

"""``FleetState`` to arrays: everything the engines multiply, looked up once.

Shapes: V models, D datacenters, R origins, L deployments of a model at a site (padded with zero replicas, in order of
energy per request: the first ones stay awake longest), K knots of utilisation. A ``TwinState`` is a value; the engines
never change one. It is hashable by identity, so that what an engine prepares from it can be kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.pool import PowerDown
from marlin.api.state import FleetState, PoolState
from marlin.simulator.constants import DEFAULT_SETTINGS, Settings
from marlin.simulator.machines import Inventory, late_knots, machines
from marlin.simulator.physics import FloatArray, heat_over_it_energy, total_over_it_energy
from marlin.simulator.replica import ReplicaModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    inventory = Inventory.of(state, settings)
    kept = machines(inventory)
    rtt_s = np.asarray(state.rtt_ms) / 1000.0  # (R, D)
    every = kept.replicas.sum(axis=2)
    pue, heat = _energy_factors(state, settings)
    no_backlog, everywhere = (0.0,) * len(state.datacenters), (True,) * len(state.datacenters)
    is_up = np.array([site.is_available for site in state.datacenters])
    awake = [pool.awake_replicas or tuple(row) for pool, row in zip(state.pools, every, strict=True)]
    return TwinState(
        settings=settings,
        epoch_s=state.epoch_s,
        max_utilization=state.max_utilization,
        pool_names=tuple(pool.name for pool in state.pools),
        datacenter_names=inventory.sites,
        origins=state.origins,
        requests=np.array([pool.forecast_requests for pool in state.pools]),
        backlog_requests=np.array([pool.backlog_requests or no_backlog for pool in state.pools]),
        awake_before=np.minimum(np.array(awake, dtype=np.float64), every),
        allowed=np.array([pool.allowed or everywhere for pool in state.pools]) & is_up,
        rtt_s=rtt_s,
        prompt_tokens=np.array([pool.mean_prompt_tokens for pool in state.pools]),
        output_tokens=np.array([pool.mean_output_tokens for pool in state.pools]),
        ttft_limit_s=np.array([pool.ttft_limit_s for pool in state.pools]),
        can_sleep=np.array([pool.power_down is not PowerDown.NONE for pool in state.pools]),
        models=kept.models,
        model_index=kept.model_index,
        replicas=kept.replicas,
        replica_rps=kept.replica_rps,
        batch_limit=kept.batch_limit,
        prefill_s=kept.prefill_s,
        power_knots_w=kept.power_knots_w,
        first_token_knots_s=kept.first_token_knots_s,
        late_knots=late_knots(
            kept,
            inventory.pools,
            tuple(pool.ttft_limit_s for pool in state.pools),
            rtt_s,
            np.array([_origin_share(pool) for pool in state.pools]),
        ),
        in_flight_knots=kept.in_flight_knots,
        asleep_w=kept.asleep_w,
        wake_s=kept.wake_s,
        base_w=kept.base_w,
        total_over_it=pue,
        heat_over_it=heat,
        cycles_of_concentration=np.array([site.cycles_of_concentration for site in state.datacenters]),
        carbon_gco2_per_kwh=np.array([site.carbon_gco2_per_kwh for site in state.datacenters]),
        water_l_per_kwh=np.array([site.water_l_per_kwh for site in state.datacenters]),
        price_usd_per_kwh=np.array([site.price_usd_per_kwh for site in state.datacenters]),
    )


def _origin_share(pool: PoolState) -> FloatArray:
    volume = np.asarray(pool.forecast_requests)
    return np.asarray(volume / volume.sum() if volume.sum() > 0 else np.full(len(volume), 1.0 / len(volume)))


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

"""``FleetState`` to arrays: everything the fluid engine multiplies, looked up once.

Shapes: V models, D datacenters, R origins, L deployments of a model at a site (padded with zero replicas), K knots of
batch. A ``TwinState`` is a value; the engine never changes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.state import DatacenterState, FleetState, NodeGroupState, PoolDeployment, PoolState
from marlin.simulator.constants import DEFAULT_SETTINGS, Settings
from marlin.simulator.physics import FloatArray, heat_over_it_energy, total_over_it_energy
from marlin.simulator.power import accelerator, decode_fractions, prefill_fraction
from marlin.simulator.profiles import load_profile
from marlin.simulator.replica import BATCH_KNOTS, capacity_per_replica_rps

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TwinState:
    """A fleet in one epoch, as arrays."""

    settings: Settings
    epoch_s: float
    max_utilization: float
    pool_names: tuple[str, ...]
    datacenter_names: tuple[str, ...]
    origins: tuple[str, ...]

    requests: FloatArray  # (V, R) expected in the epoch
    backlog_requests: FloatArray  # (V, D)
    allowed: NDArray[np.bool_]  # (V, D) up, and allowed by residency
    rtt_s: FloatArray  # (R, D) there and back
    prompt_tokens: FloatArray  # (V,)
    output_tokens: FloatArray  # (V,)
    ttft_limit_s: FloatArray  # (V,)

    replicas: FloatArray  # (V, D, L)
    prefill_s: FloatArray  # (V, D, L)
    step_knots_s: FloatArray  # (V, D, L, K)
    batch_limit: FloatArray  # (V, D, L)
    prefill_w: FloatArray  # (V, D, L) one replica's GPUs
    decode_knots_w: FloatArray  # (V, D, L, K)
    idle_w: FloatArray  # (V, D, L)
    host_w: FloatArray  # (V, D, L) a replica's part of its node beside the GPUs

    base_w: FloatArray  # (D,) hosts of all nodes, and GPUs without a model
    total_over_it: FloatArray  # (D,) PUE
    heat_over_it: FloatArray  # (D,)
    cycles_of_concentration: FloatArray  # (D,)
    carbon_gco2_per_kwh: FloatArray  # (D,)
    water_l_per_kwh: FloatArray  # (D,)
    price_usd_per_kwh: FloatArray  # (D,)

    capacity_rps: FloatArray  # (V, D) requests per second at the largest batch


_REPLICA_FIELDS = ("replicas", "prefill_s", "batch_limit", "prefill_w", "idle_w", "host_w")


def arrays_from(state: FleetState, settings: Settings = DEFAULT_SETTINGS) -> TwinState:
    """The arrays of a fleet.

    Raises:
        UnknownProfileError: a deployment's model, GPU and tensor parallelism have no measurements.
        InputError: an accelerator's power is not known.
    """
    sites = {site.name: d for d, site in enumerate(state.datacenters)}
    grouped = [[[] for _ in sites] for _ in state.pools]  # type: list[list[list[PoolDeployment]]]
    for v, pool in enumerate(state.pools):
        for deployment in pool.deployments:
            grouped[v][sites[deployment.datacenter]].append(deployment)
    shape = (len(state.pools), len(sites), max(1, *(len(site) for row in grouped for site in row)))
    arrays = {name: np.zeros(shape) for name in _REPLICA_FIELDS}
    arrays["batch_limit"] += 1.0
    knots_s, knots_w = np.ones((*shape, len(BATCH_KNOTS))), np.zeros((*shape, len(BATCH_KNOTS)))
    used_gpus = np.zeros(len(sites))
    for v, pool in enumerate(state.pools):
        for d, site in enumerate(state.datacenters):
            for i, deployment in enumerate(grouped[v][d]):
                group = next(g for g in site.node_groups if g.name == deployment.node_group)
                values, knots_s[v, d, i], knots_w[v, d, i] = _replica(pool, deployment, group, settings)
                for name, value in values.items():
                    arrays[name][v, d, i] = value
                used_gpus[d] += deployment.replicas * deployment.tensor_parallel
    prefill_or_one = np.where(arrays["replicas"] > 0, arrays["prefill_s"], 1.0)
    output_tokens = np.array([pool.mean_output_tokens for pool in state.pools])
    per_replica_rps = capacity_per_replica_rps(
        prefill_or_one, knots_s, output_tokens[:, None, None], arrays["batch_limit"]
    )
    pue, heat = _energy_factors(state, settings)
    return TwinState(
        settings=settings,
        epoch_s=state.epoch_s,
        max_utilization=state.max_utilization,
        pool_names=tuple(pool.name for pool in state.pools),
        datacenter_names=tuple(sites),
        origins=state.origins,
        requests=np.array([pool.forecast_requests for pool in state.pools]),
        backlog_requests=np.array([pool.backlog_requests or (0.0,) * len(sites) for pool in state.pools]),
        allowed=np.array(
            [
                [
                    s.is_available and a
                    for s, a in zip(state.datacenters, p.allowed or (True,) * len(sites), strict=True)
                ]
                for p in state.pools
            ]
        ),
        rtt_s=np.asarray(state.rtt_ms) / 1000.0,
        prompt_tokens=np.array([pool.mean_prompt_tokens for pool in state.pools]),
        output_tokens=output_tokens,
        ttft_limit_s=np.array([pool.ttft_limit_s for pool in state.pools]),
        step_knots_s=knots_s,
        decode_knots_w=knots_w,
        base_w=np.array([_base_w(site, used_gpus[d], settings) for d, site in enumerate(state.datacenters)]),
        total_over_it=pue,
        heat_over_it=heat,
        cycles_of_concentration=np.array([site.cycles_of_concentration for site in state.datacenters]),
        carbon_gco2_per_kwh=np.array([site.carbon_gco2_per_kwh for site in state.datacenters]),
        water_l_per_kwh=np.array([site.water_l_per_kwh for site in state.datacenters]),
        price_usd_per_kwh=np.array([site.price_usd_per_kwh for site in state.datacenters]),
        capacity_rps=(arrays["replicas"] * per_replica_rps).sum(axis=2),
        **arrays,
    )


def _replica(
    pool: PoolState, deployment: PoolDeployment, group: NodeGroupState, settings: Settings
) -> tuple[dict[str, float], list[float], list[float]]:
    """Scalars of one deployment, and its step times (s) and decode powers (W) at the knots."""
    gpus = deployment.tensor_parallel
    profile = load_profile(pool.profile, group.accelerator, gpus)
    node_w = None if group.node_power_w is None else group.node_power_w / group.accelerators_per_node
    gpu = accelerator(group.accelerator, node_w)
    # A request holds its prompt and, on average while it decodes, half of its answer.
    batch_limit = profile.batch_limit(pool.mean_prompt_tokens + pool.mean_output_tokens / 2)
    idle_w = settings.idle_accelerator_w if group.idle_accelerator_w is None else group.idle_accelerator_w
    fractions = decode_fractions(pool.profile, group.accelerator, gpus, gpu.tdp_w, tuple(BATCH_KNOTS))
    scalars = {
        "replicas": deployment.replicas,
        "prefill_s": profile.prefill_s(pool.mean_prompt_tokens),
        "batch_limit": batch_limit,
        "prefill_w": gpus * gpu.tdp_w * prefill_fraction(pool.profile, group.accelerator, gpus, gpu.tdp_w),
        "idle_w": gpus * idle_w,
        "host_w": gpus * (gpu.node_w - gpu.tdp_w) * settings.host_power_fraction,
    }
    return scalars, [profile.step_s(b) for b in BATCH_KNOTS], [gpus * gpu.tdp_w * f for f in fractions]


def _base_w(site: DatacenterState, used_gpus: float, settings: Settings) -> float:
    """Power that no plan changes without power-down: every node's host, and the GPUs that hold no model."""
    hosts_w, gpus, idle_w = 0.0, 0.0, 0.0
    for group in site.node_groups:
        in_group = group.nodes * group.accelerators_per_node
        node_w = None if group.node_power_w is None else group.node_power_w / group.accelerators_per_node
        gpu = accelerator(group.accelerator, node_w)
        hosts_w += in_group * (gpu.node_w - gpu.tdp_w) * settings.host_power_fraction
        gpus += in_group
        own_idle_w = settings.idle_accelerator_w if group.idle_accelerator_w is None else group.idle_accelerator_w
        idle_w += in_group * own_idle_w
    return hosts_w + (idle_w / gpus if gpus else 0.0) * max(0.0, gpus - used_gpus)


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

"""The fluid engine: what a plan does to a whole fleet in one epoch, for many plans at once.

Requests are a flow here, not individuals: each (model, site) gets a rate, Little's law gives its batch, the batch gives
time and power, and equations (5) to (10) give the rest. ``simulate`` evaluates plans, ``step`` also carries the backlog
into the next epoch, ``estimate`` is what a planner asks about one ``RoutingPlan``.

Nothing is free: what no site can take waits, and what would wait longer than users have patience for is rejected,
enters the time to first token at that patience, and is charged several times the mean of a served request, so that no
plan wins by not serving (marlin-model, section 3). In = served + queued + rejected is asserted.

Simplified until the twin is complete: no power-down, no weight loading, no tail of the time to first token; sites
are used as stated by the plan, with spill-over, and replicas of a site share its load alike (``spread``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from marlin.api.metrics import METRIC_NAMES, Metrics
from marlin.api.plan import Dispatch, RoutingPlan
from marlin.api.values import SHARE_SCALE
from marlin.simulator.constants import JOULES_PER_KWH
from marlin.simulator.physics import (
    FloatArray,
    blowdown_l,
    energy_cost_usd,
    evaporation_l,
    first_token_s,
    grid_carbon_gco2,
    grid_water_l,
    it_energy_kwh,
    water_carbon_gco2,
)
from marlin.simulator.replica import at_batch, decode_batch, gpu_power_w
from marlin.simulator.twin_state import TwinState

MODERATE_LOAD: Final = 0.6
"""Utilisation at which marginal figures are taken: where fleets are meant to run."""

_TINY: Final = 1e-12
_FOR_EVER_S: Final = 1e12
"""Patience with which nobody leaves."""


@dataclass(frozen=True, slots=True)
class FluidResult:
    """What B plans do. Metrics are in the order of ``METRIC_NAMES``."""

    metrics: FloatArray  # (B, 4) charges for rejected requests included
    energy_kwh: FloatArray  # (B, D) all energy, cooling and infrastructure included
    carbon_gco2: FloatArray  # (B, D)
    water_l: FloatArray  # (B, D)
    cost_usd: FloatArray  # (B, D)
    served: FloatArray  # (B, V, D) requests
    queued: FloatArray  # (B, V) requests that wait at the end
    rejected: FloatArray  # (B, V) requests
    ttft_s: FloatArray  # (B, V, D) mean of the served requests of a (model, site)
    utilization: FloatArray  # (B, V, D) load over capacity

    @property
    def share_served(self) -> FloatArray:
        """(B,) served over all requests; 1 where there were none."""
        served: FloatArray = self.served.sum(axis=(1, 2))
        total = served + self.queued.sum(axis=1) + self.rejected.sum(axis=1)
        share: FloatArray = np.divide(served, total, out=np.ones_like(served), where=total > 0)
        return share


def capacity_rps(twin: TwinState) -> FloatArray:
    """(V, D) requests per second each site can carry of each model, at the mean token sizes."""
    return twin.capacity_rps


def simulate(
    twin: TwinState,
    shares: FloatArray,  # (B, V, D) or (V, D)
    *,
    order: tuple[tuple[int, ...], ...] | None = None,  # V orders, for ordered dispatch
    by_origin: FloatArray | None = None,  # (V, R, D)
) -> FluidResult:
    """Carries plans out on the twin's requests.

    Args:
        twin: the fleet.
        shares: fractions of each model's requests; rows need not add up to one. Under ordered dispatch only their
            zeros count.
        order: fill these sites in turn, up to the utilisation limit, instead of using the shares.
        by_origin: where each origin's requests go, for network time; without it all origins use the row of shares.

    Raises:
        ValueError: the shapes do not fit the fleet, or a row of shares is empty.
    """
    plans = np.asarray(shares, dtype=np.float64)
    if plans.ndim == 2:
        plans = plans[None]
    models, sites = twin.capacity_rps.shape
    if plans.ndim != 3 or plans.shape[1:] != (models, sites):
        raise ValueError(f"shares must be (B, {models}, {sites}), not {plans.shape}")
    if not (plans >= 0).all() or not (plans.sum(axis=2) > 0).all():
        raise ValueError("shares must not be negative, and every row needs a positive one")
    plans = plans / plans.sum(axis=2, keepdims=True)

    arriving = twin.requests.sum(axis=1) + twin.backlog_requests.sum(axis=1)  # (V,)
    served_rps, left_rps = _dispatch(twin, plans, arriving / twin.epoch_s, order)
    served = served_rps * twin.epoch_s
    queued, rejected = _wait_or_leave(twin, left_rps * twin.epoch_s)
    total = served.sum(axis=2) + queued + rejected
    assert np.allclose(total, arriving, rtol=1e-9, atol=1e-6), "requests were lost or made up"

    power_w, exec_s, utilization = _load_sites(twin, served_rps)
    ttft_s = exec_s + _round_trip_s(twin, plans, by_origin)
    energy = twin.total_over_it * it_energy_kwh(power_w + twin.base_w, twin.epoch_s)  # (B, D)
    carbon, water, cost = _footprint(twin, energy)
    result = FluidResult(
        metrics=np.zeros((len(plans), len(METRIC_NAMES))),
        energy_kwh=energy,
        carbon_gco2=carbon,
        water_l=water,
        cost_usd=cost,
        served=served,
        queued=queued,
        rejected=rejected,
        ttft_s=ttft_s,
        utilization=utilization,
    )
    return replace(result, metrics=_metrics(twin, result))


def step(twin: TwinState, shares: FloatArray, **dispatch: object) -> tuple[TwinState, FluidResult]:
    """One epoch under one plan (V, D), and the fleet with what is left waiting for the next one."""
    result = simulate(twin, shares, **dispatch)  # type: ignore[arg-type] # the same keywords
    waiting = twin.allowed * twin.capacity_rps
    waiting = waiting / np.maximum(waiting.sum(axis=1, keepdims=True), _TINY)
    return replace(twin, backlog_requests=result.queued[0][:, None] * waiting), result


def simulate_plan(twin: TwinState, plan: RoutingPlan) -> FluidResult:
    """Carries one ``RoutingPlan`` out, whatever its dispatch.

    Raises:
        ValueError: the plan is for other pools or datacenters.
    """
    if plan.datacenters != twin.datacenter_names or tuple(p.name for p in plan.pools) != twin.pool_names:
        raise ValueError("the plan is for another fleet")
    shares = np.array([pool.weights for pool in plan.pools], dtype=np.float64) / SHARE_SCALE
    is_ordered = plan.pools[0].dispatch is Dispatch.ORDERED
    rows = [pool.by_origin for pool in plan.pools]
    by_origin = np.array(rows, dtype=np.float64) / SHARE_SCALE if all(rows) and not is_ordered else None
    return simulate(
        twin, shares, order=tuple(pool.order for pool in plan.pools) if is_ordered else None, by_origin=by_origin
    )


def estimate(twin: TwinState, plan: RoutingPlan) -> Metrics:
    """What the twin expects of one plan when the forecast comes true."""
    ttft_s, carbon_gco2, water_l, cost_usd = (float(x) for x in simulate_plan(twin, plan).metrics[0])
    return Metrics(ttft_s=ttft_s, carbon_gco2=carbon_gco2, water_l=water_l, cost_usd=cost_usd)


def marginal_metrics(twin: TwinState) -> FloatArray:
    """(V, D, 4): time to first token, gCO2, L and USD of one more request at each site, at moderate load.

    Where a model has no replicas the figures are zero; a mask keeps them from being used.
    """
    rate = MODERATE_LOAD * twin.capacity_rps
    more = rate * 1.01
    power_w, exec_s, _ = _load_models(twin, np.stack([rate, more]))
    joules = np.divide(power_w[1] - power_w[0], more - rate, out=np.zeros_like(rate), where=rate > 0)  # (V, D)
    kwh = joules / JOULES_PER_KWH * twin.total_over_it
    volume = twin.requests / np.maximum(twin.requests.sum(axis=1, keepdims=True), _TINY)  # (V, R)
    volume = np.where(twin.requests.sum(axis=1, keepdims=True) > 0, volume, 1.0 / len(twin.origins))
    carbon, water, cost = _footprint(twin, kwh)
    return np.stack([exec_s[0] + volume @ twin.rtt_s, carbon, water, cost], axis=-1)


def joules_per_token(twin: TwinState) -> tuple[FloatArray, FloatArray]:
    """(V, D) each: energy per prompt token and per output token, J, PUE included, at moderate load.

    A request is charged its part of all that its replica and the replica's share of the host draw, idling included;
    between prompt and answer that is split by the time each takes the replica.
    """
    rate = MODERATE_LOAD * twin.capacity_rps  # (V, D)
    power_w, _, _ = _load_models(twin, rate[None])
    host_w = (twin.replicas * twin.host_w).sum(axis=2)
    per_request = np.divide(power_w[0] + host_w, rate, out=np.zeros_like(rate), where=rate > 0) * twin.total_over_it
    weight = twin.replicas / np.maximum(twin.replicas.sum(axis=2, keepdims=True), _TINY)
    prefill_s = (weight * twin.prefill_s).sum(axis=2)
    step_s = (weight * at_batch(twin.batch_limit, twin.step_knots_s) / twin.batch_limit).sum(axis=2)
    decode_s = twin.output_tokens[:, None] * step_s
    reading = np.divide(prefill_s, prefill_s + decode_s, out=np.zeros_like(rate), where=rate > 0)
    return (
        per_request * reading / twin.prompt_tokens[:, None],
        per_request * (1.0 - reading) / twin.output_tokens[:, None],
    )


def _dispatch(
    twin: TwinState, plans: FloatArray, demand_rps: FloatArray, order: tuple[tuple[int, ...], ...] | None
) -> tuple[FloatArray, FloatArray]:
    """Rates (B, V, D) that are served, and (B, V) that nobody has room for."""
    limit = twin.allowed * twin.capacity_rps * twin.max_utilization  # (V, D)
    if order is None:
        offered = plans * demand_rps[None, :, None]
        served = np.minimum(offered, limit)
    else:
        served = np.zeros_like(plans)
        for v, sites in enumerate(order):
            left = np.full(len(plans), demand_rps[v])
            for d in sites:
                served[:, v, d] = np.minimum(left, limit[v, d])
                left = left - served[:, v, d]
    left_rps = np.maximum(demand_rps[None, :] - served.sum(axis=2), 0.0)  # (B, V)
    # Spill-over: the next by free capacity, as the router does it.
    free = np.maximum(limit - served, 0.0)
    total_free = free.sum(axis=2)
    spilled = np.minimum(left_rps, total_free)
    served = served + free * np.divide(spilled, total_free, out=np.zeros_like(spilled), where=total_free > 0)[..., None]
    return served, left_rps - spilled


def _wait_or_leave(twin: TwinState, left: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(B, V) each: of the requests nobody had room for, those that wait on, and those that would wait too long."""
    carried = (twin.allowed * twin.capacity_rps).sum(axis=1)  # (V,) requests per second
    queued = np.minimum(left, twin.settings.patience_s * carried)
    return queued, left - queued


def _load_sites(twin: TwinState, served_rps: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """GPU power (B, D) of each site, and time to first token without network and utilisation (B, V, D)."""
    power_w, exec_s, utilization = _load_models(twin, served_rps)
    return power_w.sum(axis=1), exec_s, utilization


def _load_models(twin: TwinState, served_rps: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """GPU power, time to first token without network, and utilisation, each (B, V, D)."""
    utilization = np.divide(
        served_rps, twin.capacity_rps, out=np.zeros_like(served_rps), where=twin.capacity_rps > 0
    )  # (B, V, D)
    # Spread: every replica of a site runs at the same utilisation.
    tokens = twin.output_tokens[:, None, None]
    prefill_s = np.where(twin.replicas > 0, twin.prefill_s, 1.0)
    full_rps = 1.0 / (prefill_s + tokens * at_batch(twin.batch_limit, twin.step_knots_s) / twin.batch_limit)
    rate = utilization[..., None] * np.where(twin.replicas > 0, full_rps, 0.0)  # (B, V, D, L) of one replica
    batch = decode_batch(rate, prefill_s, twin.step_knots_s, tokens, twin.batch_limit)
    power = twin.replicas * gpu_power_w(rate, batch, prefill_s, twin.prefill_w, twin.decode_knots_w, twin.idle_w)
    step_s = at_batch(np.maximum(batch, 1.0), twin.step_knots_s)
    reading = np.minimum(rate * prefill_s, 0.999)
    # A prompt waits for the prompts before it (M/D/1) and for the decode step under way.
    wait_s = reading * prefill_s / (2.0 * (1.0 - reading)) + np.minimum(batch, 1.0) * step_s / 2.0
    exec_s = wait_s + first_token_s(prefill_s, step_s, tokens, twin.settings.first_token)
    weight = twin.replicas * full_rps
    weight = weight / np.maximum(weight.sum(axis=2, keepdims=True), _TINY)
    return power.sum(axis=3), (weight * exec_s).sum(axis=3), utilization


def _round_trip_s(twin: TwinState, plans: FloatArray, by_origin: FloatArray | None) -> FloatArray:
    """(B, V, D) mean round trip of the requests a site serves."""
    volume = np.where(twin.requests.sum(axis=1, keepdims=True) > 0, twin.requests, 1.0)  # (V, R)
    if by_origin is None:
        mean = (volume / volume.sum(axis=1, keepdims=True)) @ twin.rtt_s  # (V, D)
        return np.broadcast_to(mean, plans.shape)
    flow = volume[:, :, None] * by_origin  # (V, R, D)
    total = flow.sum(axis=1)
    mean = np.divide((flow * twin.rtt_s).sum(axis=1), total, out=volume @ twin.rtt_s * 0.0, where=total > 0)
    everywhere = (volume / volume.sum(axis=1, keepdims=True)) @ twin.rtt_s
    return np.broadcast_to(np.where(total > 0, mean, everywhere), plans.shape)


def _footprint(twin: TwinState, energy_kwh: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Carbon (gCO2), water (L) and cost (USD) of all the energy drawn at each site; shape (..., D)."""
    heat_kwh = energy_kwh / twin.total_over_it * twin.heat_over_it
    evaporated = evaporation_l(heat_kwh, twin.settings)
    onsite = evaporated + blowdown_l(evaporated, twin.cycles_of_concentration, twin.settings)
    grid = grid_water_l(energy_kwh, twin.water_l_per_kwh)
    carbon = grid_carbon_gco2(energy_kwh, twin.carbon_gco2_per_kwh)
    carbon = carbon + water_carbon_gco2(onsite, grid, twin.carbon_gco2_per_kwh, twin.settings)
    return carbon, onsite + grid, energy_cost_usd(energy_kwh, twin.price_usd_per_kwh)


def _metrics(twin: TwinState, result: FluidResult) -> FloatArray:
    """(B, 4): sums over sites, the mean time to first token, and the charge for what was not served."""
    served = result.served.sum(axis=(1, 2))
    rejected = result.rejected.sum(axis=1)
    waited = result.queued.sum(axis=1)
    patience_s = twin.settings.patience_s
    seconds = (result.served * result.ttft_s).sum(axis=(1, 2)) + patience_s * rejected + patience_s / 2 * waited
    requests = served + rejected + waited
    ttft_s = np.divide(seconds, requests, out=np.zeros_like(seconds), where=requests > 0)
    sums = np.stack([result.carbon_gco2.sum(1), result.water_l.sum(1), result.cost_usd.sum(1)], axis=1)  # (B, 3)
    if (rejected > 0).any():
        # A served request of capacity-proportional routing is the measure, so that the charge is the same for all.
        fair = twin.allowed * twin.capacity_rps
        patient = replace(twin, settings=replace(twin.settings, patience_s=_FOR_EVER_S))
        base = simulate(patient, fair)
        per_request = base.metrics[0, 1:] / max(float(base.served.sum()), 1.0)
        sums = sums + twin.settings.unserved_charge_factor * rejected[:, None] * np.abs(per_request)
    return np.concatenate([ttft_s[:, None], sums], axis=1)

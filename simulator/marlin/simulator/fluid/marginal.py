"""What one more request costs, and what a token costs: figures for sorting, tables and headers.

At moderate load, and for tokens also how that changes with the load: a replica that is hardly used draws nearly as much
as a full one, so that at a tenth of its capacity a request's part is five times as large as at 60 % of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from marlin.simulator.fluid.coefficients import footprint_per_joule
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

MODERATE_LOAD: Final = 0.6
"""Utilisation at which marginal figures are taken: where fleets are meant to run."""

ENERGY_LOADS: Final = KNOTS[[1, 3, 5, 7, 9, 11]]
"""(N,) utilisations at which tables say what a token takes. Read between them on logarithmic scales, the curve is
within 3 % of all the knots'. Below the first nobody is charged for what idles: a lone request would bear an hour."""

_STEP: Final = 0.01
_TINY: Final = 1e-12


_kept: WeakKeyDictionary[TwinState, FloatArray] = WeakKeyDictionary()


def marginal_metrics(twin: TwinState) -> FloatArray:
    """(V, D, 4): time to first token, gCO2, L and USD of one more request at each site, at moderate load.

    Where a model has no replicas the figures are zero; a mask keeps them from being used. Worked out once per state,
    because an observation and a sort ask for the same; nobody may write into them.
    """
    kept = _kept.get(twin)
    if kept is None:
        kept = _kept[twin] = _marginal_metrics(twin)
        kept.setflags(write=False)
    return kept


def _marginal_metrics(twin: TwinState) -> FloatArray:
    low, high = MODERATE_LOAD * (1.0 - _STEP), MODERATE_LOAD * (1.0 + _STEP)
    capacity = twin.capacity_rps
    more_w = _site(twin, twin.power_knots_w, high) - _site(twin, twin.power_knots_w, low)
    joules = np.divide(more_w, capacity * (high - low), out=np.zeros_like(capacity), where=capacity > 0)  # (V, D)
    per_joule = footprint_per_joule(twin)  # (D, 4)
    first_s = np.divide(
        _site(twin, twin.first_token_knots_s * twin.replica_rps[..., None], MODERATE_LOAD),
        capacity,
        out=np.zeros_like(capacity),
        where=capacity > 0,
    )
    return np.concatenate([(first_s + twin.mean_rtt_s)[..., None], joules[..., None] * per_joule[:, 1:]], axis=-1)


def joules_per_token(twin: TwinState) -> tuple[FloatArray, FloatArray]:
    """(V, D) each: energy per prompt token and per output token, J, PUE included, at moderate load.

    A request is charged its part of all that its replica and the replica's share of the host draw, idling included;
    between prompt and answer that is split by the time each takes the replica.
    """
    rate = MODERATE_LOAD * twin.capacity_rps  # (V, D)
    power_w = _site(twin, twin.power_knots_w, MODERATE_LOAD)
    per_request = np.divide(power_w, rate, out=np.zeros_like(rate), where=rate > 0) * twin.total_over_it
    # At capacity a replica is never idle: what it does not spend reading it spends decoding.
    weight = twin.replicas / np.maximum(twin.replicas.sum(axis=2, keepdims=True), _TINY)
    reading = (weight * twin.prefill_s * twin.replica_rps).sum(axis=2)  # (V, D)
    return (
        per_request * reading / twin.prompt_tokens[:, None],
        per_request * (1.0 - reading) / twin.output_tokens[:, None],
    )


@dataclass(frozen=True, slots=True)
class EnergyByLoad:
    """How what a token takes at a site follows the requests that are there. N points, see ``ENERGY_LOADS``."""

    in_flight: FloatArray  # (V, D, N) mean requests at the site, those whose prompt is read included; growing
    factor: FloatArray  # (V, D, N) energy per token over that of ``joules_per_token``; 1 where there are no replicas


def energy_by_load(twin: TwinState, awake: FloatArray | None = None) -> EnergyByLoad:
    """What a token takes at each of ``ENERGY_LOADS``, as multiples of ``joules_per_token``.

    A request bears its part of what all replicas of its pool draw at its site, the sleeping ones included.

    Args:
        twin: the fleet.
        awake: (V, D) replicas that are kept awake, least energy per request first, where the pool can power down; at
            least one is. Default: all.
    """
    kept = twin.replicas  # (V, D, L)
    if awake is not None:
        before = np.cumsum(twin.replicas, axis=2) - twin.replicas
        some = np.clip(np.maximum(awake, 1.0)[..., None] - before, 0.0, twin.replicas)
        kept = np.where(twin.can_sleep[:, None, None], some, twin.replicas)
    at = np.array([int(np.flatnonzero(load == KNOTS)[0]) for load in ENERGY_LOADS])
    in_flight = (kept[..., None] * twin.in_flight_knots[..., at]).sum(axis=2)  # (V, D, N)
    power_w = (kept[..., None] * twin.power_knots_w[..., at]).sum(axis=2)
    power_w += ((twin.replicas - kept) * twin.asleep_w).sum(axis=2)[..., None]
    rate_rps = (kept * twin.replica_rps).sum(axis=2)[..., None] * ENERGY_LOADS
    usual_w = _site(twin, twin.power_knots_w, MODERATE_LOAD)[..., None]
    usual_rps = MODERATE_LOAD * twin.capacity_rps[..., None]
    shape = in_flight.shape
    factor = np.divide(
        power_w * usual_rps, rate_rps * usual_w, out=np.ones(shape), where=np.broadcast_to(rate_rps > 0, shape)
    )
    return EnergyByLoad(in_flight, factor)


def _site(twin: TwinState, knots: FloatArray, utilization: float) -> FloatArray:
    """(V, D) sum over all replicas of a curve (V, D, L, K) at one utilisation."""
    i = int(np.searchsorted(KNOTS, utilization, side="right")) - 1
    i = min(i, len(KNOTS) - 2)
    part = (utilization - KNOTS[i]) / (KNOTS[i + 1] - KNOTS[i])
    total: FloatArray = (twin.replicas * (knots[..., i] * (1.0 - part) + knots[..., i + 1] * part)).sum(axis=2)
    return total

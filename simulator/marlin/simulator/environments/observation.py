"""What a policy sees before an epoch: one flat vector, every number of a size near 1, in named slices.

Signals are divided by fixed references, not by this fleet's own means, so that a number means the same on every fleet.
What no draw changes is laid out once per course (``still_part``), the forecast once per episode (``known_part``); what
follows from the plans so far, how they are carried out, and whose preference it is, comes last (``moving_part``).
``of_fleet`` makes the same vector from the state that a planner gets: a policy serves on what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.api.plan import Dispatch
from marlin.simulator.environments.forecast import Forecast
from marlin.simulator.fluid import marginal_metrics
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.machines import USUAL_UTILIZATION
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

LIMIT: Final = 10.0
"""Observations are clipped to plus and minus this."""

CARBON_GCO2_PER_KWH: Final = 500.0
WATER_L_PER_KWH: Final = 5.0
PRICE_USD_PER_KWH: Final = 0.1
RTT_S: Final = 0.3
PROMPT_TOKENS: Final = 1000.0
OUTPUT_TOKENS: Final = 200.0
TTFT_LIMIT_S: Final = 5.0
"""References: a number at its reference is observed as 1."""

_TIME: Final = 4
_DAY_S: Final = 86_400.0
_WEEK_S: Final = 7 * _DAY_S
_AT_USUAL_LOAD: Final = np.array([np.interp(USUAL_UTILIZATION, KNOTS, unit) for unit in np.eye(len(KNOTS))])  # (K,)


@dataclass(frozen=True, slots=True)
class Slice:
    """One named part of the vector."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """One past its last number."""
        return self.start + prod(self.shape)


@lru_cache(maxsize=64)
def layout(models: int, sites: int) -> Mapping[str, Slice]:
    """The slices of an observation, in order."""
    v, d = (models,), (sites,)
    both = (models, sites)
    shapes = {
        "time": (_TIME,),
        "forecast": v,
        "forecast_low": v,
        "forecast_high": v,
        "prompt_tokens": v,
        "output_tokens": v,
        "ttft_limit": v,
        "can_power_down": v,
        "available": both,
        "capacity": both,
        "rtt": both,
        "energy": both,
        "marginal": (*both, 4),
        "carbon": d,
        "water": d,
        "price": d,
        "pue": d,
        "backlog": both,
        "awake": both,
        "rules": (2,),
        "average_gain": (4,),
        "preference": (4,),
    }
    slices, start = {}, 0
    for name, shape in shapes.items():
        slices[name] = Slice(name, start, shape)
        start = slices[name].stop
    return MappingProxyType(slices)


MOVING: Final = ("backlog", "awake", "rules", "average_gain", "preference")
"""What depends on the plans so far, on how they are carried out, and on whose preference it is; the last slices."""


def size(models: int, sites: int) -> int:
    """Numbers in an observation."""
    return layout(models, sites)[MOVING[-1]].stop


def named(observation: FloatArray, models: int, sites: int) -> dict[str, FloatArray]:
    """Observations (..., F) by name, each (..., *shape)."""
    return {
        s.name: observation[..., s.start : s.stop].reshape(*observation.shape[:-1], *s.shape)
        for s in layout(models, sites).values()
    }


def still_part(
    starts: Sequence[datetime],  # E + 1
    seen: Sequence[TwinState],  # E
    allowed: NDArray[np.bool_],  # (E, V, D)
) -> NDArray[np.float32]:
    """(E + 1, K) what no draw changes, of each epoch and the one after the last; zeros where the forecast goes.

    The one after the last holds the last epoch's signals and availability: nobody plans it, but whoever learns from an
    episode that was cut off asks what came next.
    """
    rows = []
    for e, start in enumerate(starts):
        now = min(e, len(seen) - 1)
        twin = seen[now]
        rows.append(np.concatenate([_time(start), np.zeros(3 * len(twin.replicas)), _still(twin, allowed[now])]))
    return _clipped(np.array(rows))


def known_part(
    still: NDArray[np.float32],  # (E + 1, K)
    forecast: Forecast,
    most: FloatArray,  # (E + 1, V) requests of an epoch that all replicas together could carry
) -> NDArray[np.float32]:
    """(E + 1, K) what is known of each epoch before anything is planned: ``still``, and the forecast."""
    whole = np.maximum(most, 1e-12)
    expected = np.concatenate([forecast.mean / whole, forecast.low / whole, forecast.high / whole], axis=1)
    filled = still.copy()
    filled[:, _TIME : _TIME + expected.shape[1]] = _clipped(expected)
    return filled


@dataclass(frozen=True, slots=True)
class Moving:
    """N lanes: what depends on the plans so far, how they are carried out, and whose preference it is."""

    backlog: FloatArray  # (N, V) requests
    awake: FloatArray  # (N, V, D) replicas
    capacity_rps: FloatArray  # (N, V, D)
    allowed: NDArray[np.bool_]  # (N, V, D)
    all_replicas: FloatArray  # (N, V, D)
    patience_s: FloatArray  # (N,)
    max_utilization: FloatArray  # (N,)
    dispatch: Dispatch
    average_gain: FloatArray  # (N, 4)
    preference: FloatArray  # (N, 4)


def moving_part(now: Moving) -> NDArray[np.float32]:
    """(N, 2 V D + 10) the last slices.

    The engine has one queue per model before all sites: it waits at each open site in proportion to capacity, and is
    observed as the part of users' patience that it takes to work off.
    """
    open_rps = (now.capacity_rps * now.allowed).sum(axis=2)  # (N, V)
    wait_s = np.divide(now.backlog, open_rps, out=np.zeros_like(now.backlog), where=open_rps > 0)
    waits = np.where(now.allowed, (wait_s / now.patience_s[:, None])[:, :, None], 0.0)
    share = np.divide(now.awake, now.all_replicas, out=np.zeros_like(now.awake), where=now.all_replicas > 0)
    lanes = len(now.backlog)
    is_ordered = np.full(lanes, float(now.dispatch is Dispatch.ORDERED))
    rules = np.stack([now.max_utilization, is_ordered], axis=1)
    parts = [waits.reshape(lanes, -1), share.reshape(lanes, -1), rules, now.average_gain, now.preference]
    return _clipped(np.concatenate(parts, axis=1))


def of_fleet(
    twin: TwinState,
    start: datetime,
    forecast: Forecast,  # of this epoch alone: (1, V)
    preference: FloatArray,  # (4,) on the simplex
    dispatch: Dispatch,
    average_gain: FloatArray | None = None,  # (4,) None: zeros
) -> NDArray[np.float32]:
    """(F,) what a policy is shown in service: the very numbers it was shown in training, from a planner's state.

    Args:
        twin: the fleet as a planner sees it, with its queue and the replicas that are awake.
        start: when the epoch starts.
        forecast: requests expected.
        preference: weights of the metrics.
        dispatch: how the plan will be carried out.
        average_gain: nobody knows it in service, where capacity-proportional routing does not run beside.
    """
    allowed = (twin.allowed & (twin.capacity_rps > 0))[None]
    still = still_part([start], [twin], allowed)
    moving = moving_part(
        Moving(
            backlog=twin.backlog_requests.sum(axis=1)[None],
            awake=twin.awake_before[None],
            capacity_rps=twin.capacity_rps[None],
            allowed=allowed,
            all_replicas=twin.all_replicas[None],
            patience_s=np.array([twin.settings.patience_s]),
            max_utilization=np.array([twin.max_utilization]),
            dispatch=dispatch,
            average_gain=np.zeros((1, 4)) if average_gain is None else average_gain[None],
            preference=preference[None],
        )
    )
    most = (twin.capacity_rps.sum(axis=1) * twin.epoch_s)[None]
    whole: NDArray[np.float32] = np.concatenate([known_part(still, forecast, most), moving], axis=1)
    return whole.reshape(-1)


def _clipped(values: FloatArray) -> NDArray[np.float32]:
    return np.clip(values, -LIMIT, LIMIT).astype(np.float32)


def _time(start: datetime) -> FloatArray:
    """(4,) sine and cosine of the time of day and of the week, UTC."""
    seconds = start.timestamp() + 3 * _DAY_S  # 1 January 1970 was a Thursday: weeks begin on Monday
    day, week = (2.0 * np.pi * (seconds % length) / length for length in (_DAY_S, _WEEK_S))
    return np.array([np.sin(day), np.cos(day), np.sin(week), np.cos(week)])


def _still(seen: TwinState, allowed: NDArray[np.bool_]) -> FloatArray:
    """(4 V + 8 V D + 4 D,) of each model tokens, limit, capability; of each site what it is and what its kWh bring."""
    capacity = seen.capacity_rps
    energy_j = _joules_per_request(seen)
    usual_j = (energy_j * capacity).sum(axis=1, keepdims=True) / np.maximum(capacity.sum(axis=1, keepdims=True), 1e-12)
    of_models = (
        seen.prompt_tokens / PROMPT_TOKENS,
        seen.output_tokens / OUTPUT_TOKENS,
        seen.ttft_limit_s / TTFT_LIMIT_S,
        seen.can_sleep.astype(np.float64),
    )
    of_both = (
        allowed.astype(np.float64),
        capacity / np.maximum(capacity.sum(axis=1, keepdims=True), 1e-12),
        seen.mean_rtt_s / RTT_S,
        energy_j / np.maximum(usual_j, 1e-12),
        _marginal(seen),
    )
    signals = (
        seen.carbon_gco2_per_kwh / CARBON_GCO2_PER_KWH,
        seen.water_l_per_kwh / WATER_L_PER_KWH,
        seen.price_usd_per_kwh / PRICE_USD_PER_KWH,
        seen.total_over_it,
    )
    return np.concatenate([*of_models, *(part.reshape(-1) for part in of_both), *signals])


def _marginal(seen: TwinState) -> FloatArray:
    """(V, D, 4) what one more request costs at each site in each metric, over the mean by capacity of its size.

    These are the figures that merit order sorts by: whoever learns starts from what a sort knows.
    """
    marginal = marginal_metrics(seen)
    capacity = seen.capacity_rps
    weight = capacity / np.maximum(capacity.sum(axis=1, keepdims=True), 1e-12)
    mean = np.einsum("vd,vdm->vm", weight, np.abs(marginal))
    return np.asarray(marginal / np.maximum(mean, 1e-30)[:, None, :])


def _joules_per_request(seen: TwinState) -> FloatArray:
    """(V, D) IT energy of a request at the usual load; 0 where nothing serves the model."""
    power_w = (seen.replicas * (seen.power_knots_w @ _AT_USUAL_LOAD)).sum(axis=2)
    rate = USUAL_UTILIZATION * seen.capacity_rps
    return np.asarray(np.divide(power_w, rate, out=np.zeros_like(power_w), where=rate > 0))

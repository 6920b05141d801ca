"""A ``TwinState`` as the fluid engine's two forms read it.

Replicas are awake in a fixed order, so "how many" says "which": whatever adds up over awake replicas is a broken line
over their number. Together with the curves over utilisation this makes tables of two steps, ``summed`` (all replicas of
the deployments before m) and ``each`` (one replica of deployment m), and an outcome is two interpolations. Everything
that comes after the energy (cooling, water, carbon, money) is linear in it and becomes one factor per site and metric.

``Conditions`` is what changes from epoch to epoch; its leading axis N is 1, or one entry per plan, so that a batch may
hold many epochs as well as many plans. Whatever is the same in all of them may have one entry all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import numpy as np

from marlin.simulator.constants import JOULES_PER_KWH, Balancer
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import (
    FloatArray,
    blowdown_l,
    energy_cost_usd,
    evaporation_l,
    grid_carbon_gco2,
    grid_water_l,
    water_carbon_gco2,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from marlin.simulator.twin_state import TwinState

TINY: Final = 1e-12
NEVER_S: Final = 1e12

SLACK: Final = 1e-12
"""Part of a model's requests below which nothing has spilled over: sums of the same shares differ by roundings."""

CHANCE: Final = 1.0
"""So many square roots of the places of a model's awake replicas stand empty when requests begin to wait, because they
come and end at random (square-root staffing: Halfin and Whitt, Operations Research 29(3), 1981; at one about a fifth
has to wait). The request-level engine's surges are met by it as it stands: docs/explanation/validation.md."""

CURVES: Final = 3
"""Power (W), time to first token x capacity, late share x capacity: the last axis of the curves' tables."""
RPS, ASLEEP_W, WAKE_J, PLACES = range(4)
"""Capacity, power asleep, energy of waking, requests in flight when full: the last axis of the other tables."""
_BY_MODEL: Final = (
    "sleeps", "wake_s", "ttft_limit_s", "capacity", "all_replicas", "count", "before", "summed", "each",
    "curve_summed", "curve_each",
)  # fmt: skip
"""Coefficients with a leading axis of models."""
CELLS: Final = 200
"""Cells of utilisation in each of which the knots' segment is known; every knot lies on the edge of one."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What does not change from epoch to epoch. M = L + 1 counts the deployments that are wholly awake."""

    epoch_s: float
    max_utilization: float
    patience_s: float
    pack_utilization: float  # 0 under spread
    wakes: bool
    sleeps: FloatArray  # (V,) 1 where replicas can power down
    wake_s: FloatArray  # (V,) mean time from asleep to ready
    ttft_limit_s: FloatArray  # (V,)
    base_w: FloatArray  # (D,)
    capacity: FloatArray  # (V, D) requests per second, all awake
    all_replicas: FloatArray  # (V, D)
    count: FloatArray  # (V, D, L) replicas
    before: FloatArray  # (V, D, M) replicas in the deployments before; the last entry is all
    summed: FloatArray  # (V, D, M, 4) all replicas of the deployments before
    each: FloatArray  # (V, D, M, 4) one replica; the last entry is 0
    curve_summed: FloatArray  # (V, D, M, K, 3)
    curve_each: FloatArray  # (V, D, M, K, 3)
    knots: FloatArray  # (K,) utilisations
    inverse_width: FloatArray  # (K - 1,)
    segment: NDArray[np.int64]  # (CELLS + 1,) segment of each cell of utilisation

    def of_model(self, model: int) -> Coefficients:
        """Those of one model alone; V = 1."""
        return replace(self, **{name: getattr(self, name)[model : model + 1] for name in _BY_MODEL})


@dataclass(frozen=True, slots=True)
class Conditions:
    """N epochs, or one that holds for all plans. Each but ``requests`` may have 1 for N."""

    requests: FloatArray  # (N, V) arriving
    backlog: FloatArray  # (N, V) waiting from before
    allowed: FloatArray  # (N, V, D) 1 or 0
    awake_before: FloatArray  # (N, V, D) replicas
    rtt_s: FloatArray  # (N, V, D) mean round trip
    per_joule: FloatArray  # (N, D, 4) energy in kWh, gCO2, L and USD of one J of IT energy

    def __len__(self) -> int:
        """N."""
        return len(self.requests)

    def take(self, epochs: slice | Sequence[int] | NDArray[np.int64]) -> Conditions:
        """Some of the epochs."""
        all_of = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditions(**{k: v[epochs] if len(v) == len(self) else v for k, v in all_of.items()})

    def spread(self) -> Conditions:
        """With N entries of everything."""
        all_of = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditions(
            **{k: np.ascontiguousarray(np.broadcast_to(v, (len(self), *v.shape[1:]))) for k, v in all_of.items()}
        )


_kept: WeakKeyDictionary[TwinState, tuple[Coefficients, Conditions]] = WeakKeyDictionary()


def coefficients(twin: TwinState) -> Coefficients:
    """The coefficients of a state; worked out once per state."""
    return _prepared(twin)[0]


def conditions(twin: TwinState) -> Conditions:
    """The conditions of a state; N = 1."""
    return _prepared(twin)[1]


def _prepared(twin: TwinState) -> tuple[Coefficients, Conditions]:
    kept = _kept.get(twin)
    if kept is None:
        kept = _kept[twin] = (_coefficients(twin), _conditions(twin))
    return kept


def _coefficients(twin: TwinState) -> Coefficients:
    settings = twin.settings
    per_rps = twin.replica_rps[..., None]
    curves = np.stack(
        [twin.power_knots_w, twin.first_token_knots_s * per_rps, twin.late_knots * per_rps], axis=-1
    )  # (V, D, L, K, 3)
    wake_j = twin.wake_s * twin.power_knots_w[..., 0]
    each = np.stack([twin.replica_rps, twin.asleep_w, wake_j, twin.batch_limit], axis=-1)  # (V, D, L, 4)
    count = twin.replicas
    return Coefficients(
        epoch_s=twin.epoch_s,
        max_utilization=twin.max_utilization,
        patience_s=settings.patience_s,
        pack_utilization=settings.pack_utilization if settings.balancer is Balancer.PACK else 0.0,
        wakes=settings.wakes_on_demand,
        sleeps=twin.can_sleep.astype(np.float64),
        wake_s=_mean_wake_s(twin),
        ttft_limit_s=twin.ttft_limit_s,
        base_w=twin.base_w,
        capacity=twin.capacity_rps,
        all_replicas=twin.all_replicas,
        count=count,
        before=_sums_before(count),
        summed=_sums_before(count[..., None] * each),
        each=_ended(each),
        curve_summed=_sums_before(count[..., None, None] * curves),
        curve_each=_ended(curves),
        knots=KNOTS,
        inverse_width=1.0 / np.diff(KNOTS),
        segment=_segments(),
    )


def _sums_before(values: FloatArray) -> FloatArray:
    """(V, D, L, ...) to the sums over the deployments before each, and over all: (V, D, L + 1, ...)."""
    return np.concatenate([np.zeros_like(values[:, :, :1]), np.cumsum(values, axis=2)], axis=2)


def _ended(values: FloatArray) -> FloatArray:
    """(V, D, L, ...) with a last entry of nothing: (V, D, L + 1, ...)."""
    return np.concatenate([values, np.zeros_like(values[:, :, :1])], axis=2)


@cache
def _segments() -> NDArray[np.int64]:
    edges = np.rint(KNOTS * CELLS).astype(np.int64)
    assert np.allclose(edges / CELLS, KNOTS), "every knot must lie on the edge of a cell"
    return np.minimum(np.searchsorted(edges, np.arange(CELLS + 1), side="right") - 1, len(KNOTS) - 2)


def _mean_wake_s(twin: TwinState) -> FloatArray:
    """(V,) time to wake, a mean over replicas, at most the epoch."""
    total = twin.replicas.sum(axis=(1, 2))
    mean = np.divide((twin.replicas * twin.wake_s).sum(axis=(1, 2)), total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.minimum(mean, twin.epoch_s))


def _conditions(twin: TwinState) -> Conditions:
    return Conditions(
        requests=twin.arriving[None],
        backlog=twin.backlog_requests.sum(axis=1)[None],
        allowed=(twin.allowed & (twin.capacity_rps > 0)).astype(np.float64)[None],
        awake_before=twin.awake_before[None],
        rtt_s=twin.mean_rtt_s[None],
        per_joule=footprint_per_joule(twin)[None],
    )


def footprint_per_joule(twin: TwinState) -> FloatArray:
    """(D, 4) what one J of IT energy at each site amounts to: kWh of all energy, gCO2, L, USD; equations (5)-(10)."""
    it_kwh = np.full_like(twin.base_w, 1.0 / JOULES_PER_KWH)
    total_kwh = it_kwh * twin.total_over_it
    evaporated = evaporation_l(it_kwh * twin.heat_over_it, twin.settings)
    onsite = evaporated + blowdown_l(evaporated, twin.cycles_of_concentration, twin.settings)
    grid = grid_water_l(total_kwh, twin.water_l_per_kwh)
    carbon = grid_carbon_gco2(total_kwh, twin.carbon_gco2_per_kwh)
    carbon = carbon + water_carbon_gco2(onsite, grid, twin.carbon_gco2_per_kwh, twin.settings)
    cost = energy_cost_usd(total_kwh, twin.price_usd_per_kwh)
    return np.stack([total_kwh, carbon, onsite + grid, cost], axis=-1)

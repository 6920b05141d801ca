"""What plans are expected to come to: every plan tried in the twin on every demand that may come, in one call.

A value is a weighted sum of the four metrics in units of what capacity-proportional routing comes to, and of the share
of requests that are late; less is better, and capacity-proportional is worth about 1. Oracle and agents choose by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from marlin.policy.demands import Demands
from marlin.simulator.fluid import Plans, capacity_rps, simulate_each, simulate_epochs, totals_by_model
from marlin.simulator.fluid.coefficients import Conditions, conditions
from marlin.simulator.fluid.outcome import FluidResult
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

LATE_WEIGHT: Final = 1.0
"""What it costs when all requests are late, in units of the weighted objective, where capacity-proportional is 1: as in
the rewards of the agents."""

_WAKING_S: Final = 250.0
"""Time to wake with which capacity-proportional routing waits twice as long on a calm day as with all awake. On
BurstGPT's days 9 to 27 without the worst epoch of each it waited 0.99 to 1.17 times as long at four loads with Sleep
(62 to 83 s), 1.40 to 1.9 times with ScaleToZero (242 to 263 s). Of 1, 1.1, 1.5 and 2 times those next to the curve made
the best plans of each kind on days 9 to 31, loads taken together."""

_FREE: Final = 1e-12
"""What has less of a metric than this has nothing of it."""

_DAY_S: Final = 86400.0

_USUAL_LOAD: Final = 0.5
"""Part of the fleet's capacity that is asked for where nothing is known of the day."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What is to be least: a weighted sum, in which capacity-proportional routing is worth about 1."""

    weights: FloatArray  # (4,) of request-seconds, gCO2, L and USD, each in units of ``scale``
    scale: FloatArray  # (4,) what capacity-proportional routing comes to
    late: float
    """Weight of the share of late requests."""
    requests: float
    """Requests that shares are of."""


def objective_of(
    twin: TwinState,
    weights: tuple[float, ...],
    *,
    scale: FloatArray | None = None,
    requests: float | None = None,
    late: float = LATE_WEIGHT,
) -> Objective:
    """The objective of an epoch.

    Args:
        twin: the fleet and its requests.
        weights: of the four metrics.
        scale: what capacity-proportional comes to, request-seconds first. Default: in this epoch at the usual load.
        requests: what the share of late requests is of. Default: those of an epoch at the usual load.
        late: weight of that share.
    """
    usual, epoch, plan = _usual(twin)
    metrics = simulate_epochs(twin, epoch, plan).metrics[0]
    return _objective(weights, metrics, usual, scale=scale, requests=requests, late=late)


def objective_beside(
    twin: TwinState, weights: tuple[float, ...], baseline: Plans, demands: Demands, late: float = LATE_WEIGHT
) -> tuple[Objective, Demands, Tried]:
    """The objective of an epoch, and what capacity-proportional routing comes to on the demands that may come.

    Where replicas can power down, energy is counted in just that: what it is expected to come to, with what it keeps
    awake. In units of a fleet that is all awake, as without power-down, energy would weigh half of what it does.
    A second of waiting costs as much energy in one epoch as in another: what it costs on a day without a surge, as long
    as none comes. When one comes, capacity-proportional waits as well, and the day is measured by that: so waiting
    counts the less the more it waits then (``Demands.calm``). In units of an epoch alone a second would cost a hundred
    times more before a calm hour than before one in which much may come.

    Args:
        twin: the fleet and its requests.
        weights: of the four metrics.
        baseline: one plan without an order: capacity-proportional routing.
        demands: S of them.
        late: weight of the share of late requests.

    Returns:
        The objective, the demands with what waiting counts for in each, and what the plan comes to on them.
    """
    usual, epoch, plan = _usual(twin)
    tries = baseline.repeated(len(demands))
    now = conditions(twin)

    def beside(first: FloatArray, others: FloatArray) -> FloatArray:
        return np.concatenate([first, np.repeat(others, len(demands), axis=0)])

    everyone = twin.all_replicas[None]
    epochs = replace(
        now,
        requests=np.concatenate([epoch.requests, demands.requests]),
        backlog=beside(epoch.backlog, now.backlog),
        awake_before=beside(everyone, now.awake_before),
    )
    awake = None if tries.awake is None else np.concatenate([everyone, tries.awake])
    result = simulate_epochs(twin, epochs, Plans(np.concatenate([plan.shares, tries.shares]), awake=awake))
    found = _tried(result, slice(1, None), demands)
    if not twin.can_sleep.any():
        return _objective(weights, result.metrics[0], usual, late=late), demands, found
    calm = result.metrics[0] * (_calm_days_waiting(twin) * usual, 1.0, 1.0, 1.0)  # (4,) of an epoch
    totals = found.expected_totals()[0]
    known = (calm > _FREE) & (totals > _FREE) & (np.arange(len(calm)) > 0)
    waiting = calm[0] * (float(np.mean(totals[known] / calm[known])) if known.any() else 1.0)
    day = calm[0] * _DAY_S / twin.epoch_s
    demands = replace(demands, calm=day / np.maximum(day + found.totals[0, :, 0], _FREE))
    requests = max(float(found.counted[0] @ found.chances), 1e-9)
    scale = np.append(waiting, totals[1:])
    return _objective(weights, totals, requests, scale=scale, late=late), demands, replace(found, calm=demands.calm)


def _calm_days_waiting(twin: TwinState) -> float:
    """What capacity-proportional routing waits but for the surge that is looked at, over what it waits with all awake.

    Who finds nobody awake waits while replicas wake: for so long, and the more of them the longer that takes.
    """
    wake_s = np.minimum(twin.wake_s, twin.epoch_s) * twin.can_sleep[:, None, None]  # (V, D, L)
    return 1.0 + float((twin.replicas * wake_s**2).sum() / max(twin.replicas.sum(), 1.0)) / _WAKING_S**2


def _objective(
    weights: tuple[float, ...],
    metrics: FloatArray,  # (4,) of capacity-proportional routing at the usual load
    usual: float,
    *,
    scale: FloatArray | None = None,
    requests: float | None = None,
    late: float = LATE_WEIGHT,
) -> Objective:
    if scale is None:
        scale = np.abs(metrics) * (usual, 1.0, 1.0, 1.0)
    # A free hour, or a grid without carbon, has no unit: its metric then counts in its own.
    return Objective(
        np.asarray(weights), np.where(scale > _FREE, scale, 1.0), late, usual if requests is None else requests
    )


@dataclass(frozen=True, slots=True)
class Tried:
    """What N plans came to on S demands."""

    totals: FloatArray  # (N, S, 4) request-seconds, gCO2, L, USD
    late: FloatArray  # (N, S) requests beyond the limit of their pool
    counted: FloatArray  # (N, S) requests that were served or left
    served: FloatArray  # (N, S, V, D) requests
    chances: FloatArray  # (S,)
    calm: FloatArray  # (S,) see ``Demands``

    def __len__(self) -> int:
        """N."""
        return len(self.totals)

    def take(self, rows: list[int]) -> Tried:
        """Some of the plans."""
        return Tried(self.totals[rows], self.late[rows], self.counted[rows], self.served[rows], self.chances, self.calm)

    def expected_totals(self) -> FloatArray:
        """(N, 4) over the demands."""
        return np.asarray(np.einsum("nsm,s->nm", self.totals, self.chances))

    def expected_late(self) -> FloatArray:
        """(N,) requests."""
        return np.asarray(self.late @ self.chances)

    def expected_late_shares(self) -> FloatArray:
        """(N,) late requests over all that were served or left."""
        return np.asarray(self.expected_late() / np.maximum(self.counted @ self.chances, 1e-12))

    def expected_metrics(self) -> FloatArray:
        """(N, 4) the totals with time to first token as a mean over requests."""
        counted = np.maximum(self.counted @ self.chances, 1e-12)  # (N,)
        return np.asarray(self.expected_totals() / np.stack([counted, *(np.ones_like(counted),) * 3], axis=1))

    def values(self, objective: Objective) -> FloatArray:
        """(N,) expected objective of each plan."""
        totals = self.expected_totals()
        totals[:, 0] = self.totals[:, :, 0] @ (self.chances * self.calm)
        weighted = (totals / objective.scale) @ objective.weights
        return np.asarray(weighted + objective.late * self.expected_late() / objective.requests)


def tried(twin: TwinState, plans: Plans, demands: Demands) -> Tried:
    """Carries N plans out on each of S demands, in one call of the twin."""
    return _tried(simulate_each(twin, demands.requests, plans), slice(None), demands)


def values_by_model(twin: TwinState, plans: Plans, demands: Demands, objective: Objective) -> FloatArray:
    """(N, V) what each model by itself adds to the expected objective of each plan.

    Sums over models differ from ``Tried.values`` by what sites use whoever is served, which is the same for all plans.
    """
    totals = totals_by_model(twin, demands.requests, plans)
    per_unit = objective.weights / objective.scale  # (4,)

    def expected(values: FloatArray, of_demand: FloatArray) -> FloatArray:
        """Of (N x S, ...), over the demands: (N, ...)."""
        by_demand = values.reshape(len(plans), len(demands), *values.shape[1:])
        return np.asarray((by_demand * of_demand.reshape(-1, *(1,) * (values.ndim - 1))).sum(axis=1))

    seconds = expected(totals.seconds, demands.chances * demands.calm)  # (N, V)
    footprint = expected(totals.footprint, demands.chances)  # (N, V, 3)
    late = expected(totals.late, demands.chances)
    worth = seconds * per_unit[0] + (footprint * per_unit[1:]).sum(axis=2)
    return np.asarray(worth + objective.late * late / objective.requests)


def _tried(result: FluidResult, rows: slice, demands: Demands) -> Tried:
    """What (N x S) rows of a result say."""
    served, rejected = result.served[rows], result.rejected[rows]
    counted = served.sum(axis=(1, 2)) + rejected.sum(axis=1)  # (N x S,)
    totals = result.metrics[rows].copy()
    totals[:, 0] *= counted
    pairs = (-1, len(demands))
    return Tried(
        totals=totals.reshape(*pairs, totals.shape[1]),
        late=(result.late_share[rows] * counted).reshape(pairs),
        counted=counted.reshape(pairs),
        served=served.reshape(*pairs, *served.shape[1:]),
        chances=demands.chances,
        calm=demands.calm,
    )


def _usual(twin: TwinState) -> tuple[float, Conditions, Plans]:
    """Requests of an epoch at the usual load, that epoch, and capacity-proportional routing.

    Not at the epoch's own load: a quiet epoch would then weigh its carbon, most of which is idling, against its
    requests' waiting in another ratio than a busy one, and the sum over a day would not be what is minimised.
    """
    now = conditions(twin)
    carried = np.maximum(twin.allowed * capacity_rps(twin), 1e-12)
    requests = _USUAL_LOAD * (twin.allowed * capacity_rps(twin)).sum(axis=1) * twin.epoch_s  # (V,)
    quiet = replace(now, requests=requests[None], backlog=np.zeros_like(now.backlog))
    return max(float(requests.sum()), 1e-9), quiet, Plans(carried[None])

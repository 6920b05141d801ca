"""What plans are expected to come to: every plan tried in the twin on every demand that may come, in one call.

A value is a weighted sum of the four metrics in units of what capacity-proportional routing comes to, and of the share
of requests that are late; less is better, and capacity-proportional is worth about 1. Oracle and agents choose by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from marlin.policy.demands import Demands
from marlin.simulator.fluid import Plans, capacity_rps, simulate_epochs
from marlin.simulator.fluid.coefficients import Conditions, conditions
from marlin.simulator.fluid.outcome import FluidResult
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

LATE_WEIGHT: Final = 1.0
"""What it costs when all requests are late, in units of the weighted objective, where capacity-proportional is 1: as in
the rewards of the agents."""

_CALM_DAYS: Final = 0.6
"""Waiting of capacity-proportional routing that a day is measured by, over what is expected of it. A day's waiting is
divided by that day's own, and most days have no surge: the harmonic mean over days counts, not the mean. Over ten days
from 9 to 27 it was 0.67 of it at mean30, 0.52 at peak95 and 0.99 at mean56, where sites have no room for surges."""

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
    twin: TwinState, weights: tuple[float, ...], baseline: Plans, demands: Demands
) -> tuple[Objective, Tried]:
    """The objective of an epoch, and what capacity-proportional routing comes to on the demands that may come.

    Where replicas can power down, its units are just that: what it is expected to come to, with what it keeps awake and
    with the surges that find it asleep. In units of a fleet that is all awake and never surprised, as without
    power-down, a second of waiting would weigh several times what it weighs over a day, and energy half of it.

    Args:
        twin: the fleet and its requests.
        weights: of the four metrics.
        baseline: one plan without an order: capacity-proportional routing.
        demands: S of them.
    """
    if twin.can_sleep.any():
        found = tried(twin, baseline, demands)
        requests = max(float(found.counted[0] @ found.chances), 1e-9)
        totals = found.expected_totals()[0]
        return _objective(weights, totals, requests, scale=totals * (_CALM_DAYS, 1.0, 1.0, 1.0)), found
    usual, epoch, plan = _usual(twin)
    tries = _each(baseline, len(demands))
    now = conditions(twin)
    epochs = replace(
        now,
        requests=np.concatenate([epoch.requests, demands.requests]),
        backlog=np.concatenate([epoch.backlog, np.repeat(now.backlog, len(demands), axis=0)]),
    )
    result = simulate_epochs(twin, epochs, Plans(np.concatenate([plan.shares, tries.shares])))
    return _objective(weights, result.metrics[0], usual), _tried(result, slice(1, None), demands)


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
        np.asarray(weights), np.where(scale > 1e-12, scale, 1.0), late, usual if requests is None else requests
    )


@dataclass(frozen=True, slots=True)
class Tried:
    """What N plans came to on S demands."""

    totals: FloatArray  # (N, S, 4) request-seconds, gCO2, L, USD
    late: FloatArray  # (N, S) requests beyond the limit of their pool
    counted: FloatArray  # (N, S) requests that were served or left
    served: FloatArray  # (N, S, V, D) requests
    chances: FloatArray  # (S,)

    def __len__(self) -> int:
        """N."""
        return len(self.totals)

    def take(self, rows: list[int]) -> Tried:
        """Some of the plans."""
        return Tried(self.totals[rows], self.late[rows], self.counted[rows], self.served[rows], self.chances)

    def expected_totals(self) -> FloatArray:
        """(N, 4) over the demands."""
        return np.asarray(np.einsum("nsm,s->nm", self.totals, self.chances))

    def expected_late(self) -> FloatArray:
        """(N,) requests."""
        return np.asarray(self.late @ self.chances)

    def expected_metrics(self) -> FloatArray:
        """(N, 4) the totals with time to first token as a mean over requests."""
        counted = np.maximum(self.counted @ self.chances, 1e-12)  # (N,)
        return np.asarray(self.expected_totals() / np.stack([counted, *(np.ones_like(counted),) * 3], axis=1))

    def values(self, objective: Objective) -> FloatArray:
        """(N,) expected objective of each plan."""
        weighted = (self.expected_totals() / objective.scale) @ objective.weights
        return np.asarray(weighted + objective.late * self.expected_late() / objective.requests)


def tried(twin: TwinState, plans: Plans, demands: Demands) -> Tried:
    """Carries N plans out on each of S demands, in one call of the twin."""
    result = simulate_epochs(twin, _epochs(conditions(twin), demands, len(plans)), _each(plans, len(demands)))
    return _tried(result, slice(None), demands)


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
    )


def _epochs(now: Conditions, demands: Demands, many: int) -> Conditions:
    """The epoch under each demand, once for each plan: (N x S) of them, the demands of a plan side by side."""
    return replace(now, requests=np.tile(demands.requests, (many, 1)))


def _each(plans: Plans, times: int) -> Plans:
    def repeated(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else np.repeat(values, times, axis=0)

    return replace(
        plans,
        shares=np.repeat(plans.shares, times, axis=0),
        order=None if plans.order is None else np.repeat(plans.order, times, axis=0),
        cap=repeated(plans.cap),
        awake=repeated(plans.awake),
        rtt_s=repeated(plans.rtt_s),
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

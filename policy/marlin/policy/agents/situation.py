"""What a decision is made in: a fleet's state as arrays, as the agents see it, and as the twin may turn out.

Made once per decision; everything after it reads from here. ``gaps`` says in words what the state does not know and
what was taken instead, so that a plan made half blind says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch
from marlin.api.values import MAX_ORIGINS
from marlin.policy.building import allowed_sites
from marlin.policy.demands import UNKNOWN_SPREAD, UPPER_Z, Demands, demands_of, is_tailed
from marlin.policy.network_times import nearby_rtt_s
from marlin.policy.networks.rows import Rows, rows_of
from marlin.policy.objective import Weights
from marlin.policy.trials import LATE_WEIGHT, Objective, Tried, objective_beside, tried, values_by_model
from marlin.simulator.environments import observation
from marlin.simulator.environments.action import Intent, plans
from marlin.simulator.environments.forecast import Forecast
from marlin.simulator.environments.lanes import Fleets
from marlin.simulator.environments.proportional import proportional_plans
from marlin.simulator.fluid import Plans, capacity_rps
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from

if TYPE_CHECKING:
    from marlin.api.state import FleetState


@dataclass(frozen=True, slots=True)
class Situation:
    """One epoch to be planned."""

    state: FleetState
    twin: TwinState
    fleets: Fleets
    """The fleet again, as the environments' functions take it; there is one."""
    dispatch: Dispatch
    allowed: NDArray[np.bool_]  # (V, D)
    forecast: Forecast  # (1, V)
    demands: Demands
    objective: Objective
    """What the user weighs."""
    baseline_plan: Plans  # one, capacity-proportional routing
    baseline: Tried  # N = 1, what it comes to
    trusted: FloatArray  # (4,) 0 where nothing is known of what a metric depends on
    gaps: tuple[str, ...]
    has_rows: bool = False
    """Whether plans are tried with the network time that is left when they are given rows of origins."""

    def with_rows(self) -> Situation:
        """The same, looked at by somebody whose plans of shares get rows of origins; itself where they cannot."""
        if self.dispatch is not Dispatch.SHARES or len(self.state.origins) > MAX_ORIGINS:
            return self
        there = replace(self, has_rows=True)
        return replace(there, baseline=there.tried(self.baseline_plan))

    def rows(self, weights: Weights) -> Rows:
        """What the agents are shown; N = 1.

        In single precision, as parameters are stored and observations are seen: networks then take half the time, and
        what they say is known less well than that.
        """
        seen = observation.of_fleet(self.twin, self.state.start_time, self.forecast, np.array(weights), self.dispatch)
        return rows_of(seen[None], *self.allowed.shape).single()

    def plans(self, intents: Intent, prewarmed: FloatArray | None = None) -> Plans:
        """What N intents (N, V, D) come to as plans.

        Args:
            intents: what is wanted.
            prewarmed: (N, V) demand that replicas are kept awake for, in upper forecasts. Default: 1.
        """
        many = len(intents.shares)
        high = np.repeat(self.forecast.high, many, 0)
        if prewarmed is not None:
            high = high * prewarmed
        return plans(intents, self.dispatch, self.fleets, *_of_each(self.allowed, many), high)

    def tried(self, tries: Plans, demands: Demands | None = None) -> Tried:
        """What plans come to on the demands that may come, or on others."""
        return tried(self.twin, self._carried_out(tries), demands or self.demands)

    def values_by_model(self, tries: Plans, demands: Demands | None = None) -> FloatArray:
        """(N, V) what each model by itself adds to what plans are worth; see ``trials.values_by_model``."""
        return values_by_model(self.twin, self._carried_out(tries), demands or self.demands, self.objective)

    def _carried_out(self, tries: Plans) -> Plans:
        """Plans with the network time that they will have."""
        return replace(tries, rtt_s=nearby_rtt_s(self.twin, tries.shares)) if self.has_rows else tries


def situation_of(
    state: FleetState, dispatch: Dispatch, weights: Weights, late_weight: float = LATE_WEIGHT
) -> Situation:
    """The situation that a state is.

    Args:
        state: the fleet and what is expected of its epoch.
        dispatch: how plans are carried out.
        weights: the user's.
        late_weight: what it costs when all requests are late, in units of the weighted objective.

    Raises:
        InfeasibleError: a pool has no site that may serve it.
    """
    twin = arrays_from(state)
    capacity = capacity_rps(twin)
    allowed = allowed_sites(state, capacity)
    open_requests = (capacity * allowed).sum(axis=1) * twin.max_utilization * twin.epoch_s  # (V,)
    trusted, gaps = _known(state)
    fleets, forecast = Fleets.of([twin]), _forecast(state)
    demands = demands_of(state, open_requests, is_tailed=is_tailed(twin, dispatch))
    baseline_plan = proportional_plans(fleets, *_of_each(allowed, 1), forecast.high)
    objective, demands, baseline = objective_beside(twin, weights, baseline_plan, demands, late_weight)
    return Situation(
        state=state,
        twin=twin,
        fleets=fleets,
        dispatch=dispatch,
        allowed=allowed,
        forecast=forecast,
        demands=demands,
        objective=objective,
        baseline_plan=baseline_plan,
        baseline=baseline,
        trusted=trusted,
        gaps=gaps,
    )


def _of_each(allowed: NDArray[np.bool_], many: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The one fleet, many times: which it is, and what is allowed there."""
    return np.zeros(many, dtype=np.int64), np.broadcast_to(allowed, (many, *allowed.shape))


def _forecast(state: FleetState) -> Forecast:
    """Mean and 90 % interval.

    A state has no lower bound: it lies as far below as the upper one lies above, as in the forecasts that the agents
    were trained on.
    """
    mean = np.array([sum(pool.forecast_requests) for pool in state.pools])
    usual = float(np.exp(UNKNOWN_SPREAD * UPPER_Z))
    high = np.array(
        [
            expected * usual if pool.forecast_upper_requests is None else max(pool.forecast_upper_requests, expected)
            for expected, pool in zip(mean, state.pools, strict=True)
        ]
    )
    return Forecast(mean[None], np.maximum(2.0 * mean - high, 0.0)[None], high[None])


def _known(state: FleetState) -> tuple[FloatArray, tuple[str, ...]]:
    """Which metrics may be believed (4,), and what is missing in words."""
    gaps = []
    if silent := [pool.name for pool in state.pools if not sum(pool.forecast_requests)]:
        gaps.append(f"no requests expected: {', '.join(silent)}")
    if unbounded := [pool.name for pool in state.pools if pool.forecast_upper_requests is None]:
        gaps.append(f"no upper forecast, the usual spread taken: {', '.join(unbounded)}")
    trusted = np.ones(len(METRIC_NAMES))
    sites = [site for site in state.datacenters if site.is_available]
    for signal, metric in (("carbon", 1), ("water", 2), ("price", 3)):
        stale = [site.name for site in sites if signal in site.stale_signals]
        if not stale:
            continue
        gaps.append(f"{signal} is not of this epoch: {', '.join(stale)}")
        if len(stale) == len(sites):
            trusted[metric] = 0.0
    return trusted, tuple(gaps)

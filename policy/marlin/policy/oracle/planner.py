"""The oracle as a planner: from the optimum of every demand that may come to one plan that suits them all.

A few demands stand for all that may come (``demands``). Three of them, a low, a middle and a high one, have an optimum
of their own. The candidates are those optima, carried out as shares or as an order with caps, with the replicas of
their own or of a larger demand awake; the plans of all simple planners are among them too. The twin tries every
candidate on every demand, and the one with the least expected objective is the plan.
Where the forecast is certain, because its upper quantile is itself, there is one demand, and the plan is its optimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.api.values import MAX_ORIGINS
from marlin.policy import baselines
from marlin.policy.building import Proposal, allowed_sites, build_plan
from marlin.policy.deciding import decision_of, upper_requests
from marlin.policy.demands import Demands, demands_of, is_tailed
from marlin.policy.merit import merit_order
from marlin.policy.network_times import nearby_rtt_s
from marlin.policy.objective import OPTION_NAMES, Weights
from marlin.policy.oracle.epoch import Optimum, limits_rps, optimum, site_costs
from marlin.policy.planner import Decision
from marlin.policy.trials import Objective, objective_beside, objective_of, tried
from marlin.simulator.constants import constant
from marlin.simulator.environments.lanes import Fleets
from marlin.simulator.environments.proportional import proportional_plans
from marlin.simulator.fluid import Plans, awake_for, capacity_rps, marginal_metrics
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marlin.api.state import FleetState


@dataclass(frozen=True, slots=True)
class _Candidate:
    proposal: Proposal
    awake: FloatArray  # (V, D)
    name: str


@dataclass(frozen=True, slots=True)
class Oracle:
    """The best plan for what it is shown."""

    scheme: Scheme
    dispatch: Dispatch
    weights: Weights
    scale: tuple[float, float, float, float] | None = None
    """What capacity-proportional comes to over the day, request-seconds first: so that the sum over a day is what is
    minimised. Default: an epoch's at the usual load."""
    requests: float | None = None
    """Requests of the day, which the share of late ones is of. Default: an epoch's at the usual load."""
    origin_aware: bool = False
    """Its plans of shares will be given rows of origins (``policy.origins``): candidates are compared with what the
    network takes then. The optima are found as if each site's requests came from everywhere."""

    @property
    def kind(self) -> PlannerKind:
        """Oracle."""
        return PlannerKind.ORACLE

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``. Takes tenths of a second; a deadline changes nothing."""
        twin = arrays_from(state)
        allowed = allowed_sites(state, capacity_rps(twin))
        most = limits_rps(twin).sum(axis=1) * twin.epoch_s
        demands = demands_of(state, most, is_tailed=is_tailed(twin, self.dispatch))
        objective, demands = self._objective(state, twin, allowed, demands)
        candidates = list(self._candidates(state, twin, objective, allowed, demands.few().requests))
        expected = _expected(twin, objective, candidates, demands, self.dispatch, has_rows=self._has_rows(state))
        best = int(expected.argmin())
        names = [site.name for site in state.datacenters]
        first = candidates[best].proposal.order[0]
        plan = build_plan(
            state,
            candidates[best].proposal,
            allowed,
            kind=self.kind,
            scheme=self.scheme,
            dispatch=self.dispatch,
            now=now,
            explanation=f"oracle {self.scheme.option}: {candidates[best].name}; "
            f"{state.pools[0].name} first to {' > '.join(names[d] for d in first[:3])}",
            awake=candidates[best].awake if twin.can_sleep.any() else None,
        )
        record: dict[str, Any] = {
            "weights": dict(zip(OPTION_NAMES, self.weights, strict=True)),
            "candidates": [
                {"name": candidate.name, "expected": round(float(value), 6)}
                for candidate, value in sorted(zip(candidates, expected, strict=True), key=lambda pair: pair[1])
            ],
        }
        return decision_of(state, twin, plan, record)

    def _has_rows(self, state: FleetState) -> bool:
        return self.origin_aware and self.dispatch is Dispatch.SHARES and len(state.origins) <= MAX_ORIGINS

    def _objective(
        self, state: FleetState, twin: TwinState, allowed: NDArray[np.bool_], demands: Demands
    ) -> tuple[Objective, Demands]:
        """In units of the day where they are given; else in MARLIN's own."""
        if self.scale is not None:
            return objective_of(twin, self.weights, scale=np.array(self.scale), requests=self.requests), demands
        only = np.zeros(1, dtype=np.int64)
        baseline = proportional_plans(Fleets.of([twin]), only, allowed[None], upper_requests(state)[None])
        return objective_beside(twin, self.weights, baseline, demands)[:2]

    def _candidates(
        self,
        state: FleetState,
        twin: TwinState,
        objective: Objective,
        allowed: NDArray[np.bool_],
        arriving: FloatArray,  # (S, V)
    ) -> Iterator[_Candidate]:
        demand = (arriving + twin.backlog_requests.sum(axis=1)) / twin.epoch_s  # (S, V) requests per second
        optima = [optimum(twin, objective, rates) for rates in demand]
        for i, found in enumerate(optima):
            order, exact, open_ended = _in_turn(twin, objective, found)
            ways = (
                (("", None),)
                if self.dispatch is Dispatch.SHARES
                else (("", open_ended), (", to the rate", exact), (", all open", None))
            )
            for text, cap in ways:
                proposal = Proposal(found.rate_rps, order, cap=cap)
                for j in range(i, len(optima) if twin.can_sleep.any() else i + 1):
                    awake = np.maximum(found.awake, optima[j].awake)
                    yield _Candidate(proposal, awake, f"optimum of demand {i + 1}, awake for {j + 1}{text}")
        capacity = capacity_rps(twin)
        # Everybody's plans are among the candidates: whatever the optima leave out, no simple planner is expected to
        # do better than what is chosen.
        for name, proposal in (
            ("capacity-proportional", baselines.capacity_proportional(state, capacity, allowed)),
            ("merit order", merit_order(state, capacity, marginal_metrics(twin), allowed, self.weights)[0]),
            ("nearest", baselines.nearest(state, capacity, allowed)),
            ("least-loaded", baselines.least_loaded(state, capacity, allowed)),
            ("round-robin", baselines.round_robin(state, capacity, allowed)),
        ):
            shares = np.where(allowed, proposal.shares, 0.0)
            shares = shares / shares.sum(axis=1, keepdims=True)
            # The largest demand first, so that a name alone means the one that prewarms for it.
            for j in range(len(demand), 0, -1) if twin.can_sleep.any() else (len(demand),):
                rate_rps = shares * demand[j - 1][:, None]
                awake = awake_for(twin, rate_rps, constant("awake_utilization"))
                yield _Candidate(proposal, awake, name if j == len(demand) else f"{name}, awake for {j}")


def _in_turn(
    twin: TwinState, objective: Objective, found: Optimum
) -> tuple[tuple[tuple[int, ...], ...], FloatArray, FloatArray]:
    """An optimum as an order and caps: filled in turn it comes about when its demand comes.

    Sites that get something come first, the ones with the dearest last request last, so that they are spared when less
    comes; then the others, the cheapest first request first. The second caps leave the last site in use and all after
    it open up to the limit, so that more demand goes there and not to whoever has room.
    """
    ready = np.maximum(_ready_rps(twin, found.awake), 1e-12)
    exact = np.minimum(found.rate_rps / ready, 1.0)
    open_ended = exact.copy()
    orders = []
    for v, rates in enumerate(found.rate_rps):
        used = rates > 1e-6 * max(float(rates.sum()), 1e-12)
        step = max(float(rates.sum()), 1e-9) * 1e-3
        ahead = np.where(used, rates, step)
        behind = np.where(used, np.maximum(rates - step, 0.0), 0.0)
        both = site_costs(twin, objective, v, np.stack([behind, ahead], axis=1))
        slope = (both[:, 1] - both[:, 0]) / np.maximum(ahead - behind, 1e-12)
        order = tuple(int(d) for d in np.lexsort((slope, ~used)))
        last = max((position for position, d in enumerate(order) if used[d]), default=0)
        open_ended[v, list(order[last:])] = 1.0
        orders.append(order)
    return tuple(orders), exact, open_ended


def _ready_rps(twin: TwinState, awake: FloatArray) -> FloatArray:
    """(V, D) capacity of the replicas that are awake, the thriftiest first."""
    ready, left = np.zeros_like(awake), awake
    for i in range(twin.replicas.shape[2]):
        here = np.minimum(left, twin.replicas[:, :, i])
        ready, left = ready + here * twin.replica_rps[:, :, i], left - here
    return ready


def _expected(
    twin: TwinState,
    objective: Objective,
    candidates: list[_Candidate],
    demands: Demands,
    dispatch: Dispatch,
    *,
    has_rows: bool,
) -> FloatArray:
    """(N,) expected objective of each candidate: every one carried out on every demand, in one call of the twin."""
    shares = np.array([np.maximum(c.proposal.shares, 0.0) for c in candidates])  # (N, V, D)
    shares = np.where(shares.sum(axis=2, keepdims=True) > 0, shares, capacity_rps(twin))
    order = cap = None
    if dispatch is Dispatch.ORDERED:
        order = np.full(shares.shape, -1, dtype=np.int64)
        cap = np.full(shares.shape, twin.max_utilization)
        for n, candidate in enumerate(candidates):
            for v, row in enumerate(candidate.proposal.order):
                order[n, v, : len(row)] = row
            if candidate.proposal.cap is not None:
                cap[n] = np.minimum(candidate.proposal.cap, twin.max_utilization)
    awake = np.array([c.awake for c in candidates])
    rtt_s = nearby_rtt_s(twin, shares) if has_rows else None
    plans = Plans(shares=shares, order=order, cap=cap, awake=awake, rtt_s=rtt_s)
    return tried(twin, plans, demands).values(objective)

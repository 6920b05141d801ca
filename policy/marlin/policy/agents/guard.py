"""The last look before a plan is published: whether something plain is expected to do better.

What the agents agree on is tried in the twin beside capacity-proportional routing and merit order, on the same demands
and by the user's own weights. The best of them is published; where it is not the agents', the record says whose it is.
The paper has no such step. With merit order in it, MARLIN is never expected to be worse than a sort; the evaluation
shows it without as well, so that the sort's merit is not taken for the agents'.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from marlin.api.plan import Dispatch
from marlin.policy.agents.settling import Settled
from marlin.policy.agents.situation import Situation
from marlin.policy.deciding import AWAKE_UTILIZATION
from marlin.policy.merit import merit_order
from marlin.policy.objective import Weights
from marlin.policy.trials import Tried
from marlin.simulator.environments.action import Intent
from marlin.simulator.fluid import Plans, awake_for, marginal_metrics
from marlin.simulator.physics import FloatArray

PROPORTIONAL: Final = "capacity-proportional"
MERIT: Final = "merit order"

_ROUNDING: Final = 1e-9
"""Of the objective, by which a plan may seem worse than its own equal."""


class Guard(StrEnum):
    """What may take the place of what the agents agreed on."""

    NONE = "none"
    PROPORTIONAL = "proportional"
    """Capacity-proportional routing."""
    SIMPLE = "simple"
    """That, or merit order."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was tried at last, and what is published of it."""

    plans: Plans  # 2 + J: the consensus, each agent's own, merit order
    outcome: Tried  # N = 2 + J
    baseline: Tried  # N = 1, capacity-proportional
    values: dict[str, float]
    """By the user's weights: of ``plan``, ``PROPORTIONAL`` and ``MERIT``; less is better."""
    instead: str | None
    """Who takes the place of the agents' plan; nobody mostly."""
    published: Plans  # one
    dispatch: Dispatch
    served: FloatArray  # (V, D) what each site is expected to serve under it
    totals: FloatArray  # (4,) expected of it

    @property
    def proposed(self) -> FloatArray:
        """(J, 4) totals expected of each agent's own proposal."""
        return self.outcome.expected_totals()[1:-1]


def look(situation: Situation, settled: Settled, proposals: Intent, weights: Weights, guard: Guard) -> Looked:
    """Tries what was settled on (V, D), what was proposed (J, V, D) and the plain plans, and chooses.

    Args:
        situation: where.
        settled: what came of what the agents agreed on.
        proposals: of each of them.
        weights: the user's.
        guard: who may take the agents' place.
    """
    of_agents = _with(settled.plans(situation), situation.plans(proposals))
    plans = _with(of_agents, _by_merit(situation, weights))
    outcome = situation.tried(plans)
    baseline_plan = situation.baseline()
    baseline = situation.tried(baseline_plan)
    of_plans = outcome.values(situation.objective)
    values = {
        "plan": float(of_plans[0]),
        PROPORTIONAL: float(baseline.values(situation.objective)[0]),
        MERIT: float(of_plans[-1]),
    }
    may = {Guard.NONE: (), Guard.PROPORTIONAL: (PROPORTIONAL,), Guard.SIMPLE: (PROPORTIONAL, MERIT)}[guard]
    best = min(("plan", *may), key=lambda name: values[name] - (_ROUNDING if name == "plan" else 0.0))
    row = {"plan": 0, MERIT: len(of_plans) - 1}.get(best, 0)
    tried, published = (baseline, baseline_plan) if best == PROPORTIONAL else (outcome, plans.take(slice(row, row + 1)))
    return Looked(
        plans=plans,
        outcome=outcome,
        baseline=baseline,
        values=values,
        instead=None if best == "plan" else best,
        published=published,
        dispatch=Dispatch.SHARES if best == PROPORTIONAL else situation.dispatch,
        served=np.einsum("svd,s->vd", tried.served[row], tried.chances),
        totals=tried.expected_totals()[row],
    )


def _by_merit(situation: Situation, weights: Weights) -> Plans:
    """Merit order as the engine takes it; one plan."""
    twin, allowed = situation.twin, situation.allowed
    capacity = twin.capacity_rps
    proposal, _ = merit_order(situation.state, capacity, marginal_metrics(twin), allowed, weights)
    shares = np.where(allowed, proposal.shares, 0.0)
    # A model of which nothing is expected has a row all the same.
    shares = np.where(shares.sum(axis=1, keepdims=True) > 0, shares, capacity * allowed)
    shares = shares / shares.sum(axis=1, keepdims=True)
    order = np.full(shares.shape, -1, dtype=np.int64)
    for v, row in enumerate(proposal.order):
        order[v, : len(row)] = row
    is_ordered = situation.dispatch is Dispatch.ORDERED
    rate_rps = shares * (situation.forecast.high[0] / twin.epoch_s)[:, None]
    awake = awake_for(twin, rate_rps, AWAKE_UTILIZATION) if situation.fleets.can_power_down else None
    return Plans(
        shares=shares[None],
        order=order[None] if is_ordered else None,
        cap=np.full((1, *shares.shape), twin.max_utilization) if is_ordered else None,
        awake=None if awake is None else awake[None],
    )


def _with(plans: Plans, one: Plans) -> Plans:
    """Plans, and one more of the same kind."""

    def both(many: FloatArray | None, last: FloatArray | None) -> FloatArray | None:
        return None if many is None or last is None else np.concatenate([many, last])

    return Plans(
        shares=np.concatenate([plans.shares, one.shares]),
        order=None if plans.order is None or one.order is None else np.concatenate([plans.order, one.order]),
        cap=both(plans.cap, one.cap),
        awake=both(plans.awake, one.awake),
    )

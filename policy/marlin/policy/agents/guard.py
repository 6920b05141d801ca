"""The last look before a plan is published: whether something plain is expected to do better.

What the agents agree on is tried in the twin beside capacity-proportional routing, merit order and even margins
(``even_margins``), under shares also beside the plainest shares of all (``_by_place``) and each model as the best of
those has it. All meet the same demands and are judged by the user's own weights. The best of them is published; where
it is not the agents', the record says whose it is. The paper has no such step. With merit order in it, MARLIN is never
expected to be worse than a sort; the evaluation shows it without as well, so that the sort's merit is not taken for the
agents'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final

import numpy as np

from marlin.api.plan import Dispatch
from marlin.policy import baselines
from marlin.policy.agents.models_apart import models_apart
from marlin.policy.agents.settling import Settled
from marlin.policy.agents.situation import Situation
from marlin.policy.building import fill_in_order
from marlin.policy.deciding import AWAKE_UTILIZATION
from marlin.policy.demands import Demands
from marlin.policy.even_margins import even_orders, even_shares, slices_of
from marlin.policy.merit import merit_order
from marlin.policy.objective import Weights
from marlin.policy.trials import Tried
from marlin.simulator.environments.action import Intent
from marlin.simulator.fluid import Plans, awake_for, marginal_metrics
from marlin.simulator.physics import FloatArray

PROPORTIONAL: Final = "capacity-proportional"
MERIT: Final = "merit order"
EVEN: Final = "even margins"
CAPPED: Final = "even margins, to the rate"
NEAREST: Final = "nearest"
SPREAD: Final = "by capacity"
APART: Final = "model by model"

_UNSEEN: Final = 1e-3
"""Of its value, by which ``CAPPED`` must be better than all others: it scatters a surge beyond all demands that are
looked at over the whole fleet. Where energy counts it was never expected to be better by more than a ten-thousandth,
and was worse by 1 % over a day; where time to first token alone counts it was expected to be better by a quarter of a
percent, and was."""

_KNOBS: Final = ((0.95, 0.85, 0.7), (0.0, 1.0), (0.85, 0.7, 0.5))
"""Of merit order with rows of origins: how full, of the way to the upper forecast, load of what is awake."""

_ROUNDING: Final = 1e-9
"""Of the objective, by which a plan may seem worse than its own equal."""


class Guard(StrEnum):
    """What may take the place of what the agents agreed on."""

    NONE = "none"
    PROPORTIONAL = "proportional"
    """Capacity-proportional routing."""
    SIMPLE = "simple"
    """That, merit order, even margins, or under shares the plainest and each model as the best of them has it."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was tried at last, and what is published of it."""

    plans: Plans  # 1 + J + K: the consensus, each agent's own, the best of each of the K ``plain`` ones
    outcome: Tried  # N = 1 + J + K
    plain: tuple[str, ...]
    """``MERIT``, ``EVEN``, under shares ``NEAREST``, ``SPREAD`` where replicas can power down and ``APART`` of several
    models, under orders where a pool cannot power down ``CAPPED``."""
    baseline: Tried  # N = 1, capacity-proportional
    values: dict[str, float]
    """By the user's weights: of ``plan``, ``PROPORTIONAL`` and the plain ones; less is better."""
    instead: str | None
    """Who takes the place of the agents' plan; nobody mostly."""
    published: Plans  # one
    dispatch: Dispatch
    served: FloatArray  # (V, D) what each site is expected to serve under it
    totals: FloatArray  # (4,) expected of it
    late_share: float
    """Requests that are expected to be late under it."""

    @property
    def proposed(self) -> FloatArray:
        """(J, 4) totals expected of each agent's own proposal."""
        return self.outcome.expected_totals()[1 : len(self.outcome) - len(self.plain)]


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
    twin = situation.twin
    by_merit, _ = merit_order(situation.state, twin.capacity_rps, marginal_metrics(twin), situation.allowed, weights)
    plain = {MERIT: _by_merit(situation, by_merit.order)} | _by_margins(situation)
    if situation.dispatch is Dispatch.SHARES:
        plain |= _by_place(situation)
        if len(situation.allowed) > 1:
            plain[APART] = _model_by_model(situation, plain.values())
    plans, outcome = _best_of_each(situation, of_agents, plain)
    baseline_plan, baseline = situation.baseline_plan, situation.baseline
    of_plans = outcome.values(situation.objective)
    row = {"plan": 0} | {name: len(of_agents) + k for k, name in enumerate(plain)}
    values = {name: float(of_plans[n]) for name, n in row.items()}
    values[PROPORTIONAL] = float(baseline.values(situation.objective)[0])
    may = {Guard.NONE: (), Guard.PROPORTIONAL: (PROPORTIONAL,), Guard.SIMPLE: (PROPORTIONAL, *plain)}[guard]
    best = min(("plan", *may), key=lambda name: values[name] + _handicap(name, values[name]))
    n = row.get(best, 0)
    tried, published = (baseline, baseline_plan) if best == PROPORTIONAL else (outcome, plans.take(slice(n, n + 1)))
    return Looked(
        plans=plans,
        outcome=outcome,
        plain=tuple(plain),
        baseline=baseline,
        values=values,
        instead=None if best == "plan" else best,
        published=published,
        dispatch=Dispatch.SHARES if best == PROPORTIONAL else situation.dispatch,
        served=np.einsum("svd,s->vd", tried.served[n], tried.chances),
        totals=tried.expected_totals()[n],
        late_share=float(tried.expected_late_shares()[n]),
    )


def _best_of_each(situation: Situation, plans: Plans, groups: Mapping[str, Plans]) -> tuple[Plans, Tried]:
    """Some plans and the best of each of some groups, with what they come to; all are tried in one call."""
    kept, begins = list(range(len(plans))), len(plans)
    for group in groups.values():
        plans = _with(plans, group)
    outcome = situation.tried(plans)
    values = outcome.values(situation.objective)
    for group in groups.values():
        kept.append(begins + int(values[begins : begins + len(group)].argmin()))
        begins += len(group)
    return plans.take(kept), outcome.take(kept)


def _handicap(name: str, value: float) -> float:
    """What is added to a plan's value before it is chosen by."""
    return {"plan": -_ROUNDING, CAPPED: _UNSEEN * abs(value)}.get(name, 0.0)


def _model_by_model(situation: Situation, groups: Iterable[Plans]) -> Plans:
    """One or two plans: of capacity-proportional routing and all plain plans of shares the best, and each model's own.

    Shares are fixed, so that much depends on how much more may come than is expected, and of one model that is often
    known while another comes and goes.

    Args:
        situation: where.
        groups: the plain plans, all of shares.
    """
    plans = situation.baseline_plan
    for group in groups:
        plans = _with(plans, group)
    return models_apart(situation, plans)


def _by_margins(situation: Situation) -> dict[str, Plans]:
    """Even margins for each of the demands that may come, carried out in each of the ways that the dispatch has.

    Where replicas can power down, it matters most which demand they are awake for, and that is each model's own choice
    (under shares ``_model_by_model`` makes it).
    """
    twin = situation.twin
    slices = slices_of(twin, situation.objective, situation.allowed)
    sleeps = situation.fleets.can_power_down
    if situation.dispatch is Dispatch.SHARES:
        few = situation.demands.few() if sleeps else situation.demands  # pairs of all are four times as many plans
        return {EVEN: even_shares(slices, _to_be_carried_rps(situation, few))}
    opened, exact = even_orders(slices, _to_be_carried_rps(situation, situation.demands))
    ways = {EVEN: opened} if twin.can_sleep.all() else {EVEN: opened, CAPPED: exact}  # the same where all can sleep
    return {name: models_apart(situation, plans) if sleeps else plans for name, plans in ways.items()}


def _to_be_carried_rps(situation: Situation, demands: Demands) -> FloatArray:
    """(S, V) demands that may come, with the requests that wait already.

    Where some wait and replicas can power down, it is no less than what is expected: after a surge it looks cheap
    to let those wait on until replicas have woken for whatever comes, and on the day it was dear.
    """
    waiting, arriving = situation.twin.backlog_requests.sum(axis=1), demands.requests  # (V,), (S, V)
    if situation.fleets.can_power_down:
        arriving = np.where(waiting > 0, np.maximum(arriving, situation.forecast.mean), arriving)
    return np.asarray((arriving + waiting) / situation.twin.epoch_s)


def _by_merit(situation: Situation, orders: Sequence[Sequence[int]]) -> Plans:
    """Merit order as the engine takes it, and where plans get rows of origins with its knobs turned as well.

    One sort serves all; how full sites get, the demand that is counted on and the load that replicas are kept awake for
    are what the planner of that name can be tuned by (``in_order``). Without rows of origins even margins have all
    that turning them was worth.
    """
    twin, allowed, capacity = situation.twin, situation.allowed, situation.twin.capacity_rps
    order = np.full(capacity.shape, -1, dtype=np.int64)
    for v, row in enumerate(orders):
        order[v, : len(row)] = row
    knobs = [(twin.max_utilization, 0.0, AWAKE_UTILIZATION)]
    if situation.has_rows:
        how_full, counted_on, awake_for_loads = _KNOBS
        # A lower fill is worth something though nobody sleeps: more sites serve their neighbours.
        kept_for = awake_for_loads if situation.fleets.can_power_down else awake_for_loads[:1]
        limited = (min(fill, twin.max_utilization) for fill in how_full)
        knobs += product(limited, counted_on, kept_for)
    expected, high = situation.forecast.mean[0], situation.forecast.high[0]  # (V,) requests
    shares = np.zeros((len(knobs), *capacity.shape))
    for n, (fill, counted, _) in enumerate(knobs):
        demand_rps = (expected + counted * (high - expected)) / twin.epoch_s
        for v, row in enumerate(orders):
            shares[n, v] = fill_in_order(row, float(demand_rps[v]), capacity[v], fill)
    # A model of which nothing is expected has a row all the same.
    shares = np.where(shares.sum(axis=2, keepdims=True) > 0, shares, capacity * allowed)
    shares /= shares.sum(axis=2, keepdims=True)
    awake = None
    if situation.fleets.can_power_down:
        loads = np.array([load for _, _, load in knobs])
        awake = awake_for(twin, shares * (high / twin.epoch_s)[:, None] / loads[:, None, None], 1.0)
    is_ordered = situation.dispatch is Dispatch.ORDERED
    fills = np.array([fill for fill, _, _ in knobs])
    return Plans(
        shares=shares,
        order=np.repeat(order[None], len(knobs), axis=0) if is_ordered else None,
        cap=np.broadcast_to(fills[:, None, None], shares.shape).copy() if is_ordered else None,
        awake=awake,
    )


def _by_place(situation: Situation) -> dict[str, Plans]:
    """Shares that look at no forecast: everybody to the nearest site, or to all by capacity.

    Where a site's replicas are enough for all who are near it, nobody waits, and network time is all that is left of a
    first token. Where replicas can power down, such shares are tried awake for each of the demands that may come.
    Filled in turn even margins come to the same: their sites take a surge one after the other.
    """
    nearest = baselines.nearest(situation.state, situation.twin.capacity_rps, situation.allowed).shares  # (V, D)
    nearest = nearest / nearest.sum(axis=1, keepdims=True)
    if not situation.fleets.can_power_down:
        return {NEAREST: Plans(nearest[None])}
    demand_rps = _to_be_carried_rps(situation, situation.demands)[:, :, None]  # (S, V, 1)
    plans = {}
    for name, shares in ((NEAREST, nearest), (SPREAD, situation.baseline_plan.shares[0])):
        many = np.repeat(shares[None], len(demand_rps), axis=0)  # (S, V, D)
        plans[name] = Plans(many, awake=awake_for(situation.twin, many * demand_rps, AWAKE_UTILIZATION))
    return plans


def _with(plans: Plans, more: Plans) -> Plans:
    """Plans, and more of the same kind."""

    def both(many: FloatArray | None, last: FloatArray | None) -> FloatArray | None:
        return None if many is None or last is None else np.concatenate([many, last])

    return Plans(
        shares=np.concatenate([plans.shares, more.shares]),
        order=None if plans.order is None or more.order is None else np.concatenate([plans.order, more.order]),
        cap=both(plans.cap, more.cap),
        awake=both(plans.awake, more.awake),
    )

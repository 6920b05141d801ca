"""What MARLIN has to beat: simple planners, each as good as tuning makes it, and the best of them.

The best simple policy (BSP) is chosen per scenario, scheme and way of dispatch on the tuning days, and only there; then
it is one planner that is reported on other days. Candidates are the baselines; merit order with its fill level, the
quantile of the forecast it counts on and the load it keeps replicas awake for; the best static order in hindsight of
the training days; and the forecast-limited oracle. All of them get the same forecast (marlin-model, section 8), and
under shares rows of origins (``origins``), capacity-proportional as a candidate too; the measure goes without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy.deciding import Ground
from marlin.policy.in_order import InOrder
from marlin.policy.objective import Weights, scheme_weights
from marlin.policy.oracle.planner import Oracle
from marlin.policy.origins import OriginAwarePlain, as_evaluated
from marlin.policy.planner import Planner
from marlin.policy.planners import Baseline, make_planner
from marlin.policy.trials import LATE_WEIGHT
from marlin.simulator.engines import Engine, FluidEngine
from marlin.simulator.experiment import Study, Summary, run, run_all, summarise
from marlin.simulator.twin_state import arrays_from

if TYPE_CHECKING:
    from marlin.api.plan import RoutingPlan
    from marlin.api.state import FleetState

FILLS: Final = (0.95, 0.85, 0.7)
QUANTILES: Final = (0.0, 0.5, 1.0)
AWAKE_LOADS: Final = (0.95, 0.85, 0.7, 0.5)
BASELINES: Final = (
    PlannerKind.CAPACITY_PROPORTIONAL,
    PlannerKind.NEAREST,
    PlannerKind.LEAST_LOADED,
    PlannerKind.ROUND_ROBIN,
)


def static_order(states: Iterable[FleetState], weights: Weights) -> Mapping[str, tuple[str, ...]]:
    """The order of sites, by pool, that is right on average over the states: the best static one in hindsight.

    Scores are those of merit order, averaged; a site that may not serve in a state has no say in it.
    """
    totals: dict[str, dict[str, list[float]]] = {}
    for state in states:
        ground = Ground.of(state)
        score = ground.by_merit(weights)[1]  # (V, D)
        for v, pool in enumerate(state.pools):
            sites = totals.setdefault(pool.name, {})
            for d, site in enumerate(state.datacenters):
                if ground.allowed[v, d]:
                    sites.setdefault(site.name, []).append(float(score[v, d]))
    return {
        pool: tuple(sorted(sites, key=lambda name: (float(np.mean(sites[name])), name)))
        for pool, sites in totals.items()
    }


def simple_policies(
    scheme: Scheme,
    dispatch: Dispatch,
    *,
    static: Mapping[str, tuple[str, ...]],
    powers_down: bool,
    weights: Weights | None = None,
) -> Iterator[tuple[str, Planner]]:
    """All candidates for the best simple policy, named by what was tuned.

    Args:
        scheme: what they lean towards.
        dispatch: how all of them are carried out.
        static: the best static order, from the training days.
        powers_down: whether replicas can; else the load to keep them awake for is nothing to tune.
        weights: of scheme Custom.
    """
    weights = scheme_weights(scheme, weights)
    awake_loads = AWAKE_LOADS if powers_down else (0.85,)
    for kind, load in product(BASELINES, awake_loads):
        text = f", awake for {load}" if powers_down else ""
        baseline = make_planner(kind, dispatch=dispatch, awake_utilization=load)
        yield kind.option + text, as_evaluated(baseline, dispatch)
    for order, fill, quantile, load in product((None, static), FILLS, QUANTILES, awake_loads):
        planner = InOrder(scheme, dispatch, weights, fill, quantile, load, order)
        text = f", awake for {load}" if powers_down else ""
        name = f"{planner.kind.option}, fill {fill}, quantile {quantile}{text}"
        yield name, as_evaluated(planner, dispatch)
    yield "forecast-limited oracle", as_evaluated(Oracle(scheme, dispatch, weights), dispatch)


def named_policy(
    name: str,
    scheme: Scheme,
    dispatch: Dispatch,
    *,
    static: Mapping[str, tuple[str, ...]],
    weights: Weights | None = None,
) -> Planner:
    """The candidate of a name that ``simple_policies`` gave.

    Raises:
        KeyError: none has it.
    """
    powers_down = ", awake for" in name
    candidates = simple_policies(scheme, dispatch, static=static, powers_down=powers_down, weights=weights)
    return dict(candidates)[name]


@dataclass(frozen=True, slots=True)
class Scored:
    """A planner on some days."""

    name: str
    planner: Planner
    summary: Summary
    value: float
    """Weighted sum of metrics over capacity-proportional's of the same days, and late requests: less is better."""


def score(summary: Summary, baseline: Summary, weights: Weights, late_weight: float = LATE_WEIGHT) -> float:
    """The objective over days. A metric that capacity-proportional has for nothing counts as it is."""
    value = late_weight * summary.late_share
    for name, weight in zip(("ttft_s", "carbon_gco2", "water_l", "cost_usd"), weights, strict=True):
        ours, theirs = getattr(summary, name), abs(getattr(baseline, name))
        value += weight * (ours / theirs if theirs > 0 else ours)
    return float(value)


def scored(
    study: Study, candidates: Iterable[tuple[str, Planner]], weights: Weights, engine: Engine[Any] | None = None
) -> list[Scored]:
    """Every candidate on the study's days, best first."""
    by_capacity = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    named = list(candidates)
    baseline, *summaries = _summaries(study, [by_capacity, *(planner for _, planner in named)], engine)
    found = [
        Scored(name, planner, summary, score(summary, baseline, weights))
        for (name, planner), summary in zip(named, summaries, strict=True)
    ]
    return sorted(found, key=lambda one: one.value)


def _summaries(study: Study, planners: Sequence[Planner], engine: Engine[Any] | None) -> list[Summary]:
    """What each comes to; sorts and baselines side by side, where the engine can.

    Nine in ten candidates are such, and most of what they take alone is looking at the fleet and asking the twin.
    """
    engine = engine or FluidEngine(has_quantiles=False)
    if not isinstance(engine, FluidEngine):
        return [_summary(study, planner, engine) for planner in planners]
    plain = [i for i, planner in enumerate(planners) if isinstance(planner, InOrder | Baseline | OriginAwarePlain)]
    side_by_side = [planner for planner in planners if isinstance(planner, InOrder | Baseline | OriginAwarePlain)]

    def decide_all(state: FleetState, own: Sequence[FleetState | None]) -> Sequence[RoutingPlan]:
        shared = Ground.of(state)
        return [
            planner.plan_on(shared if one is None else Ground.of(one))
            for planner, one in zip(side_by_side, own, strict=True)
        ]

    found = dict(zip(plain, run_all(study, decide_all, len(plain), engine), strict=True))
    return [found[i] if i in found else _summary(study, planner, engine) for i, planner in enumerate(planners)]


def best_simple_policy(
    train: Study,
    tune: Study,
    scheme: Scheme,
    dispatch: Dispatch,
    engine: Engine[Any] | None = None,
    weights: Weights | None = None,
) -> Scored:
    """The candidate that is best on the tuning days.

    Args:
        train: days that the static order is learnt from.
        tune: days that the choice is made on; never those of the report.
        scheme: what is to be least.
        dispatch: how plans are carried out.
        engine: carries them out. Default: the fluid engine's NumPy form.
        weights: of scheme Custom.
    """
    wanted = scheme_weights(scheme, weights)
    states = states_of(train)
    static, powers_down = static_order(states, wanted), bool(arrays_from(states[0]).can_sleep.any())
    candidates = simple_policies(scheme, dispatch, static=static, powers_down=powers_down, weights=weights)
    return scored(tune, candidates, wanted, engine)[0]


def states_of(study: Study) -> Sequence[FleetState]:
    """What planners see in each epoch of a study, while capacity-proportional plans it."""
    seen: list[FleetState] = []
    planner = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)

    def remember(state: FleetState) -> Any:
        seen.append(state)
        return planner.decide(state).plan

    for _ in run(study, remember):
        pass
    return seen


def clairvoyant(
    study: Study,
    scheme: Scheme,
    engine: Engine[Any] | None = None,
    weights: Weights | None = None,
    dispatch: Dispatch = Dispatch.ORDERED,
) -> Scored:
    """The oracle shown what really comes, in the units of the days' sums: the bound that shares of a saving are of.

    Filled in turn, a site is no nearer to those whom it serves than to all others. So where plans are shares, the
    oracle plays the days a second time as everybody does, with rows of origins, and the better of both counts. It is no
    bound then: it settles how much every site serves before it asks whom.
    """
    weights = scheme_weights(scheme, weights)
    by_capacity = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    baseline = _summary(study, by_capacity, engine)
    scale = (baseline.ttft_s * baseline.requests, baseline.carbon_gco2, baseline.water_l, baseline.cost_usd)
    planners: list[Planner] = [Oracle(scheme, Dispatch.ORDERED, weights, scale, baseline.requests)]
    if dispatch is Dispatch.SHARES:
        planners.append(as_evaluated(Oracle(scheme, dispatch, weights, scale, baseline.requests), dispatch))
    found = []
    for planner in planners:
        summary = _summary(replace(study, foresight=True), planner, engine)
        found.append(Scored("clairvoyant oracle", planner, summary, score(summary, baseline, weights)))
    return min(found, key=lambda one: one.value)


def captured_saving(value: float, clairvoyant_value: float) -> float:
    """Share of the possible saving over capacity-proportional (whose value is 1) that a planner captures."""
    return (1.0 - value) / (1.0 - clairvoyant_value)


def recovered_share(value: float, best_simple: float, clairvoyant_value: float) -> float:
    """Share of what the best simple policy leaves that a planner recovers; negative where it is worse."""
    return (best_simple - value) / (best_simple - clairvoyant_value)


def _summary(study: Study, planner: Planner, engine: Engine[Any] | None) -> Summary:
    return summarise(run(study, lambda state: planner.decide(state).plan, engine))

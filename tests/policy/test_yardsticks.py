"""The planners MARLIN is measured against, and how they are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState
from marlin.policy.deciding import Ground
from marlin.policy.in_order import InOrder
from marlin.policy.objective import scheme_weights
from marlin.policy.origins import OriginAware, as_evaluated
from marlin.policy.planners import make_planner
from marlin.policy.sensitivity import with_power_down
from marlin.policy.yardsticks import (
    captured_saving,
    clairvoyant,
    recovered_share,
    score,
    scored,
    simple_policies,
    static_order,
)
from marlin.simulator.constants import Settings
from marlin.simulator.engines import FluidEngine
from marlin.simulator.experiment import Study, Summary, run, run_all, summarise
from marlin.simulator.fleet import Builder
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import arrays_from

CARBON = scheme_weights(Scheme.MIN_CARBON)


def three_sites(*carbon: float, forecast: float = 900.0, upper: float | None = None) -> FleetState:
    state = fleet(
        *(site(name, carbon_gco2_per_kwh=g) for name, g in zip("abc", carbon, strict=True)), forecast=forecast
    )
    pool = state.pools[0].model_copy(update={"forecast_upper_requests": upper, "power_down": PowerDown.SLEEP})
    return state.model_copy(update={"pools": (pool,)})


ONE_SITE = float(arrays_from(three_sites(1.0, 1.0, 1.0)).capacity_rps[0, 0]) * 900.0
"""Requests of an epoch that one site can carry."""


def test_a_lower_fill_level_caps_sites_and_brings_in_the_next_one() -> None:
    state = three_sites(300.0, 100.0, 500.0, forecast=0.8 * ONE_SITE)
    full, low = (
        InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, fill=fill).decide(state).plan.pools[0]
        for fill in (None, 0.5)
    )
    assert low.cap == (5000, 5000, 5000)
    assert full.weights == (0, 10_000, 0)
    assert low.weights == (3750, 6250, 0)


def test_a_higher_quantile_spreads_shares_and_a_lower_load_keeps_more_replicas_awake() -> None:
    state = three_sites(300.0, 100.0, 500.0, forecast=0.8 * ONE_SITE, upper=1.6 * ONE_SITE)
    plain, careful, awake = (
        InOrder(Scheme.MIN_CARBON, Dispatch.SHARES, CARBON, quantile=q, awake_load=load).decide(state).plan.pools[0]
        for q, load in ((0.0, 0.95), (1.0, 0.95), (0.0, 0.3))
    )
    assert plain.weights == (0, 10_000, 0)
    assert careful.weights[0] > 0
    assert sum(awake.replicas) >= sum(plain.replicas)


def test_the_static_order_is_the_one_that_is_right_on_average() -> None:
    states = [three_sites(100.0, 200.0, 500.0), three_sites(900.0, 200.0, 500.0)]
    order = static_order(states, CARBON)
    assert order == {"chat": ("b", "a", "c")}
    plan = InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, static=order).decide(states[0]).plan
    assert plan.planner is PlannerKind.BEST_STATIC
    assert plan.pools[0].order == (1, 0, 2)


def test_a_static_order_leaves_out_a_site_that_is_drained() -> None:
    state = three_sites(100.0, 200.0, 500.0)
    closed = state.datacenters[1].model_copy(update={"is_available": False})
    state = state.model_copy(update={"datacenters": (state.datacenters[0], closed, state.datacenters[2])})
    plan = InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, static={"chat": ("b", "c", "a")}).decide(state).plan
    assert plan.pools[0].order == (2, 0)
    assert plan.pools[0].weights[1] == 0


@pytest.mark.parametrize(("powers_down", "count"), [(False, 4 + 18 + 1), (True, 16 + 72 + 1)])
def test_candidates_have_names_of_their_own_and_none_is_left_out(powers_down: bool, count: int) -> None:
    found = dict(simple_policies(Scheme.MIN_WATER, Dispatch.ORDERED, static={"chat": ("a",)}, powers_down=powers_down))
    assert len(found) == count
    kinds = {planner.kind for planner in found.values()}
    assert kinds == set(PlannerKind) - {PlannerKind.MARLIN}


def test_under_shares_the_clairvoyant_plays_with_rows_of_origins_as_well_and_the_better_counts() -> None:
    study = Study(Builder(scenario_documents("demo-3")), load="mean30")
    ttft = (1.0, 0.0, 0.0, 0.0)
    in_turn = clairvoyant(study, Scheme.CUSTOM, weights=ttft)
    as_all = clairvoyant(study, Scheme.CUSTOM, weights=ttft, dispatch=Dispatch.SHARES)
    assert as_all.value < in_turn.value
    assert isinstance(as_all.planner, OriginAware)
    carbon = [clairvoyant(study, Scheme.MIN_CARBON, dispatch=dispatch).value for dispatch in Dispatch]
    assert carbon[list(Dispatch).index(Dispatch.SHARES)] <= carbon[list(Dispatch).index(Dispatch.ORDERED)]


def summary(**changes: float) -> Summary:
    names = [name for name in Summary.__slots__ if name not in changes]
    return Summary(**dict.fromkeys(names, 1.0), **changes)


def test_a_score_is_relative_to_capacity_proportional_and_late_requests_count() -> None:
    base = summary(ttft_s=2.0, carbon_gco2=10.0, water_l=4.0, cost_usd=0.0, late_share=0.0)
    ours = summary(ttft_s=1.0, carbon_gco2=5.0, water_l=4.0, cost_usd=0.0, late_share=0.02)
    assert score(base, base, CARBON) == 1.0
    assert score(ours, base, CARBON) == pytest.approx(0.5 + 0.02)
    assert score(ours, base, (0.25, 0.25, 0.25, 0.25)) == pytest.approx(0.25 * (0.5 + 0.5 + 1.0 + 0.0) + 0.02)


def test_shares_of_a_saving_are_what_their_names_say() -> None:
    assert captured_saving(0.9, 0.8) == pytest.approx(0.5)
    assert recovered_share(0.85, 0.9, 0.8) == pytest.approx(0.5)
    assert recovered_share(0.95, 0.9, 0.8) == pytest.approx(-0.5)


def test_many_planners_side_by_side_come_to_what_each_comes_to_alone() -> None:
    """Queues and sleepers of one are no other's, and round trips by origin neither."""
    study = with_power_down(
        Study(Builder(scenario_documents("demo-3")), load="peak95", first_day=1), PowerDown.SCALE_TO_ZERO
    )
    planners = [
        make_planner(PlannerKind.LEAST_LOADED, dispatch=Dispatch.ORDERED, awake_utilization=0.95),
        make_planner(PlannerKind.NEAREST, dispatch=Dispatch.SHARES, awake_utilization=0.5),
        make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES),
        InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, fill=0.95, awake_load=0.95),
        InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, fill=0.7, quantile=1.0, awake_load=0.5),
        as_evaluated(InOrder(Scheme.MIN_CARBON, Dispatch.SHARES, CARBON, fill=0.7, awake_load=0.7), Dispatch.SHARES),
    ]
    found = scored(study, [(str(i), planner) for i, planner in enumerate(planners)], CARBON)
    by_name = {one.name: one.summary for one in found}
    for i, planner in enumerate(planners):
        alone = summarise(run(study, lambda state, planner=planner: planner.decide(state).plan))  # type: ignore[misc]
        for name in ("ttft_s", "carbon_gco2", "water_l", "cost_usd", "served_share", "late_share", "awake_share"):
            assert getattr(by_name[str(i)], name) == getattr(alone, name), (i, name)
    assert len({one.summary.awake_share for one in found}) == len(found)
    assert max(one.summary.late_share for one in found) > 0.001, "somebody waited"


def test_side_by_side_each_planner_is_shown_those_whom_it_left_waiting_and_nobody_else() -> None:
    builder, settings = Builder(scenario_documents("demo-3")), Settings(wakes_on_demand=False)
    study = with_power_down(Study(builder, load="peak95", first_day=1, settings=settings), PowerDown.SLEEP)
    planners = [
        InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, quantile=1.0, awake_load=0.5),
        InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON, fill=0.95, awake_load=0.95),
    ]
    shown: list[list[float]] = []

    def waiting(state: FleetState | None) -> float:
        return 0.0 if state is None else sum(sum(pool.backlog_requests) for pool in state.pools)

    def decide_all(state: FleetState, own: Sequence[FleetState | None]) -> Sequence[RoutingPlan]:
        assert waiting(state) == 0.0
        shown.append([waiting(one) for one in own])
        return [planner.plan_on(Ground.of(one or state)) for planner, one in zip(planners, own, strict=True)]

    run_all(study, decide_all, len(planners), FluidEngine(has_quantiles=False))
    alone: list[list[float]] = []
    for planner in planners:
        queued = [float(epoch.outcome.queued.sum()) for epoch in run(study, lambda s, p=planner: p.decide(s).plan)]  # type: ignore[misc]
        alone.append([0.0, *queued][: study.epochs])
    assert pytest.approx(np.array(alone)) == np.array(shown).T
    assert np.array(alone).max() > 0.0, "somebody waited"


def test_candidates_are_ranked_on_the_days_of_the_study_by_their_score() -> None:
    study = replace(Study(Builder(scenario_documents("demo-3"))), load="mean56")
    names = ("merit-order", "capacity-proportional")
    found = scored(
        study,
        [
            ("capacity-proportional", make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)),
            ("merit-order", InOrder(Scheme.MIN_CARBON, Dispatch.ORDERED, CARBON)),
        ],
        CARBON,
    )
    assert [one.name for one in found] == list(names)
    assert found[1].value == pytest.approx(1.0 + found[1].summary.late_share)
    assert found[0].value < 0.95
    assert np.isfinite(found[0].summary.ttft_s)

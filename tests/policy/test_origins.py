"""Origin-aware dispatch: less network time, and nothing else changes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agents import small_artifact
from click.testing import CliRunner
from fleets import fleet, site
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog  # type: ignore[import-untyped]

from marlin.api.cli import marlin
from marlin.api.errors import MarlinError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.api.state import FleetState
from marlin.policy.agents import Marlin
from marlin.policy.agents.situation import situation_of
from marlin.policy.deciding import Ground
from marlin.policy.evaluation.frameworks import BASELINE, Leaning, learnt, simple
from marlin.policy.network_times import nearby_rtt_s
from marlin.policy.objective import scheme_weights
from marlin.policy.oracle.planner import Oracle
from marlin.policy.origins import OriginAware, OriginAwarePlain, as_evaluated, nearest_rows, origin_aware
from marlin.policy.planners import make_planner
from marlin.policy.transport import least_cost_flow
from marlin.policy.yardsticks import simple_policies
from marlin.simulator.fluid import simulate_plan
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from


@st.composite
def transports(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sites, origins = draw(st.integers(1, 12)), draw(st.integers(1, 16))
    shares = rng.gamma(0.5, size=sites) * (rng.random(sites) < 0.8)
    shares[rng.integers(sites)] += 0.1
    volume = rng.gamma(0.5, 100.0, origins) * (rng.random(origins) < 0.9)
    return shares, volume, rng.uniform(1, 300, (origins, sites))


@given(transports())
def test_rows_are_on_the_simplex_and_their_weighted_mean_is_the_plans_shares(
    problem: tuple[FloatArray, FloatArray, FloatArray],
) -> None:
    shares, volume, rtt_ms = problem
    rows = nearest_rows(shares, volume, rtt_ms)
    wanted = shares / shares.sum()
    assert rows.sum(axis=1) == pytest.approx(1.0)
    assert (rows >= 0).all()
    assert (rows[:, shares == 0] == 0).all()
    if volume.sum() > 0:
        assert volume @ rows / volume.sum() == pytest.approx(wanted, abs=1e-7)


@given(transports(), st.integers(0, 2**32 - 1))
def test_no_other_way_to_serve_the_same_shares_is_nearer(
    problem: tuple[FloatArray, FloatArray, FloatArray], seed: int
) -> None:
    """Any feasible flow can be reached by exchanges of two origins at two sites; none of them may help."""
    shares, volume, rtt_ms = problem
    flow = volume[:, None] * nearest_rows(shares, volume, rtt_ms)
    assert (flow * rtt_ms).sum() <= (volume[:, None] * (shares / shares.sum()) * rtt_ms).sum() * (1 + 1e-9)
    rng = np.random.default_rng(seed)
    for _ in range(30):
        r, q = rng.integers(len(volume), size=2)
        d, e = rng.integers(len(shares), size=2)
        moved = min(flow[r, d], flow[q, e])
        gain = moved * (rtt_ms[r, d] + rtt_ms[q, e] - rtt_ms[r, e] - rtt_ms[q, d])
        # Origins of less than a millionth are not looked at.
        assert gain <= 1e-5 * max(1.0, float((flow * rtt_ms).sum()))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 16), st.integers(2, 64))
def test_a_flow_costs_what_another_solvers_does(seed: int, origins: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(1.0, 300.0, (origins, sites))
    supply, demand = rng.dirichlet(np.ones(origins)), rng.dirichlet(np.ones(sites))
    flow = least_cost_flow(cost, supply, demand)
    assert flow.sum(axis=1) == pytest.approx(supply, abs=1e-6)
    assert flow.sum(axis=0) == pytest.approx(demand, abs=1e-6)
    takes = np.kron(np.eye(origins), np.ones((1, sites)))
    meets = np.kron(np.ones((1, origins)), np.eye(sites))
    found = linprog(cost.reshape(-1), A_eq=np.vstack([takes, meets[:-1]]), b_eq=[*supply, *demand[:-1]])
    assert (flow * cost).sum() == pytest.approx(found.fun, abs=1e-4)


def test_a_flow_is_found_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """What a solver prints would be in the middle of somebody's JSON."""
    least_cost_flow(np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    assert capfd.readouterr() == ("", "")


def test_two_origins_and_two_sites_each_serve_their_own() -> None:
    near = np.array([[5.0, 200.0], [200.0, 5.0]])
    assert nearest_rows(np.array([1.0, 1.0]), np.array([300.0, 300.0]), near).tolist() == [[1, 0], [0, 1]]
    rows = nearest_rows(np.array([3.0, 1.0]), np.array([300.0, 300.0]), near)
    assert rows == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


def test_an_origin_that_asks_nothing_follows_the_shares() -> None:
    rows = nearest_rows(np.array([3.0, 1.0]), np.array([0.0, 10.0]), np.array([[5.0, 9.0], [9.0, 5.0]]))
    assert rows[0].tolist() == [0.75, 0.25]


def worldwide(forecast: float = 900.0) -> FleetState:
    base = fleet(
        site("a", carbon_gco2_per_kwh=50.0),
        site("b", carbon_gco2_per_kwh=300.0),
        site("c", carbon_gco2_per_kwh=700.0),
        forecast=forecast,
        origins=("west", "east", "south"),
        rtt_ms=((5.0, 150.0, 200.0), (150.0, 5.0, 180.0), (200.0, 180.0, 5.0)),
    )
    volume = (0.5 * forecast, 0.3 * forecast, 0.2 * forecast)
    return base.model_copy(update={"pools": (base.pools[0].model_copy(update={"forecast_requests": volume}),)})


@settings(max_examples=10)
@given(st.sampled_from(Scheme), st.floats(100, 3000))
def test_only_the_time_to_first_token_changes_and_only_for_the_better(scheme: Scheme, forecast: float) -> None:
    state = worldwide(forecast)
    twin = arrays_from(state)
    weights = (0.1, 0.4, 0.3, 0.2) if scheme is Scheme.CUSTOM else None
    inner = make_planner(PlannerKind.MERIT_ORDER, scheme=scheme, dispatch=Dispatch.SHARES, weights=weights)
    plain, aware = inner.decide(state), OriginAware(inner).decide(state)
    assert aware.plan.pools[0].weights == plain.plan.pools[0].weights
    assert aware.plan.hash == aware.plan.content_hash()
    before, after = (simulate_plan(twin, decision.plan).metrics[0] for decision in (plain, aware))
    assert after[1:].tolist() == before[1:].tolist()
    assert after[0] <= before[0] + 1e-4
    assert aware.estimate.ttft_s == pytest.approx(after[0])


def test_shares_spread_over_the_world_become_much_nearer() -> None:
    inner = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    plain, aware = inner.decide(worldwide()), OriginAware(inner).decide(worldwide())
    assert aware.estimate.ttft_s < plain.estimate.ttft_s - 0.05


def test_pools_that_are_filled_in_turn_are_left_alone() -> None:
    inner = make_planner(PlannerKind.MERIT_ORDER, dispatch=Dispatch.ORDERED)
    assert OriginAware(inner).decide(worldwide()).plan == inner.decide(worldwide()).plan


@pytest.mark.parametrize("kind", [PlannerKind.MERIT_ORDER, PlannerKind.NEAREST, PlannerKind.CAPACITY_PROPORTIONAL])
def test_side_by_side_with_others_a_planner_makes_the_plan_that_it_makes_alone(kind: PlannerKind) -> None:
    aware = as_evaluated(make_planner(kind, dispatch=Dispatch.SHARES), Dispatch.SHARES)
    assert isinstance(aware, OriginAwarePlain)
    plan = aware.plan_on(Ground.of(worldwide()))
    assert plan == aware.decide(worldwide()).plan
    assert len(plan.pools[0].by_origin) == 3


def test_rows_that_a_planner_has_written_itself_stay_as_they_are() -> None:
    nearest = make_planner(PlannerKind.NEAREST, dispatch=Dispatch.SHARES)
    assert OriginAware(nearest).decide(worldwide()).plan == nearest.decide(worldwide()).plan


def test_the_same_shares_for_other_requests_get_other_rows() -> None:
    aware = OriginAware(make_planner(PlannerKind.ROUND_ROBIN, dispatch=Dispatch.SHARES))
    state = worldwide()
    turned = state.pools[0].model_copy(update={"forecast_requests": state.pools[0].forecast_requests[::-1]})
    before, after = (aware.decide(one).plan.pools[0] for one in (state, state.model_copy(update={"pools": (turned,)})))
    assert before.weights == after.weights
    assert before.by_origin != after.by_origin


@pytest.mark.parametrize("powers_down", [False, True])
def test_under_shares_every_simple_policy_has_rows_of_origins_and_filled_in_turn_none(powers_down: bool) -> None:
    for dispatch in Dispatch:
        named = dict(simple_policies(Scheme.BALANCED, dispatch, static={"chat": ("a",)}, powers_down=powers_down))
        for name, planner in named.items():
            has_rows = bool(planner.decide(worldwide()).plan.pools[0].by_origin)
            assert has_rows == (dispatch is Dispatch.SHARES or name.startswith("nearest")), name


def test_under_shares_all_frameworks_have_rows_but_for_the_measure(tmp_path: Path) -> None:
    leaning = Leaning(Scheme.BALANCED)
    artifact = small_artifact(tmp_path / "policy")
    everybody = [
        *simple(leaning, Dispatch.SHARES),
        *learnt(artifact, leaning, Dispatch.SHARES, (1,), ablate=True),
    ]
    assert len(everybody) > 10
    for name, planner in everybody:
        assert bool(planner.decide(worldwide()).plan.pools[0].by_origin) == (name != BASELINE), name
    in_turn = [planner for _, planner in learnt(artifact, leaning, Dispatch.ORDERED)]
    assert all(isinstance(planner, Marlin) for planner in in_turn)


@pytest.mark.parametrize("command", ["plan --scenario demo-3", "simulate --scenario demo-3 --planner merit-order"])
def test_the_commands_refuse_origins_where_sites_are_filled_in_turn(command: str) -> None:
    done = CliRunner().invoke(marlin, [*command.split(), "--origin-aware"])
    assert done.exit_code != 0
    assert "origin-aware needs dispatch shares" in done.output + str(done.exception)


def test_a_plan_on_the_command_line_names_every_origins_rows() -> None:
    done = CliRunner().invoke(
        marlin, ["plan", "--scenario", "demo-3", "--dispatch", "shares", "--origin-aware", "--json"]
    )
    plan = json.loads(done.output[done.output.index("{") :])["plan"]
    assert len(plan["pools"][0]["byOrigin"]) == len(plan["origins"]) > 1


def test_for_people_a_plan_says_where_each_origins_requests_go() -> None:
    arguments = ["plan", "--scenario", "demo-3", "--dispatch", "shares", "--planner", "nearest"]
    said = CliRunner().invoke(marlin, arguments).output
    assert "requests from ..." in said
    assert re.search(r"de-lu\W+de-lu 100.0 %\s", said)
    assert "requests from ..." not in CliRunner().invoke(marlin, [*arguments[:-1], "merit-order"]).output


def test_marlin_that_is_told_of_rows_is_expected_to_do_better_with_them(tmp_path: Path) -> None:
    """Told, its guard compares plans by what the network takes once the rows are there."""
    artifact, weights = small_artifact(tmp_path / "policy"), scheme_weights(Scheme.MIN_TTFT)
    for forecast in (300.0, 900.0, 2000.0):
        state = worldwide(forecast)
        marlin_ = Marlin(artifact, Scheme.MIN_TTFT, Dispatch.SHARES, weights)
        untold, told = OriginAware(marlin_).decide(state), as_evaluated(marlin_, Dispatch.SHARES).decide(state)
        assert told.estimate.ttft_s <= untold.estimate.ttft_s - 0.01


def test_whoever_is_told_tries_plans_with_less_network_time_and_the_same_energy() -> None:
    situation = situation_of(worldwide(), Dispatch.SHARES, scheme_weights(Scheme.BALANCED))
    told, plan = situation.with_rows(), situation.baseline_plan
    without, with_rows = (one.tried(plan).expected_metrics()[0] for one in (situation, told))
    assert with_rows[0] < without[0] - 0.005
    np.testing.assert_array_equal(with_rows[1:], without[1:])
    assert told.baseline.expected_metrics()[0, 0] == with_rows[0], "what all are compared with is tried so as well"
    assert (told.values_by_model(plan) < situation.values_by_model(plan)).all(), "model by model, too"


def test_only_shares_are_told_of_rows(tmp_path: Path) -> None:
    artifact, weights = small_artifact(tmp_path / "policy"), scheme_weights(Scheme.BALANCED)
    for dispatch in Dispatch:
        situation = situation_of(worldwide(), dispatch, weights)
        assert situation.with_rows().has_rows == (dispatch is Dispatch.SHARES)
    ordered = Marlin(artifact, Scheme.BALANCED, Dispatch.ORDERED, weights)
    assert as_evaluated(ordered, Dispatch.ORDERED) is ordered
    told = as_evaluated(Marlin(artifact, Scheme.BALANCED, Dispatch.SHARES, weights), Dispatch.SHARES)
    assert isinstance(told, OriginAware)
    assert isinstance(told.inner, Marlin)
    assert told.inner.settings.origin_aware


def test_the_oracle_that_is_told_of_rows_is_expected_to_do_no_worse_with_them_and_better_somewhere() -> None:
    """No yardstick knows less of rows than MARLIN does."""
    gained = []
    for forecast in (300.0, 900.0, 2000.0):
        state = worldwide(forecast)
        oracle = make_planner(PlannerKind.ORACLE, scheme=Scheme.MIN_TTFT, dispatch=Dispatch.SHARES)
        untold, told = OriginAware(oracle).decide(state), as_evaluated(oracle, Dispatch.SHARES).decide(state)
        gained.append(untold.estimate.ttft_s - told.estimate.ttft_s)
    assert min(gained) >= -0.005
    assert max(gained) > 0.005


def test_an_oracle_that_fills_in_turn_is_told_of_nothing() -> None:
    told = as_evaluated(make_planner(PlannerKind.ORACLE, dispatch=Dispatch.SHARES), Dispatch.SHARES)
    assert isinstance(told, OriginAware)
    assert isinstance(told.inner, Oracle)
    assert told.inner.origin_aware
    state = worldwide()
    ordered = Oracle(Scheme.BALANCED, Dispatch.ORDERED, scheme_weights(Scheme.BALANCED))
    plans = [one.decide(state).plan for one in (ordered, replace(ordered, origin_aware=True))]
    assert plans[0].pools == plans[1].pools


@pytest.mark.parametrize("seed", range(5))
def test_many_plans_at_once_take_the_network_time_of_their_rows(seed: int) -> None:
    twin = arrays_from(worldwide())
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), (20, 1))  # (N, V, D)
    found = (shares * nearby_rtt_s(twin, shares)).sum(axis=2)[:, 0]
    spread = (shares * twin.mean_rtt_s).sum(axis=2)[:, 0]
    for n, row in enumerate(shares[:, 0]):
        rows = nearest_rows(row, twin.requests[0], twin.rtt_s)
        least = float((twin.origin_share[0][:, None] * rows * twin.rtt_s).sum())
        assert found[n] == pytest.approx(least, abs=0.01), "a hundredth of a second of up to two tenths"
        assert found[n] < spread[n]


def test_a_site_without_a_share_changes_nothing_and_is_a_number() -> None:
    twin = arrays_from(worldwide())
    found = nearby_rtt_s(twin, np.array([[[0.5, 0.5, 0.0]]]))
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_a_missing_solver_is_said_when_a_planner_is_made_and_not_by_its_first_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(MarlinError, match=r"needs highspy: pip install 'marlin\[demo\]'"):
        origin_aware(make_planner(PlannerKind.MERIT_ORDER, dispatch=Dispatch.SHARES), Dispatch.SHARES)

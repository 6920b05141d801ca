"""The planner ``marlin``: what it promises whatever its agents have learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from agents import marlin, small_artifact
from fleets import varied
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, Scheme
from marlin.api.pool import PowerDown
from marlin.api.state import FORECAST_CHANCES, FleetState
from marlin.policy.agents import Marlin, MarlinSettings, Standing, proposing, shipped
from marlin.policy.agents.critics import USUAL_DISCOUNT, LearnedCritic, action_of, discount_of, intent_of
from marlin.policy.agents.guard import Guard, look
from marlin.policy.agents.planner import Judge, Source
from marlin.policy.agents.settling import as_agreed
from marlin.policy.agents.situation import situation_of
from marlin.policy.agents.standing import standing_of
from marlin.policy.artifact import Artifact
from marlin.policy.building import InfeasibleError
from marlin.policy.in_order import InOrder
from marlin.policy.networks import critic
from marlin.policy.objective import scheme_weights
from marlin.policy.planner import Decision
from marlin.policy.planners import make_planner
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.proportional import by_capacity


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(Dispatch),
    st.sampled_from([PowerDown.NONE, PowerDown.SLEEP]),
    st.sampled_from([s for s in Scheme if s is not Scheme.CUSTOM]),
)
def test_every_plan_is_valid_spares_closed_sites_and_is_expected_to_be_no_worse_than_plain_ones(
    artifact: Artifact, seed: int, dispatch: Dispatch, power_down: PowerDown, scheme: Scheme
) -> None:
    state = varied(seed, power_down=power_down)
    decision = Marlin(artifact, scheme, dispatch, scheme_weights(scheme), MarlinSettings(best_of=2)).decide(state)
    plan = RoutingPlan.model_validate_json(decision.plan.model_dump_json(by_alias=True))
    pool = plan.pools[0]
    assert plan.planner is PlannerKind.MARLIN
    assert plan.artifact_sha256 == artifact.card.weights_sha256
    assert pool.weights[-1] == 0
    assert 4 not in pool.order
    assert bool(pool.replicas) is (power_down is PowerDown.SLEEP)
    json.dumps(decision.record)
    instead, expected = decision.record["guard"], decision.record["expected"]
    names = ["capacity-proportional", "merit order", "even margins"]
    if power_down is PowerDown.NONE and dispatch is Dispatch.ORDERED:
        names.append("even margins, to the rate")
    if dispatch is Dispatch.SHARES:
        names += ["nearest"] if power_down is PowerDown.NONE else ["nearest", "by capacity"]
    assert ("even_margins_to_the_rate_value" in expected) is ("even margins, to the rate" in names)
    keys = {name: f"{name.replace(',', '').replace(' ', '_').replace('-', '_')}_value" for name in names}
    values: dict[str | None, float] = {None: expected["value"]} | {name: expected[keys[name]] for name in names}
    if "even margins, to the rate" in values:  # must be clearly better
        values["even margins, to the rate"] *= 1.001
    assert values[instead] == pytest.approx(min(values.values()), abs=2e-6)
    assert pool.dispatch is (Dispatch.SHARES if instead == "capacity-proportional" else dispatch)


def test_the_same_seed_state_and_standing_make_the_same_plan_and_another_seed_another(artifact: Artifact) -> None:
    state = varied(1)
    first, again, other = (
        marlin(artifact, Dispatch.SHARES, seed=seed, best_of=8, guard=Guard.NONE).decide(state).plan
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.pools != other.pools


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_sites_in_another_order_get_the_same(artifact: Artifact, seed: int) -> None:
    state = varied(seed)
    turned = state.model_copy(
        update={"datacenters": state.datacenters[::-1], "rtt_ms": tuple(row[::-1] for row in state.rtt_ms)}
    )
    ours, theirs = (
        marlin(artifact, Dispatch.SHARES, best_of=0, guard=Guard.NONE).decide(s).plan.pools[0] for s in (state, turned)
    )
    assert np.abs(np.array(ours.weights) - np.array(theirs.weights[::-1])).max() <= 1


def test_more_samples_never_make_an_agent_worse_off_by_its_own_measure(artifact: Artifact) -> None:
    state = varied(3)
    gained = [
        [p["gained"] for p in marlin(artifact, best_of=n).decide(state).record["proposals"].values()]
        for n in (0, 4, 16)
    ]
    assert gained[0] == [0.0] * 4
    assert all(more >= fewer for fewer, more in zip(gained[1], gained[2], strict=True))
    assert max(gained[2]) > 0.0


@pytest.mark.parametrize("power_down", [PowerDown.NONE, PowerDown.SLEEP])
def test_the_first_of_many_samples_are_those_of_few(artifact: Artifact, power_down: PowerDown) -> None:
    situation = situation_of(varied(3, power_down=power_down), Dispatch.ORDERED, (0.25,) * 4)
    proposals = proposing.propose(artifact, situation.rows((0.25,) * 4), np.eye(4))
    few, many = (proposing.samples(proposals, situation, np.random.default_rng(0), n) for n in (8, 64))
    for part in ("shares", "fill", "margin"):
        np.testing.assert_array_equal(getattr(few, part), getattr(many, part)[:, :9])


@pytest.mark.parametrize(
    ("power_down", "is_common"), [pytest.param(PowerDown.NONE, False), pytest.param(PowerDown.SLEEP, True)]
)
def test_where_replicas_can_power_down_later_samples_move_all_sites_together(
    artifact: Artifact, power_down: PowerDown, is_common: bool
) -> None:
    situation = situation_of(varied(3, power_down=power_down), Dispatch.ORDERED, (0.25,) * 4)
    proposals = proposing.propose(artifact, situation.rows((0.25,) * 4), np.eye(4))
    sampled = proposing.samples(proposals, situation, np.random.default_rng(0), 64)
    numbers = np.arctanh(np.clip(2.0 * sampled.fill - 1.0, -1 + 1e-9, 1 - 1e-9))  # (J, 1 + S, V, D)
    moved = (numbers[:, 1:] - numbers[:, :1]).mean(axis=(2, 3))  # (J, S)
    own, together = moved[:, : proposing.NARROW].std(), moved[:, proposing.NARROW :].std()
    assert (together > 2.0 * own) is np.bool_(is_common)


def test_without_learning_the_search_is_the_same_and_the_candidates_are_not(artifact: Artifact) -> None:
    state = varied(3)
    ours, random = (marlin(artifact, source=source).decide(state).record for source in Source)
    assert [p["of"] for p in random["proposals"].values()] == [p["of"] for p in ours["proposals"].values()] == [3] * 4
    assert random["proposals"]["carbon"]["expected"] != ours["proposals"]["carbon"]["expected"]


@pytest.mark.parametrize("judge", Judge)
def test_a_negotiation_is_told_in_full(artifact: Artifact, judge: Judge) -> None:
    decision = marlin(artifact, judge=judge).decide(varied(4))
    game = decision.record["game"]
    assert decision.record["rung"] == "best of 3, negotiated"
    assert sum(game["final_weights"].values()) == pytest.approx(1.0, abs=1e-5)
    assert set(game["capital"].values()) == {150.0}
    assert decision.record["capital"]["before"] == game["capital"]
    assert decision.record["capital"]["after"] != game["capital"]


def test_the_twin_as_critic_says_what_the_twin_expects(artifact: Artifact) -> None:
    """Its worth of the proposals is the improvement in the record, so that both come from the same trial."""
    decision = Marlin(
        artifact,
        Scheme.MIN_CARBON,
        Dispatch.SHARES,
        scheme_weights(Scheme.MIN_CARBON),
        MarlinSettings(best_of=0, judge=Judge.TWIN, guard=Guard.NONE),
    ).decide(varied(5))
    record = decision.record
    gain = record["expected"]["capacity_proportional_value"] - record["expected"]["value"]
    assert record["game"]["worth"]["carbon"] == pytest.approx(gain, abs=1e-5)


# --- capital -------------------------------------------------------------------------------------------------------


def epochs(many: int) -> Iterator[FleetState]:
    for epoch in range(many):
        yield varied(epoch).model_copy(update={"epoch": epoch})


def test_capital_survives_a_restart_and_goes_on_as_if_there_had_been_none(artifact: Artifact) -> None:
    whole, halves = marlin(artifact), marlin(artifact)
    for state in epochs(6):
        expected = whole.decide(state)
        found = halves.decide(state)
        document = json.loads(json.dumps(dict(found.carried or {})))
        halves = replace(marlin(artifact), standing=standing_of(document))
        assert found.plan == expected.plan
    assert halves.standing == whole.standing
    assert whole.standing.capital != Standing().capital


def test_deciding_an_epoch_again_changes_neither_plan_nor_capital(artifact: Artifact) -> None:
    planner = marlin(artifact)
    states = list(epochs(3))
    first = [planner.decide(state) for state in states][-1]
    standing = planner.standing
    assert planner.decide(states[-1]).plan == first.plan
    assert planner.standing == standing


@pytest.mark.parametrize(
    "document", [None, {}, {"capital": [1.0]}, {"capital": [-1.0, 0, 0, 0]}, {"capital": [float("nan")] * 4}, {"x": 1}]
)
def test_a_standing_that_was_kept_badly_starts_anew(document: dict[str, object] | None) -> None:
    assert standing_of(document) == Standing()


# --- degrading -----------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when it is looked at: ``step_s`` each time."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def under_deadline(artifact: Artifact, looks: float) -> Decision:
    """With a deadline that is over after so many looks at the clock."""
    planner = replace(marlin(artifact), clock=Clock(1.0))
    return planner.decide(varied(6), deadline_s=looks)


def test_a_deadline_leads_down_the_ladder_and_never_to_an_invalid_plan(artifact: Artifact) -> None:
    rungs = [under_deadline(artifact, looks).record["rung"] for looks in (0.5, 1.5, 2.5, 40.0)]
    assert rungs[0].startswith("merit order: time was up")
    assert rungs[1] == "deterministic, blended by weight: time was up before the game"
    assert rungs[3] == "best of 3, negotiated"
    for looks in np.arange(0.0, 9.0, 0.5):
        decision = under_deadline(artifact, float(looks))
        assert RoutingPlan.model_validate(decision.plan.model_dump()).hash == decision.plan.content_hash()


def test_samples_are_as_many_as_there_is_time_to_try(artifact: Artifact) -> None:
    """Trying one plan for each agent takes one look; half of what is left goes into samples."""
    planner = replace(marlin(artifact, best_of=64), clock=Clock(1.0))
    tried = planner.decide(varied(6), deadline_s=25.0).record["proposals"]["carbon"]["of"]
    assert 5 <= tried <= 15


def test_agents_that_answer_with_no_numbers_make_way_for_merit_order(artifact: Artifact) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in artifact.parameters.items()}
    state = varied(7)
    planner = marlin(Artifact(artifact.card, broken))
    decision = planner.decide(state)
    assert decision.record["rung"].startswith("merit order: the agents gave no answer")
    assert "by merit order" in decision.plan.explanation
    first = decision.record["pools"][0]["order"][0]["datacenter"]
    assert decision.plan.datacenters[decision.plan.pools[0].order[0]] == first
    assert planner.standing == Standing()


def test_what_is_not_known_is_said_and_a_metric_without_signal_has_no_say(artifact: Artifact) -> None:
    state = varied(8)
    stale = state.model_copy(
        update={
            "datacenters": tuple(s.model_copy(update={"stale_signals": ("carbon",)}) for s in state.datacenters),
            "pools": tuple(p.model_copy(update={"forecast_upper_requests": None}) for p in state.pools),
        }
    )
    known, unknown = (marlin(artifact).decide(s).record for s in (state, stale))
    assert known["gaps"] == []
    assert unknown["gaps"] == [
        "no upper forecast, the usual spread taken: chat",
        "carbon is not of this epoch: s0, s1, s2, s3",
    ]
    assert unknown["game"]["first_weights"]["carbon"] == 0.0
    assert known["game"]["first_weights"]["carbon"] > 0.0
    assert not [veto for veto in unknown["game"]["vetoes"] if veto["agent"] == "carbon"]


def test_a_fleet_with_nobody_to_serve_is_refused_like_any_planner_does(artifact: Artifact) -> None:
    with pytest.raises(InfeasibleError, match="no datacenter may serve it"):
        marlin(artifact).decide(varied(9, closed=5))


def test_an_epoch_in_which_nobody_is_expected_has_a_plan_too(artifact: Artifact) -> None:
    state = varied(10)
    quiet = state.pools[0].model_copy(update={"forecast_requests": (0.0,), "forecast_upper_requests": 0.0})
    decision = marlin(artifact).decide(state.model_copy(update={"pools": (quiet,)}))
    assert sum(decision.plan.pools[0].weights) == 10_000
    assert decision.record["gaps"] == ["no requests expected: chat"]


def test_the_shipped_artifact_is_what_marlin_plans_with_where_none_is_named() -> None:
    planner = make_planner(PlannerKind.MARLIN)
    decision = planner.decide(varied(13))
    assert isinstance(planner, Marlin)
    assert decision.record["rung"] == "best of 9, negotiated"
    assert decision.plan.artifact_sha256 == shipped.load().card.weights_sha256
    assert discount_of(planner.artifact) == planner.artifact.card.hyper_parameters["sac"]["discount"] != USUAL_DISCOUNT


def test_a_folder_without_artifact_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"card\.json: cannot be read"):
        make_planner(PlannerKind.MARLIN, artifact=tmp_path / "nothing")


# --- critics -------------------------------------------------------------------------------------------------------


def test_the_critic_says_in_single_precision_what_the_networks_say_in_double(artifact: Artifact) -> None:
    situation = situation_of(varied(11), Dispatch.ORDERED, (0.25,) * 4)
    rows, goal = situation.rows((0.25,) * 4), np.eye(4)
    actions = action_of(proposing.best(proposing.propose(artifact, rows, goal), situation))  # (J, 3, V, D)
    asked = LearnedCritic(artifact, rows, goal, 0.05)
    whole = critic.worth(
        {name: value.astype(np.float64) for name, value in artifact.parameters.items()}, rows, intent_of(actions[:1]),
        goal[:, None],
    )  # fmt: skip
    assert asked.values(actions)[0] == pytest.approx(0.05 * whole[0], abs=1e-5)
    assert asked.value_and_gradients(actions[0])[0] == pytest.approx(0.05 * whole[0], abs=1e-5)


def test_the_critics_slope_is_that_of_its_worth(artifact: Artifact) -> None:
    situation = situation_of(varied(12), Dispatch.SHARES, (0.25,) * 4)
    rows = situation.rows((0.25,) * 4)
    action = action_of(proposing.best(proposing.propose(artifact, rows, np.eye(4)), situation))[1]
    asked = LearnedCritic(artifact, rows, np.eye(4), 1.0)
    rng, step = np.random.default_rng(0), 1e-2
    for _ in range(5):
        towards = rng.normal(size=action.shape) * (action > 0)
        ends = asked.values(np.stack([action - step * towards, action + step * towards]))
        slope = np.tensordot(asked.value_and_gradients(action)[1], towards, axes=3)
        assert slope == pytest.approx((ends[1] - ends[0]) / (2.0 * step), abs=2e-2)


# --- the guard -----------------------------------------------------------------------------------------------------


def _carried_out(pool: PoolPlan, dispatch: Dispatch) -> tuple[object, ...]:
    return (pool.order, pool.replicas, pool.cap, pool.weights if dispatch is Dispatch.SHARES else ())


@pytest.mark.parametrize(
    ("dispatch", "has_rows"), [(Dispatch.ORDERED, False), (Dispatch.SHARES, False), (Dispatch.SHARES, True)]
)
@pytest.mark.parametrize("power_down", [PowerDown.NONE, PowerDown.SLEEP])
def test_merit_order_by_the_guard_is_merit_order(
    artifact: Artifact, dispatch: Dispatch, has_rows: bool, power_down: PowerDown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the agents' place is the very plan that the planner of that name makes; with rows by a tuning."""
    if power_down is PowerDown.SLEEP or dispatch is Dispatch.SHARES:  # even margins then do better, whatever the fleet
        monkeypatch.setattr("marlin.policy.agents.guard._by_margins", lambda situation: {})
    loads = (0.85, 0.7, 0.5) if power_down is PowerDown.SLEEP else (0.85,)
    tunings = [(None, 0.0, 0.85), *(product((0.95, 0.85, 0.7), (0.0, 1.0), loads) if has_rows else ())]
    scheme, found = Scheme.MIN_CARBON, 0
    settings = MarlinSettings(best_of=0, origin_aware=has_rows)
    for seed in range(12):
        state = varied(seed, power_down=power_down)
        decision = Marlin(artifact, scheme, dispatch, scheme_weights(scheme), settings).decide(state)
        if decision.record["guard"] != "merit order":
            continue
        found += 1
        by_tuning = [
            InOrder(scheme, dispatch, scheme_weights(scheme), *tuning).decide(state).plan.pools[0] for tuning in tunings
        ]
        assert _carried_out(decision.plan.pools[0], dispatch) in [_carried_out(one, dispatch) for one in by_tuning]
    assert found, "agents that have learnt nothing lose to a sort"


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(Dispatch), st.sampled_from([PowerDown.SLEEP, PowerDown.SCALE_TO_ZERO])
)
def test_while_requests_wait_even_margins_keep_awake_what_they_and_the_expected_ones_need(
    seed: int, dispatch: Dispatch, power_down: PowerDown
) -> None:
    """Whatever else may come: all parts are a hundredth of what is expected."""
    state = varied(seed, power_down=power_down)
    wanted = sum(state.pools[0].forecast_requests)
    parts = (0.01 * wanted,) * len(FORECAST_CHANCES)
    pool = state.pools[0].model_copy(
        update={"forecast_parts": parts, "backlog_requests": (0.1 * wanted, 0.0, 0.0, 0.0, 0.0)}
    )
    situation = situation_of(state.model_copy(update={"pools": (pool,)}), dispatch, (0.0, 1.0, 0.0, 0.0))
    twin = situation.twin
    even = Intent(by_capacity(twin.capacity_rps, situation.allowed), *np.ones((2, *twin.capacity_rps.shape)))
    of_agents = Intent(*(np.repeat(part[None], 4, axis=0) for part in (even.shares, even.fill, even.margin)))
    looked = look(situation, as_agreed(even), of_agents, (0.0, 1.0, 0.0, 0.0), Guard.SIMPLE)
    assert looked.plans.awake is not None
    awake = looked.plans.awake[1 + 4 + looked.plain.index("even margins"), 0]
    most = (twin.capacity_rps * situation.allowed).sum() * twin.max_utilization
    assert (awake * twin.replica_rps[0, :, 0]).sum() >= min(1.1 * wanted / twin.epoch_s, most) * (1 - 1e-9)


def test_who_may_take_the_agents_place_is_a_setting(artifact: Artifact) -> None:
    states = (varied(seed) for seed in range(50))
    state = next(s for s in states if marlin(artifact, best_of=0).decide(s).record["guard"] == "merit order")
    plans = {guard: marlin(artifact, guard=guard, best_of=0).decide(state) for guard in Guard}
    assert plans[Guard.NONE].record["guard"] is None
    assert plans[Guard.PROPORTIONAL].record["guard"] in {None, "capacity-proportional"}
    assert plans[Guard.SIMPLE].record["guard"] == "merit order"
    assert "even_margins_value" in plans[Guard.SIMPLE].record["expected"]
    assert "merit order, because what the agents agreed on" in plans[Guard.SIMPLE].plan.explanation

"""What was agreed is carried out a little differently: moves, what they are worth, and how far they are taken."""

from __future__ import annotations

import numpy as np
import pytest
from agents import marlin, small_artifact
from fleets import varied
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.api.state import FORECAST_CHANCES
from marlin.policy.agents import proposing, settling
from marlin.policy.agents.critics import action_of, intent_of
from marlin.policy.agents.guard import Guard
from marlin.policy.agents.moves import ALL, FILL, MARGIN, SHARES, all_moves
from marlin.policy.agents.settling import Settled, as_agreed, settle
from marlin.policy.agents.situation import situation_of
from marlin.policy.artifact import Artifact
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.proportional import by_capacity


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch), st.integers(0, 2))
def test_settling_gains_what_it_says_and_never_loses(
    artifact: Artifact, seed: int, dispatch: Dispatch, rounds: int
) -> None:
    situation = situation_of(varied(seed, power_down=PowerDown.SLEEP), dispatch, (0.25,) * 4)
    rows = situation.rows((0.25,) * 4)
    agreed = intent_of(action_of(proposing.best(proposing.propose(artifact, rows, np.eye(4)), situation))[1])

    def worth(settled: Settled) -> float:
        return float(situation.tried(settled.plans(situation)).values(situation.objective)[0])

    settled, less = settle(situation, agreed, rounds), settle(situation, agreed, 0)
    assert settled.gained >= less.gained >= 0.0
    assert worth(as_agreed(agreed)) - worth(settled) == pytest.approx(settled.gained, abs=1e-9)
    assert settled.intent.shares.sum(axis=1) == pytest.approx(1.0)
    assert settled.intent.shares[:, 4].max() == 0.0, "the closed site"


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch), st.sampled_from(PowerDown))
def test_what_models_add_is_what_plans_are_worth_but_for_a_constant(
    seed: int, dispatch: Dispatch, power_down: PowerDown
) -> None:
    state = varied(seed, power_down=power_down)
    other = state.pools[0].model_copy(update={"name": "other", "power_down": PowerDown.NONE})
    situation = situation_of(
        state.model_copy(update={"pools": (state.pools[0], other)}), dispatch, (0.4, 0.3, 0.2, 0.1)
    )
    rng = np.random.default_rng(seed)
    many = (6, *situation.allowed.shape)
    shares = rng.random(many) * situation.allowed
    shares /= shares.sum(axis=2, keepdims=True)
    plans = situation.plans(Intent(shares, rng.uniform(0.2, 1.0, many), rng.uniform(0.5, 2.0, many)))
    differences = situation.tried(plans).values(situation.objective) - situation.values_by_model(plans).sum(axis=1)
    assert differences == pytest.approx(differences[0], abs=1e-9)


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch))
def test_a_move_tried_beside_those_of_other_models_is_worth_what_it_is_worth_alone(
    seed: int, dispatch: Dispatch
) -> None:
    state = varied(seed, power_down=PowerDown.SCALE_TO_ZERO)
    other = state.pools[0].model_copy(update={"name": "other", "mean_output_tokens": 90.0})
    situation = situation_of(
        state.model_copy(update={"pools": (state.pools[0], other)}), dispatch, (0.4, 0.3, 0.2, 0.1)
    )
    shape, ones = situation.allowed.shape, np.ones(2)
    intent = Intent(by_capacity(situation.twin.capacity_rps, situation.allowed), np.full(shape, 0.7), np.ones(shape))
    moves = all_moves(intent, situation.allowed, 1.4)
    together = settling.gains_of(situation, intent, ones, moves, situation.demands)

    def worth(of: Intent) -> float:
        plans = situation.plans(Intent(of.shares[None], of.fill[None], of.margin[None]), ones[None])
        return float(situation.tried(plans).values(situation.objective)[0])

    assert set(moves.model) == {0, 1}
    alone = [next(moves.in_turn(intent, np.array([i]))) for i in range(len(moves))]
    assert together == pytest.approx([worth(intent) - worth(made) for made in alone], abs=1e-9)


def test_what_settling_changed_is_told_with_its_worth(artifact: Artifact) -> None:
    state = varied(1, power_down=PowerDown.SLEEP)
    unsure = state.pools[0].model_copy(update={"forecast_requests": (1e4,), "forecast_upper_requests": 3e4})
    state = state.model_copy(update={"pools": (unsure,)})
    as_it_is, settled = (
        marlin(artifact, guard=Guard.NONE, coalitions=False, settling=rounds).decide(state).record
        for rounds in (None, 1)
    )
    pool = unsure.name
    assert as_it_is["settled"] == {"prewarmed": {pool: 1.0}, "eased": {pool: 0.0}, "moves": 0, "gained": 0.0}
    gained = as_it_is["expected"]["value"] - settled["expected"]["value"]
    assert gained == pytest.approx(settled["settled"]["gained"], abs=2e-6)
    assert gained > 0.0


def test_without_power_down_or_time_what_was_agreed_stays_as_it_is(artifact: Artifact) -> None:
    assert marlin(artifact).decide(varied(2)).record["settled"]["gained"] == 0.0
    situation = situation_of(varied(2, power_down=PowerDown.SLEEP), Dispatch.ORDERED, (0.25,) * 4)
    rows = situation.rows((0.25,) * 4)
    agreed = intent_of(action_of(proposing.best(proposing.propose(artifact, rows, np.eye(4)), situation))[1])
    assert settle(situation, agreed, 2, lambda: False).moves == 0


def test_each_model_is_prewarmed_as_suits_it(artifact: Artifact) -> None:
    """One that is sure of its demand, and one that may be asked for many times its upper bound: far above any bound."""
    state = varied(2, power_down=PowerDown.SCALE_TO_ZERO)
    wanted = sum(state.pools[0].forecast_requests) / 8
    sure, unsure = (
        state.pools[0].model_copy(
            update={
                "name": name,
                "forecast_requests": (wanted,),
                "forecast_upper_requests": 1.1 * wanted,
                "forecast_parts": (wanted,) * 8 + (wanted * surge,) * (len(FORECAST_CHANCES) - 8),
            }
        )
        for name, surge in (("sure", 1.0), ("unsure", 6.0))
    )
    state = state.model_copy(update={"pools": (sure, unsure)})
    settled = marlin(artifact, guard=Guard.NONE, coalitions=False, settling=0).decide(state).record["settled"]
    assert settled["prewarmed"]["sure"] < 2.0 < settled["prewarmed"]["unsure"]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(1.05, 3.0))
def test_a_move_changes_one_part_of_one_model_and_leaves_an_intent_one(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    shape = 2, int(rng.integers(1, 6))
    allowed = rng.random(shape) < 0.8
    allowed[:, 0] = True
    shares = np.where(rng.random(shape) < 0.7, rng.random(shape), 0.0) * allowed
    shares[:, 0] += 1e-3
    shares /= shares.sum(axis=1, keepdims=True)
    intent = Intent(shares, rng.uniform(0.1, 1.0, shape), rng.uniform(0.5, 2.0, shape))
    moves = all_moves(intent, allowed, step)
    made = moves.made(intent, np.arange(len(moves)) + 1, len(moves) + 1)
    parts = ((made.shares, intent.shares), (made.fill, intent.fill), (made.margin, intent.margin))
    assert all((after[0] == before).all() for after, before in parts), "the row without a move"
    assert made.shares.sum(axis=2) == pytest.approx(1.0)
    assert (made.shares >= 0.0).all()
    assert (made.shares[:, ~allowed] == 0.0).all()
    assert (made.fill <= 1.0).all()
    for i, (part, model) in enumerate(zip(moves.part, moves.model, strict=True)):
        for kind, (after, before) in zip((SHARES, FILL, MARGIN), parts, strict=True):
            changed = (after[i + 1] != before).any(axis=1)  # (V,)
            assert not changed[np.arange(2) != model].any()
            assert kind == part or not changed.any()
        alone = next(moves.in_turn(intent, np.array([i])))
        one_by_one = (alone.shares, alone.fill, alone.margin)
        assert all((one == after[i + 1]).all() for one, (after, _) in zip(one_by_one, parts, strict=True))


@given(st.integers(0, 2**32 - 1))
def test_moves_in_turn_are_each_made_of_what_the_one_before_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = 2, 4
    intent = Intent(np.full(shape, 0.25), rng.uniform(0.1, 1.0, shape), rng.uniform(0.5, 2.0, shape))
    moves = all_moves(intent, np.ones(shape, dtype=bool), 1.4)
    chosen = rng.choice(len(moves), 6, replace=False)
    together = list(moves.in_turn(intent, chosen))
    assert len(together) == len(chosen)
    for k, i in enumerate(chosen):
        before = intent if k == 0 else together[k - 1]
        (after,) = moves.in_turn(before, np.array([i]))
        for one, other in ((after.shares, together[k].shares), (after.fill, together[k].fill)):
            assert (one == other).all()
        assert (after.margin == together[k].margin).all()


def test_every_open_site_is_tried_fuller_emptier_more_and_less_awake_and_its_share_where_it_has_one() -> None:
    allowed = np.array([[True, True, False]])
    intent = Intent(np.array([[1.0, 0.0, 0.0]]), np.full((1, 3), 0.8), np.ones((1, 3)))
    moves = all_moves(intent, allowed, 1.4)
    tried = sorted(zip(moves.part.tolist(), moves.site.tolist(), (moves.factor > 1.0).tolist(), strict=True))
    more_and_less = [(part, site, up) for part in (FILL, MARGIN) for site in (0, 1) for up in (False, True)]
    assert [one for one in tried if one[1] >= 0] == sorted([(SHARES, 0, False), (SHARES, 0, True), *more_and_less])
    of_all = [(FILL, ALL, False), (FILL, ALL, False), (FILL, ALL, True), (MARGIN, ALL, False), (MARGIN, ALL, True)]
    assert [one for one in tried if one[1] == ALL] == of_all

"""What holds for every negotiation, whatever the proposals, the capital and the critic (marlin-model, section 7)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from critics import Bowl, Waves, shares
from hypothesis import given
from hypothesis import strategies as st

from marlin.policy.game import (
    Consensus,
    Critic,
    GameSettings,
    VetoRule,
    VetoSettings,
    explain,
    exploitability,
    first_weights,
    negotiate,
    project,
)
from marlin.simulator.physics import FloatArray

AGENTS = ("ttft", "carbon", "water", "cost")


@dataclass(frozen=True)
class Game:
    critic: Bowl | Waves
    proposals: FloatArray  # (J, V, D)
    capital: FloatArray
    importance: FloatArray
    mask: FloatArray  # (D,)
    settings: GameSettings

    def play(self) -> Consensus:
        return negotiate(self.critic, self.proposals, self.capital, self.importance, self.settings)


@st.composite
def games(draw: st.DrawFn) -> Game:
    models, sites = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.ones(sites)
    mask[rng.permutation(sites)[: draw(st.integers(0, sites - 1))]] = 0.0
    critic: Bowl | Waves
    if draw(st.booleans()):
        critic = Bowl(shares(rng, 4, models, sites, mask=mask), rng.uniform(-0.2, 0.6, 4), rng.uniform(0, 2, 4))
    else:
        critic = Waves(
            rng.uniform(0, 0.5, 4),
            rng.uniform(0, 0.2, 4),
            rng.uniform(1, 12, 4),
            rng.uniform(0, 6, (4, models, sites)),
        )
    return Game(
        critic,
        shares(rng, 4, models, sites, mask=mask),
        rng.uniform(0, 300, 4) * (rng.random(4) < 0.9),
        rng.gamma(0.7, size=4) * (rng.random(4) < 0.8) + np.eye(4)[rng.integers(4)],
        mask,
        GameSettings(
            steps=draw(st.integers(0, 8)),
            rate=draw(st.sampled_from([0.05, 0.5])),
            looks=draw(st.integers(1, 8)),
            blends=draw(st.booleans()),
            veto=VetoSettings(rule=draw(st.sampled_from(VetoRule)), loss=draw(st.sampled_from([0.0, 0.05, 0.3]))),
        ),
    )


@given(games())
def test_a_consensus_has_its_rows_on_the_simplex_and_closed_sites_at_exactly_zero(game: Game) -> None:
    action = game.play().action
    assert action.sum(axis=-1) == pytest.approx(1.0, abs=1e-12)
    assert (action >= 0).all()
    assert (action[:, game.mask == 0] == 0).all()


@given(games())
def test_the_weights_stay_on_the_simplex_and_the_final_ones_make_the_consensus(game: Game) -> None:
    consensus = game.play()
    assert consensus.path.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert (consensus.path >= 0).all()
    made = np.tensordot(consensus.final_weights, game.proposals, axes=1)
    assert made == pytest.approx(consensus.action, abs=1e-12)


@given(games())
def test_no_veto_lowers_the_value_of_the_agent_that_casts_it(game: Game) -> None:
    for turn in game.play().objections.turns:
        assert turn.value_after >= turn.value_before - 1e-12
        assert 0.0 <= turn.pull <= turn.asked <= game.settings.veto.most


@given(games())
def test_vetoes_are_cast_in_falling_order_of_capital_by_entitled_agents_only(game: Game) -> None:
    agents = [turn.agent for turn in game.play().objections.turns]
    capital = [game.capital[agent] for agent in agents]
    assert capital == sorted(capital, reverse=True)
    assert all(game.capital[agent] >= 150.0 and game.importance[agent] > 0 for agent in agents)
    entitled = int(((game.capital >= 150.0) & (game.importance > 0)).sum())
    assert len(agents) == (0 if game.settings.veto.rule is VetoRule.NONE else entitled)


@given(games(), st.integers(0, 3))
def test_with_at_most_one_entitled_agent_nobody_ends_unsatisfied(game: Game, agent: int) -> None:
    capital = np.minimum(game.capital, 149.0)
    capital[agent] += 120.0
    assert not replace(game, capital=capital).play().objections.unsatisfied


@given(games())
def test_whoever_ends_below_its_bound_is_recorded_and_nobody_else(game: Game) -> None:
    consensus = game.play()
    for turn in consensus.objections.turns:
        j = turn.agent
        bound = min((1.0 - game.settings.veto.loss) * consensus.utility[j], max(turn.value_after, 1e-3))
        is_below = max(consensus.worth[j], 1e-3) < bound - 1e-6 * abs(bound)
        if is_below:
            assert j in consensus.objections.unsatisfied
        elif max(consensus.worth[j], 1e-3) >= bound:
            assert j not in consensus.objections.unsatisfied


@given(games())
def test_the_blend_is_never_worse_than_the_one_it_started_from(game: Game) -> None:
    consensus = game.play()
    weight = game.importance / game.importance.sum()
    start = np.tensordot(consensus.path[0], game.proposals, axes=1)
    assert consensus.blended @ weight >= (game.critic.values(start[None]) @ weight)[0] - 1e-12


@given(games(), st.randoms(use_true_random=False))
def test_permuting_datacenters_permutes_the_plan(game: Game, random: object) -> None:
    order = np.random.default_rng(random.getrandbits(32)).permutation(game.proposals.shape[-1])  # type: ignore[attr-defined]
    moved = (
        replace(game.critic, best=game.critic.best[..., order])
        if isinstance(game.critic, Bowl)
        else replace(game.critic, shift=game.critic.shift[..., order])
    )
    there = replace(game, critic=moved, proposals=game.proposals[..., order]).play()
    here = game.play()
    # A veto is a decision: what lies on its edge to the last bit may fall on either side when sums are reordered.
    if [turn.pull > 0 for turn in there.objections.turns] == [turn.pull > 0 for turn in here.objections.turns]:
        assert there.action == pytest.approx(here.action[..., order], abs=1e-7)


@given(games())
def test_the_same_game_has_the_same_outcome_to_the_last_bit(game: Game) -> None:
    one, other = game.play(), game.play()
    assert (one.action == other.action).all()
    assert one.objections.turns == other.objections.turns


@given(games())
def test_a_negotiation_changes_nothing_that_it_was_given(game: Game) -> None:
    given_ = (game.proposals, game.capital, game.importance)
    before = [values.copy() for values in given_]
    consensus = game.play()
    assert all((now == then).all() for now, then in zip(given_, before, strict=True))
    assert not any(np.shares_memory(consensus.action, values) for values in given_)


@given(games(), st.integers(0, 3))
def test_a_dominating_agent_is_not_talked_out_of_its_optimum(game: Game, agent: int) -> None:
    """Schemes MinTTFT to MinCost are the game with one metric of importance."""
    best = game.critic.best if isinstance(game.critic, Bowl) else game.proposals
    consensus = replace(
        game, critic=Bowl(best, np.full(4, 0.5), np.ones(4)), proposals=best, importance=np.eye(4)[agent]
    ).play()
    assert consensus.action == pytest.approx(best[agent], abs=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_the_projection_is_the_nearest_point_of_the_simplex(point: list[float], other: list[float]) -> None:
    target = np.array(point)
    projected = project(target)
    rival = np.array(other[: len(point)]) / sum(other[: len(point)])
    assert projected.sum() == pytest.approx(1.0, abs=1e-12)
    assert (projected >= 0).all()
    assert np.linalg.norm(projected - target) <= np.linalg.norm(rival - target) + 1e-9
    assert project(projected) == pytest.approx(projected, abs=1e-12)


def test_capital_and_utility_both_count_in_the_first_weights() -> None:
    utility, capital = np.array([0.1, 0.3, 0.1, 0.1]), np.array([100.0, 100.0, 300.0, 0.0])
    assert first_weights(utility, capital, np.full(4, 0.25)) == pytest.approx([1 / 7, 3 / 7, 3 / 7, 0.0])
    assert first_weights(utility, np.zeros(4), np.full(4, 0.25)) == pytest.approx([0.25] * 4)


def test_the_ascent_moves_the_blend_towards_the_best_for_all() -> None:
    """Agents on the corners of a simplex, all of one mind about where to go: the weights must follow."""
    critic = Bowl(np.tile([[[0.7, 0.1, 0.1, 0.1]]], (4, 1, 1)), np.full(4, 2.0), np.ones(4))
    proposals = np.eye(4)[:, None, :]
    slow = negotiate(critic, proposals, np.full(4, 100.0), settings=GameSettings(steps=200, rate=0.05, looks=200))
    assert slow.weights == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=1e-3)
    short = negotiate(critic, proposals, np.full(4, 100.0))
    assert short.path[0, 0] < short.weights[0] < 0.7


def test_an_ascent_whose_steps_are_too_long_does_no_harm() -> None:
    """One step over a sharp ridge ends in a corner, worse than the start: the start is kept."""
    critic = Bowl(np.full((2, 1, 2), 0.5), np.ones(2), np.full(2, 1.5))
    consensus = negotiate(
        critic, np.eye(2)[:, None, :], np.array([100.0, 120.0]), settings=GameSettings(steps=1, rate=50.0)
    )
    assert consensus.path[1].max() == 1.0
    assert consensus.weights == pytest.approx([100 / 220, 120 / 220])


def test_without_blending_the_proposal_with_the_largest_first_weight_is_taken_alone() -> None:
    critic = Bowl(np.eye(4)[:, None, :], np.array([0.2, 0.5, 0.3, 0.1]), np.full(4, 0.1))
    settings = GameSettings(blends=False, veto=VetoSettings(rule=VetoRule.NONE))
    consensus = negotiate(critic, np.eye(4)[:, None, :], np.full(4, 100.0), settings=settings)
    assert consensus.action.tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize(("rule", "pull"), [(VetoRule.PAPER, 0.5), (VetoRule.SOFT, 0.3)])
def test_a_veto_pulls_as_far_as_its_rule_says(rule: VetoRule, pull: float) -> None:
    """Linear worth: agent 1 loses 0.6 of its utility and owns half of the capital."""
    proposals = np.eye(2)[:, None, :]

    class Linear:
        def values(self, actions: FloatArray) -> FloatArray:
            return np.stack([np.ones(len(actions)), actions[:, 0, 1]], axis=1)

        def own_values(self, actions: FloatArray) -> FloatArray:
            return self.values(actions).diagonal()

        def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
            return self.values(action[None])[0], np.zeros((2, *action.shape))

    settings = GameSettings(steps=0, veto=VetoSettings(rule=rule))
    consensus = negotiate(Linear(), proposals, np.array([200.0, 200.0]), np.array([0.6, 0.4]), settings)
    turns = {turn.agent: turn for turn in consensus.objections.turns}
    assert turns[1].loss == pytest.approx(0.6)
    assert turns[1].pull == pytest.approx(pull)
    assert consensus.action[0, 1] == pytest.approx(0.4 + pull * 0.6)


def test_a_pull_that_would_harm_its_agent_is_shortened() -> None:
    """Half of the way leads into a valley; the first sixteenth of it still climbs."""

    class Valley:
        def values(self, actions: FloatArray) -> FloatArray:
            x = actions[:, 0, 1]
            own = np.where(x < 0.1, x, np.where(x > 0.9, 1.0, 0.0))
            return np.stack([np.ones(len(actions)), own], axis=1)

        def own_values(self, actions: FloatArray) -> FloatArray:
            return self.values(actions).diagonal()

        def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
            return self.values(action[None])[0], np.zeros((2, *action.shape))

    settings = GameSettings(steps=0, veto=VetoSettings(capital=150))
    consensus = negotiate(Valley(), np.eye(2)[:, None, :], np.array([100.0, 300.0]), np.array([1.0, 1e-9]), settings)
    (turn,) = consensus.objections.turns
    assert turn.asked == 0.5
    assert turn.pull == 0.5 / 8
    assert turn.value_after > turn.value_before


@given(games())
def test_the_account_is_json_and_names_every_agent(game: Game) -> None:
    consensus = game.play()
    account = json.loads(json.dumps(explain(consensus, AGENTS, game.capital)))
    assert set(account["weights"]) == set(AGENTS)
    assert [veto["agent"] for veto in account["vetoes"]] == [
        AGENTS[turn.agent] for turn in consensus.objections.turns if turn.asked > 0
    ]


def test_an_agent_gains_by_exaggerating_and_the_figure_says_so() -> None:
    """Honest agents ask for what they want; one that asks for more than it wants drags the blend its way."""
    critic = Bowl(np.array([[[0.7, 0.3]], [[0.3, 0.7]]]), np.array([0.5, 0.5]), np.ones(2))
    proposals = np.array([[[0.7, 0.3]], [[0.3, 0.7]]])
    quiet = GameSettings(steps=0, veto=VetoSettings(rule=VetoRule.NONE))
    candidates = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    gains = exploitability(critic, proposals, candidates, np.full(2, 100.0), settings=quiet)
    assert (gains > 0).all()
    assert exploitability(critic, proposals, proposals, np.full(2, 100.0), settings=quiet).tolist() == [0.0, 0.0]


@given(games(), st.integers(0, 2**32 - 1))
def test_exploitability_is_never_negative_and_grows_with_the_candidates(game: Game, seed: int) -> None:
    candidates = shares(np.random.default_rng(seed), 4, *game.proposals.shape[1:], mask=game.mask)
    few, many = (
        exploitability(game.critic, game.proposals, tried, game.capital, game.importance, game.settings)
        for tried in (candidates[:2], candidates)
    )
    assert (few >= 0).all()
    assert (many >= few).all()
    own = exploitability(game.critic, game.proposals, game.proposals[:1], game.capital, game.importance, game.settings)
    assert own[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capital": np.array([1.0, -1.0, 1.0, 1.0])}, "capital must be 4 numbers that are not negative"),
        ({"capital": np.array([1.0, np.nan, 1.0, 1.0])}, "capital must be 4 numbers"),
        ({"importance": np.zeros(4)}, "importance must be above 0 for one agent"),
        ({"importance": np.ones(3)}, "importance must be 4 numbers"),
    ],
)
def test_a_game_that_cannot_be_is_refused(change: dict[str, FloatArray], message: str) -> None:
    given_ = {"capital": np.ones(4), "importance": np.ones(4)} | change
    critic: Critic = Bowl(np.eye(4)[:, None, :], np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match=message):
        negotiate(critic, np.eye(4)[:, None, :], given_["capital"], given_["importance"])


def test_a_critic_that_answers_with_nan_is_refused() -> None:
    critic = Bowl(np.eye(4)[:, None, :], np.array([1.0, np.nan, 1.0, 1.0]), np.ones(4))
    with pytest.raises(ValueError, match="values must be finite"):
        negotiate(critic, np.eye(4)[:, None, :], np.ones(4))

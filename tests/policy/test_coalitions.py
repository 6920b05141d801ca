"""Coalitions: every set of agents, in the game's own proportions; none that an entitled agent cannot bear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agents import small_artifact
from fleets import differing_site, fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Dispatch, Scheme
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState
from marlin.policy.agents import Marlin, MarlinSettings
from marlin.policy.agents.coalition import coalition_of
from marlin.policy.agents.critics import intent_of, worth_over
from marlin.policy.agents.guard import Guard
from marlin.policy.agents.situation import situation_of
from marlin.policy.artifact import Artifact
from marlin.policy.game import VetoRule, VetoSettings, bearable, coalitions
from marlin.policy.game.critics import floored
from marlin.policy.objective import scheme_weights
from marlin.policy.planner import Decision
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from

_WEIGHTS = st.lists(st.floats(0.01, 1.0) | st.just(0.0), min_size=1, max_size=5).filter(any).map(np.array)
_SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


def varied(seed: int, power_down: PowerDown = PowerDown.SLEEP) -> FleetState:
    """A fleet of sites that differ in everything, lightly loaded."""
    rng = np.random.default_rng(seed)
    base = fleet(
        *(differing_site(rng, f"s{d}", price=(0.02, 0.3), pue=(1.1, 1.7)) for d in range(5)),
        rtt_ms=(tuple(float(x) for x in rng.uniform(5, 200, 5)),),
    )
    wanted = 0.3 * float(arrays_from(base).capacity_rps.sum()) * base.epoch_s
    pool = base.pools[0].model_copy(
        update={"power_down": power_down, "forecast_requests": (wanted,), "forecast_upper_requests": 1.4 * wanted}
    )
    return base.model_copy(update={"pools": (pool,)})


def decided(artifact: Artifact, state: FleetState, *, coalitions: bool, best_of: int = 2) -> Decision:
    made = MarlinSettings(best_of=best_of, settling=None, guard=Guard.NONE, coalitions=coalitions)
    weights = scheme_weights(Scheme.BALANCED)
    return Marlin(artifact, Scheme.BALANCED, Dispatch.ORDERED, weights, made).decide(state)


@given(_WEIGHTS)
def test_every_set_of_agents_that_have_weight_is_there_once_and_all_of_them_first(weights: FloatArray) -> None:
    weights = weights / weights.sum()
    sets = coalitions(weights)
    members = {tuple(row) for row in (sets > 0).tolist()}
    assert len(members) == len(sets) == 2 ** int((weights > 0).sum()) - 1
    np.testing.assert_allclose(sets[0], weights)
    np.testing.assert_allclose(sets.sum(axis=1), 1.0)


@given(_WEIGHTS)
def test_within_a_coalition_the_weights_keep_their_proportions(weights: FloatArray) -> None:
    for row in coalitions(weights / weights.sum()):
        inside = row > 0
        np.testing.assert_allclose(row[inside], weights[inside] / weights[inside].sum())


@given(_SEEDS, st.sampled_from(VetoRule))
def test_the_consensus_of_all_can_always_be_had_and_without_objectors_every_coalition(
    seed: int, rule: VetoRule
) -> None:
    rng = np.random.default_rng(seed)
    worth, own, entitled = rng.normal(0.1, 0.3, (7, 4)), rng.normal(0.1, 0.3, 4), rng.random(4) < 0.5
    veto = VetoSettings(rule=rule)
    assert bearable(worth, own, entitled, veto)[0]
    assert bearable(worth, own, np.zeros(4, dtype=np.bool_), veto).all()
    if rule is VetoRule.NONE:
        assert bearable(worth, own, entitled, veto).all()


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        pytest.param(0.19, True, id="less-than-its-own-by-no-more-than-it-puts-up-with"),
        pytest.param(0.12, True, id="more-than-under-the-consensus-of-all"),
        pytest.param(0.08, False, id="less-than-both"),
    ],
)
def test_who_may_object_does_so_below_its_bound(worth: float, expected: bool) -> None:
    both = np.array([[0.1, 0.1], [0.3, worth]])
    entitled = np.array([False, True])
    assert bearable(both, np.array([0.3, 0.2]), entitled, VetoSettings(loss=0.05))[1] is np.bool_(expected)


@settings(max_examples=15)
@given(_SEEDS, st.lists(st.booleans(), min_size=4, max_size=4).map(np.array), st.booleans())
def test_a_coalition_gains_what_it_says_and_takes_no_bound_from_an_entitled_agent(
    seed: int, entitled: FloatArray, has_absent: bool
) -> None:
    situation = situation_of(varied(seed), Dispatch.ORDERED, (0.25,) * 4)
    rng = np.random.default_rng(seed)
    proposals = rng.uniform(0.05, 1.0, (4, 3, 1, 5)) ** 3
    proposals[:, 0] /= proposals[:, 0].sum(axis=-1, keepdims=True)
    weights = rng.dirichlet(np.ones(4))
    if has_absent:
        weights[0] = 0.0
        weights /= weights.sum()
    goal, veto = 0.5 * np.eye(4) + 0.125, VetoSettings()
    found = coalition_of(situation, weights, proposals, goal, entitled.astype(np.bool_), veto)
    actions = np.concatenate([np.tensordot(np.stack([weights, found.weights]), proposals, axes=1), proposals])
    outcome = situation.tried(situation.plans(intent_of(actions)))
    values = outcome.values(situation.objective)
    assert found.gained >= 0.0
    assert values[0] - values[1] == pytest.approx(found.gained, abs=1e-9)
    np.testing.assert_allclose(found.action, actions[1])
    worth = worth_over(situation.baseline, outcome, goal, situation)
    bound = np.minimum(0.95 * floored(np.diagonal(worth[2:])), floored(worth[0]))
    assert (floored(worth[1]) >= bound - 1e-8)[entitled.astype(np.bool_)].all()


@settings(max_examples=10)
@given(_SEEDS)
def test_where_replicas_can_power_down_a_plan_is_expected_to_be_no_worse_for_it(artifact: Artifact, seed: int) -> None:
    state = varied(seed)
    of_all, of_some = (decided(artifact, state, coalitions=on).record for on in (False, True))
    assert of_all["coalition"] is None
    gained = of_all["expected"]["value"] - of_some["expected"]["value"]
    assert gained == pytest.approx(of_some["coalition"]["gained"], abs=3e-6)
    assert gained >= -1e-9
    assert sum(of_some["coalition"]["weights"].values()) == pytest.approx(1.0, abs=1e-5)


def test_where_nothing_powers_down_nobody_looks_for_one(artifact: Artifact) -> None:
    state = varied(3, PowerDown.NONE)
    of_all, of_some = (decided(artifact, state, coalitions=on) for on in (False, True))
    assert of_some.record == of_all.record
    assert of_some.plan.pools == of_all.plan.pools
    assert of_some.record["coalition"] is None


def test_a_user_of_one_metric_has_no_coalition_to_choose(artifact: Artifact) -> None:
    situation = situation_of(varied(4), Dispatch.ORDERED, scheme_weights(Scheme.MIN_CARBON))
    proposals = np.random.default_rng(4).uniform(0.1, 1.0, (4, 3, 1, 5))
    proposals[:, 0] /= proposals[:, 0].sum(axis=-1, keepdims=True)
    alone = np.eye(4)[1]
    found = coalition_of(situation, alone, proposals, np.eye(4), alone > 0, replace(VetoSettings(), loss=0.0))
    assert found.gained == 0.0
    np.testing.assert_array_equal(found.weights, alone)

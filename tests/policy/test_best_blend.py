"""The best blend of proposals: all of the simplex, and never worse than one of them alone."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from agents import small_artifact
from fleets import fleet, site
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Dispatch, Scheme
from marlin.policy.agents import Marlin, MarlinSettings
from marlin.policy.agents.blending import all_blends, best_blend
from marlin.policy.agents.guard import Guard
from marlin.policy.agents.planner import Agreement
from marlin.policy.agents.situation import situation_of
from marlin.policy.artifact import Artifact
from marlin.policy.objective import scheme_weights
from marlin.simulator.environments.action import Intent

STATE = fleet(
    site("clean", carbon_gco2_per_kwh=40.0, water_l_per_kwh=7.0, price_usd_per_kwh=0.2),
    site("dry", carbon_gco2_per_kwh=500.0, water_l_per_kwh=0.3, price_usd_per_kwh=0.15),
    site("cheap", carbon_gco2_per_kwh=300.0, water_l_per_kwh=3.0, price_usd_per_kwh=0.03),
    rtt_ms=((10.0, 60.0, 120.0),),
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


@given(st.integers(1, 5), st.integers(1, 8))
def test_blends_are_all_multiples_of_a_part_each_once(agents: int, parts: int) -> None:
    blends, many = all_blends(agents, parts), comb(parts + agents - 1, agents - 1)
    assert len(blends) == len({tuple(row) for row in np.rint(blends * parts).astype(int).tolist()}) == many
    assert blends.min() >= 0
    np.testing.assert_allclose(blends.sum(axis=1), 1.0)
    np.testing.assert_allclose(blends * parts, np.rint(blends * parts))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch))
def test_the_best_blend_is_expected_to_be_no_worse_than_any_proposal(seed: int, dispatch: Dispatch) -> None:
    situation = situation_of(STATE, dispatch, scheme_weights(Scheme.BALANCED))
    rng = np.random.default_rng(seed)
    proposals = rng.uniform(0.05, 1.0, (4, 3, 1, 3))
    proposals[:, 0] /= proposals[:, 0].sum(axis=-1, keepdims=True)
    actions = np.concatenate([best_blend(situation, proposals)[None], proposals])
    intents = Intent(actions[:, 0], actions[:, 1], actions[:, 2])
    values = situation.tried(situation.plans(intents)).values(situation.objective)
    assert values[0] <= values[1:].min() + 1e-12


def test_it_takes_the_place_of_the_game_and_says_so(artifact: Artifact) -> None:
    plans = []
    for agreement in (Agreement.GAME, Agreement.BEST_BLEND):
        made = MarlinSettings(best_of=2, settling=None, guard=Guard.NONE, agreement=agreement)
        marlin = Marlin(artifact, Scheme.BALANCED, Dispatch.SHARES, scheme_weights(Scheme.BALANCED), made)
        plans.append(marlin.decide(STATE).record)
    agreed, blended = plans
    assert MarlinSettings().agreement is Agreement.GAME, "nobody is served by the other"
    assert blended["rung"] == "best of 3, the best blend"
    assert blended["game"] is None
    assert blended["expected"]["value"] <= agreed["expected"]["value"] + 1e-9

"""Actors learn from their own samples, compared in the twin: towards what is expected to earn more, nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from tasks import task

from marlin.policy.networks import kind
from marlin.policy.networks.parameters import AGENTS, NetworkSettings
from marlin.policy.networks.rows import Rows, rows_of
from marlin.policy.training.groups import advantages, learn_in_groups
from marlin.policy.training.networks import arrays
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.outlook import expected_terms
from marlin.policy.training.sac import Learner, SacSettings, new_learner
from marlin.simulator.environments.action import Intent, laid_out
from marlin.simulator.environments.task import Lanes, Task
from marlin.simulator.physics import FloatArray

use_one_thread()
SMALL = NetworkSettings(actor_hidden=8, critic_hidden=8)
OWN = np.repeat(np.eye(AGENTS, dtype=np.float32)[:, None], 2, axis=1)
"""(J, N, 4) every agent goes by its own metric."""


@pytest.fixture
def begun() -> tuple[Task, Lanes, Rows]:
    of = task(sleeps=True)
    lanes = of.begin(of.draw([(0, 1), (0, 2)]), np.full((2, 4), 0.25))
    unsure = replace(lanes, episodes=replace(lanes.episodes, high=1.5 * lanes.episodes.expected))
    return of, unsure, rows_of(of.observe(unsure), of.action.models, of.action.sites)


def badly_begun(settings: SacSettings) -> Learner:
    """Actors that fill every site to a quarter, which spreads requests over dear ones."""
    learner = new_learner(SMALL, settings, seed=0)
    with torch.no_grad():
        learner.actor["actor.head.bias"][..., 1] = -0.55
    return learner


def expected_of(learner: Learner, of: Task, lanes: Lanes, rows: Rows) -> FloatArray:
    """(J,) what each agent's action without chance is expected to gain of its own metric, less what is late."""
    best = kind.propose(arrays(learner.actor), rows, OWN.astype(np.float64)).best()
    wanted = of.propose(lanes, laid_out(of.action, best))
    each = [Intent(wanted.shares[j], wanted.fill[j], wanted.margin[j]) for j in range(AGENTS)]
    return np.array([(one.gain[:, j] - one.late).mean() for j, one in enumerate(expected_terms(of, lanes, each))])


def test_agents_come_to_earn_more_of_what_they_go_by(begun: tuple[Task, Lanes, Rows]) -> None:
    of, lanes, rows = begun
    learner, rng = badly_begun(SacSettings(actor_rate=1e-2)), np.random.default_rng(0)
    before = expected_of(learner, of, lanes, rows)
    for _ in range(40):
        learn_in_groups(learner, of, lanes, rows, OWN, 4, rng)
    after = expected_of(learner, of, lanes, rows)
    assert (after[1:] > before[1:] + 0.01).all(), (before, after)  # carbon, water and cost
    assert after[0] > before[0] - 1e-3, "waiting has little to win here"


def test_critics_and_temperatures_stay_what_they_are_and_judgements_follow(begun: tuple[Task, Lanes, Rows]) -> None:
    of, lanes, rows = begun
    learner = badly_begun(SacSettings())
    critics, calm = arrays(learner.critic), arrays(learner.calm)
    temperature = learner.log_temperature.detach().clone()
    learn_in_groups(learner, of, lanes, rows, OWN, 2, np.random.default_rng(0))
    assert all((value == critics[name]).all() for name, value in arrays(learner.critic).items())
    assert (learner.log_temperature.detach() == temperature).all()
    assert any((value != calm[name]).any() for name, value in arrays(learner.calm).items())


groups = arrays_of.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 3)), elements=st.floats(-10, 10)
)


@given(groups)
def test_advantages_are_bounded_ordered_as_what_was_earned_and_nothing_where_all_earn_the_same(
    earned: FloatArray,
) -> None:
    found = advantages(earned, 0.01)
    assert (np.abs(found) <= 2.0).all()
    first, last = earned.argmin(axis=1), earned.argmax(axis=1)
    low, high = (np.take_along_axis(found, at[:, None], axis=1) for at in (first, last))
    assert (low <= high).all()
    np.testing.assert_allclose(advantages(np.broadcast_to(earned[:, :1], earned.shape), 0.01), 0.0, atol=1e-9)


@given(groups, st.floats(-100, 100))
def test_what_an_epoch_is_worth_whatever_is_done_in_it_teaches_nothing(earned: FloatArray, more: float) -> None:
    np.testing.assert_allclose(advantages(earned + more, 0.01), advantages(earned, 0.01), atol=1e-6)

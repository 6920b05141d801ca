"""A training goes on after a kill as if nothing had happened, judges itself on other days, and ends when it should."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks import plain_task

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.policy.networks.conditioning import OWN_PART, Conditioning, goals
from marlin.policy.training import checkpoint
from marlin.policy.training.networks import arrays
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.run import Fleets, Teacher, Training, TrainSettings, begin, judged, next_round

QUICK = TrainSettings(
    rounds=2,
    lanes=2,
    batch=4,
    warm_epochs=160,
    critic_first=5,
    teacher=Teacher.BOTH,
    pairs=1,
    kept_per_epoch=2,
    actor_hidden=8,
    critic_hidden=8,
)


@pytest.fixture(scope="module")
def fleets() -> Fleets:
    use_one_thread()
    return Fleets((plain_task(),), (plain_task(),))


@pytest.fixture(scope="module")
def uninterrupted(fleets: Fleets) -> Training:
    training = begin(fleets, QUICK, seed=5)
    while not training.is_over:
        next_round(training, fleets)
    return training


def same(one: Training, other: Training) -> bool:
    weights = zip(arrays(one.learner.weights).items(), arrays(other.learner.weights).values(), strict=True)
    return all((a == b).all() for (_, a), b in weights) and one.log == other.log


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    fleets: Fleets, uninterrupted: Training, tmp_path: Path
) -> None:
    stopped = begin(fleets, QUICK, seed=5)
    next_round(stopped, fleets)
    checkpoint.save(stopped, tmp_path / "state", "this one")
    resumed = begin(fleets, QUICK, seed=99)  # whatever it began with
    checkpoint.restore(resumed, tmp_path / "state", "this one")
    next_round(resumed, fleets)
    assert resumed.round == uninterrupted.round == 2
    assert same(resumed, uninterrupted)
    assert [line["round"] for line in uninterrupted.log] == [0, 1, 2], "agents are judged before they learn as well"
    assert "worth" in uninterrupted.log[2], "it did learn, actors too"
    assert "expected" in uninterrupted.log[2], "and from groups"


def test_another_training_s_checkpoint_is_refused(fleets: Fleets, tmp_path: Path) -> None:
    training = begin(fleets, QUICK, seed=5)
    checkpoint.save(training, tmp_path / "state", "this one")
    with pytest.raises(InputError, match="is of another training"):
        checkpoint.restore(begin(fleets, QUICK, seed=5), tmp_path / "state", "another")
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-50])
    with pytest.raises(InputError, match="is no checkpoint"):
        checkpoint.restore(begin(fleets, QUICK, seed=5), tmp_path / "state", "this one")
    with pytest.raises(InputError, match="is no checkpoint"):
        checkpoint.restore(begin(fleets, QUICK, seed=5), tmp_path / "nothing", "this one")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(fleets: Fleets, tmp_path: Path) -> None:
    training = begin(fleets, QUICK, seed=5)
    checkpoint.save(training, tmp_path / "state", "this one")
    checkpoint.save(training, tmp_path / "state", "this one")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_best_round_is_kept_and_a_training_without_progress_ends(fleets: Fleets, uninterrupted: Training) -> None:
    for j, name in enumerate(METRIC_NAMES):
        scores = [(line[f"gain_{name}"] + line[f"balanced_by_{name}"]) / 2 for line in uninterrupted.log]
        assert uninterrupted.best[j] == pytest.approx(max(scores))
        assert uninterrupted.best_round[j] == int(np.argmax(scores))
    stuck = replace(QUICK, rounds=100, patience=3)
    training = begin(fleets, stuck, seed=0)
    training.round, training.best_round = 7, np.array([0, 5, 1, 0])
    assert not training.is_over
    training.round = 8
    assert training.is_over


def test_an_agent_that_prefers_nothing_saves_nothing(fleets: Fleets) -> None:
    training = begin(fleets, QUICK, seed=5)
    with torch.no_grad():
        training.learner.calm["actor.head.weight"].zero_()
        training.learner.calm["actor.sort.scale"].zero_()
    gains = judged(training.learner, fleets.tune[0], Conditioning.PAPER)
    np.testing.assert_allclose(gains, 0.0, atol=1e-9)


def test_an_agent_that_has_learnt_nothing_sorts(fleets: Fleets) -> None:
    gains = judged(begin(fleets, QUICK, seed=5).learner, fleets.tune[0], Conditioning.FILM)
    assert (gains[1:, 0] > 0.05).all(), "carbon, water and cost: capacity-proportional is far from a sort"


def test_agents_go_by_their_own_metric_and_in_film_mode_by_the_user_s_weights_too() -> None:
    wanted = np.array([[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_array_equal(goals(Conditioning.PAPER, wanted)[:, 0], np.eye(4))
    leaning = OWN_PART * np.eye(4)[1] + (1 - OWN_PART) * wanted[0]
    np.testing.assert_allclose(goals(Conditioning.FILM, wanted)[1, 0], leaning)


def test_a_training_has_one_thread_though_the_twins_compiled_loops_would_take_all_processors() -> None:
    code = """
import numba, numpy, torch
from marlin.policy.training.one_thread import use_one_thread
use_one_thread()

@numba.njit(parallel=True)
def squares(x):
    y = numpy.empty_like(x)
    for i in numba.prange(len(x)):
        y[i] = x[i] * x[i]
    return y

squares(numpy.arange(9.0))
print(torch.get_num_threads(), numba.get_num_threads())
"""
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]

"""Plans are rewarded by what they are expected to earn: as the epoch would be, on all the demands that may come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tasks import plain_task, task

from marlin.api.plan import Dispatch
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.outlook import expected_terms
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.task import Lanes, Task

use_one_thread()


def begun(of: Task, epochs: int = 0) -> Lanes:
    lanes = of.begin(of.draw([(0, 1), (0, 2)]), np.full((2, 4), 0.25))
    for _ in range(epochs):
        lanes, _ = of.step(lanes, of.propose(lanes, np.zeros((2, of.action.size))))
    return lanes


def random_intents(of: Task, lanes: Lanes, count: int) -> list[Intent]:
    rng = np.random.default_rng(0)
    return [of.propose(lanes, rng.uniform(-1, 1, (2, of.action.size))) for _ in range(count)]


@pytest.mark.parametrize("dispatch", list(Dispatch))
def test_where_the_forecast_is_certain_and_right_a_plan_is_expected_to_earn_what_it_earns(dispatch: Dispatch) -> None:
    of = task(dispatch=dispatch, sleeps=True)
    lanes = begun(of)  # the first epoch's own requests are its forecast, and nothing came before it
    intents = random_intents(of, lanes, 3)
    for intent, expected in zip(intents, expected_terms(of, lanes, intents), strict=True):
        _, done = of.step(lanes, intent)
        assert not done.happened.queued.any(), "a queue would count as late"
        for part in ("gain", "trend", "asleep", "late"):
            np.testing.assert_allclose(getattr(expected, part), getattr(done.terms, part), rtol=1e-9, atol=1e-12)


def test_capacity_proportional_gains_nothing_over_itself_whatever_may_come() -> None:
    of = plain_task()
    lanes = begun(of, epochs=5)
    (terms,) = expected_terms(of, lanes, [of.propose(lanes, np.zeros((2, of.action.size)))])
    np.testing.assert_allclose(terms.gain, 0.0, atol=1e-9)


def test_a_plan_is_not_rewarded_by_the_requests_that_happened_to_come() -> None:
    of = plain_task()
    lanes = begun(of, epochs=5)
    other = replace(lanes, episodes=replace(lanes.episodes, arrived=3.0 * lanes.episodes.arrived))
    (intent,) = random_intents(of, lanes, 1)
    (one,), (again,) = expected_terms(of, lanes, [intent]), expected_terms(of, other, [intent])
    np.testing.assert_array_equal(one.gain, again.gain)
    assert (of.step(lanes, intent)[1].terms.gain != of.step(other, intent)[1].terms.gain).any()


def test_whoever_keeps_fewer_replicas_awake_is_expected_to_wait_longer_for_the_surges_that_may_come() -> None:
    of = task(sleeps=True)
    lanes = begun(of, epochs=5)
    unsure = replace(lanes, episodes=replace(lanes.episodes, high=2.0 * lanes.episodes.expected))
    cells = np.zeros((2, of.action.models, of.action.sites, 3))

    def keeping(margin: float) -> Intent:
        cells[..., 2] = margin
        return of.propose(unsure, cells.reshape(2, -1))

    few, many = expected_terms(of, unsure, [keeping(-1.0), keeping(1.0)])
    assert (few.gain[:, 0] < many.gain[:, 0]).all()
    assert (few.late >= many.late).all()
    assert (few.asleep > many.asleep).all()

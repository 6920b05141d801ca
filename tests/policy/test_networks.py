"""Actors and critics as functions of fleets: any size, any order, closed sites left out, derivatives that are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, own_preference, some_intent, some_rows, weights

from marlin.policy.networks import actor, critic
from marlin.policy.networks.parameters import actor_shapes, drawn
from marlin.policy.networks.rows import FEATURES, rows_of
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))


def test_a_row_holds_as_many_numbers_as_the_weights_expect() -> None:
    assert some_rows(0, 2, 2, 3).features.shape == (2, 2, 3, FEATURES)


def test_an_observation_of_another_fleet_is_refused() -> None:
    with pytest.raises(ValueError, match="2 models and 3 sites"):
        rows_of(np.zeros((1, 7)), 2, 3)


@given(seeds, sizes)
def test_sites_and_models_listed_otherwise_are_answered_otherwise_listed(seed: int, size: tuple[int, int, int]) -> None:
    rows = some_rows(seed, *size)
    rng = np.random.default_rng(seed)
    models, sites = rng.permutation(size[1]), rng.permutation(size[2])

    def listed(values: FloatArray) -> FloatArray:
        return values[:, models][:, :, sites]

    other = replace(
        rows,
        features=listed(rows.features),
        mask=listed(rows.mask),
        weight=listed(rows.weight),
        load=listed(rows.load),
        demand=rows.demand[:, models],
    )
    p, preference = weights(), own_preference(rows)
    one, two = (actor.propose(p, r, preference).mean for r in (rows, other))
    np.testing.assert_allclose(one[:, :, models][:, :, :, sites], two, rtol=1e-6, atol=1e-9)
    intent = some_intent(seed, rows)
    moved = Intent(listed(intent.shares), listed(intent.fill), listed(intent.margin))
    np.testing.assert_allclose(
        critic.worth(p, rows, intent, preference), critic.worth(p, other, moved, preference), rtol=1e-6, atol=1e-9
    )


@given(seeds)
def test_what_is_written_of_a_closed_site_changes_nobody_s_answer(seed: int) -> None:
    rows = some_rows(seed, 3, 2, 5)
    is_closed = rows.mask == 0
    nonsense = rows.features.copy()
    nonsense[is_closed] = np.random.default_rng(seed).uniform(-9, 9, (int(is_closed.sum()), FEATURES))
    other = replace(rows, features=nonsense)
    p, preference = weights(), own_preference(rows)
    one, two = (actor.propose(p, r, preference).mean for r in (rows, other))
    np.testing.assert_array_equal(one[:, ~is_closed], two[:, ~is_closed])
    intent = some_intent(seed, rows)
    np.testing.assert_array_equal(critic.worth(p, rows, intent, preference), critic.worth(p, other, intent, preference))


@settings(max_examples=20)
@given(seeds, sizes)
def test_an_agents_own_intent_is_worth_to_it_what_all_networks_say_of_it(seed: int, size: tuple[int, int, int]) -> None:
    p = {name: value.astype(np.float64) for name, value in weights(seed % 7).items()}
    rows = some_rows(seed, *size)
    each = [some_intent(seed + j, rows) for j in range(4)]
    own = Intent(*(np.stack([getattr(one, name) for one in each]) for name in ("shares", "fill", "margin")))
    asked = critic.Critics.of(p, rows, own_preference(rows))
    expected = np.stack([asked.worth(own)[j, :, j] for j in range(4)], axis=1)  # (N, agents)
    np.testing.assert_allclose(asked.own_worth(own), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=20)
@given(seeds, sizes)
def test_derivatives_are_those_of_small_steps(seed: int, size: tuple[int, int, int]) -> None:
    p = {name: value.astype(np.float64) for name, value in weights(seed % 7).items()}
    rows = some_rows(seed, *size)
    intent = some_intent(seed, rows)
    found = critic.derivatives(p, rows, intent, own_preference(rows))
    rng = np.random.default_rng(seed)
    way = Intent(*(rng.normal(size=rows.shape) * rows.mask for _ in range(3)))
    step = 1e-6

    def at(length: float) -> FloatArray:
        return critic.worth(
            p,
            rows,
            Intent(
                intent.shares + length * way.shares,
                intent.fill + length * way.fill,
                intent.margin + length * way.margin,
            ),
            own_preference(rows),
        )

    slope = (at(step) - at(-step)) / (2 * step)  # (N, agents)
    expected = sum(
        (getattr(found, name) * getattr(way, name)).sum(axis=(2, 3)).T for name in ("shares", "fill", "margin")
    )
    # A kink of a rectifier or a change of the lesser twin within the step is rare and has no derivative.
    bad = np.abs(slope - expected) > 1e-4 * (1.0 + np.abs(slope))
    assert bad.mean() <= 0.1


def test_one_set_of_weights_serves_fleets_of_any_size() -> None:
    p = weights()
    for size in ((1, 1, 2), (1, 5, 64), (2, 2, 8)):
        rows = some_rows(1, *size)
        proposals = actor.propose(p, rows, own_preference(rows))
        assert proposals.best().shape == (4, *size, 3)
        assert (np.abs(proposals.best()) <= 1).all()


def test_the_first_draw_sorts_and_the_same_seed_draws_the_same() -> None:
    shapes = actor_shapes(SMALL)
    p = drawn(shapes, np.random.default_rng(3))
    rows = some_rows(0, 4, 2, 8)
    best = actor.propose(p, rows, own_preference(rows)).best()
    for j in range(4):  # a site that costs clearly more of the agent's metric is preferred clearly less
        cost, preference = rows.relative[..., j], best[j, ..., 0]
        costs_more = cost[..., :, None] > cost[..., None, :] + 0.3
        assert (preference[..., :, None] < preference[..., None, :])[costs_more].all()
    assert (best[..., 1] > 0.8).all(), "and is filled to nearly the limit"
    again = drawn(shapes, np.random.default_rng(3))
    assert all((p[name] == again[name]).all() for name in shapes)


def test_preferences_change_proposals() -> None:
    rows = some_rows(0, 4, 2, 8)
    proposals = actor.propose(weights(), rows, own_preference(rows))
    other = actor.propose(weights(), rows, own_preference(rows)[::-1])
    assert not np.allclose(proposals.mean, other.mean)


def test_samples_scatter_around_the_mean_by_the_spread() -> None:
    rows = some_rows(0, 1, 1, 2)
    proposals = actor.propose(weights(), rows, own_preference(rows))
    drawn_ = np.arctanh(np.clip(proposals.sample(np.random.default_rng(0), 20_000), -1 + 1e-12, 1 - 1e-12))
    np.testing.assert_allclose(drawn_.mean(axis=1), proposals.mean, atol=0.1)
    np.testing.assert_allclose(drawn_.std(axis=1), np.exp(proposals.log_std), rtol=0.05)

"""The critics' short way for blends says what the long way says, whatever the networks and the proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import own_preference, some_intent, some_rows, weights

from marlin.policy.networks import hull
from marlin.policy.networks.critic import MOST_LOAD, Critics
from marlin.policy.networks.hull import Hull
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 6))


def proposals(seed: int, rows: Rows, many: int) -> Intent:
    """Intents (I, V, D) of one fleet."""
    each = [some_intent(seed + i, rows) for i in range(many)]
    return Intent(*(np.concatenate([getattr(one, n) for one in each]) for n in ("shares", "fill", "margin")))


def situation(seed: int, size: tuple[int, int], *, load: float = 1.0) -> Rows:
    rows = some_rows(seed, 1, *size)
    return replace(rows, load=np.minimum(rows.load, load * MOST_LOAD))


def double(parameters: Mapping[str, Any]) -> dict[str, FloatArray]:
    return {name: value.astype(np.float64) for name, value in parameters.items()}


def blended(intents: Intent, by: FloatArray) -> Intent:
    parts = (intents.shares, intents.fill, intents.margin)
    return Intent(*(np.tensordot(by, part, axes=1)[None] for part in parts))


@given(seeds, sizes, st.integers(2, 5), st.sampled_from([0.2, 1.0, 4.0]))
def test_worth_and_slopes_are_those_of_the_critics(seed: int, size: tuple[int, int], many: int, loud: float) -> None:
    rows = situation(seed, size)
    parameters = {name: loud * value for name, value in double(weights(seed % 7)).items()}
    critics = Critics.of(parameters, rows, own_preference(rows))
    intents = proposals(seed, rows, many)
    short = Hull.of(critics, intents)
    assert short is not None
    rng = np.random.default_rng(seed)
    for by in (rng.dirichlet(np.ones(many)), rng.dirichlet(np.full(many, 0.2)), np.eye(many)[seed % many]):
        worth, slopes = short.worth_and_slopes(by)
        expected, by_action = critics.worth_and_derivatives(blended(intents, by))
        assert worth == pytest.approx(expected[0], rel=1e-9, abs=1e-9)
        assert short.worth(np.stack([by, by]))[1] == pytest.approx(worth)
        along = sum(
            np.tensordot(getattr(by_action, name)[:, 0], getattr(intents, name), axes=([1, 2], [1, 2]))
            for name in ("shares", "fill", "margin")
        )  # (agents, I)
        off = slopes - along
        off -= off.mean(axis=1, keepdims=True)  # weights add up to one: a constant for each agent means nothing
        # At an intent itself units may lie on their kink, and twins may agree: there a slope is one of two.
        if by.max() < 1.0:
            assert np.abs(off).max() <= 1e-7 * (1.0 + np.abs(along).max())


@given(seeds, sizes)
def test_units_that_are_left_out_are_off_at_every_blend(seed: int, size: tuple[int, int]) -> None:
    rows = situation(seed, size)
    critics = Critics.of(double(weights(seed % 7)), rows, own_preference(rows))
    intents = proposals(seed, rows, 4)
    found: list[Any] = []
    bound = hull._may_be_on

    def listening(*asked: Any) -> Any:
        found.append(bound(*asked))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hull, "_may_be_on", listening)
        Hull.of(critics, intents)
    for by in np.random.default_rng(seed).dirichlet(np.ones(4), 20):
        one = blended(intents, by)
        _, there = critics._forward(Intent(one.shares[None], one.fill[None], one.margin[None]))
        is_on = (there.mixed > 0).any(axis=(1, 2, 3))  # (K, H)
        assert not (is_on & ~found[0]).any()


def test_proposals_beyond_the_kink_of_the_load_have_no_short_way() -> None:
    rows = replace(some_rows(0, 1, 1, 3), mask=np.ones((1, 1, 3)), load=np.full((1, 1, 3), 2.0 * MOST_LOAD))
    critics = Critics.of(weights(), rows, own_preference(rows))
    all_to_one = Intent(np.eye(3)[:, None], np.ones((3, 1, 3)), np.ones((3, 1, 3)))
    assert Hull.of(critics, all_to_one) is None

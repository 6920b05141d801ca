from __future__ import annotations

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.errors import InputError
from marlin.api.plan import Scheme
from marlin.policy.merit import merit_order
from marlin.policy.objective import parse_weights, relative_score, scheme_weights

CAPACITY = np.array([[1.0, 1.0, 1.0]])
ALL = np.array([[True, True, True]])
# ttft_s, gCO2, L, USD of one more request: a is quick, b clean, c cheap and dry
MARGINAL = np.array([[[0.2, 9.0, 3.0, 0.3], [0.8, 1.0, 2.0, 0.2], [0.5, 5.0, 1.0, 0.1]]])


@pytest.mark.parametrize(
    ("scheme", "first"),
    [(Scheme.MIN_TTFT, 0), (Scheme.MIN_CARBON, 1), (Scheme.MIN_WATER, 2), (Scheme.MIN_COST, 2)],
)
def test_each_scheme_fills_the_site_that_is_best_in_its_metric_first(scheme: Scheme, first: int) -> None:
    state = fleet(site("a"), site("b"), site("c"), forecast=450.0)  # 0.5 requests/s: one site carries it
    proposal, _ = merit_order(state, CAPACITY, MARGINAL, ALL, scheme_weights(scheme))
    assert proposal.order[0][0] == first
    assert proposal.shares[0].tolist() == [0.5 if d == first else 0.0 for d in range(3)]


def test_what_one_site_cannot_carry_goes_to_the_next_in_order() -> None:
    state = fleet(site("a"), site("b"), site("c"), forecast=900.0 * 1.2)
    proposal, score = merit_order(state, CAPACITY, MARGINAL, ALL, scheme_weights(Scheme.MIN_CARBON))
    assert proposal.order[0] == (1, 2, 0)
    assert proposal.shares[0].tolist() == pytest.approx([0.0, 0.95, 0.25])
    assert score[0, 1] < score[0, 2] < score[0, 0]


def test_a_site_that_is_not_allowed_is_never_filled() -> None:
    state = fleet(site("a"), site("b"), site("c"))
    mask = np.array([[True, False, True]])
    proposal, _ = merit_order(state, CAPACITY, MARGINAL, mask, scheme_weights(Scheme.MIN_CARBON))
    assert 1 not in proposal.order[0]
    assert proposal.shares[0, 1] == 0.0


def test_weights_are_read_as_a_person_writes_them_and_normalised() -> None:
    assert parse_weights("carbon=2, cost=2") == (0.0, 0.5, 0.0, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("co2=1", "'co2' is not one of ttft, carbon, water, cost"),
        ("carbon=x", "should look like carbon=1.5"),
        ("carbon=-1", "must not be negative"),
        ("carbon=0", "one must be above 0"),
    ],
)
def test_bad_weights_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_weights(text)


def test_custom_weights_go_with_the_custom_scheme_only() -> None:
    with pytest.raises(InputError):
        scheme_weights(Scheme.CUSTOM)
    with pytest.raises(InputError):
        scheme_weights(Scheme.BALANCED, (1, 0, 0, 0))


def test_a_free_hour_does_not_break_the_score() -> None:
    metrics = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, -2.0]])
    score = relative_score(metrics, np.array([1.0, 1.0, 1.0, 0.0]), (0.25, 0.25, 0.25, 0.25))
    assert np.isfinite(score).all()
    assert score[1] < score[0]

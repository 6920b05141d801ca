from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marlin.policy.game import CapitalSettings, bonus, earned, performance

amounts = st.floats(0, 1e6)
baselines = arrays(np.float64, 4, elements=amounts)


@given(
    arrays(np.float64, 4, elements=st.floats(0, 300)),
    arrays(np.float64, 4, elements=st.floats(-1e3, 1e6)),
    arrays(np.float64, (4, 4), elements=st.floats(-1e3, 1e6)),
    baselines,
    st.floats(0, 1),
)
def test_capital_stays_between_nothing_and_its_scale(
    capital: np.ndarray, metrics: np.ndarray, proposed: np.ndarray, baseline: np.ndarray, memory: float
) -> None:
    after = earned(capital, metrics, proposed, baseline, CapitalSettings(memory=memory))
    assert (after >= 0).all()
    assert (after <= 300).all()


def test_performance_is_the_part_of_the_possible_gain_that_was_realised() -> None:
    baseline = np.array([10.0, 10.0, 10.0, 10.0])
    proposed = np.full((4, 4), 12.0)
    np.fill_diagonal(proposed, 6.0)
    metrics = np.array([6.0, 8.0, 10.0, 11.0])
    assert performance(metrics, proposed, baseline) == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-5)


def test_a_consensus_better_than_every_proposal_earns_the_full_mark_and_not_more() -> None:
    assert performance(np.array([5.0]), np.array([[6.0]]), np.array([10.0])) == pytest.approx([1.0])


def test_where_nobody_could_gain_staying_at_the_baseline_earns_the_full_mark() -> None:
    baseline, proposed = np.array([10.0]), np.array([[11.0]])
    assert performance(np.array([10.0]), proposed, baseline) == pytest.approx([1.0])
    assert performance(np.array([10.1]), proposed, baseline) == pytest.approx([0.0])


def test_bonus_is_full_at_the_agents_own_metric_and_falls_on_both_sides_of_it() -> None:
    proposed = np.diag([10.0, 10.0, 10.0, 0.0])
    assert bonus(np.array([10.0, 12.0, 8.0, 0.0]), proposed) == pytest.approx([1.0, 0.8, 0.8, 1.0])
    assert bonus(np.array([30.0, 12.0, 8.0, 1.0]), proposed) == pytest.approx([0.0, 0.8, 0.8, 0.0])


def test_capital_reaches_the_vetos_150_when_an_agent_keeps_getting_its_way_and_loses_it_when_not() -> None:
    """As printed it could not: Perf and Bonus near 1 add up to less than 3, and a veto needs 150."""
    baseline, settings = np.array([10.0, 10.0]), CapitalSettings()
    proposed = np.array([[5.0, 10.0], [10.0, 5.0]])
    capital = np.array([0.0, settings.start])
    for _ in range(30):
        capital = earned(capital, np.array([5.0, 10.0]), proposed, baseline, settings)
    assert capital[0] > 280
    assert capital[1] < 60

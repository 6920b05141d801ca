"""One epoch's requests from how many there are: nothing lost, sizes right on average, arrivals of a Poisson process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.requests import Requests, draw_requests
from marlin.simulator.workload.sizes import mean_pair, published_sizes, sizes_from_totals, token_shape
from marlin.simulator.workload.trace import IntArray

EPOCH_S = 900.0
seeds = st.integers(0, 2**32 - 1)


def draw(counts: list[list[int]], sizes: list[list[float]], seed: int = 0) -> Requests:
    return draw_requests(np.array(counts), np.array(sizes), EPOCH_S, np.random.default_rng(seed))


@given(
    arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=st.integers(0, 60)),
    st.floats(0.0, 5000.0),
    st.floats(0.1, 1e5),
    seeds,
)
def test_each_count_becomes_as_many_requests_in_the_order_they_arrive(
    counts: IntArray, mean: float, epoch_s: float, seed: int
) -> None:
    sizes = np.full((len(counts), 2), mean)
    requests = draw_requests(counts, sizes, epoch_s, np.random.default_rng(seed))
    assert len(requests) == counts.sum()
    found = np.zeros_like(counts)
    np.add.at(found, (requests.model, requests.origin), 1)
    assert np.array_equal(found, counts)
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert ((requests.arrival_s >= 0) & (requests.arrival_s < epoch_s)).all()
    assert (requests.prompt_tokens >= 1).all()
    assert (requests.output_tokens >= 1).all()
    assert requests.arrival_s.dtype == np.float64
    for column in (requests.model, requests.origin, requests.prompt_tokens, requests.output_tokens):
        assert column.dtype == np.int32


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1.3, 2.0), (20.0, 5.0), (621.0, 126.0), (5000.0, 900.0)])
def test_the_mean_lengths_are_those_asked_for(sizes: tuple[float, float]) -> None:
    requests = draw([[200_000], [200_000]], [list(sizes), [50.0, 50.0]])
    for column, mean in zip((requests.prompt_tokens, requests.output_tokens), sizes, strict=True):
        drawn = column[requests.model == 0]
        assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / 200_000**0.5 + 1e-9)


def test_prompt_and_output_are_drawn_together_as_in_the_shipped_pairs() -> None:
    requests = draw([[200_000]], [[1000.0, 200.0]])
    expected = np.asarray(np.corrcoef(token_shape().T))[0, 1]
    assert np.asarray(np.corrcoef(requests.prompt_tokens, requests.output_tokens))[0, 1] == pytest.approx(
        expected, abs=0.01
    )


def test_arrivals_are_even_in_the_epoch_and_independent_of_each_other_and_of_what_is_asked() -> None:
    requests = draw([[50_000, 50_000]], [[600.0, 120.0]])
    position = (np.arange(100_000) + 0.5) / 100_000
    distance = np.abs(requests.arrival_s / EPOCH_S - position).max()
    assert distance < 1.95 / 100_000**0.5, "Kolmogorov-Smirnov, one in a thousand"
    gaps = np.diff(requests.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.02), "gaps are exponential"
    assert abs(np.corrcoef(requests.arrival_s, requests.origin)[0, 1]) < 0.015
    assert abs(np.corrcoef(requests.arrival_s, requests.output_tokens)[0, 1]) < 0.015


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again, other = (draw([[300]], [[600.0, 120.0]], seed) for seed in (1, 1, 2))
    assert np.array_equal(first.arrival_s, again.arrival_s)
    assert np.array_equal(first.output_tokens, again.output_tokens)
    assert not np.array_equal(first.arrival_s, other.arrival_s)


def test_an_epoch_without_requests_has_none() -> None:
    assert len(draw([[0, 0], [0, 0]], [[600.0, 120.0]] * 2)) == 0


def test_the_shape_has_mean_one_and_cannot_be_changed_by_a_caller() -> None:
    shape = token_shape()
    assert shape.shape == (400, 2)
    assert shape.mean(axis=0) == pytest.approx(np.ones(2))
    with pytest.raises(ValueError, match="read-only"):
        shape[0] = 0.0


@given(arrays(np.float64, st.integers(1, 5), elements=st.floats(0.0, 1e5)))
def test_a_known_sum_of_tokens_is_split_as_in_the_shipped_pairs(totals: FloatArray) -> None:
    sizes = sizes_from_totals(totals)
    assert sizes.sum(axis=-1) == pytest.approx(totals)
    assert sizes[:, 0] * mean_pair()[1] == pytest.approx(sizes[:, 1] * mean_pair()[0])


def test_the_published_means_stand_in_where_no_day_s_own_is_known() -> None:
    assert published_sizes().tolist() == [621.0, 126.0]

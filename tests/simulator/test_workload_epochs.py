"""Days of a trace as requests per epoch and model: nothing is lost on the way, and bursts stay bursts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marlin.api.errors import InputError
from marlin.simulator.workload.epochs import epoch_requests
from marlin.simulator.workload.facts import fact
from marlin.simulator.workload.mix import draw_by_model, expected_by_model, model_shares
from marlin.simulator.workload.shipped import shipped_azure_2024, shipped_week
from marlin.simulator.workload.trace import S_PER_HOUR, IntArray, Trace

seeds = st.integers(0, 2**32 - 1)
hourly = arrays(np.int64, (48, 2), elements=st.integers(0, 5000))


def trace(counts: IntArray, *, period_s: int = S_PER_HOUR, utc_offset_h: int = 0) -> Trace:
    days = -(-len(counts) * period_s // 86_400)
    return Trace(
        name="made up",
        classes=("people", "programs"),
        counts=counts,
        period_s=period_s,
        mean_tokens=np.array([[100.0 * (d + 1), 10.0 * (d + 1)] for d in range(days)]),
        large_share=np.array([0.25, 0.5]),
        utc_offset_h=utc_offset_h,
    )


@given(hourly, st.sampled_from([60, 300, 900, 1800, 3600]), seeds)
def test_every_hour_keeps_its_total_however_it_is_split(counts: IntArray, epoch_s: int, seed: int) -> None:
    split = epoch_requests(trace(counts), 1, epoch_s, np.random.default_rng(seed))
    assert split.shape == (86_400 // epoch_s, 2)
    assert (split >= 0).all()
    assert np.array_equal(split.reshape(24, -1, 2).sum(axis=1), counts[24:])


@given(arrays(np.int64, (288, 2), elements=st.integers(0, 50)))
def test_periods_shorter_than_an_epoch_are_added_up(counts: IntArray) -> None:
    epochs = epoch_requests(trace(counts, period_s=300), 0, 900, np.random.default_rng(0))
    assert np.array_equal(epochs, counts.reshape(96, 3, 2).sum(axis=1))


@pytest.mark.parametrize("epoch_s", [300, 900])
def test_an_hour_is_split_as_unevenly_as_the_trace_s_own_minutes(epoch_s: int) -> None:
    """Sum of squared quarter shares is that of the fitted Dirichlet, whether the epoch is a quarter or shorter."""
    busy = trace(np.full((24, 2), 10**6))
    rng = np.random.default_rng(3)
    splits = [epoch_requests(busy, 0, epoch_s, rng) for _ in range(60)]
    quarters = np.stack(splits).reshape(-1, 4, 900 // epoch_s, 2).sum(axis=2) / 10**6
    a = fact("epoch_concentration")
    assert (quarters**2).sum(axis=1).mean() == pytest.approx((a + 1) / (4 * a + 1), rel=0.02)
    assert (quarters**2).sum(axis=1).mean() > 0.28, "an even split would give 0.25"


def test_the_same_seed_gives_the_same_epochs() -> None:
    first, again, other = (epoch_requests(shipped_week(), 2, 900, np.random.default_rng(s)) for s in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_days_are_cut_at_midnight_utc_out_of_local_hours() -> None:
    counts = np.arange(72)[:, None] * np.array([1, 0])
    east = trace(counts, utc_offset_h=8)
    assert east.days == 2, "the first eight local hours belong to no whole day UTC"
    assert epoch_requests(east, 0, 3600, np.random.default_rng(0))[:, 0].tolist() == list(range(8, 32))
    assert trace(counts).days == 3
    west = trace(counts, utc_offset_h=-5)
    assert epoch_requests(west, 0, 3600, np.random.default_rng(0))[0, 0] == 19


def test_token_sizes_are_those_of_the_local_day_an_epoch_lies_in() -> None:
    counts = np.zeros((72, 2), dtype=np.int64)
    counts[8:24, 0], counts[24:32, 0] = 10, 70
    east = trace(counts, utc_offset_h=8)
    sizes = east.epoch_sizes(0, 3600)
    assert sizes[:16].tolist() == [[100.0, 10.0]] * 16
    assert sizes[16:].tolist() == [[200.0, 20.0]] * 8
    first, second = 16 * 10, 8 * 70
    assert east.day_sizes(0)[0] == pytest.approx((100 * first + 200 * second) / (first + second))
    assert replace(east, counts=0 * counts).day_sizes(0)[0] == pytest.approx((100 * 16 + 200 * 8) / 24)


@pytest.mark.parametrize(
    ("day", "epoch_s", "message"),
    [
        (3, 900, "made up has days 0 to 2, not day 3"),
        (-1, 900, "not day -1"),
        (0, 7200, "an epoch of 7200 s does not divide an hour"),
        (0, 1000, "an epoch of 1000 s does not divide an hour"),
        (0, 0, "an epoch of 0 s"),
    ],
)
def test_a_day_or_epoch_that_is_not_there_is_refused(day: int, epoch_s: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        epoch_requests(trace(np.ones((72, 2), dtype=np.int64)), day, epoch_s, np.random.default_rng(0))


def test_a_trace_without_a_whole_day_says_so() -> None:
    with pytest.raises(InputError, match="made up has no whole day UTC, not day 0"):
        epoch_requests(trace(np.ones((30, 2), dtype=np.int64), utc_offset_h=8), 0, 900, np.random.default_rng(0))


@given(hourly, seeds)
def test_every_request_asks_for_exactly_one_model(counts: IntArray, seed: int) -> None:
    shares = model_shares(trace(counts))
    drawn = draw_by_model(counts, shares, np.random.default_rng(seed))
    assert np.array_equal(drawn.sum(axis=1), counts.sum(axis=1))
    assert expected_by_model(counts, shares).sum(axis=1) == pytest.approx(counts.sum(axis=1))


def test_models_are_drawn_with_the_share_of_their_class() -> None:
    counts = np.array([[400_000, 0], [0, 400_000]])
    drawn = draw_by_model(counts, model_shares(trace(counts)), np.random.default_rng(1))
    assert drawn[:, 1] / 400_000 == pytest.approx([0.25, 0.5], abs=0.005)


def test_the_shipped_week_has_the_trace_s_published_share_of_the_larger_model() -> None:
    facts = {name: fact(name) for name in ("total_share_large", "conversation_share_large", "api_share_large")}
    assert 0 <= facts["api_share_large"] < facts["total_share_large"] < facts["conversation_share_large"]


def test_the_shipped_traces_have_six_whole_days_utc() -> None:
    assert shipped_week().days == shipped_azure_2024().days == 6
    means = shipped_week().mean_tokens.sum(axis=1)
    assert means.max() > 1.5 * means.min(), "days differ in length of requests"


def test_azure_s_days_are_smoother_than_burstgpt_s() -> None:
    def peak_over_mean(trace: Trace, day: int) -> float:
        hours = epoch_requests(trace, day, 3600, np.random.default_rng(0)).sum(axis=1)
        return float(hours.max() / hours.mean())

    azure = [peak_over_mean(shipped_azure_2024(), d) for d in range(6)]
    burstgpt = [peak_over_mean(shipped_week(), d) for d in range(6)]
    assert max(azure) < min(burstgpt)
    assert np.mean(burstgpt) > 2 * np.mean(azure)

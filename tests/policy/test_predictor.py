from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marlin.api.state import FORECAST_CHANCES
from marlin.policy.forecasting import Prediction, PredictorSettings, observe, parts_of, predict, replay, start
from marlin.policy.forecasting.features import FEATURES, features
from marlin.policy.forecasting.parts import USUAL_EPOCHS, USUAL_POINTS, parts_of_errors
from marlin.policy.forecasting.references import last_value, moving_average, seasonal_naive
from marlin.policy.forecasting.scores import accuracy, coverage, pinball, poisson_floor
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.shipped import shipped_azure_2024, shipped_week

HOURLY = PredictorSettings(epochs_per_day=24)
histories = arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(0, 10_000))


def online(series: FloatArray, settings: PredictorSettings = HOURLY) -> Prediction:
    """What was predicted for each epoch (T, C) of a series from the epochs before it; the first is given."""
    state = start(series[0], settings)
    rows = [(series[0], series[0], series[0])]
    for row in series[1:]:
        found = predict(state)
        rows.append((found.expected, found.low, found.high))
        state = observe(state, row)
    expected, low, high = (np.array(column) for column in zip(*rows, strict=True))
    return Prediction(expected, low, high)


def daily(rng: np.random.Generator, days: int, mean: float) -> FloatArray:
    """Poisson counts (T, 1) around a day's wave, T = 24 x days."""
    hours = np.arange(24 * days)
    return rng.poisson(mean * (1.0 + 0.8 * np.sin(2 * np.pi * hours / 24)))[:, None].astype(np.float64)


@pytest.mark.parametrize("name", ["conversation", "api", "azure"])
def test_on_recorded_traffic_it_beats_the_last_value_and_the_moving_average(name: str) -> None:
    week = shipped_week().counts.astype(np.float64)
    series = {"conversation": week[:, :1], "api": week[:, 1:], "azure": shipped_azure_2024().counts.astype(np.float64)}[
        name
    ]
    ours = accuracy(series[48:], online(series).expected[48:])
    assert ours > accuracy(series[48:], last_value(series)[48:])
    assert ours > accuracy(series[48:], moving_average(series, 0.7)[48:])


def test_a_daily_wave_is_learnt_and_predicted_almost_as_well_as_chance_allows() -> None:
    series = daily(np.random.default_rng(1), 21, 200.0)
    ours = accuracy(series[-168:], online(series).expected[-168:])
    assert ours > accuracy(series[-168:], seasonal_naive(series, 24)[-168:])
    assert ours > poisson_floor(series[-168:]) - 0.03


def test_the_interval_holds_what_it_promises_for_errors_that_are_not_normal() -> None:
    rng = np.random.default_rng(2)
    bursts = 100.0 * np.exp(0.5 * rng.standard_t(2.5, (2000, 1)))  # far heavier tails than normal
    for promised in (0.8, 0.9):
        found = online(bursts, replace(HOURLY, coverage=promised))
        assert coverage(bursts[200:], found.low[200:], found.high[200:]) == pytest.approx(promised, abs=0.02)
        assert (bursts[200:] <= found.high[200:]).mean() == pytest.approx((1 + promised) / 2, abs=0.02)


def test_the_interval_adapts_when_traffic_becomes_wilder() -> None:
    rng = np.random.default_rng(3)
    spread = np.repeat([0.1, 0.6], 1000)[:, None]
    series = 1000.0 * np.exp(spread * rng.standard_normal((2000, 1)))
    found = online(series)
    width = np.log(found.high / np.maximum(found.low, 1.0))
    assert width[-500:].mean() > 3 * width[500:1000].mean()
    assert coverage(series[1100:], found.low[1100:], found.high[1100:]) == pytest.approx(0.9, abs=0.03)


def test_traffic_that_never_changes_is_predicted_as_it_is() -> None:
    found = predict(replay(np.full((400, 1), 500.0), HOURLY))
    assert found.expected[0] == pytest.approx(500.0, rel=0.01)
    assert found.low[0] <= 500.0 <= found.high[0]


@given(histories)
def test_predictions_are_numbers_in_order_and_never_negative(history: FloatArray) -> None:
    found = predict(replay(history, HOURLY))
    assert np.isfinite(found.high).all()
    assert (found.low >= 0).all()
    assert (found.low <= found.expected).all()
    assert (found.expected <= found.high).all()


@given(histories)
def test_a_replayed_history_is_the_state_that_watching_it_made(history: FloatArray) -> None:
    state = start(history[0], HOURLY)
    for row in history[1:]:
        state = observe(state, row)
    replayed = replay(history, HOURLY)
    for name in ("history", "usual", "weights", "doubt", "variance", "bounds"):
        assert (getattr(state, name) == getattr(replayed, name)).all()


@given(histories)
def test_each_class_is_predicted_as_if_it_were_alone(history: FloatArray) -> None:
    together = predict(replay(history, HOURLY))
    for c in range(history.shape[1]):
        alone = predict(replay(history[:, [c]], HOURLY))
        assert together.expected[c] == pytest.approx(alone.expected[0], rel=1e-9)
        assert together.high[c] == pytest.approx(alone.high[0], rel=1e-9)


def test_traffic_a_thousand_times_as_large_is_predicted_a_thousand_times_as_large() -> None:
    """So that what was learnt on one service carries over to another."""
    series = daily(np.random.default_rng(4), 10, 5000.0) + 1000.0
    small, large = online(series), online(series * 1000.0)
    assert large.expected == pytest.approx(small.expected * 1000.0, rel=1e-6)
    assert large.high == pytest.approx(small.high * 1000.0, rel=1e-6)


def test_a_gap_teaches_nothing_and_what_was_expected_stands_in() -> None:
    series = daily(np.random.default_rng(5), 9, 300.0)
    both = np.concatenate([series, series], axis=1)
    before = replay(both, HOURLY)
    after = observe(before, np.array([np.nan, 250.0]))
    assert after.history[-1, 0] == pytest.approx(predict(before).expected[0])
    assert (after.weights[0] == before.weights[0]).all()
    assert (after.bounds[:, 0] == before.bounds[:, 0]).all()
    assert (after.weights[1] != before.weights[1]).any()
    assert np.isfinite(predict(after).expected).all()


def test_a_history_may_begin_with_gaps_but_not_consist_of_them() -> None:
    series = daily(np.random.default_rng(6), 3, 300.0)
    gappy = np.concatenate([np.full((5, 1), np.nan), series])
    assert predict(replay(gappy, HOURLY)).expected == pytest.approx(predict(replay(series, HOURLY)).expected)
    with pytest.raises(ValueError, match="one epoch in which all classes are known"):
        replay(np.full((5, 1), np.nan), HOURLY)


def test_the_state_keeps_no_more_than_a_week_and_an_epoch() -> None:
    state = replay(np.ones((500, 1)), HOURLY)
    assert len(state.history) == 7 * 24 + 1


def test_observing_leaves_the_state_before_as_it_was() -> None:
    before = replay(daily(np.random.default_rng(7), 3, 300.0), HOURLY)
    kept = predict(before).expected.copy()
    observe(before, np.array([9_999.0]))
    assert (predict(before).expected == kept).all()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (np.array([-1.0]), "requests must be 1 numbers that are not negative"),
        (np.array([np.inf]), "requests must be 1 numbers"),
        (np.array([1.0, 2.0]), "requests must be 1 numbers"),
    ],
)
def test_counts_that_cannot_be_are_refused(requests: FloatArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        observe(start(np.array([1.0])), requests)


def test_a_predictor_does_not_start_from_a_gap() -> None:
    with pytest.raises(ValueError, match="cannot start from a gap"):
        start(np.array([np.nan]))


@pytest.mark.parametrize("length", [1, 3, 24, 25, 26, 168, 169, 400])
def test_features_are_what_their_names_say_however_long_the_history_is(length: int) -> None:
    history = np.random.default_rng(length).integers(0, 500, (length, 2)).astype(np.float64)
    offset = np.array([10.0, 20.0])
    x, level = features(history, offset, 24, 0.4, 0.1)
    logs = np.log(history + offset)
    by_hand = [_average(logs, 0.1), _average(logs, 0.4)]
    named = dict(zip(FEATURES, x.T, strict=True))
    assert level == pytest.approx(by_hand[0])
    assert named["last"] + level == pytest.approx(logs[-1])
    assert named["average"] + level == pytest.approx(by_hand[1])
    for name, lag in (("day", 24), ("day_before_last", 25), ("week", 168), ("week_before_last", 169)):
        if length >= lag:
            assert named[name] + level == pytest.approx(logs[-lag])
        elif name.startswith("day"):
            assert named[name].tolist() == [0.0, 0.0]
        else:
            assert named[name] == pytest.approx(named[name.replace("week", "day")])


def _average(logs: FloatArray, smoothing: float) -> FloatArray:
    """By a slow loop over the last two days."""
    total, weights = np.zeros(logs.shape[1]), 0.0
    for k, row in enumerate(logs[::-1][:48]):
        weight = smoothing * (1 - smoothing) ** k
        total, weights = total + weight * row, weights + weight
    return total / weights


def test_references_use_the_past_alone() -> None:
    series = np.arange(1.0, 7.0)[:, None]
    assert last_value(series)[:, 0].tolist() == [1, 1, 2, 3, 4, 5]
    assert seasonal_naive(series, 3)[:, 0].tolist() == [1, 1, 2, 1, 2, 3]
    assert moving_average(series, 0.5)[:3, 0].tolist() == [1, 1, 1.5]


def test_scores_of_a_case_worked_by_hand() -> None:
    series, forecast = np.array([10.0, 30.0]), np.array([20.0, 20.0])
    assert accuracy(series, forecast) == 0.5
    assert coverage(series, forecast - 10, forecast + 5) == 0.5
    assert pinball(series, forecast, 0.95) == pytest.approx((0.05 * 10 + 0.95 * 10) / 40)


def test_the_poisson_floor_is_what_knowing_every_rate_reaches() -> None:
    rng = np.random.default_rng(8)
    rates = rng.uniform(20, 400, 20_000)
    counts = rng.poisson(rates).astype(np.float64)
    assert poisson_floor(counts) == pytest.approx(accuracy(counts, rates), abs=0.002)
    sizes = [rng.exponential(1.0, n).sum() for n in rng.poisson(rates)]  # E[S^2] / E[S] = 2
    assert poisson_floor(np.array(sizes), 0.5) == pytest.approx(accuracy(np.array(sizes), rates), abs=0.002)


CHANCES = np.array(FORECAST_CHANCES)


def test_after_quiet_epochs_a_surge_is_expected_where_surges_came_and_not_on_top_of_busy_ones() -> None:
    """Every tenth quiet epoch became ten times as large; busy ones were as expected, a hundredth more or less."""
    rng = np.random.default_rng(4)
    is_quiet = rng.random(600) < 0.5
    errors = np.where(is_quiet & (rng.random(600) < 0.1), np.log(10.0), rng.normal(0.0, 0.01, 600))[:, None]
    levels = np.where(is_quiet, -2.0, 0.5)[:, None]

    def found(level: float) -> FloatArray:
        return parts_of_errors(errors, levels, np.array([level]), 0.1 * np.array(USUAL_POINTS)[:, None], 1.0)[:, 0]

    surges = found(-2.0) > 0.5 * np.log(10.0)
    assert CHANCES[surges].sum() == pytest.approx(0.1, abs=0.04)
    assert found(0.5).max() < 0.1 * np.log(10.0)


@given(arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.floats(-3, 3)))
def test_parts_never_fall_and_lose_nothing_of_what_all_errors_let_expect(
    errors: FloatArray,
) -> None:
    """The usual errors among them: nothing is lost by dividing."""
    level, usual = np.zeros(2), np.multiply.outer(USUAL_POINTS, (0.5, 1.0))
    parts = parts_of_errors(errors, np.zeros_like(errors), level, usual, 1.0)
    assert (np.diff(parts, axis=0) >= -1e-9).all()
    assert parts_of_errors(np.empty((0, 2)), np.empty((0, 2)), level, usual, 1.0) == pytest.approx(usual)
    whole = (errors.sum(axis=0) + USUAL_EPOCHS * CHANCES @ usual) / (len(errors) + USUAL_EPOCHS)
    assert CHANCES @ parts == pytest.approx(whole, abs=1e-9)


def test_before_anything_was_seen_the_usual_errors_stand_in_and_a_gap_teaches_none() -> None:
    fresh = start(np.array([1000.0]), HOURLY)
    parts = parts_of(fresh)[:, 0]
    assert parts[np.cumsum(CHANCES) <= 0.95].max() < predict(fresh).high[0] < parts[-1]
    assert (parts_of(observe(replace(fresh, weights=0.0 * fresh.weights), np.array([np.nan]))) >= 0).all()
    gap = observe(fresh, np.array([np.nan]))
    assert np.isnan(gap.levels).all()


def test_what_comes_is_beyond_a_part_as_often_as_its_chance_says() -> None:
    rng = np.random.default_rng(5)
    series = 100.0 * np.exp(0.5 * rng.standard_t(3.0, (1500, 1)))
    state, beyond = start(series[0]), []
    for row in series[1:]:
        beyond.append(row[0] > parts_of(state)[:, 0])
        state = observe(state, row)
    middles = np.cumsum(CHANCES) - CHANCES / 2.0
    assert np.mean(beyond[400:], axis=0)[3:] == pytest.approx(1.0 - middles[3:], abs=0.05)

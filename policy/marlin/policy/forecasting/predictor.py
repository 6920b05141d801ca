"""Requests of the next epoch, per class: a regression on past epochs that starts pretrained and goes on learning.

The weights are those of recursive least squares with slow forgetting: before any observation they are the pretrained
ones, and every epoch moves them as far as its error says against how sure they are. So a service that is like those
seen in training is predicted well on its first day, and one that is not is learnt within days. Every class has weights
of its own.

``start`` and ``observe`` make states, ``predict`` reads one; a state is a value. ``replay`` makes one from a history,
which is how an operator that kept only a history comes back after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.policy.forecasting.features import FEATURES, features
from marlin.policy.forecasting.intervals import FIRST_DISTANCE, moved
from marlin.policy.forecasting.parts import USUAL_POINTS, parts_of_errors
from marlin.simulator.physics import FloatArray

PRETRAINED: Final = (0.07, 0.89, -0.17, 0.17, -0.09, 0.24, -0.16)
"""(F,) weights before any observation: least squares over both classes of BurstGPT, days 7 to 27, hourly
(``benchmarks/predictor_accuracy.py DATA --fit``)."""

_FIRST_VARIANCE: Final = 0.25
"""Variance of the error of log counts before any was seen."""

_LEAST_VARIANCE: Final = 1e-4
"""Variance below which an error is as good as none: a hundredth of the count."""

_USUAL_SMOOTHING: Final = 0.02
_VARIANCE_SMOOTHING: Final = np.array([[0.01], [0.05]])
_SIDES: Final = np.array([[-1.0], [1.0]])
"""Lower and upper bound."""

_MOST_LOG: Final = 60.0
"""Cuts a bound before it overflows."""


@dataclass(frozen=True, slots=True)
class PredictorSettings:
    """How a predictor looks at the past, and how fast it learns. Chosen on the tuning days."""

    epochs_per_day: int = 96
    smoothing: float = 0.4
    """Weight of the newest epoch in the moving average that is a feature."""
    level_smoothing: float = 0.1
    """The same in the level that all features are relative to."""
    memory: float = 0.998
    """Weight of the regression's past after an epoch: 0.998 forgets half in 350 epochs."""
    spread: float = 0.1
    """Standard deviation of the weights around the pretrained ones before any observation."""
    least_offset: float = 10.0
    """Requests below which a difference is noise."""
    relative_offset: float = 0.1
    """The same as a part of the usual count."""
    coverage: float = 0.9
    """Share of epochs that the interval is to hold; what is left is shared by both bounds."""
    bound_step: float = 0.1
    """How fast bounds move, in standard deviations per broken bound."""


@dataclass(frozen=True, slots=True)
class PredictorState:
    """A predictor after some epochs; C classes, F features."""

    settings: PredictorSettings
    history: FloatArray  # (T, C) requests, at most a week and an epoch; gaps filled with what was expected
    usual: FloatArray  # (C,) slow moving average of requests
    weights: FloatArray  # (C, F)
    doubt: FloatArray  # (C, F, F) covariance of the weights
    variance: (
        FloatArray  # (2, C) moving averages of the squared error of log counts: slow to learn by, fast to bound by
    )
    bounds: FloatArray  # (2, C) distance of the lower and the upper bound in standard deviations
    errors: FloatArray  # (T - 1, C) of log counts, of the epochs of the history but the first
    levels: FloatArray  # (T - 1, C) logarithm of what was expected then over what was usual; NaN for a gap


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the next epoch is expected to ask for; (C,) requests each."""

    expected: FloatArray
    """As likely too high as too low."""
    low: FloatArray
    high: FloatArray
    """For prewarming: exceeded in one epoch of twenty at the default coverage."""


@dataclass(frozen=True, slots=True)
class _Outlook:
    """The next epoch in logarithms of requests plus an offset."""

    offset: FloatArray  # (C,) requests
    known: FloatArray  # (C, F) features
    expected: FloatArray  # (C,)
    level: FloatArray  # (C,) over what is usual


def start(requests: FloatArray, settings: PredictorSettings | None = None) -> PredictorState:
    """The state after a first epoch.

    Args:
        requests: (C,) of that epoch.
        settings: how to look and learn.

    Raises:
        ValueError: a count is negative, infinite or not known.
    """
    settings = settings or PredictorSettings()
    first = _counts(requests, np.ndim(requests) and len(requests))
    if np.isnan(first).any():
        raise ValueError("the first epoch must be known: a predictor cannot start from a gap")
    one = np.ones(len(first))
    return PredictorState(
        settings=settings,
        history=first[None],
        usual=first,
        weights=np.tile(PRETRAINED, (len(first), 1)),
        doubt=np.tile(np.eye(len(FEATURES)) * settings.spread**2, (len(first), 1, 1)),
        variance=np.tile(one * _FIRST_VARIANCE, (2, 1)),
        bounds=np.tile(one * FIRST_DISTANCE, (2, 1)),
        errors=np.empty((0, len(first))),
        levels=np.empty((0, len(first))),
    )


def predict(state: PredictorState) -> Prediction:
    """The next epoch."""
    outlook = _outlook(state)
    ends = _SIDES * state.bounds * np.sqrt(state.variance[1])  # (2, C)
    logs = outlook.expected + np.concatenate([np.zeros((1, ends.shape[1])), ends])
    expected, low, high = np.maximum(np.exp(np.minimum(logs, _MOST_LOG)) - outlook.offset, 0.0)
    return Prediction(expected, low, high)


def parts_of(state: PredictorState) -> FloatArray:
    """(S, C) requests of the next epoch in each part of all that may come (``api.state.FORECAST_CHANCES``)."""
    outlook = _outlook(state)
    found = predict(state)
    expected = np.maximum(found.expected, 0.1 * outlook.offset)
    spread = np.log(np.maximum(found.high, expected) / expected) / FIRST_DISTANCE  # (C,)
    usual = np.log(expected * np.exp(np.multiply.outer(USUAL_POINTS, spread)) + outlook.offset) - outlook.expected
    errors = parts_of_errors(state.errors, state.levels, outlook.level, usual, state.settings.memory)
    return np.maximum(np.exp(np.minimum(outlook.expected + errors, _MOST_LOG)) - outlook.offset, 0.0)


def observe(state: PredictorState, requests: FloatArray) -> PredictorState:
    """The state after one more epoch.

    Args:
        state: before.
        requests: (C,) of the epoch; NaN where they are not known: nothing is learnt then, and what was expected
            stands in.

    Raises:
        ValueError: there are more or fewer classes, or a count is negative or infinite.
    """
    settings = state.settings
    counts = _counts(requests, len(state.usual))
    outlook = _outlook(state)
    is_gap = np.isnan(counts)
    has_gaps = bool(is_gap.any())
    if has_gaps:
        counts = np.where(is_gap, np.maximum(np.exp(outlook.expected) - outlook.offset, 0.0), counts)
    error = np.log(counts + outlook.offset) - outlook.expected

    x = outlook.known
    carried = (state.doubt @ x[:, :, None])[:, :, 0]  # (C, F)
    gain = carried / (settings.memory * state.variance[0] + (x * carried).sum(axis=1))[:, None]
    squares = state.variance + _VARIANCE_SMOOTHING * (error**2 - state.variance)
    kept = 7 * settings.epochs_per_day + 1
    after = PredictorState(
        settings=settings,
        history=np.concatenate([state.history, counts[None]])[-kept:],
        usual=state.usual + _USUAL_SMOOTHING * (counts - state.usual),
        weights=state.weights + gain * error[:, None],
        doubt=(state.doubt - gain[:, :, None] * carried[:, None, :]) / settings.memory,
        variance=np.maximum(squares, _LEAST_VARIANCE),
        bounds=moved(
            state.bounds,
            _SIDES * error / np.sqrt(state.variance[1]),
            (1.0 - settings.coverage) / 2.0,
            settings.bound_step,
        ),
        errors=np.concatenate([state.errors, error[None]])[1 - kept :],
        levels=np.concatenate([state.levels, np.where(is_gap, np.nan, outlook.level)[None]])[1 - kept :],
    )
    return _unlearnt(after, state, is_gap) if has_gaps else after


def _unlearnt(after: PredictorState, before: PredictorState, is_gap: NDArray[np.bool_]) -> PredictorState:
    """With all that was learnt about the classes in ``is_gap`` taken back."""
    return replace(
        after,
        usual=np.where(is_gap, before.usual, after.usual),
        weights=np.where(is_gap[:, None], before.weights, after.weights),
        doubt=np.where(is_gap[:, None, None], before.doubt, after.doubt),
        variance=np.where(is_gap, before.variance, after.variance),
        bounds=np.where(is_gap, before.bounds, after.bounds),
    )


def replay(history: FloatArray, settings: PredictorSettings | None = None) -> PredictorState:
    """The state after a history (T, C), oldest first; epochs before the first known one are left out.

    Raises:
        ValueError: no epoch is known for all classes, or a count is negative or infinite.
    """
    known = np.flatnonzero(~np.isnan(history).any(axis=1))
    if not known.size:
        raise ValueError("a history needs one epoch in which all classes are known")
    state = start(history[known[0]], settings)
    for requests in history[known[0] + 1 :]:
        state = observe(state, requests)
    return state


def _outlook(state: PredictorState) -> _Outlook:
    settings = state.settings
    offset = np.maximum(settings.least_offset, settings.relative_offset * state.usual)
    known, level = features(
        state.history, offset, settings.epochs_per_day, settings.smoothing, settings.level_smoothing
    )
    expected = (state.weights * known).sum(axis=1) + level
    return _Outlook(offset, known, expected, expected - np.log(state.usual + offset))


def _counts(requests: FloatArray, classes: int) -> FloatArray:
    counts = np.asarray(requests, dtype=np.float64)
    # Asked so that a NaN, which is a gap, passes.
    if counts.shape != (classes,) or ((counts < 0) | (counts == np.inf)).any():
        raise ValueError(f"requests must be {classes} numbers that are not negative")
    return counts

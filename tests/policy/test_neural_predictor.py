"""The network the predictor is compared with."""

from __future__ import annotations

import numpy as np

from marlin.policy.forecasting.references import last_value
from marlin.policy.forecasting.scores import accuracy
from marlin.policy.training.neural_predictor import NeuralSettings, Series, forecasts


def test_a_network_learns_a_daily_wave_and_the_same_seed_gives_the_same_network() -> None:
    hours = np.arange(24 * 28)
    counts = np.random.default_rng(0).poisson(200 * (1 + 0.8 * np.sin(2 * np.pi * hours / 24))).astype(np.float64)
    whole, quick = Series(counts, 24), NeuralSettings(passes=30)
    train, tune = Series(counts[: 24 * 16], 24), Series(counts[24 * 9 : 24 * 21], 24)
    (one,), (other,) = (forecasts([train], [tune], [whole], quick, seed=3) for _ in range(2))
    assert (one == other).all()
    late = slice(24 * 21, None)
    assert accuracy(counts[late], one[late]) > accuracy(counts[late], last_value(counts)[late]) + 0.05

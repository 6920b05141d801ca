"""``policy.*``: what planning costs on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from figures import Figure, Group

from marlin.policy.forecasting import observe, predict, replay

REPEATS: Final = 3000


def measure() -> Mapping[str, float]:
    """Medians over many calls, in one process."""
    history = np.random.default_rng(0).poisson(100.0, (700, 2)).astype(np.float64)  # a week of two classes
    state = replay(history)
    return {
        "policy.predictor_us": _median_us(lambda: predict(state)),
        "policy.predictor_epoch_us": _median_us(lambda: observe(state, history[0])),
    }


def _median_us(call: Callable[[], object]) -> float:
    call()
    times_s = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began)
    return float(np.median(times_s)) * 1e6


GROUP: Final = Group(
    "policy",
    (
        Figure("policy.predictor_us", "us", "one prediction: two classes, a week of history, bounds included"),
        Figure("policy.predictor_epoch_us", "us", "taking one epoch's arrivals in"),
    ),
    measure,
)

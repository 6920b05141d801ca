"""What a study's planner is told to expect of an epoch: forecasts as values that learn from each epoch.

A planner sees a forecast and never the arrivals. Which forecast is the study's choice: the smoothing that has always
been there, any ``Forecaster`` from above the twin, or ``foresight``, which tells the truth and makes every planner
clairvoyant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from marlin.simulator.physics import FloatArray

SMOOTHING: Final = 0.7
"""Weight of the last epoch in the smoothed forecast."""

FORECASTS: Final = ("smoothed", "predictor", "perfect")
"""Forecasts by name: a moving average, the workload predictor, the truth."""

HISTORY_DAYS: Final = 7
"""Days before an epoch that a forecaster is shown, where the trace has them."""


class Expected(NamedTuple):
    """Requests of an epoch."""

    requests: FloatArray  # (V,)
    upper: FloatArray | None = None  # (V,) quantile
    parts: FloatArray | None = None  # (S, V) means of the parts of ``api.state.FORECAST_CHANCES``


class Expectation(Protocol):
    """What is expected of the next epoch. A value: observing makes another."""

    def expect(self) -> Expected:
        """Requests of the next epoch."""

    def observe(self, arrived: FloatArray) -> Expectation:
        """After the epoch, in which ``arrived`` (V,) came."""


Forecaster = Callable[[FloatArray], Expectation]
"""From a history (T, V) of requests, oldest first and at least one epoch long, to what is expected next."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An exponentially weighted moving average, without bounds."""

    requests: FloatArray  # (V,)

    def expect(self) -> Expected:
        """See ``Expectation.expect``."""
        return Expected(self.requests)

    def observe(self, arrived: FloatArray) -> Smoothed:
        """See ``Expectation.observe``."""
        return Smoothed(self.requests + SMOOTHING * (arrived - self.requests))

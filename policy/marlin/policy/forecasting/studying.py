"""The predictor as a forecaster of studies, ``Study(..., forecaster=predicted)``, and of environments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.policy.forecasting.predictor import PredictorState, observe, parts_of, predict, replay, start
from marlin.simulator.environments.forecast import Forecast
from marlin.simulator.expectations import Expected
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the predictor expects; classes are the pools of the fleet."""

    state: PredictorState

    def expect(self) -> Expected:
        """Requests (V,) of the next epoch, the upper bound of its interval, and all that may come."""
        found = predict(self.state)
        return Expected(found.expected, found.high, parts_of(self.state))

    def observe(self, arrived: FloatArray) -> Predicted:
        """After the epoch, in which ``arrived`` (V,) came."""
        return Predicted(observe(self.state, arrived))


def predicted(history: FloatArray) -> Predicted:
    """The predictor after a history (T, V) of 15-minute epochs."""
    return Predicted(replay(history))


def predicted_days(arrived: FloatArray) -> Forecast:
    """The predictor as an environment's forecaster: arrivals (E, V) to what was expected before each epoch.

    It knows nothing from before the episode, as in a service on its first day: intervals are wide at first. For the
    first epoch, as with any forecaster there, its own arrivals are the forecast.
    """
    state = start(arrived[0])
    expected = [predict(state)]
    for requests in arrived[1:]:
        state = observe(state, requests)
        expected.append(predict(state))
    return Forecast(
        mean=np.array([arrived[0], *(one.expected for one in expected)]),
        low=np.array([arrived[0], *(one.low for one in expected)]),
        high=np.array([arrived[0], *(one.high for one in expected)]),
    )

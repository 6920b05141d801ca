"""The predictor as a study's forecaster: ``Study(..., forecaster=predicted)``."""

from __future__ import annotations

from dataclasses import dataclass

from marlin.policy.forecasting.predictor import PredictorState, observe, predict, replay
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the predictor expects; classes are the pools of the fleet."""

    state: PredictorState

    def expect(self) -> tuple[FloatArray, FloatArray | None]:
        """Requests (V,) of the next epoch and the upper bound of its interval."""
        found = predict(self.state)
        return found.expected, found.high

    def observe(self, arrived: FloatArray) -> Predicted:
        """After the epoch, in which ``arrived`` (V,) came."""
        return Predicted(observe(self.state, arrived))


def predicted(history: FloatArray) -> Predicted:
    """The predictor after a history (T, V) of 15-minute epochs."""
    return Predicted(replay(history))

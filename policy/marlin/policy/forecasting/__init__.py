"""The workload predictor (section 5.1 of the paper): what the next epoch will ask for, and within which bounds.

``predictor``   a regression on past epochs with moving averages, one per request class, that goes on learning
``intervals``   bounds whose coverage is steered by how often they were broken
``parts``       all that may come, from the errors made at such levels of traffic before
``references``  what it has to beat: last value, moving average, the same hour of yesterday or of last week
``scores``      accuracy, coverage, pinball loss, and the floor that chance sets

``report`` puts them side by side on recorded series; docs/explanation/predictor.md has its table.
"""

from marlin.policy.forecasting.predictor import (
    Prediction,
    PredictorSettings,
    PredictorState,
    observe,
    parts_of,
    predict,
    replay,
    start,
)

__all__ = ["Prediction", "PredictorSettings", "PredictorState", "observe", "parts_of", "predict", "replay", "start"]

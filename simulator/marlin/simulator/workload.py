"""How many requests arrive in each epoch: the shipped BurstGPT week, split into epochs and scaled to a fleet.

The trace is hourly; an hour is split into epochs by a draw that is as bursty as the trace's own minutes (a Dirichlet
whose concentration was fitted on them, see data/README.md). Its load is scaled to a fleet by one of two rules of
marlin-model, section 2: ``peak95`` multiplies each day so that its busiest epoch needs 95 % of capacity; ``mean30``,
``mean56`` and ``mean80`` bend the day (c x I^gamma) so that the busiest epoch needs 95 % and the mean is as named,
because a plain factor would put half of the demand above the whole fleet's capacity.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.physics import FloatArray

CLASSES: Final = ("conversation", "api")
PEAK_UTILIZATION: Final = 0.95
LOADS: Final[dict[str, float | None]] = {"peak95": None, "mean30": 0.30, "mean56": 0.56, "mean80": 0.80}
"""Scenario to its mean utilisation; None leaves the mean as the trace has it."""

_HOURS_PER_DAY: Final = 24
_MAX_GAMMA_STEPS: Final = 60


def available_days() -> int:
    """Whole days, from midnight UTC on, that the shipped week holds."""
    return (len(_hourly()) - _utc_offset_h()) // _HOURS_PER_DAY


def epoch_requests(day: int, epochs_per_hour: int, rng: np.random.Generator) -> FloatArray:
    """Requests (E, 2) of each class in each epoch of a day, from midnight UTC on; not scaled to any fleet.

    Args:
        day: day of the shipped week, from 0.
        epochs_per_hour: epochs an hour is split into.
        rng: splits the hours.

    Raises:
        InputError: the week has no such day.
    """
    if not 0 <= day < available_days():
        raise InputError(f"the shipped week has days 0 to {available_days() - 1}, not {day}")
    start = day * _HOURS_PER_DAY + _utc_offset_h()
    hours = _hourly()[start : start + _HOURS_PER_DAY]  # (24, 2)
    concentration = float(_facts()["epoch_concentration"])
    parts = rng.dirichlet(np.full(epochs_per_hour, concentration), size=hours.shape)  # (24, 2, N)
    split = rng.multinomial(hours.astype(np.int64), parts)  # (24, 2, N) requests stay whole
    return np.asarray(split.transpose(0, 2, 1).reshape(-1, len(CLASSES)), dtype=np.float64)


def model_requests(requests: FloatArray) -> FloatArray:
    """Requests (E, 2) of the smaller and the larger model, from those of the two classes (E, 2)."""
    large = np.array([float(_facts()["conversation_share_large"]), float(_facts()["api_share_large"])])
    return np.stack([requests @ (1.0 - large), requests @ large], axis=1)


def scaled(needed: FloatArray, load: str) -> FloatArray:
    """Factors (E,) that bring a day's demand to a load.

    Args:
        needed: (E,) capacity each epoch needs, as a part of the fleet's, before scaling.
        load: one of ``LOADS``.

    Raises:
        InputError: the load is unknown, or the day is empty.
    """
    if load not in LOADS:
        raise InputError(f"load {load!r} is not known; there are {', '.join(LOADS)}")
    if needed.max(initial=0.0) <= 0:
        raise InputError("the day has no requests: nothing can be scaled")
    relative = needed / needed.max()
    mean = LOADS[load]
    gamma = 1.0 if mean is None else _gamma(relative, mean / PEAK_UTILIZATION)
    target = PEAK_UTILIZATION * np.where(relative > 0, relative**gamma, 0.0)
    return np.asarray(np.divide(target, needed, out=np.zeros_like(needed), where=needed > 0))


def _gamma(relative: FloatArray, mean: float) -> float:
    """Exponent that gives ``relative`` the mean; found by halving, because the mean falls as the exponent grows."""
    low, high = 0.0, 64.0
    for _ in range(_MAX_GAMMA_STEPS):
        middle = (low + high) / 2
        bent = np.where(relative > 0, relative**middle, 0.0)
        low, high = (middle, high) if bent.mean() > mean else (low, middle)
    return (low + high) / 2


def mean_tokens(day: int) -> tuple[float, float]:
    """Mean prompt and output length on a day: the joint draws, rescaled to the day's mean tokens per request."""
    rows = tables.rows("token_quantiles.csv")
    prompt = float(np.mean([float(row["prompt_tokens"]) for row in rows]))
    output = float(np.mean([float(row["output_tokens"]) for row in rows]))
    total = float(tables.rows("burstgpt_week_daily.csv")[day]["mean_tokens_per_request"])
    factor = total / (prompt + output)
    return prompt * factor, output * factor


@cache
def _hourly() -> FloatArray:
    rows = tables.rows("burstgpt_week_hourly.csv")
    return np.array([[float(row[f"{name}_requests"]) for name in CLASSES] for row in rows])


@cache
def _facts() -> dict[str, str]:
    return {row["name"]: row["value"] for row in tables.rows("workload_facts.csv")}


def _utc_offset_h() -> int:
    return int(_facts()["trace_utc_offset_h"])

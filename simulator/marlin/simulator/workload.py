"""How many requests arrive in each epoch: BurstGPT days, split into epochs and scaled to a fleet.

The trace is hourly; an hour is split into epochs by a draw that is as bursty as the trace's own minutes (a Dirichlet
whose concentration was fitted on them, see data/README.md). Its load is scaled to a fleet by one of two rules of
marlin-model, section 2: ``peak95`` multiplies each day so that its busiest epoch needs 95 % of capacity; ``mean30``,
``mean56`` and ``mean80`` bend the day (c x I^gamma) so that the busiest epoch needs 95 % and the mean is as named,
because a plain factor would put half of the demand above the whole fleet's capacity.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.physics import FloatArray

CLASSES: Final = ("conversation", "api")
PEAK_UTILIZATION: Final = 0.95
LOADS: Final[dict[str, float | None]] = {"peak95": None, "mean30": 0.30, "mean56": 0.56, "mean80": 0.80}
"""Scenario to its mean utilisation; None leaves the mean as the trace has it."""

HOURLY_FILE: Final = "burstgpt/burstgpt1_hourly_counts.csv"
DAILY_FILE: Final = "burstgpt/burstgpt1_daily.csv"

_HOURS_PER_DAY: Final = 24
_MAX_GAMMA_STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals hour by hour, and how long requests are on each day."""

    name: str
    hourly: FloatArray  # (H, 2) requests of each class, from the trace's first local midnight
    mean_tokens: FloatArray  # (days,) prompt and output together
    utc_offset_h: int

    @property
    def days(self) -> int:
        """Whole days, from midnight UTC on."""
        return (len(self.hourly) - self.utc_offset_h) // _HOURS_PER_DAY


@cache
def shipped_trace() -> Trace:
    """The week of BurstGPT that the package brings."""
    rows = tables.rows("burstgpt_week_hourly.csv")
    hourly = np.array([[float(row[f"{name}_requests"]) for name in CLASSES] for row in rows])
    daily = np.array([float(row["mean_tokens_per_request"]) for row in tables.rows("burstgpt_week_daily.csv")])
    return Trace("the shipped week", hourly, daily, _utc_offset_h())


def trace_from(folder: Path) -> Trace:
    """All the days of BurstGPT in a folder of full data.

    Raises:
        InputError: a file is missing, or a row of it is not as documented (file, line and reason).
    """
    hourly = _read(folder / HOURLY_FILE, CLASSES)
    daily = _read(folder / DAILY_FILE, ("mean_tokens_per_request",))[:, 0]
    return Trace(str(folder), hourly, daily, _utc_offset_h())


def _read(path: Path, columns: tuple[str, ...]) -> FloatArray:
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                try:
                    rows.append([float(row[column]) for column in columns])
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{path}:{line}: {type(error).__name__}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; --data names a folder of full data") from None
    return np.array(rows).reshape(-1, len(columns))


def epoch_requests(day: int, epochs_per_hour: int, rng: np.random.Generator, trace: Trace | None = None) -> FloatArray:
    """Requests (E, 2) of each class in each epoch of a day, from midnight UTC on; not scaled to any fleet.

    Args:
        day: day of the trace, from 0.
        epochs_per_hour: epochs an hour is split into.
        rng: splits the hours.
        trace: whose arrivals. Default: the shipped week.

    Raises:
        InputError: the trace has no such day.
    """
    trace = trace or shipped_trace()
    if not 0 <= day < trace.days:
        raise InputError(f"{trace.name} has days 0 to {trace.days - 1}, not {day}")
    start = day * _HOURS_PER_DAY + trace.utc_offset_h
    hours = trace.hourly[start : start + _HOURS_PER_DAY]  # (24, 2)
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


def mean_tokens(day: int, trace: Trace | None = None) -> tuple[float, float]:
    """Mean prompt and output length on a day: the joint draws, rescaled to the day's mean tokens per request."""
    rows = tables.rows("token_quantiles.csv")
    prompt = float(np.mean([float(row["prompt_tokens"]) for row in rows]))
    output = float(np.mean([float(row["output_tokens"]) for row in rows]))
    total = float((trace or shipped_trace()).mean_tokens[day])
    factor = total / (prompt + output)
    return prompt * factor, output * factor


@cache
def _facts() -> dict[str, str]:
    return {row["name"]: row["value"] for row in tables.rows("workload_facts.csv")}


def _utc_offset_h() -> int:
    return int(_facts()["trace_utc_offset_h"])

"""The workload predictor on recorded series, beside what it has to beat: the table of docs/explanation/predictor.md.

    python benchmarks/predictor_accuracy.py DATA           the table, as Markdown
    python benchmarks/predictor_accuracy.py DATA --fit     the pretrained weights, from the training days alone

DATA is the folder of full data. Trained on days 0 to 27 of BurstGPT, tuned on days 28 to 34, reported on days 35 to 41;
days are the trace's own, from its local midnight. Azure 2024: the first three days and the last three. Every forecast
of an epoch is made from the epochs before it alone. With torch installed (``marlin[train]``) a small neural network is
trained and reported too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from marlin.policy.forecasting import PredictorSettings, observe, predict, start
from marlin.policy.forecasting.features import FEATURES, features
from marlin.policy.forecasting.references import last_value, moving_average, seasonal_naive
from marlin.policy.forecasting.scores import accuracy, coverage, pinball, poisson_floor
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.burstgpt import hourly_counts
from marlin.simulator.workload.columns import Column, read_columns
from marlin.simulator.workload.shipped import shipped_azure_2024

TRAIN_DAYS: Final = 28
TUNE_DAYS: Final = 35
SMOOTHINGS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NETWORKS: Final = 3
"""Networks trained, each from a seed of its own; their mean accuracy counts."""


@dataclass(frozen=True)
class Recorded:
    """One series, and the epochs of it that are tuned on and reported on."""

    name: str
    values: FloatArray  # (T,)
    epochs_per_day: int
    tune: slice
    report: slice
    requests_per_unit: float = 1.0
    """E[S] / E[S^2] of what a request adds to the series; 1 where it counts requests."""


def recorded(data: Path) -> list[Recorded]:
    """The series there are."""
    hours = hourly_counts(data / "burstgpt" / "burstgpt1_hourly_counts.csv")
    tune, report = slice(TRAIN_DAYS * 24, TUNE_DAYS * 24), slice(TUNE_DAYS * 24, 42 * 24)
    counts = hours.counts.astype(np.float64)
    by_class = {name: counts[:, i] for i, name in enumerate(hours.classes)}
    found = [
        Recorded(f"BurstGPT {name}, hourly", values, 24, tune, report)
        for name, values in {"all": counts.sum(axis=1), **by_class}.items()
    ]
    azure = shipped_azure_2024().counts[:, 0].astype(np.float64)
    found.append(Recorded("Azure 2024, hourly", azure, 24, slice(24, 72), slice(72, 144)))
    tokens, per_unit = _tokens(data)
    # Its week lies wholly before the training days' end: nothing was fitted or tuned on it, and it is reported whole.
    found.append(
        Recorded("BurstGPT tokens, 15 min", tokens, 96, slice(96, len(tokens)), slice(96, len(tokens)), per_unit)
    )
    return found


def _tokens(data: Path) -> tuple[FloatArray, float]:
    """Tokens per epoch of the first week, in mean requests, and E[S] / E[S^2] in that unit."""
    path = data / "burstgpt" / "burstgpt1_week1_minute_tokens.csv"
    columns = (Column("minute", high=1e6, is_whole=True), Column("tokens_per_s", high=1e9))
    blocks = list(read_columns(path, columns, RowJudge(str(path), skip=False)))
    minute, rate = (np.concatenate(values) for values in zip(*blocks, strict=True))
    per_minute = np.zeros(7 * 24 * 60)
    per_minute[minute.astype(np.int64)] = rate * 60.0
    rows_path = data / "burstgpt" / "burstgpt1_first400_rows.csv"
    total = (Column("Total tokens", high=1e9, is_whole=True),)
    sizes = np.concatenate([block[0] for block in read_columns(rows_path, total, RowJudge(str(rows_path), skip=False))])
    mean = float(sizes.mean())
    return per_minute.reshape(-1, 15).sum(axis=1) / mean, float(mean**2 / (sizes**2).mean())


def online(series: Recorded, settings: PredictorSettings) -> FloatArray:
    """Expected, low and high of every epoch, (3, T), each from the epochs before."""
    state = start(series.values[:1], settings)
    rows = [np.repeat(series.values[0], 3)]
    for value in series.values[1:]:
        found = predict(state)
        rows.append(np.array([found.expected[0], found.low[0], found.high[0]]))
        state = observe(state, np.array([value]))
    return np.array(rows).T


def normal_interval(values: FloatArray, forecast: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nine of ten if errors were normal, of the variance they lately had: what bounds are compared with."""
    error = values - forecast
    variance = moving_average(error**2, 0.05)
    half = 1.645 * np.sqrt(np.maximum(variance, forecast))
    return np.maximum(forecast - half, 0.0), forecast + half


def pretrained(series: list[Recorded]) -> FloatArray:
    """Weights (F,) fitted by least squares to the training days of both classes, after a first week."""
    settings = PredictorSettings()
    inputs, targets = [], []
    for one in series:
        if "hourly" not in one.name or "BurstGPT" not in one.name or "all" in one.name:
            continue
        usual = one.values[0]
        for t in range(1, TRAIN_DAYS * 24):
            offset = np.array([max(settings.least_offset, settings.relative_offset * usual)])
            known, level = features(one.values[:t, None], offset, 24, settings.smoothing, settings.level_smoothing)
            if t >= 7 * 24:
                inputs.append(known[0])
                targets.append(np.log(one.values[t] + offset[0]) - level[0])
            usual += 0.02 * (one.values[t] - usual)
    x, y = np.array(inputs), np.array(targets)
    return np.asarray(np.linalg.solve(x.T @ x + np.eye(len(FEATURES)), x.T @ y))


def neural(series: list[Recorded]) -> dict[str, list[FloatArray]] | None:
    """Forecasts of the whole series by networks, by name; None without torch."""
    try:
        from marlin.policy.training.neural_predictor import NeuralSettings, Series, forecasts  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    both = [s for s in series if s.name in {"BurstGPT conversation, hourly", "BurstGPT api, hourly"}]
    train = [Series(s.values[: TRAIN_DAYS * 24], 24) for s in both]
    # The week before is there as its past; only the tuning days themselves are counted.
    tune = [Series(s.values[(TRAIN_DAYS - 7) * 24 : TUNE_DAYS * 24], 24) for s in both]
    report = [Series(s.values, s.epochs_per_day) for s in series]
    runs = [forecasts(train, tune, report, NeuralSettings(), seed=seed) for seed in range(NETWORKS)]
    return {s.name: [run[i] for run in runs] for i, s in enumerate(series)}


def rows(series: list[Recorded], which: Callable[[Recorded], slice]) -> list[list[str]]:
    """The accuracy table's cells."""
    networks = neural(series)
    found = []
    for one in series:
        values, part = one.values, which(one)

        def of(forecast: FloatArray, values: FloatArray = values, part: slice = part) -> float:
            return accuracy(values[part], forecast[part])

        best = max(SMOOTHINGS, key=lambda a: accuracy(values[one.tune], moving_average(values, a)[one.tune]))
        ours = online(one, replace(PredictorSettings(), epochs_per_day=one.epochs_per_day))
        day = one.epochs_per_day
        found.append(
            [
                one.name,
                f"{of(last_value(values)):.1%}",
                f"{of(moving_average(values, best)):.1%} ({best})",
                f"{of(seasonal_naive(values, day)):.1%}",
                f"{of(seasonal_naive(values, 7 * day)):.1%}" if len(values) > 8 * day else "-",
                f"{np.mean([of(run) for run in networks[one.name]]):.1%}" if networks else "not installed",
                f"**{of(ours[0]):.1%}**",
                f"{poisson_floor(values[part], one.requests_per_unit):.1%}",
            ]
        )
    return found


def bounds(series: list[Recorded], which: Callable[[Recorded], slice]) -> list[list[str]]:
    """The interval table's cells."""
    found = []
    for one in series:
        part = which(one)
        _, low, high = online(one, replace(PredictorSettings(), epochs_per_day=one.epochs_per_day))
        plain = normal_interval(one.values, last_value(one.values))
        cells = [one.name]
        for lower, upper in ((low, high), plain):
            values, lower_part, upper_part = one.values[part], lower[part], upper[part]
            cells += [
                f"{coverage(values, lower_part, upper_part):.1%}",
                f"{(values <= upper_part).mean():.1%}",
                f"{pinball(values, lower_part, 0.05):.3f}",
                f"{pinball(values, upper_part, 0.95):.3f}",
            ]
        found.append(cells)
    return found


def markdown(head: list[str], cells: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *cells])


def main(arguments: list[str]) -> int:
    """Prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of full data")
    parser.add_argument("--fit", action="store_true", help="print the pretrained weights and stop")
    parser.add_argument("--tune", action="store_true", help="score the tuning days instead of the report days")
    options = parser.parse_args(arguments)
    series = recorded(options.data)
    if options.fit:
        print(", ".join(f"{name} {weight:.2f}" for name, weight in zip(FEATURES, pretrained(series), strict=True)))
        return 0
    which: Callable[[Recorded], slice] = (lambda one: one.tune) if options.tune else (lambda one: one.report)
    head = ["series", "last value", "average (weight)", "a day ago", "a week ago", "network", "predictor", "floor"]
    print(markdown(head, rows(series, which)) + "\n")
    head = [
        "series",
        *(f"{who}: {what}" for who in ("predictor", "normal") for what in ("held", "below upper", "0.05", "0.95")),
    ]
    print(markdown(head, bounds(series, which)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

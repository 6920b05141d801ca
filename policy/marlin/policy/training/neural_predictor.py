"""A small neural network as workload predictor: what the paper compares its regression with (section 5.1).

It is given more than the regression: a day of the newest logarithms, not their averages, beside the seasonal lags;
all relative to the mean of that day, so that it too carries over between scales. Two hidden layers, absolute error,
Adam, early stop on the tuning epochs; one network for all series, frozen after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class NeuralSettings:
    """The network and its training."""

    window: int = 24
    """Newest epochs it sees, each by itself."""
    hidden: int = 64
    learning_rate: float = 1e-3
    batch: int = 128
    passes: int = 400
    """Most passes over the training epochs."""
    patience: int = 40
    """Passes without a better result on the tuning epochs after which training stops."""
    least_offset: float = 10.0
    """As in ``PredictorSettings``."""
    relative_offset: float = 0.1


@dataclass(frozen=True, slots=True)
class Series:
    """One class of one service."""

    requests: FloatArray  # (T,)
    epochs_per_day: int


@dataclass(frozen=True, slots=True)
class _Examples:
    inputs: FloatArray  # (N, I)
    targets: FloatArray  # (N,)
    level: FloatArray  # (N,)
    offset: FloatArray  # (N,)


def forecasts(
    train: Sequence[Series], tune: Sequence[Series], report: Sequence[Series], settings: NeuralSettings, *, seed: int
) -> list[FloatArray]:
    """Trains on all epochs of ``train``, stops early on ``tune``, and forecasts every epoch of each ``report``, (T,).

    A series may begin with epochs of another group as its past: its first week is then not counted (see ``_examples``).
    """
    torch.manual_seed(seed)
    learn, check = (
        _joined([_examples(series, settings, counted_from=7) for series in group]) for group in (train, tune)
    )
    network = _trained(learn, check, settings, seed)
    found = []
    for series in report:
        examples = _examples(series, settings, counted_from=0)
        logs = _evaluated(network, examples) + examples.level
        forecast = np.maximum(np.exp(logs) - examples.offset, 0.0)
        found.append(np.concatenate([series.requests[:1], forecast]))
    return found


def _examples(series: Series, settings: NeuralSettings, *, counted_from: int) -> _Examples:
    """One example per epoch from day ``counted_from`` on, but never the first epoch of all."""
    requests, day = series.requests, series.epochs_per_day
    usual = requests[0]
    inputs, targets, levels, offsets = [], [], [], []
    for t in range(1, len(requests)):
        usual += 0.02 * (requests[t - 1] - usual)
        offset = max(settings.least_offset, settings.relative_offset * usual)
        window = np.log(requests[max(0, t - settings.window) : t][::-1] + offset)
        level = window.mean()
        recent = np.full(settings.window, 0.0)
        recent[: len(window)] = window - level
        lags = [
            np.log(requests[t - lag] + offset) - level if t >= lag else 0.0
            for lag in (day, day + 1, 7 * day, 7 * day + 1)
        ]
        if t >= counted_from * day:
            inputs.append([*recent, *lags])
            targets.append(np.log(requests[t] + offset) - level)
            levels.append(level)
            offsets.append(offset)
    return _Examples(np.array(inputs), np.array(targets), np.array(levels), np.array(offsets))


def _joined(groups: Sequence[_Examples]) -> _Examples:
    return _Examples(
        np.concatenate([g.inputs for g in groups]),
        np.concatenate([g.targets for g in groups]),
        np.concatenate([g.level for g in groups]),
        np.concatenate([g.offset for g in groups]),
    )


def _trained(learn: _Examples, check: _Examples, settings: NeuralSettings, seed: int) -> nn.Module:
    network = nn.Sequential(
        nn.Linear(learn.inputs.shape[1], settings.hidden),
        nn.ReLU(),
        nn.Linear(settings.hidden, settings.hidden),
        nn.ReLU(),
        nn.Linear(settings.hidden, 1),
    ).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    inputs, targets = torch.from_numpy(learn.inputs), torch.from_numpy(learn.targets)
    rng = np.random.default_rng(seed)
    best, kept, waited = np.inf, network.state_dict(), 0
    for _ in range(settings.passes):
        for rows in np.array_split(rng.permutation(len(inputs)), max(1, len(inputs) // settings.batch)):
            loss = (network(inputs[rows])[:, 0] - targets[rows]).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        error = float(np.abs(_evaluated(network, check) - check.targets).mean())
        if error < best:
            best, waited = error, 0
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            waited += 1
            if waited >= settings.patience:
                break
    network.load_state_dict(kept)
    return network


def _evaluated(network: nn.Module, examples: _Examples) -> FloatArray:
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(examples.inputs))[:, 0].numpy())

"""What a reset leaves to chance, the same for every adapter: which study, which seed, whose preference.

A person may fix any of them: a seed given to ``reset`` is the episode's own, so that ``marlin simulate --seed`` meets
the same requests; ``options`` may hold ``study`` (its position) and ``preference`` (four weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.simulator.environments.task import Task
from marlin.simulator.physics import FloatArray

_SEEDS: Final = 2**31

Preference = Callable[[np.random.Generator], FloatArray]
"""Draws an episode's weights of the four metrics, (4,) on the simplex."""


def equal_preference(rng: np.random.Generator) -> FloatArray:
    """Every metric counts alike."""
    return np.full(len(METRIC_NAMES), 1.0 / len(METRIC_NAMES))


def any_preference(rng: np.random.Generator) -> FloatArray:
    """Each point of the simplex is as likely as any other: for one policy that covers all preferences."""
    return rng.dirichlet(np.ones(len(METRIC_NAMES)))


@dataclass(frozen=True, slots=True)
class Chosen:
    """One episode, before it is drawn."""

    study: int
    seed: int
    preference: FloatArray  # (4,)


def choose(
    task: Task,
    rng: np.random.Generator,
    preference: Preference,
    seed: int | None,
    options: Mapping[str, Any] | None,
) -> Chosen:
    """The next episode.

    Draws as much from ``rng`` whatever is fixed, so that fixing one thing changes no other.

    Raises:
        InputError: there is no such study, or the weights are not four that are not negative and not all zero.
    """
    given = options or {}
    study, drawn = int(rng.integers(len(task.courses))), int(rng.integers(_SEEDS))
    weights = preference(rng)
    if "study" in given:
        study = _study(given["study"], len(task.courses))
    if given.get("preference") is not None:
        weights = weights_of(given["preference"])
    return Chosen(study, drawn if seed is None else seed, weights)


def weights_of(given: Any) -> FloatArray:
    """Four weights, brought to the simplex.

    Raises:
        InputError: they are not.
    """
    try:
        weights = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        weights = np.empty(0)
    if weights.shape != (len(METRIC_NAMES),) or not np.isfinite(weights).all() or not (weights >= 0).all():
        raise InputError(f"preference: {given!r} is not one weight, 0 or more, for each of {', '.join(METRIC_NAMES)}")
    if not weights.any():
        raise InputError("preference: one of the weights must be more than 0")
    return np.asarray(weights / weights.sum())


def _study(given: Any, there: int) -> int:
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not 0 <= given < there:
        raise InputError(f"study: {given!r} is not the position of a study, 0 to {there - 1}")
    return int(given)

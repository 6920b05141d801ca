"""The last moves: what was agreed, carried out a little differently, as long as the twin expects the user to gain.

A blend says well where requests should go and badly how much should be awake for them: four margins are averaged, and a
site that half of the agents would let sleep is kept half awake. So what was agreed is tried with replicas prewarmed for
less and for more than the upper forecast, site after site in the order of filling, and on the way towards a fleet that
is loaded evenly; then with single sites fuller, emptier, more or less awake. Moves are judged by the user's own weights
on the demands that may come; those that help are taken together as far as they help together. Ours: the paper publishes
the blend as it is.

What a model costs depends on no other, so that the twin is asked once for what is tried of all models: each row of a
batch tries one change of every model, and what is best of each is read from it. Nothing here draws lots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.policy.agents.moves import Moves, all_moves
from marlin.policy.agents.situation import Situation
from marlin.policy.demands import Demands
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.proportional import by_capacity
from marlin.simulator.fluid import Plans
from marlin.simulator.physics import FloatArray

_LEAST_PREWARMED: Final = 0.4
_MOST_PREWARMED: Final = 2.3
"""Demands that replicas are kept awake for, in upper forecasts: from the one to the other, or to whatever may come if
that is more. After a quiet epoch a surge is several times the upper forecast, and worth to be awake for."""

_PREWARMED_STEPS: Final = 8
_PREWARMED_LOAD: Final = 0.85
"""Load of what is awake when the largest demand comes that is kept awake for."""

EASED: Final = (0.0, 0.35, 0.7)
"""How far towards shares by capacity and half the fill."""

_STEPS: Final = (1.4, 1.4, 1.2, 1.2)
"""By what one move multiplies or divides a margin or a fill, round by round."""

_TOGETHER: Final = (1, 2, 4, 8, 16, 32)
"""How many of the moves that help are tried together, the most helpful first."""

_LEAST_GAIN: Final = 1e-6
"""Of the objective, below which nothing is moved."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be carried out."""

    intent: Intent  # (V, D)
    prewarmed: FloatArray  # (V,) in upper forecasts
    eased: FloatArray  # (V,) part of the way towards a fleet that is loaded evenly
    moves: int
    """Sites that were treated otherwise than agreed."""
    gained: float
    """What all that is expected to be worth, in units of the objective."""

    def plans(self, situation: Situation) -> Plans:
        """As a plan."""
        return situation.plans(_stacked([self.intent]), self.prewarmed[None])


def as_agreed(intent: Intent) -> Settled:
    """Nothing moved."""
    models = len(intent.shares)
    return Settled(intent, np.ones(models), np.zeros(models), 0, 0.0)


def settle(situation: Situation, agreed: Intent, rounds: int, has_time: Callable[[], bool] = lambda: True) -> Settled:
    """The best that a few moves make of what was agreed.

    Args:
        situation: where; its replicas can power down.
        agreed: of the agents, (V, D).
        rounds: of single moves, after the replicas that are prewarmed at all.
        has_time: asked before each of them.
    """
    best, prewarmed, eased, at_first, value = _prewarmed(situation, agreed)
    few, moved = situation.demands.few(), 0
    for step in _STEPS[:rounds]:
        if not has_time():
            break
        moves = all_moves(best, situation.allowed, step)
        # Found on a few demands and taken as far as they help on all: what only suits those few goes no further.
        gains = gains_of(situation, best, prewarmed, moves, few)
        in_turn = np.argsort(-gains, kind="stable")
        helping = in_turn[gains[in_turn] > _LEAST_GAIN][: _TOGETHER[-1]]
        sizes = [size for size in _TOGETHER if size <= len(helping)]
        if not sizes:
            continue
        together = list(moves.in_turn(best, helping))
        of_sets = _values(situation, _stacked([together[size - 1] for size in sizes]), prewarmed).sum(axis=1)
        taken = int(of_sets.argmin())
        if of_sets[taken] >= value:
            continue
        best, value, moved = together[sizes[taken] - 1], float(of_sets[taken]), moved + sizes[taken]
    return Settled(best, prewarmed, eased, moved, at_first - value)


def _prewarmed(situation: Situation, agreed: Intent) -> tuple[Intent, FloatArray, FloatArray, float, float]:
    """How much each model is prewarmed for, and how far it goes towards an even load.

    All choices are tried for all models alike. What is best for each model by itself is read from the same rows.

    Returns:
        The intent, demands that are prewarmed for (V,) in upper forecasts, parts of the way (V,), and what the plan is
        worth at first and now.
    """
    both = _choices(situation)  # (C, V, 2)
    of_models = _values(situation, _eased(agreed, situation, both[..., 1]), both[..., 0])  # (C, V)
    alike = of_models.sum(axis=1)
    at_first = float(alike[0])
    chosen = int(alike.argmin()) if alike.min() < at_first - _LEAST_GAIN else 0
    best, value = both[chosen], float(alike[chosen])
    models, own = np.arange(both.shape[1]), of_models.argmin(axis=0)  # (V,)
    if (found := float(of_models[own, models].sum())) < value - _LEAST_GAIN:
        best, value = both[own, models], found
    return _eased(agreed, situation, best[:, 1]), best[:, 0], best[:, 1], at_first, value


def _choices(situation: Situation) -> FloatArray:
    """(C, V, 2) demand that is prewarmed for and part of the way, for all models alike; the first is as agreed."""
    high = np.maximum(situation.forecast.high[0], 1e-9)
    most = np.maximum(situation.demands.requests.max(axis=0) / _PREWARMED_LOAD / high, _MOST_PREWARMED)  # (V,)
    prewarmed = np.concatenate([np.ones((1, len(high))), np.geomspace(_LEAST_PREWARMED, most, _PREWARMED_STEPS)])
    return np.array([np.stack([row, np.full_like(row, part)], axis=1) for part in EASED for row in prewarmed])


def _eased(intent: Intent, situation: Situation, parts: FloatArray) -> Intent:
    """Some of the way (..., V) to a fleet that is loaded evenly; one intent (..., V, D) for each."""
    even = by_capacity(situation.twin.capacity_rps, situation.allowed)
    part = parts[..., None]
    shares = (1.0 - part) * intent.shares + part * even
    return Intent(shares, (1.0 - 0.5 * part) * intent.fill, np.broadcast_to(intent.margin, shares.shape))


def gains_of(situation: Situation, intent: Intent, prewarmed: FloatArray, moves: Moves, demands: Demands) -> FloatArray:
    """What each move alone is worth; a row of the batch tries one move of every model."""
    row = np.zeros(len(moves), dtype=np.int64)  # row 0 is the intent as it is
    for v in range(len(intent.shares)):
        of_model = moves.model == v
        row[of_model] = np.arange(1, 1 + of_model.sum())
    of_models = _values(situation, moves.made(intent, row, 1 + int(row.max())), prewarmed, demands)
    return np.asarray(of_models[0, moves.model] - of_models[row, moves.model])


def _values(situation: Situation, intents: Intent, prewarmed: FloatArray, demands: Demands | None = None) -> FloatArray:
    """(N, V) what each model of intents (N, V, D) adds by the user's weights; less is better.

    Args:
        situation: where.
        intents: what is tried.
        prewarmed: (V,) or (N, V) upper forecasts that replicas are kept awake for.
        demands: on which. Default: all that may come.
    """
    many = np.broadcast_to(prewarmed, intents.shares.shape[:2])
    return situation.values_by_model(situation.plans(intents, many), demands)


def _stacked(intents: list[Intent]) -> Intent:
    return Intent(
        np.stack([intent.shares for intent in intents]),
        np.stack([intent.fill for intent in intents]),
        np.stack([intent.margin for intent in intents]),
    )

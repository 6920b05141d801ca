"""The last moves: what was agreed, carried out a little differently, as long as the twin expects the user to gain.

A blend says well where requests should go and badly how much should be awake for them: four margins are averaged, and a
site that half of the agents would let sleep is kept half awake. So what was agreed is tried with replicas prewarmed for
less and for more than the upper forecast, site after site in the order of filling, and on the way towards a fleet that
is loaded evenly; then with single sites fuller, emptier, more or less awake. Moves are judged by the user's own weights
on the demands that may come; those that help are taken together as far as they help together. Ours: the paper publishes
the blend as it is.

Nothing here draws lots, and each batch is one call of the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

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

_ALL: Final = slice(None)
"""Of a model's sites."""

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
        singles = _single_moves(best, situation, step)
        # Found on a few demands and taken as far as they help on all: what only suits those few goes no further.
        roughly = _values(situation, [best, *(move(best) for move in singles)], prewarmed, few)
        gains = roughly[0] - roughly[1:]
        helping = [int(i) for i in np.argsort(-gains, kind="stable") if gains[i] > _LEAST_GAIN]
        if not helping:
            continue
        together = [best]
        for i in helping:
            together.append(singles[i](together[-1]))
        sizes = [size for size in _TOGETHER if size < len(together)]
        of_sets = _values(situation, [together[size] for size in sizes], prewarmed)
        taken = int(of_sets.argmin())
        if of_sets[taken] >= value:
            continue
        best, value, moved = together[sizes[taken]], float(of_sets[taken]), moved + sizes[taken]
    return Settled(best, prewarmed, eased, moved, at_first - value)


def _prewarmed(situation: Situation, agreed: Intent) -> tuple[Intent, FloatArray, FloatArray, float, float]:
    """How much each model is prewarmed for, and how far it goes towards an even load.

    First both for all models alike, then for each model alone. What a model costs depends on no other model, but for
    rounding, so that what is best for each by itself is tried together, and taken if it is best.

    Returns:
        The intent, demands that are prewarmed for (V,) in upper forecasts, parts of the way (V,), and what the plan is
        worth at first and now.
    """
    models = len(agreed.shares)
    both = _choices(situation)  # (C, V, 2)

    def worth(choices: FloatArray) -> FloatArray:
        """Of choices (N, V, 2)."""
        return _values_of(situation, _eased(agreed, situation, choices[..., 1]), choices[..., 0])

    values = worth(both)
    at_first = float(values[0])
    chosen = int(values.argmin()) if values.min() < at_first - _LEAST_GAIN else 0
    best, value = both[chosen], float(values[chosen])
    if models > 1:
        alone = [_with_row(best, v, choice[v]) for v in range(models) for choice in both]
        of_each = worth(np.array(alone)).reshape(models, len(both))
        together = both[of_each.argmin(axis=1), np.arange(models)]  # (V, 2)
        found = float(worth(together[None])[0])
        if found < value - _LEAST_GAIN:
            best, value = together, found
    return _eased(agreed, situation, best[:, 1]), best[:, 0], best[:, 1], at_first, value


def _choices(situation: Situation) -> FloatArray:
    """(C, V, 2) demand that is prewarmed for and part of the way, for all models alike; the first is as agreed."""
    high = np.maximum(situation.forecast.high[0], 1e-9)
    most = np.maximum(situation.demands.requests.max(axis=0) / _PREWARMED_LOAD / high, _MOST_PREWARMED)  # (V,)
    prewarmed = np.concatenate([np.ones((1, len(high))), np.geomspace(_LEAST_PREWARMED, most, _PREWARMED_STEPS)])
    return np.array([np.stack([row, np.full_like(row, part)], axis=1) for part in EASED for row in prewarmed])


def _with_row(rows: FloatArray, v: int, row: FloatArray) -> FloatArray:
    changed = rows.copy()
    changed[v] = row
    return changed


def _eased(intent: Intent, situation: Situation, parts: FloatArray) -> Intent:
    """Some of the way (..., V) to a fleet that is loaded evenly; one intent (..., V, D) for each."""
    even = by_capacity(situation.twin.capacity_rps, situation.allowed)
    part = parts[..., None]
    shares = (1.0 - part) * intent.shares + part * even
    return Intent(shares, (1.0 - 0.5 * part) * intent.fill, np.broadcast_to(intent.margin, shares.shape))


Move = Callable[[Intent], Intent]


def _single_moves(intent: Intent, situation: Situation, step: float) -> list[Move]:
    """What may be done to one site of one model, or to all of its sites."""
    moves: list[Move] = []
    for v in range(len(intent.shares)):
        moves += [_fill(v, _ALL, factor) for factor in (step**-3, step**-1.5, step**1.5)]
        moves += [_margin(v, _ALL, factor) for factor in (step**-1.5, step**1.5)]
    for v, d in zip(*np.nonzero(situation.allowed), strict=True):
        moves += [_margin(v, d, 1.0 / step), _margin(v, d, step)]
        moves += [_fill(v, d, 1.0 / step), _fill(v, d, step)]
        if intent.shares[v, d] > 0:
            moves += [_share(v, d, 0.0), _share(v, d, 2.0)]
    return moves


def _margin(v: int, d: int | slice, factor: float) -> Move:
    return lambda intent: Intent(intent.shares, intent.fill, _times(intent.margin, v, d, factor))


def _fill(v: int, d: int | slice, factor: float) -> Move:
    return lambda intent: Intent(intent.shares, np.minimum(_times(intent.fill, v, d, factor), 1.0), intent.margin)


def _share(v: int, d: int, factor: float) -> Move:
    def moved(intent: Intent) -> Intent:
        shares = _times(intent.shares, v, d, factor)
        whole = shares[v].sum()
        if whole <= 0:
            return intent
        shares[v] /= whole
        return Intent(shares, intent.fill, intent.margin)

    return moved


def _times(values: FloatArray, v: int, d: int | slice, factor: float) -> FloatArray:
    changed = values.copy()
    changed[v, d] *= factor
    return changed


def _values(
    situation: Situation, intents: list[Intent], prewarmed: FloatArray, demands: Demands | None = None
) -> FloatArray:
    """(N,) by the user's weights, prewarmed for (V,) or (N, V) upper forecasts; less is better."""
    return _values_of(situation, _stacked(intents), prewarmed, demands)


def _values_of(
    situation: Situation, intents: Intent, prewarmed: FloatArray, demands: Demands | None = None
) -> FloatArray:
    """The same of intents (N, V, D) that lie together."""
    many = np.broadcast_to(prewarmed, intents.shares.shape[:2])
    return situation.tried(situation.plans(intents, many), demands).values(situation.objective)


def _stacked(intents: list[Intent]) -> Intent:
    return Intent(
        np.stack([intent.shares for intent in intents]),
        np.stack([intent.fill for intent in intents]),
        np.stack([intent.margin for intent in intents]),
    )

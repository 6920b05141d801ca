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
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.proportional import by_capacity
from marlin.simulator.fluid import Plans
from marlin.simulator.physics import FloatArray

PREWARMED: Final = (0.4, 0.55, 0.75, 1.0, 1.3, 1.7, 2.3)
"""Demands that replicas are kept awake for, in upper forecasts."""

EASED: Final = (0.0, 0.35, 0.7)
"""How far towards shares by capacity and half the fill."""

_FEWER, _MORE = 0.7, 1.4
"""What one move makes of a margin or of a fill."""

_MOST_TOGETHER: Final = 8
"""Moves that are taken together at most."""

_LEAST_GAIN: Final = 1e-6
"""Of the objective, below which nothing is moved."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be carried out."""

    intent: Intent  # (V, D)
    prewarmed: float
    """In upper forecasts."""
    eased: float
    """Part of the way towards a fleet that is loaded evenly."""
    moves: int
    """Sites that were treated otherwise than agreed."""
    gained: float
    """What all that is expected to be worth, in units of the objective."""

    def plans(self, situation: Situation) -> Plans:
        """As a plan."""
        return situation.plans(_stacked([self.intent]), np.array([self.prewarmed]))


def as_agreed(intent: Intent) -> Settled:
    """Nothing moved."""
    return Settled(intent, 1.0, 0.0, 0, 0.0)


def settle(situation: Situation, agreed: Intent, rounds: int, has_time: Callable[[], bool] = lambda: True) -> Settled:
    """The best that a few moves make of what was agreed.

    Args:
        situation: where; its replicas can power down.
        agreed: of the agents, (V, D).
        rounds: of single moves, after the replicas that are prewarmed at all.
        has_time: asked before each of them.
    """
    factors = np.array(PREWARMED)
    eased = [_eased(agreed, situation, part) for part in EASED]
    values = _values(situation, [one for one in eased for _ in factors], np.tile(factors, len(eased)))
    usual = int(np.flatnonzero(factors == 1.0)[0])  # EASED begins with nothing
    chosen = int(values.argmin()) if values.min() < values[usual] - _LEAST_GAIN else usual
    at_first, value = float(values[usual]), float(values[chosen])
    best, prewarmed, moved = eased[chosen // len(factors)], float(factors[chosen % len(factors)]), 0
    for _ in range(rounds):
        if not has_time():
            break
        singles = _single_moves(best, situation)
        gains = value - _values(situation, [move(best) for move in singles], prewarmed)
        helping = [int(i) for i in np.argsort(-gains, kind="stable") if gains[i] > _LEAST_GAIN][:_MOST_TOGETHER]
        if not helping:
            break
        together = [best]
        for i in helping:
            together.append(singles[i](together[-1]))
        of_sets = _values(situation, together[1:], prewarmed)
        taken = int(of_sets.argmin())
        best, value, moved = together[1 + taken], float(of_sets[taken]), moved + 1 + taken
    return Settled(best, prewarmed, EASED[chosen // len(factors)], moved, at_first - value)


def _eased(intent: Intent, situation: Situation, part: float) -> Intent:
    """Some of the way to a fleet that is loaded evenly."""
    even = by_capacity(situation.twin.capacity_rps, situation.allowed)
    return Intent((1.0 - part) * intent.shares + part * even, (1.0 - 0.5 * part) * intent.fill, intent.margin)


Move = Callable[[Intent], Intent]


def _single_moves(intent: Intent, situation: Situation) -> list[Move]:
    """What may be done to one site of one model."""
    moves: list[Move] = []
    for v, d in zip(*np.nonzero(situation.allowed), strict=True):
        moves += [_margin(v, d, _FEWER), _margin(v, d, _MORE)]
        moves += [_fill(v, d, _FEWER), _fill(v, d, _MORE), _share(v, d, 0.0), _share(v, d, 2.0)]
    return moves


def _margin(v: int, d: int, factor: float) -> Move:
    return lambda intent: Intent(intent.shares, intent.fill, _times(intent.margin, v, d, factor))


def _fill(v: int, d: int, factor: float) -> Move:
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


def _times(values: FloatArray, v: int, d: int, factor: float) -> FloatArray:
    changed = values.copy()
    changed[v, d] *= factor
    return changed


def _values(situation: Situation, intents: list[Intent], prewarmed: FloatArray | float) -> FloatArray:
    """(N,) by the user's weights; less is better."""
    many = np.broadcast_to(np.asarray(prewarmed, dtype=np.float64), (len(intents),))
    return situation.tried(situation.plans(_stacked(intents), many)).values(situation.objective)


def _stacked(intents: list[Intent]) -> Intent:
    return Intent(
        np.stack([intent.shares for intent in intents]),
        np.stack([intent.fill for intent in intents]),
        np.stack([intent.margin for intent in intents]),
    )

"""The veto: an agent with enough capital pulls the consensus towards its own proposal (Algorithm 2, lines 12-18).

Line 13's absolute value would veto improvements: only a loss counts here. ``paper`` pulls by min(0.5, loss x capital):
with 150 or more of capital that is 0.5 for any loss above a third of a percent. ``soft`` pulls by min(0.5, loss x
capital share). Either pull is shortened, by halves, until the agent's own critic no longer says that it loses by it;
critics need not be concave, so that even a pull towards one's own proposal can do harm on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from marlin.policy.game.critics import Table, floored
from marlin.simulator.physics import FloatArray

_HALVINGS: Final = 6
"""After so many a pull would move less than a hundredth of the way: it is given up."""

_ROUNDING: Final = 1e-9
"""Part of a utility by which a value may fall short of a bound without being below it."""


class VetoRule(StrEnum):
    """How hard a veto pulls."""

    PAPER = "paper"
    SOFT = "soft"
    NONE = "none"
    """Nobody may object: an ablation."""


@dataclass(frozen=True, slots=True)
class VetoSettings:
    """Who may object, and how far."""

    rule: VetoRule = VetoRule.PAPER
    capital: float = 150.0
    """Capital from which on an agent is entitled to object (the paper's)."""
    loss: float = 0.05
    """Loss an agent puts up with, as a part of its utility; the paper names no value."""
    most: float = 0.5
    """Longest pull, as a part of the way to the agent's proposal (the paper's)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one entitled agent did when it was its turn."""

    agent: int
    loss: float
    """Part of its utility that the consensus before its turn cost it."""
    asked: float
    """Pull by the rule; 0 where the loss was put up with."""
    pull: float
    """Pull after shortening."""
    value_before: float
    value_after: float
    """Its critic's value of the consensus before and after its turn, not floored."""


@dataclass(frozen=True, slots=True)
class Objections:
    """The consensus after everyone had a turn."""

    weights: FloatArray  # (J,) of the blend that it is: a pull towards a proposal is a blend with it
    turns: tuple[Turn, ...]
    """Of the entitled agents, in the order of their capital."""
    unsatisfied: tuple[int, ...]
    """Agents below their bound at the end, because a later veto took what they had."""


def object_in_turn(
    table: Table,
    weights: FloatArray,  # (J,) of the consensus so far
    utility: FloatArray,  # (J,) floored worth of each agent's own proposal
    capital: FloatArray,  # (J,)
    entitled: FloatArray,  # (J,) 1 where the agent may object at all
    settings: VetoSettings,
) -> Objections:
    """Lets the entitled agents object, the one with most capital first; equal capital goes by position.

    An agent's bound is what it put up with, or, where its pull did not reach that far, what it had after its own turn.
    With at most one entitled agent nobody comes after it, so nobody ends unsatisfied.
    """
    turns: list[Turn] = []
    for j in (int(j) for j in np.argsort(-capital, kind="stable")):
        if settings.rule is VetoRule.NONE or not entitled[j] or capital[j] < settings.capital:
            continue
        worth = float(table.worth(weights)[j])
        loss = max(0.0, float(utility[j] - floored(np.array(worth))) / float(utility[j]))
        asked = 0.0
        if loss > settings.loss:
            share = capital[j] if settings.rule is VetoRule.PAPER else capital[j] / capital.sum()
            asked = min(settings.most, loss * float(share))
        weights, pull = _pulled(table, weights, j, asked)
        turns.append(Turn(j, loss, asked, pull, worth, float(table.worth(weights)[j])))
    if not turns:
        return Objections(weights, (), ())
    final = floored(table.worth(weights))  # (J,)
    unsatisfied = [
        turn.agent
        for turn in turns
        if final[turn.agent] < _bound(turn, float(utility[turn.agent]), settings) - _ROUNDING * utility[turn.agent]
    ]
    return Objections(weights, tuple(turns), tuple(unsatisfied))


def _bound(turn: Turn, utility: float, settings: VetoSettings) -> float:
    return min((1.0 - settings.loss) * utility, float(floored(np.array(turn.value_after))))


def _pulled(table: Table, weights: FloatArray, j: int, asked: float) -> tuple[FloatArray, float]:
    """The weights after the longest pull, of ``asked`` and its halves, that does not lower agent j's value."""
    if asked == 0.0:
        return weights, 0.0
    before = table.worth(weights)[j]
    own = np.eye(len(weights))[j]
    for halvings in range(_HALVINGS + 1):  # mostly the first one will do
        pull = asked * 0.5**halvings
        tried = (1.0 - pull) * weights + pull * own
        if table.worth(tried)[j] >= before:
            return tried, pull
    return weights, 0.0

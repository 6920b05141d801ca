"""Critics for the game: what an intent is worth to each agent, learned or asked of the twin.

An action of the game is an intent laid out as one array (3, V, D): shares, fill, margin. So blends of actions are
blends of intents, and masked sites stay at nothing.

A learned critic estimates discounted sums of rewards; times (1 - discount) that is a mean gain over
capacity-proportional routing, in the unit the game counts in. The twin as critic says the same of the one epoch that it
is shown, and its derivatives are differences: slow, and there for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from marlin.policy.agents.situation import Situation
from marlin.policy.artifact import Artifact
from marlin.policy.networks.kind import critics_of
from marlin.policy.networks.rows import Rows
from marlin.policy.trials import Tried
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

USUAL_DISCOUNT: Final = 0.95
"""Of a training that does not say (section 6 of the paper)."""

_NUDGE: Final = 0.05
"""Of a share, a fill or a margin, when the twin is asked for a derivative. Smaller ones fall between two orders of
filling and say nothing."""


def action_of(intents: Intent) -> FloatArray:
    """Intents (..., V, D) as actions of the game (..., 3, V, D)."""
    return np.stack([intents.shares, intents.fill, intents.margin], axis=-3)


def intent_of(actions: FloatArray) -> Intent:
    """And back."""
    return Intent(actions[..., 0, :, :], actions[..., 1, :, :], actions[..., 2, :, :])


def discount_of(artifact: Artifact) -> float:
    """The discount that an artifact's critics were trained with."""
    stated = artifact.card.hyper_parameters
    found = stated.get("sac", stated)
    value = found.get("discount", USUAL_DISCOUNT) if isinstance(found, dict) else USUAL_DISCOUNT
    return float(value) if isinstance(value, int | float) and 0.0 <= value < 1.0 else USUAL_DISCOUNT


class LearnedCritic:
    """An artifact's critics in one situation.

    Evaluated in single precision, as stored: twice as fast, and far below what a critic can know.
    """

    def __init__(self, artifact: Artifact, rows: Rows, goal: FloatArray, scale: float) -> None:
        """Prepares for one fleet.

        Args:
            artifact: whose critics.
            rows: what the agents are shown; N = 1, in single precision.
            goal: (J, 4) weights that each goes by.
            scale: from a discounted sum to a mean.
        """
        self._critics = critics_of(artifact.parameters, rows, _single(goal)[:, None])
        self._scale = scale

    def values(self, actions: FloatArray) -> FloatArray:
        """Worth (N, J) of N actions (N, 3, V, D)."""
        worth = self._critics.worth(intent_of(_single(actions)[:, None]))[:, 0]
        return self._scale * np.asarray(worth, dtype=np.float64)

    def own_values(self, actions: FloatArray) -> FloatArray:
        """Worth (J,) of J actions (J, 3, V, D), each to the agent whose it is."""
        worth = self._critics.own_worth(intent_of(_single(actions)[:, None]))[0]
        return self._scale * np.asarray(worth, dtype=np.float64)

    def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Worth (J,) of one action (3, V, D), and its derivatives (J, 3, V, D)."""
        worth, slopes = self._critics.worth_and_derivatives(intent_of(_single(action)[None]))
        by_action = np.asarray(action_of(slopes)[:, 0], dtype=np.float64)
        return self._scale * np.asarray(worth[0], dtype=np.float64), self._scale * by_action


@dataclass(frozen=True, slots=True)
class TwinCritic:
    """The twin, in the epoch to come."""

    situation: Situation
    baseline: Tried
    """Of capacity-proportional routing."""
    goal: FloatArray  # (J, 4)

    def values(self, actions: FloatArray) -> FloatArray:
        """Worth (N, J) of N actions (N, 3, V, D)."""
        outcome = self.situation.tried(self.situation.plans(intent_of(actions)))
        return worth_over(self.baseline, outcome, self.goal, self.situation)

    def own_values(self, actions: FloatArray) -> FloatArray:
        """Worth (J,) of J actions (J, 3, V, D), each to the agent whose it is."""
        return np.asarray(self.values(actions).diagonal())

    def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Worth (J,), and differences (J, 3, V, D), at one action (3, V, D); shares need not add up to one."""
        flat = action.reshape(-1)
        nudged = flat + _NUDGE * np.eye(flat.size)  # (A, A)
        both = np.concatenate([action[None], nudged.reshape(-1, *action.shape)])
        worth = self.values(both)  # (1 + A, J)
        return worth[0], np.asarray(((worth[1:] - worth[0]) / _NUDGE).T.reshape(-1, *action.shape))


def worth_over(baseline: Tried, outcome: Tried, goal: FloatArray, situation: Situation) -> FloatArray:
    """(N, J) improvement of N plans over capacity-proportional routing, to agents that go by goals (J, 4)."""
    of_each = [replace(situation.objective, weights=weights) for weights in goal]
    return np.stack([baseline.values(by)[0] - outcome.values(by) for by in of_each], axis=1)


def _single(values: FloatArray) -> FloatArray:
    return np.asarray(values, dtype=np.float32)

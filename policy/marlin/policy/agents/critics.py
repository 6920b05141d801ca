"""Critics for the game: what an intent is worth to each agent, learned or asked of the twin.

An action of the game is an intent laid out as one array (3, V, D): shares, fill, margin. So blends of actions are
blends of intents, and masked sites stay at nothing.

A learned critic estimates discounted sums of rewards; times (1 - discount) that is a mean gain over
capacity-proportional routing, in the unit the game counts in. The twin as critic says the same of the one epoch that it
is shown, and its derivatives are differences: slow, and there for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from marlin.policy.agents.situation import Situation
from marlin.policy.artifact import Artifact
from marlin.policy.networks import critic
from marlin.policy.networks.parameters import Parameters
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

    Evaluated in single precision, as stored: twice as fast, and far below what a critic can know. The game asks for the
    same blends again (on the way up, and when it looks back), so that answers are kept.
    """

    def __init__(self, artifact: Artifact, rows: Rows, goal: FloatArray, scale: float) -> None:
        """Prepares for one fleet.

        Args:
            artifact: whose critics.
            rows: what the agents are shown; N = 1.
            goal: (J, 4) weights that each goes by.
            scale: from a discounted sum to a mean.
        """
        self._parameters = artifact.parameters
        self._rows = Rows(**{f.name: _single(getattr(rows, f.name)) for f in fields(Rows)})
        self._goal = _single(goal)
        self._scale = scale
        self._known: dict[bytes, FloatArray] = {}  # (J,) of actions asked for

    def values(self, actions: FloatArray) -> FloatArray:
        """Worth (N, J) of N actions (N, 3, V, D)."""
        keys = [action.tobytes() for action in actions]
        asked = [n for n, key in enumerate(keys) if key not in self._known]
        if asked:
            found = self._asked(self._parameters, actions[asked], self._goal)
            self._known.update({keys[n]: row for n, row in zip(asked, found, strict=True)})
        return np.stack([self._known[key] for key in keys])

    def values_of(self, actions: FloatArray, agent: int) -> FloatArray:
        """Worth (N,) of N actions to one agent."""
        if all(action.tobytes() in self._known for action in actions):
            return self.values(actions)[:, agent]
        own = critic.of_agent(self._parameters, agent)
        return self._asked(own, actions, self._goal[agent : agent + 1])[:, 0]

    def gradients(self, action: FloatArray) -> FloatArray:
        """Derivatives (J, 3, V, D) at one action (3, V, D)."""
        intent = intent_of(_single(action)[None])
        worth, slopes = critic.worth_and_derivatives(self._parameters, self._rows, intent, self._goal[:, None])
        self._known[action.tobytes()] = self._scale * np.asarray(worth[0], dtype=np.float64)
        return self._scale * np.asarray(action_of(slopes)[:, 0], dtype=np.float64)

    def _asked(self, parameters: Parameters, actions: FloatArray, goal: FloatArray) -> FloatArray:
        many = len(actions)
        goals = np.broadcast_to(goal[:, None], (len(goal), many, goal.shape[1]))
        found = critic.worth(parameters, _repeated(self._rows, many), intent_of(_single(actions)), goals)
        return self._scale * np.asarray(found, dtype=np.float64)


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

    def gradients(self, action: FloatArray) -> FloatArray:
        """Differences (J, 3, V, D) around one action (3, V, D); shares of rows that do not add up are scaled."""
        flat = action.reshape(-1)
        nudged = flat + _NUDGE * np.eye(flat.size)  # (A, A)
        both = np.concatenate([action[None], nudged.reshape(-1, *action.shape)])
        worth = self.values(both)  # (1 + A, J)
        return np.asarray(((worth[1:] - worth[0]) / _NUDGE).T.reshape(-1, *action.shape))


def worth_over(baseline: Tried, outcome: Tried, goal: FloatArray, situation: Situation) -> FloatArray:
    """(N, J) improvement of N plans over capacity-proportional routing, to agents that go by goals (J, 4)."""
    of_each = [replace(situation.objective, weights=weights) for weights in goal]
    return np.stack([baseline.values(by)[0] - outcome.values(by) for by in of_each], axis=1)


def _single(values: FloatArray) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def _repeated(rows: Rows, many: int) -> Rows:
    if many == 1:
        return rows

    def alike(values: FloatArray) -> FloatArray:
        return np.broadcast_to(values, (many, *values.shape[1:]))

    return Rows(**{f.name: alike(getattr(rows, f.name)) for f in fields(Rows)})

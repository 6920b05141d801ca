"""What the game asks of a critic: the worth of an action to each agent, and where that worth grows.

Worth is improvement over capacity-proportional routing: 0 is no better, 0.1 a tenth less of the agent's metric. Learned
critics, the twin itself and a formula in a test all fit; the game calls nothing else.
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

import numpy as np

from marlin.simulator.physics import FloatArray

FLOOR: Final = 1e-3
"""Least utility, a thousandth of the metric: shares of utility and losses relative to it stay defined for an agent
whose own proposal wins nothing (as printed, lines 5 and 13 divide by zero or by a negative number)."""


class Critic(Protocol):
    """Q_j for j = 1..J; A is the shape of an action."""

    def values(self, actions: FloatArray) -> FloatArray:
        """Worth (N, J) of N actions (N, *A) to each agent."""

    def gradients(self, action: FloatArray) -> FloatArray:
        """Derivatives (J, *A) of each agent's worth at one action (*A)."""


@runtime_checkable
class Selective(Critic, Protocol):
    """A critic that answers one agent in less time than all of them."""

    def values_of(self, actions: FloatArray, agent: int) -> FloatArray:
        """Worth (N,) of N actions (N, *A) to one agent: the same as in ``values``."""


def values_of(critic: Critic, actions: FloatArray, agent: int, agents: int) -> FloatArray:
    """Worth (N,) of actions (N, *A) to one of the agents, checked.

    Raises:
        ValueError: the critic answers with another shape, or not with numbers.
    """
    if not isinstance(critic, Selective):
        return values(critic, actions, agents)[:, agent]
    found = np.asarray(critic.values_of(actions, agent), dtype=np.float64)
    if found.shape != (len(actions),):
        raise ValueError(f"the critic's values must be {(len(actions),)}, not {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("the critic's values must be finite")
    return found


def values(critic: Critic, actions: FloatArray, agents: int) -> FloatArray:
    """Worth (N, J) of actions (N, *A), checked.

    Raises:
        ValueError: the critic answers with another shape, or not with numbers.
    """
    found = np.asarray(critic.values(actions), dtype=np.float64)
    if found.shape != (len(actions), agents):
        raise ValueError(f"the critic's values must be {(len(actions), agents)}, not {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("the critic's values must be finite")
    return found


def gradients(critic: Critic, action: FloatArray, agents: int) -> FloatArray:
    """Derivatives (J, *A) at one action, checked.

    Raises:
        ValueError: the critic answers with another shape, or not with numbers.
    """
    found = np.asarray(critic.gradients(action), dtype=np.float64)
    if found.shape != (agents, *action.shape):
        raise ValueError(f"the critic's gradients must be {(agents, *action.shape)}, not {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("the critic's gradients must be finite")
    return found


def floored(worth: FloatArray) -> FloatArray:
    """Worth as the game counts it: at least ``FLOOR``. Any shape."""
    return np.asarray(np.maximum(worth, FLOOR))

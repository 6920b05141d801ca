"""What the game asks of a critic: the worth of an action to each agent, and where that worth grows.

Worth is improvement over capacity-proportional routing: 0 is no better, 0.1 a tenth less of the agent's metric. Learned
critics, the twin itself and a formula in a test all fit; the game calls nothing else.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from marlin.simulator.physics import FloatArray

FLOOR: Final = 1e-3
"""Least utility, a thousandth of the metric: shares of utility and losses relative to it stay defined for an agent
whose own proposal wins nothing (as printed, lines 5 and 13 divide by zero or by a negative number)."""


class Critic(Protocol):
    """Q_j for j = 1..J; A is the shape of an action."""

    def values(self, actions: FloatArray) -> FloatArray:
        """Worth (N, J) of N actions (N, *A) to each agent."""

    def own_values(self, actions: FloatArray) -> FloatArray:
        """Worth (J,) of J actions (J, *A), each to the agent whose it is: the diagonal of ``values``."""

    def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Worth (J,) of one action (*A) to each agent, and its derivatives (J, *A)."""


def blend(weights: FloatArray, proposals: FloatArray) -> FloatArray:
    """The blend a = sum_j omega_j a_j, (*A). Lines 5 and 11."""
    return np.asarray((weights @ proposals.reshape(len(proposals), -1)).reshape(proposals.shape[1:]))


class Table:
    """What blends of J proposals are worth: asked once for each, and checked."""

    def __init__(self, critic: Critic, proposals: FloatArray) -> None:
        """For blends of proposals (J, *A)."""
        self.agents = len(proposals)
        self._critic, self._proposals = critic, proposals
        self._known: dict[bytes, FloatArray] = {}

    def own(self) -> FloatArray:
        """Worth (J,) of each proposal to the agent whose it is. Raises as ``worth``."""
        return self._checked(self._critic.own_values(self._proposals), (self.agents,), "own values")

    def worth(self, weights: FloatArray) -> FloatArray:
        """Worth (J,) of one blend to each agent.

        Raises:
            ValueError: the critic answers with another shape, or not with numbers.
        """
        key = weights.tobytes()
        known = self._known.get(key)
        if known is None:
            action = blend(weights, self._proposals)[None]
            known = self._known[key] = self._checked(self._critic.values(action), (1, self.agents), "values")[0]
        return known

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Derivatives (J, J) of each agent's worth by the weights, agent first. Raises as ``worth``."""
        worth, slopes = self._critic.value_and_gradients(blend(weights, self._proposals))
        self._known.setdefault(weights.tobytes(), self._checked(worth, (self.agents,), "values"))
        flat = (self.agents, -1)
        slopes = self._checked(slopes, self._proposals.shape, "gradients").reshape(flat)
        return np.asarray(slopes @ self._proposals.reshape(flat).T)

    def _checked(self, found: FloatArray, shape: tuple[int, ...], what: str) -> FloatArray:
        found = np.asarray(found, dtype=np.float64)
        if found.shape != shape:
            raise ValueError(f"the critic's {what} must be {shape}, not {found.shape}")
        if not np.isfinite(found).all():
            raise ValueError(f"the critic's {what} must be finite")
        return found


def floored(worth: FloatArray) -> FloatArray:
    """Worth as the game counts it: at least ``FLOOR``. Any shape."""
    return np.asarray(np.maximum(worth, FLOOR))

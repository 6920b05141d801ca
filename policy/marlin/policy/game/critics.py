"""What the game asks of a critic: the worth of an action to each agent, and where that worth grows.

Worth is improvement over capacity-proportional routing: 0 is no better, 0.1 a tenth less of the agent's metric. Learned
critics, the twin itself and a formula in a test all fit; the game calls nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
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


class Blends(Protocol):
    """A critic of the blends of J proposals, one of each agent; weights lie on the simplex."""

    def worth(self, weights: FloatArray) -> FloatArray:
        """Worth (N, J) of N blends by weights (N, J) to each agent."""

    def worth_and_slopes(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Worth (J,) of one blend by weights (J,), and its derivatives (J, J) by them, agent first.

        Weights add up to one, so that a constant for each agent may be missing from its derivatives.
        """


@runtime_checkable
class Blending(Critic, Protocol):
    """A critic that has a shorter way for blends, which are all that a negotiation asks about."""

    def among(self, proposals: FloatArray) -> Blends:
        """What it says of blends of proposals (J, *A)."""


def blend(weights: FloatArray, proposals: FloatArray) -> FloatArray:
    """The blend a = sum_j omega_j a_j, (*A). Lines 5 and 11."""
    return np.asarray(np.tensordot(weights, proposals, axes=1))


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Blends as any critic judges them: every blend is made, and asked about."""

    critic: Critic
    proposals: FloatArray  # (J, *A)

    def worth(self, weights: FloatArray) -> FloatArray:
        """See ``Blends``."""
        return np.asarray(self.critic.values(np.array([blend(w, self.proposals) for w in weights])), dtype=np.float64)

    def worth_and_slopes(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See ``Blends``."""
        slopes = np.asarray(self.critic.gradients(blend(weights, self.proposals)), dtype=np.float64)  # (J, *A)
        expected = self.proposals.shape
        if slopes.shape != expected:
            raise ValueError(f"the critic's gradients must be {expected}, not {slopes.shape}")
        flat = (len(slopes), -1)
        return self.worth(weights[None])[0], slopes.reshape(flat) @ self.proposals.reshape(flat).T


class Table:
    """What blends are worth: asked once for each, and checked."""

    def __init__(self, critic: Critic, proposals: FloatArray) -> None:
        """For blends of proposals (J, *A)."""
        self.agents = len(proposals)
        self._blends = critic.among(proposals) if isinstance(critic, Blending) else OneByOne(critic, proposals)
        self._known: dict[bytes, FloatArray] = {}

    def worth(self, weights: FloatArray) -> FloatArray:
        """Worth (J,) of one blend to each agent.

        Raises:
            ValueError: the critic answers with another shape, or not with numbers.
        """
        return np.asarray(self.worths(weights[None])[0])

    def worths(self, weights: FloatArray) -> FloatArray:
        """Worth (N, J) of N blends. Raises as ``worth``."""
        keys = [row.tobytes() for row in weights]
        new = [n for n, key in enumerate(keys) if key not in self._known]
        if new:
            found = self._checked(self._blends.worth(weights[new]), (len(new), self.agents), "values")
            self._known.update({keys[n]: row for n, row in zip(new, found, strict=True)})
        return np.stack([self._known[key] for key in keys])

    def slopes(self, weights: FloatArray) -> FloatArray:
        """Derivatives (J, J) of each agent's worth by the weights.

        Raises:
            ValueError: the critic answers with another shape, or not with numbers.
        """
        worth, slopes = self._blends.worth_and_slopes(weights)
        self._known.setdefault(weights.tobytes(), self._checked(worth, (self.agents,), "values"))
        return self._checked(slopes, (self.agents, self.agents), "gradients")

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

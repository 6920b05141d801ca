"""Critics for the tests of the game: smooth functions of shares whose optimum and slopes are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.simulator.physics import FloatArray


@dataclass(frozen=True)
class Bowl:
    """Q_j(a) = top_j - curve_j |a - best_j|^2: concave, each agent with an optimum of its own."""

    best: FloatArray  # (J, *A)
    top: FloatArray  # (J,)
    curve: FloatArray  # (J,)

    def values(self, actions: FloatArray) -> FloatArray:
        """(N, J)."""
        away = actions[:, None] - self.best
        squares = (away**2).reshape(*away.shape[:2], -1).sum(axis=2)
        return np.asarray(self.top - self.curve * squares)

    def own_values(self, actions: FloatArray) -> FloatArray:
        """(J,)."""
        return np.asarray(self.values(actions).diagonal())

    def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(J,) and (J, *A)."""
        curve = self.curve.reshape(-1, *(1,) * action.ndim)
        return self.values(action[None])[0], np.asarray(-2.0 * curve * (action - self.best))


@dataclass(frozen=True)
class Waves:
    """Q_j(a) = top_j + sum of depth_j sin(pitch_j a + shift_j): hills and valleys, as a learned critic may have."""

    top: FloatArray  # (J,)
    depth: FloatArray  # (J,)
    pitch: FloatArray  # (J,)
    shift: FloatArray  # (J, *A)

    def values(self, actions: FloatArray) -> FloatArray:
        """(N, J)."""
        pitch = self.pitch.reshape(-1, *(1,) * (actions.ndim - 1))
        waves = np.sin(pitch * actions[:, None] + self.shift)
        return np.asarray(self.top + self.depth * waves.reshape(*waves.shape[:2], -1).sum(axis=2))

    def own_values(self, actions: FloatArray) -> FloatArray:
        """(J,)."""
        return np.asarray(self.values(actions).diagonal())

    def value_and_gradients(self, action: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(J,) and (J, *A)."""
        depth, pitch = (x.reshape(-1, *(1,) * action.ndim) for x in (self.depth, self.pitch))
        return self.values(action[None])[0], np.asarray(depth * pitch * np.cos(pitch * action + self.shift))


def shares(rng: np.random.Generator, *shape: int, mask: FloatArray | None = None) -> FloatArray:
    """Random rows on the simplex over the last axis; ``mask`` (D,) closes sites."""
    raw = rng.gamma(0.5, size=shape) + 1e-9
    raw = raw if mask is None else raw * mask
    return np.asarray(raw / raw.sum(axis=-1, keepdims=True))

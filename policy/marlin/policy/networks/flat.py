"""The paper's plain networks, for comparison: one fleet as one long vector, through three layers.

They know one fleet: as many models and sites as they were trained with, in the order they were trained with. No row
sorts, so that what a sort knows has to be learnt as well. What actors are modulated by (FiLM) and what critics see of
an intent are as in ``actor`` and ``critic``; so are the interfaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from marlin.policy.networks.actor import Proposals, bounded, modulation
from marlin.policy.networks.critic import action_features, by_intent, by_twin
from marlin.policy.networks.parameters import ACTION_FEATURES, TWINS, Parameters
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray


def propose(parameters: Parameters, rows: Rows, preference: FloatArray) -> Proposals:
    """The distributions of all agents; as ``actor.propose``, with the names and shapes of ``flat_actor_shapes``."""
    p = {name.removeprefix("actor."): value for name, value in parameters.items() if name.startswith("actor.")}
    n, v, d = rows.shape
    agents, _, hidden = p["flat.bias"].shape
    scales = modulation(p, rows, preference).reshape(agents, n, 4, hidden)
    shift_1, scale_1, shift_2, scale_2 = (scales[:, :, i] for i in range(4))
    first = np.maximum(flattened(rows) @ p["flat.weight"] + p["flat.bias"], 0.0)  # (J, N, H)
    first = first * (1.0 + scale_1) + shift_1
    second = np.maximum(first @ p["mix.weight"] + p["mix.bias"], 0.0) * (1.0 + scale_2) + shift_2
    out = (second @ p["head.weight"] + p["head.bias"]).reshape(agents, n, v, d, -1)
    mean, log_std = np.split(out, 2, axis=-1)
    return Proposals(mean, bounded(log_std))


def flattened(rows: Rows) -> FloatArray:
    """Each fleet as one vector, (N, V x D x R); what is written of closed sites is left out."""
    return np.asarray((rows.features * rows.mask[..., None]).reshape(len(rows.features), -1))


@dataclass(frozen=True, slots=True)
class FlatCritics:
    """Critics in the situation of N fleets of one shape; as ``critic.Critics``. K networks: agents times twins."""

    rows: Rows
    of_state: FloatArray  # (K, N, H) what the first layer makes of fleet and preference
    action: FloatArray  # (K, V x D x 4, H) what it makes of an intent
    mix: FloatArray  # (K, H, H)
    mix_bias: FloatArray  # (K, 1, H)
    head: FloatArray  # (K, H, 1)
    head_bias: FloatArray  # (K, 1, 1)

    @classmethod
    def of(cls, parameters: Parameters, rows: Rows, preference: FloatArray) -> Self:
        """Prepares for N fleets; arguments as of ``critic.Critics.of``, names and shapes of ``flat_critic_shapes``."""
        p: dict[str, FloatArray] = {
            name.removeprefix("critic."): np.asarray(value)
            for name, value in parameters.items()
            if name.startswith("critic.")
        }
        state = flattened(rows)
        weight = p["flat.weight"]
        of_preference = np.repeat(preference, TWINS, axis=0) @ p["flat.of_preference"]
        return cls(
            rows=rows,
            of_state=state @ weight[:, : state.shape[1]] + p["flat.bias"] + of_preference,
            action=weight[:, state.shape[1] :],
            mix=p["mix.weight"],
            mix_bias=p["mix.bias"],
            head=p["head.weight"],
            head_bias=p["head.bias"],
        )

    def worth(self, intent: Intent) -> FloatArray:
        """(M, N, agents) worth of M intents for each fleet (M, N, V, D)."""
        features = action_features(intent, self.rows)  # (M, N, V, D, 4)
        return np.stack([self._lesser(one[None]) for one in features])

    def own_worth(self, intent: Intent) -> FloatArray:
        """(N, agents) what each agent's own intent (agents, N, V, D) is worth to it."""
        return self._lesser(np.repeat(action_features(intent, self.rows), TWINS, axis=0))

    def worth_and_derivatives(self, intent: Intent) -> tuple[FloatArray, Intent]:
        """Worth (N, agents) of one intent for each fleet (N, V, D), and its derivatives (agents, N, V, D)."""
        first, second, worth = self._forward(action_features(intent, self.rows)[None])
        back = (self.head.swapaxes(1, 2) * (second > 0)) @ self.mix.swapaxes(1, 2)  # (K, N, H)
        slopes = ((back * (first > 0)) @ self.action.swapaxes(1, 2)).reshape(
            len(self.mix), *self.rows.shape, ACTION_FEATURES
        )
        each = by_twin(worth)  # (agents, TWINS, N)
        agents, fleets = np.indices((len(each), each.shape[2]))
        speaks = TWINS * agents + each.argmin(axis=1)
        return np.asarray(each.min(axis=1).T), by_intent(slopes[speaks, fleets], intent, self.rows)

    def _lesser(self, features: FloatArray) -> FloatArray:
        return np.asarray(by_twin(self._forward(features)[2]).min(axis=1).T)

    def _forward(self, features: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Both layers (K, N, H) and the worth (K, N) of what networks see of intents, (1 or K, N, V, D, 4)."""
        given = features.reshape(*features.shape[:2], -1)
        first = np.maximum(given @ self.action + self.of_state, 0.0)
        second = np.maximum(first @ self.mix + self.mix_bias, 0.0)
        return first, second, (second @ self.head + self.head_bias)[..., 0]

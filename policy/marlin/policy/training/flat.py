"""``networks.flat`` in torch, for whoever needs derivatives by the weights; a test holds the two to 1e-5."""

from __future__ import annotations

import torch
from torch import Tensor

from marlin.policy.networks.parameters import AGENTS, TWINS
from marlin.policy.training.networks import (
    IntentTensors,
    RowTensors,
    Weights,
    action_features,
    bounded,
    modulation,
)


def propose(p: Weights, rows: RowTensors, preference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log of the spread, before tanh: each (J, N, V, D, C). See ``networks.flat.propose``."""
    agents, _, hidden = p["actor.flat.bias"].shape
    n, v, d = rows.mask.shape
    shift_1, scale_1, shift_2, scale_2 = modulation(p, rows, preference).reshape(agents, n, 4, hidden).unbind(-2)
    first = torch.relu(_flattened(rows) @ p["actor.flat.weight"] + p["actor.flat.bias"]) * (1.0 + scale_1) + shift_1
    second = torch.relu(first @ p["actor.mix.weight"] + p["actor.mix.bias"]) * (1.0 + scale_2) + shift_2
    out = second @ p["actor.head.weight"] + p["actor.head.bias"]
    mean, log_std = out.reshape(agents, n, v, d, -1).chunk(2, dim=-1)
    return mean, bounded(log_std)


def worth_of_twins(p: Weights, rows: RowTensors, intent: IntentTensors, preference: Tensor) -> Tensor:
    """What both critics of each agent make of intents, (J, 2, M, N); arguments as ``networks.worth_of_twins``."""
    action = action_features(intent, rows)
    own = action.dim() == 6
    many, n = action.shape[-5:-3]
    weight, state = p["critic.flat.weight"], _flattened(rows)
    nets = len(weight)
    of_preference = preference.repeat_interleave(TWINS, dim=0) @ p["critic.flat.of_preference"]  # (JT, N, H)
    of_state = state @ weight[:, : state.shape[1]] + p["critic.flat.bias"] + of_preference
    given = (action.repeat_interleave(TWINS, dim=0) if own else action.expand(nets, *action.shape)).flatten(3)
    of_action = given.reshape(nets, many * n, -1) @ weight[:, state.shape[1] :]
    first = torch.relu(of_action.reshape(nets, many, n, -1) + of_state[:, None]).reshape(nets, many * n, -1)
    second = torch.relu(first @ p["critic.mix.weight"] + p["critic.mix.bias"])
    out = second @ p["critic.head.weight"] + p["critic.head.bias"]
    return out[..., 0].reshape(AGENTS, TWINS, many, n)


def _flattened(rows: RowTensors) -> Tensor:
    """(N, V x D x R), what is written of closed sites left out."""
    return (rows.features * rows.mask[..., None]).flatten(1)

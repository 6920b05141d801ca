"""``policy.networks`` in torch, for whoever needs derivatives by the weights; a test holds the two to 1e-5.

The same names, shapes and formulas, in float32, with parameters as a plain mapping from name to tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from torch import Tensor

from marlin.policy.networks.actor import LOG_STD_HIGH, LOG_STD_LOW
from marlin.policy.networks.critic import MOST_LOAD
from marlin.policy.networks.parameters import AGENTS, TWINS, Parameters
from marlin.policy.networks.rows import RELATIVE, Rows
from marlin.simulator.environments.action import MARGIN_OCTAVES, ActionLayout
from marlin.simulator.environments.filling import LEAST_FILL, LEAST_PLACED, MOST_PLACED, REACH, SHARPNESS

Weights = Mapping[str, Tensor]

_HALVINGS: Final = 30
"""Steps that seek the waterline: to 4e-9, which single precision cannot tell from what ``filling`` finds sooner."""


@dataclass(frozen=True, slots=True)
class RowTensors:
    """``networks.rows.Rows`` as tensors."""

    features: Tensor  # (N, V, D, R)
    mask: Tensor  # (N, V, D)
    weight: Tensor  # (N, V, D)
    load: Tensor  # (N, V, D)
    demand: Tensor  # (N, V)
    utilization: Tensor  # (N, V)
    limit: Tensor  # (N,)

    @classmethod
    def of(cls, rows: Rows) -> RowTensors:
        """The same numbers in float32."""
        return cls(*(torch.as_tensor(getattr(rows, f.name), dtype=torch.float32) for f in fields(cls)))

    def take(self, index: Tensor) -> RowTensors:
        """Some of the N."""
        return RowTensors(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class IntentTensors:
    """``environments.action.Intent`` as tensors (..., V, D)."""

    shares: Tensor
    fill: Tensor
    margin: Tensor


def tensors(parameters: Parameters, *, learns: bool = False) -> dict[str, Tensor]:
    """Parameters as leaves of a graph."""
    return {
        name: torch.tensor(np.asarray(value, dtype=np.float32), requires_grad=learns)
        for name, value in parameters.items()
    }


def arrays(weights: Weights) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Weights as they are stored."""
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


def propose(p: Weights, rows: RowTensors, preference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log of the spread, before tanh: each (J, N, V, D, C). See ``networks.actor.propose``."""
    agents, _, hidden = p["actor.row.weight"].shape
    n, v, d = rows.mask.shape
    film = modulation(p, rows, preference)
    shift_1, scale_1, shift_2, scale_2 = film.reshape(agents, n, 1, 1, 4, hidden).unbind(-2)
    row = torch.baddbmm(p["actor.row.bias"], _for_each(rows.features, agents), p["actor.row.weight"])
    row = torch.relu(row).reshape(agents, n, v, d, hidden) * (1.0 + scale_1) + shift_1
    mixed = _mixed(p, "actor", row, rows) * (1.0 + scale_2) + shift_2
    out = torch.baddbmm(p["actor.head.bias"], mixed.reshape(agents, n * v * d, hidden), p["actor.head.weight"])
    mean, log_std = out.reshape(agents, n, v, d, -1).chunk(2, dim=-1)
    sort = torch.einsum("nvdm,jnm,jm->jnvd", rows.features[..., :RELATIVE], preference, p["actor.sort.scale"])
    mean = mean - torch.nn.functional.pad(sort[..., None], (0, mean.shape[-1] - 1))
    return mean, bounded(log_std)


def modulation(p: Weights, rows: RowTensors, preference: Tensor) -> Tensor:
    """FiLM: scales and shifts (J, N, 4 x H)."""
    fleet = torch.einsum("nvdr,nvd,nv->nr", rows.features, rows.weight, rows.demand)
    given = torch.cat([preference, fleet.expand(len(preference), -1, -1)], dim=-1)
    return torch.tanh(given @ p["actor.film.weight"] + p["actor.film.bias"]) @ p["actor.film.out"]


def bounded(log_std: Tensor) -> Tensor:
    """The log of a spread within its bounds."""
    middle, half = (LOG_STD_HIGH + LOG_STD_LOW) / 2.0, (LOG_STD_HIGH - LOG_STD_LOW) / 2.0
    return middle + half * torch.tanh(log_std)


def action_features(intent: IntentTensors, rows: RowTensors) -> Tensor:
    """What critics see of intents (..., N, V, D) in a row: (..., N, V, D, 4)."""
    shares, fill, margin = (part * rows.mask for part in (intent.shares, intent.fill, intent.margin - 1.0))
    return torch.stack([shares, torch.clamp(shares * rows.load, max=MOST_LOAD), fill, margin], dim=-1)


def worth_of_twins(p: Weights, rows: RowTensors, intent: IntentTensors, preference: Tensor) -> Tensor:
    """What both critics of each agent make of intents, (J, 2, M, N).

    Args:
        p: with the names of ``critic_shapes``.
        rows: N fleets.
        intent: (M, N, V, D) M intents for each fleet, or (J, M, N, V, D) those of each agent for its own critics.
        preference: (J, N, 4) the weights of the metrics that each agent goes by.
    """
    n, v, d = rows.mask.shape
    action = action_features(intent, rows)
    shares = action[..., 0]
    own = action.dim() == 6
    many = action.shape[-5]  # M
    first = rows.features.shape[-1]
    weight = p["critic.row.weight"]
    nets = len(weight)  # JT: agents times twins
    # The state's part is the same for every intent: it is worked out once.
    of_preference = preference.repeat_interleave(TWINS, dim=0) @ p["critic.row.of_preference"]  # (JT, N, H)
    of_state = torch.baddbmm(p["critic.row.bias"], _for_each(rows.features, nets), weight[:, :first])
    of_state = of_state.reshape(nets, 1, n, v, d, -1) + of_preference[:, None, :, None, None]
    of_action = weight[:, first:]  # (JT, 4, H)
    given = action.repeat_interleave(TWINS, dim=0) if own else action.expand(nets, *action.shape)
    hidden = given.reshape(nets, -1, action.shape[-1]) @ of_action  # (JT, M N V D, H)
    row = torch.relu(hidden.reshape(nets, many, n, v, d, -1) + of_state)
    repeated = RowTensors(
        *(getattr(rows, f.name).repeat(many, *[1] * (getattr(rows, f.name).dim() - 1)) for f in fields(rows))
    )
    mixed = _mixed(p, "critic", row.reshape(nets, many * n, v, d, -1), repeated)
    each = shares.repeat_interleave(TWINS, dim=0) if own else shares.expand(nets, *shares.shape)
    by = torch.stack([repeated.weight.expand(nets, -1, -1, -1), each.reshape(nets, many * n, v, d)], dim=2)
    by = (by * repeated.demand[:, None, :, None]).reshape(nets, many * n, 2, v * d)
    means = by @ mixed.reshape(nets, many * n, v * d, -1)  # (JT, M N, 2, H)
    out = means[:, :, 0] @ p["critic.head.of_mean"] + means[:, :, 1] @ p["critic.head.of_share"] + p["critic.head.bias"]
    return out[..., 0].reshape(AGENTS, TWINS, many, n)


def intents(layout: ActionLayout, cells: Tensor, rows: RowTensors) -> IntentTensors:
    """What actions (..., N, V, D, C) between -1 and 1 mean, as ``environments.action.intents``: (..., N, V, D).

    Numbers of channels that ``layout`` does not have mean nothing.
    """
    preference, fill, margin = cells.unbind(-1)
    fill = (1.0 + fill) / 2.0
    room = fill.clamp(min=LEAST_FILL) * rows.weight * rows.limit[:, None, None]
    return IntentTensors(
        _filled_shares(preference, room, rows.utilization),
        fill,
        2.0 ** (MARGIN_OCTAVES * margin) if layout.can_power_down else torch.ones_like(margin),
    )


def _for_each(features: Tensor, networks: int) -> Tensor:
    """Features (N, V, D, R) as the same matrix for every network, (networks, N V D, R)."""
    return features.reshape(1, -1, features.shape[-1]).expand(networks, -1, -1)


def _edge(above: Tensor) -> Tensor:
    return 0.5 + 0.5 * above / torch.sqrt(1.0 + above**2)


def _filled_shares(preference: Tensor, room: Tensor, demand: Tensor) -> Tensor:
    """``filling.filled_shares`` with derivatives: the waterline's are those of a step of Newton's from where it is."""
    total = room.sum(dim=-1)
    placed = torch.minimum(torch.maximum(demand, LEAST_PLACED * total), MOST_PLACED * total)
    with torch.no_grad():
        low = torch.full_like(total, -1.0 - REACH)
        high = -low
        for _ in range(_HALVINGS):
            line = 0.5 * (low + high)
            above = SHARPNESS * (preference - line[..., None])
            is_above = (room * _edge(above)).sum(dim=-1) > placed
            low, high = torch.where(is_above, line, low), torch.where(is_above, high, line)
        above = SHARPNESS * (preference - high[..., None])
        slope = (room * 0.5 * SHARPNESS / (1.0 + above**2) ** 1.5).sum(dim=-1)
    over = (room * _edge(SHARPNESS * (preference - high[..., None]))).sum(dim=-1) - placed
    line = high + (over - over.detach()) / slope.clamp(min=1e-9)
    used = room * _edge(SHARPNESS * (preference - line[..., None]))
    return used / used.sum(dim=-1, keepdim=True).clamp(min=1e-12)


def _mixed(p: Weights, name: str, row: Tensor, rows: RowTensors) -> Tensor:
    """The second layer: what a row knows of itself, of its model's other sites, and of the fleet."""
    nets, n, v, d, hidden = row.shape
    # Plain products of matrices, one for each network: broadcasting over (N, V) instead takes three times as long.
    flat = row.reshape(nets, n * v, d, hidden)
    weight = rows.weight.reshape(1, n * v, 1, d).expand(nets, -1, -1, -1)
    mean = (weight @ flat).reshape(nets, n * v, hidden)
    of_model = torch.tanh(mean @ p[f"{name}.pool.weight"])  # (J, N V, P)
    of_fleet = (of_model.reshape(nets, n, v, -1) * rows.demand[..., None]).sum(dim=2)  # (J, N, P)
    shared = (of_model @ p[f"{name}.mix.of_model"]).reshape(nets, n, v, 1, -1)
    shared = shared + (of_fleet @ p[f"{name}.mix.of_fleet"])[:, :, None, None]
    own = torch.baddbmm(p[f"{name}.mix.bias"], row.reshape(nets, n * v * d, hidden), p[f"{name}.mix.weight"])
    return torch.relu(own.reshape(nets, n, v, d, -1) + shared)

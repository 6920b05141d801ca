"""``policy.networks`` in torch, for whoever needs derivatives by the weights; a test holds the two to 1e-5.

The same names, shapes and formulas, in float32, with parameters as a plain mapping from name to tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from marlin.policy.networks.actor import LOG_STD_HIGH, LOG_STD_LOW
from marlin.policy.networks.critic import MOST_LOAD
from marlin.policy.networks.parameters import AGENTS, TWINS, Parameters
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import MARGIN_OCTAVES, PREFERENCE_SCALE, ActionLayout

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class RowTensors:
    """``networks.rows.Rows`` as tensors."""

    features: Tensor  # (N, V, D, R)
    mask: Tensor  # (N, V, D)
    weight: Tensor  # (N, V, D)
    load: Tensor  # (N, V, D)
    demand: Tensor  # (N, V)

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
    fleet = torch.einsum("nvdr,nvd,nv->nr", rows.features, rows.weight, rows.demand)
    given = torch.cat([preference, fleet.expand(agents, -1, -1)], dim=-1)
    film = torch.tanh(given @ p["actor.film.weight"] + p["actor.film.bias"]) @ p["actor.film.out"]
    shift_1, scale_1, shift_2, scale_2 = film.reshape(agents, n, 1, 1, 4, hidden).unbind(-2)
    row = rows.features.reshape(1, n * v * d, -1) @ p["actor.row.weight"] + p["actor.row.bias"]
    row = torch.relu(row).reshape(agents, n, v, d, hidden) * (1.0 + scale_1) + shift_1
    mixed = _mixed(p, "actor", row, rows) * (1.0 + scale_2) + shift_2
    out = mixed @ p["actor.head.weight"][:, None, None] + p["actor.head.bias"][:, None, None]
    mean, log_std = out.chunk(2, dim=-1)
    middle, half = (LOG_STD_HIGH + LOG_STD_LOW) / 2.0, (LOG_STD_HIGH - LOG_STD_LOW) / 2.0
    return mean, middle + half * torch.tanh(log_std)


def worth_of_twins(p: Weights, rows: RowTensors, intent: IntentTensors, preference: Tensor) -> Tensor:
    """What both critics of each agent make of intents, (J, 2, M, N).

    Args:
        p: with the names of ``critic_shapes``.
        rows: N fleets.
        intent: (M, N, V, D) M intents for each fleet, or (J, M, N, V, D) those of each agent for its own critics.
        preference: (J, N, 4) the weights of the metrics that each agent goes by.
    """
    n, v, d = rows.mask.shape
    every = [part * rows.mask for part in (intent.shares, intent.fill, intent.margin - 1.0)]
    shares = every[0]
    action = torch.stack([shares, torch.clamp(shares * rows.load, max=MOST_LOAD), every[1], every[2]], dim=-1)
    own = action.dim() == 6
    many = action.shape[-5]  # M
    first = rows.features.shape[-1]
    weight = p["critic.row.weight"]
    # The state's part is the same for every intent: it is worked out once.
    of_preference = preference.repeat_interleave(TWINS, dim=0) @ p["critic.row.of_preference"]  # (JT, N, H)
    of_state = rows.features @ weight[:, :first][:, None, None] + of_preference[:, :, None, None]  # (JT, N, V, D, H)
    of_action = weight[:, first:].reshape(AGENTS, TWINS, 1, 1, 1, action.shape[-1], -1)
    given = action[:, None] if own else action[None, None]  # (J or 1, 1, M, N, V, D, 4)
    hidden = given @ of_action + of_state.reshape(AGENTS, TWINS, 1, *of_state.shape[1:])
    row = torch.relu(hidden + p["critic.row.bias"].reshape(AGENTS, TWINS, 1, 1, 1, 1, -1))
    flat = row.reshape(AGENTS * TWINS, many * n, v, d, -1)
    repeated = RowTensors(
        *(getattr(rows, f.name).repeat(many, *[1] * (getattr(rows, f.name).dim() - 1)) for f in fields(rows))
    )
    mixed = _mixed(p, "critic", flat, repeated)
    by_capacity = torch.einsum("jnvdh,nvd,nv->jnh", mixed, repeated.weight, repeated.demand)
    if own:
        each = shares[:, None].expand(AGENTS, TWINS, many, n, v, d).reshape(AGENTS * TWINS, many * n, v, d)
    else:
        each = shares.reshape(1, many * n, v, d).expand(AGENTS * TWINS, -1, -1, -1)
    by_share = torch.einsum("jnvdh,jnvd,nv->jnh", mixed, each, repeated.demand)
    out = by_capacity @ p["critic.head.of_mean"] + by_share @ p["critic.head.of_share"] + p["critic.head.bias"]
    return out[..., 0].reshape(AGENTS, TWINS, many, n)


def intents(layout: ActionLayout, cells: Tensor, rows: RowTensors) -> IntentTensors:
    """What actions (..., N, V, D, C) between -1 and 1 mean, as ``environments.action.intents``: (..., N, V, D)."""
    parts = dict(zip(layout.channels, cells.unbind(-1), strict=True))
    logits = PREFERENCE_SCALE * parts["preference"] + torch.log(torch.clamp(rows.weight, min=1e-12))
    logits = logits.masked_fill(rows.mask == 0, -1e9)
    shares = torch.softmax(logits, dim=-1) * rows.mask
    one = torch.ones_like(shares)
    return IntentTensors(
        shares,
        (1.0 + parts["fill"]) / 2.0 if "fill" in parts else one,
        2.0 ** (MARGIN_OCTAVES * parts["margin"]) if "margin" in parts else one,
    )


def _mixed(p: Weights, name: str, row: Tensor, rows: RowTensors) -> Tensor:
    """The second layer: what a row knows of itself, of its model's other sites, and of the fleet."""
    of_model = torch.tanh(torch.einsum("jnvdh,nvd->jnvh", row, rows.weight) @ p[f"{name}.pool.weight"][:, None])
    of_fleet = torch.einsum("jnvp,nv->jnp", of_model, rows.demand)
    return torch.relu(
        row @ p[f"{name}.mix.weight"][:, None, None]
        + (of_model @ p[f"{name}.mix.of_model"][:, None])[..., None, :]
        + (of_fleet @ p[f"{name}.mix.of_fleet"])[:, :, None, None, :]
        + p[f"{name}.mix.bias"][:, None, None]
    )

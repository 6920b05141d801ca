"""What an intent is worth to each agent, and where that worth grows.

A critic sees an intent (``environments.action``): what four agents propose can be blended there, and phase 2 climbs on
the derivative. Of an intent a row shows its share, the utilisation that the share leads to if the forecast comes true
(which means the same on a fleet of four sites and of sixty), fill and margin. The worth of a fleet is read off two
means of its rows: one by capacity, one by where the requests go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.policy.networks.parameters import AGENTS, TWINS, Parameters
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

MOST_LOAD: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Pass:
    """What the way back needs of the way there; J here is agents times twins."""

    row: FloatArray  # (J, N, V, D, H) after relu
    of_model: FloatArray  # (J, N, V, P) after tanh
    mixed: FloatArray  # (J, N, V, D, H) after relu
    worth: FloatArray  # (J, N)


def worth(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> FloatArray:
    """(N, agents) worth of N intents: the lesser of the twins, as in training.

    Args:
        parameters: with the names and shapes of ``critic_shapes``.
        rows: N fleets.
        intent: parts of shape (N, V, D).
        preference: (agents, N, 4) the weights of the metrics that each agent goes by.
    """
    each = _forward(parameters, rows, intent, preference).worth.reshape(AGENTS, TWINS, -1)
    return np.asarray(each.min(axis=1).T)


def derivatives(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> Intent:
    """Derivatives of each agent's worth at N intents; parts of shape (agents, N, V, D). Arguments as of ``worth``."""
    p = _named(parameters)
    there = _forward(parameters, rows, intent, preference)
    each = there.worth.reshape(AGENTS, TWINS, -1)
    # Only the lesser twin speaks; where both agree the first one does.
    speaks = np.zeros_like(each)
    np.put_along_axis(speaks, each.argmin(axis=1)[:, None], 1.0, axis=1)
    seed = speaks.reshape(AGENTS * TWINS, -1)  # (J, N)
    by_share, demand = intent.shares * rows.mask, rows.demand
    of_mean, of_share = p["head.of_mean"][..., 0], p["head.of_share"][..., 0]  # (J, H)
    seeded = seed[:, :, None] * demand  # (J, N, V)
    spread = np.einsum("nvd,jh,jnv->jnvdh", rows.weight, of_mean, seeded)
    spread += np.einsum("nvd,jh,jnv->jnvdh", by_share, of_share, seeded)
    to_share = np.einsum("jnvdh,jh,jnv->jnvd", there.mixed, of_share, seeded)
    back = spread * (there.mixed > 0)
    to_row = back @ p["mix.weight"].swapaxes(1, 2)[:, None, None]
    to_model = back.sum(axis=3) @ p["mix.of_model"].swapaxes(1, 2)[:, None]  # (J, N, V, P)
    to_fleet = back.sum(axis=(2, 3)) @ p["mix.of_fleet"].swapaxes(1, 2)  # (J, N, P)
    to_model = (to_model + to_fleet[:, :, None] * demand[None, ..., None]) * (1.0 - there.of_model**2)
    to_row += (to_model @ p["pool.weight"].swapaxes(1, 2)[:, None])[..., None, :] * rows.weight[None, ..., None]
    to_features = (to_row * (there.row > 0)) @ p["row.weight"].swapaxes(1, 2)[:, None, None]
    first = rows.features.shape[-1]
    share, load, fill, margin = (to_features[..., first + i] for i in range(4))
    is_inside = intent.shares * rows.load < MOST_LOAD
    parts = (share + load * rows.load * is_inside + to_share, fill, margin)
    shares, fills, margins = ((part * rows.mask).reshape(AGENTS, TWINS, *part.shape[1:]).sum(axis=1) for part in parts)
    return Intent(shares, fills, margins)


def _named(parameters: Parameters) -> dict[str, FloatArray]:
    return {
        name.removeprefix("critic."): np.asarray(value)
        for name, value in parameters.items()
        if name.startswith("critic.")
    }


def _forward(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> _Pass:
    p = _named(parameters)
    n, v, d = rows.shape
    shares = intent.shares * rows.mask
    action = np.stack(
        [
            shares,
            np.minimum(shares * rows.load, MOST_LOAD),
            intent.fill * rows.mask,
            (intent.margin - 1.0) * rows.mask,
        ],
        axis=-1,
    )
    given = np.concatenate([rows.features, action], axis=-1)
    many, hidden = len(p["row.weight"]), p["row.weight"].shape[2]
    of_preference = np.repeat(preference, TWINS, axis=0) @ p["row.of_preference"]  # (J, N, H)
    row = (given.reshape(1, -1, given.shape[-1]) @ p["row.weight"] + p["row.bias"]).reshape(many, n, v, d, hidden)
    row = np.maximum(row + of_preference[:, :, None, None], 0.0)
    of_model = np.tanh(np.einsum("jnvdh,nvd->jnvh", row, rows.weight) @ p["pool.weight"][:, None])
    of_fleet = np.einsum("jnvp,nv->jnp", of_model, rows.demand)
    mixed = np.maximum(
        row @ p["mix.weight"][:, None, None]
        + (of_model @ p["mix.of_model"][:, None])[..., None, :]
        + (of_fleet @ p["mix.of_fleet"])[:, :, None, None, :]
        + p["mix.bias"][:, None, None],
        0.0,
    )
    by_capacity = np.einsum("jnvdh,nvd,nv->jnh", mixed, rows.weight, rows.demand)
    by_share = np.einsum("jnvdh,nvd,nv->jnh", mixed, shares, rows.demand)
    out = by_capacity @ p["head.of_mean"] + by_share @ p["head.of_share"] + p["head.bias"]
    return _Pass(row, of_model, mixed, out[..., 0])

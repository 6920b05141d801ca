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

from marlin.policy.networks.parameters import ACTION_FEATURES, TWINS, Parameters, Weight
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


def of_agent(parameters: Parameters, agent: int) -> dict[str, Weight]:
    """The critics of one agent: what is asked of fewer networks is answered in less time."""
    twins = slice(TWINS * agent, TWINS * (agent + 1))
    return {name: value[twins] for name, value in parameters.items() if name.startswith("critic.")}


def worth(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> FloatArray:
    """(N, agents) worth of N intents: the lesser of the twins, as in training.

    Args:
        parameters: with the names and shapes of ``critic_shapes``, or of ``of_agent``. All that is given in single
            precision is evaluated in it.
        rows: N fleets.
        intent: parts of shape (N, V, D).
        preference: (agents, N, 4) the weights of the metrics that each agent goes by.
    """
    each = _by_twin(_forward(_named(parameters), rows, intent, preference).worth)
    return np.asarray(each.min(axis=1).T)


def derivatives(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> Intent:
    """Derivatives of each agent's worth at N intents; parts of shape (agents, N, V, D). Arguments as of ``worth``."""
    return worth_and_derivatives(parameters, rows, intent, preference)[1]


def worth_and_derivatives(
    parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray
) -> tuple[FloatArray, Intent]:
    """Both, for little more than the latter alone. Arguments as of ``worth``."""
    p = _named(parameters)
    there = _forward(p, rows, intent, preference)
    each = _by_twin(there.worth)  # (agents, TWINS, N)
    # Only the lesser twin speaks; where both agree the first one does.
    speaks = np.zeros_like(each)
    np.put_along_axis(speaks, each.argmin(axis=1)[:, None], 1.0, axis=1)
    seed = speaks.reshape(there.worth.shape)  # (J, N)
    by_share, demand = intent.shares * rows.mask, rows.demand
    of_mean, of_share = p["head.of_mean"][:, None, None, None, :, 0], p["head.of_share"][:, None, None, None, :, 0]
    seeded = (seed[:, :, None] * demand)[..., None, None]  # (J, N, V, 1, 1)
    to_share = (there.mixed * of_share).sum(axis=-1) * seeded[..., 0]  # (J, N, V, D)
    back = seeded * (rows.weight[..., None] * of_mean + by_share[..., None] * of_share) * (there.mixed > 0)
    to_row = _through(back, p["mix.weight"].swapaxes(1, 2))
    over_sites = back.sum(axis=3)  # (J, N, V, H)
    to_model = over_sites @ p["mix.of_model"].swapaxes(1, 2)[:, None]  # (J, N, V, P)
    to_fleet = over_sites.sum(axis=2) @ p["mix.of_fleet"].swapaxes(1, 2)  # (J, N, P)
    to_model = (to_model + to_fleet[:, :, None] * demand[None, ..., None]) * (1.0 - there.of_model**2)
    to_row += (to_model @ p["pool.weight"].swapaxes(1, 2)[:, None])[..., None, :] * rows.weight[None, ..., None]
    first = rows.features.shape[-1]  # what comes after it is the action's: nobody asks for the slope of a feature
    to_action = _through(to_row * (there.row > 0), p["row.weight"][:, first:].swapaxes(1, 2))
    share, load, fill, margin = (to_action[..., i] for i in range(ACTION_FEATURES))
    is_inside = intent.shares * rows.load < MOST_LOAD
    parts = (share + load * rows.load * is_inside + to_share, fill, margin)
    agents = len(seed) // TWINS
    shares, fills, margins = ((part * rows.mask).reshape(agents, TWINS, *part.shape[1:]).sum(axis=1) for part in parts)
    return np.asarray(each.min(axis=1).T), Intent(shares, fills, margins)


def _by_twin(worth: FloatArray) -> FloatArray:
    """(J, N) to (agents, TWINS, N)."""
    return worth.reshape(-1, TWINS, worth.shape[-1])


def _named(parameters: Parameters) -> dict[str, FloatArray]:
    return {
        name.removeprefix("critic."): np.asarray(value)
        for name, value in parameters.items()
        if name.startswith("critic.")
    }


def _through(cells: FloatArray, weight: FloatArray) -> FloatArray:
    """Cells (J, N, V, D, H) through weights (J, H, K): one product per network, not one per model of each fleet."""
    flat = cells.reshape(len(cells), -1, cells.shape[-1])
    return (flat @ weight).reshape(*cells.shape[:-1], -1)


def _forward(p: dict[str, FloatArray], rows: Rows, intent: Intent, preference: FloatArray) -> _Pass:
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
    many = len(p["row.weight"])
    of_preference = np.repeat(preference, TWINS, axis=0) @ p["row.of_preference"]  # (J, N, H)
    row = (given.reshape(1, -1, given.shape[-1]) @ p["row.weight"] + p["row.bias"]).reshape(many, n, v, d, -1)
    row = np.maximum(row + of_preference[:, :, None, None], 0.0)
    over_sites = (rows.weight[..., None, :] @ row)[..., 0, :]  # (J, N, V, H)
    of_model = np.tanh(over_sites @ p["pool.weight"][:, None])
    of_fleet = (rows.demand[:, None] @ of_model)[:, :, 0]  # (J, N, P)
    mixed = _through(row, p["mix.weight"])
    mixed += (of_model @ p["mix.of_model"][:, None])[..., None, :]
    mixed += (of_fleet @ p["mix.of_fleet"] + p["mix.bias"])[:, :, None, None, :]
    np.maximum(mixed, 0.0, out=mixed)
    cells = mixed.reshape(many, n, v * d, -1)
    by_capacity = ((rows.weight * rows.demand[..., None]).reshape(n, 1, v * d) @ cells)[:, :, 0]  # (J, N, H)
    by_share = ((shares * rows.demand[..., None]).reshape(n, 1, v * d) @ cells)[:, :, 0]
    out = by_capacity @ p["head.of_mean"] + by_share @ p["head.of_share"] + p["head.bias"]
    return _Pass(row, of_model, mixed, out[..., 0])

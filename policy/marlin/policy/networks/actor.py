"""What four agents would do: a distribution of actions for each row, in one pass.

A preference is what a sort by the agent's weights would say (``actor.sort``: merit order, with a scale that is learnt)
and a learnt correction of it. An agent that has learnt nothing sorts.

Feature-wise linear modulation (FiLM): a small network turns the preference and the fleet's mean row into a scale and a
shift of every hidden feature, so that one actor covers all preferences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.policy.networks.parameters import Parameters, Weight
from marlin.policy.networks.rows import Rows
from marlin.simulator.physics import FloatArray

LOG_STD_LOW: Final = -5.0
LOG_STD_HIGH: Final = 1.0


@dataclass(frozen=True, slots=True)
class Proposals:
    """Normal distributions, before tanh, of each agent's numbers in each row."""

    mean: FloatArray  # (J, N, V, D, C)
    log_std: FloatArray  # (J, N, V, D, C)

    def best(self) -> FloatArray:
        """The actions without chance, (J, N, V, D, C): what an agent proposes in service."""
        return np.asarray(np.tanh(self.mean))

    def sample(self, rng: np.random.Generator, samples: int, shift: FloatArray | float = 0.0) -> FloatArray:
        """Actions drawn from the distributions, (J, S, N, V, D, C).

        Args:
            rng: draws.
            samples: S.
            shift: what is added to them before tanh, of a shape that fits (S, J, N, V, D, C).
        """
        noise = rng.standard_normal((samples, *self.mean.shape))
        return np.asarray(np.tanh(self.mean + np.exp(self.log_std) * noise + shift).swapaxes(0, 1))


def propose(parameters: Parameters, rows: Rows, preference: FloatArray) -> Proposals:
    """The distributions of all agents.

    Args:
        parameters: with the names and shapes of ``actor_shapes``.
        rows: N fleets.
        preference: (J, N, 4) what each agent is conditioned on: its own objective (the paper), or the user's weights.
    """
    p = {name.removeprefix("actor."): value for name, value in parameters.items() if name.startswith("actor.")}
    n, v, d = rows.shape
    agents, hidden = len(p["row.weight"]), p["row.weight"].shape[2]
    scales = modulation(p, rows, preference).reshape(agents, n, 1, 1, 4, hidden)
    shift_1, scale_1, shift_2, scale_2 = (scales[..., i, :] for i in range(4))
    cells = (agents, n, v, d, hidden)
    row = np.maximum(_rows(rows.features, p["row.weight"]) + p["row.bias"], 0.0).reshape(cells)
    row = row * (1.0 + scale_1) + shift_1
    of_model, of_fleet = pooled(row, rows, p["pool.weight"])
    mixed = (
        row @ p["mix.weight"][:, None, None]
        + (of_model @ p["mix.of_model"][:, None])[..., None, :]
        + (of_fleet @ p["mix.of_fleet"])[:, :, None, None, :]
        + p["mix.bias"][:, None, None]
    )
    mixed = np.maximum(mixed, 0.0) * (1.0 + scale_2) + shift_2
    out = mixed @ p["head.weight"][:, None, None] + p["head.bias"][:, None, None]
    mean, log_std = np.split(out, 2, axis=-1)
    mean[..., 0] -= np.einsum("nvdm,jnm,jm->jnvd", rows.relative, preference, p["sort.scale"])
    return Proposals(mean, bounded(log_std))


def bounded(log_std: FloatArray) -> FloatArray:
    """A smooth bound: the derivative never vanishes wholly, and a spread that is known cannot run away."""
    middle, half = (LOG_STD_HIGH + LOG_STD_LOW) / 2.0, (LOG_STD_HIGH - LOG_STD_LOW) / 2.0
    return np.asarray(middle + half * np.tanh(log_std))


def pooled(row: FloatArray, rows: Rows, weight: Weight) -> tuple[FloatArray, FloatArray]:
    """What pools pass on of hidden rows (J, N, V, D, H).

    Means over open sites by capacity, (J, N, V, P), and means of those over models by work, (J, N, P).
    """
    over_sites = np.einsum("jnvdh,nvd->jnvh", row, rows.weight)
    of_model = np.tanh(over_sites @ weight[:, None])
    return of_model, np.einsum("jnvp,nv->jnp", of_model, rows.demand)


def mean_row(rows: Rows) -> FloatArray:
    """The fleet as one row (N, R): over open sites by capacity, over models by work."""
    return np.asarray(np.einsum("nvdr,nvd,nv->nr", rows.features, rows.weight, rows.demand))


def modulation(p: Parameters, rows: Rows, preference: FloatArray) -> FloatArray:
    """FiLM: scales and shifts (J, N, 4 x H) of the hidden features, from preference and the fleet's mean row."""
    of_fleet = mean_row(rows)
    fleet = np.broadcast_to(of_fleet, (len(preference), *of_fleet.shape))
    given = np.concatenate([preference, fleet], axis=-1)  # (J, N, 4 + R)
    return np.asarray(np.tanh(given @ p["film.weight"] + p["film.bias"]) @ p["film.out"])


def _rows(features: FloatArray, weight: Weight) -> FloatArray:
    """Features (N, V, D, R) through weights (J, R, H): (J, N x V x D, H)."""
    return np.asarray(features.reshape(1, -1, features.shape[-1]) @ weight)

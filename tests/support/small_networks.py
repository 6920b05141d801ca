"""Small networks and random fleets for the tests of ``policy.networks``; tests/support is on the import path."""

from __future__ import annotations

from typing import Any

import numpy as np

from marlin.policy.networks.parameters import NetworkSettings, actor_shapes, critic_shapes
from marlin.policy.networks.rows import Rows, rows_of
from marlin.simulator.environments import observation
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

SMALL = NetworkSettings(actor_hidden=16, critic_hidden=24, pooled=5, film_hidden=7)


def weights(seed: int = 0) -> dict[str, Any]:
    """Parameters of ordinary size everywhere, the last layers too."""
    return weights_of(SMALL, seed)


def weights_of(networks: NetworkSettings, seed: int = 0) -> dict[str, Any]:
    """The same of other networks."""
    rng = np.random.default_rng(seed)
    shapes = actor_shapes(networks) | critic_shapes(networks)
    return {name: (0.5 * rng.normal(size=shape) / shape[1] ** 0.5).astype(np.float32) for name, shape in shapes.items()}


def some_rows(seed: int, lanes: int, models: int, sites: int) -> Rows:
    rng = np.random.default_rng(seed)
    observed = rng.uniform(0.0, 1.5, (lanes, observation.size(models, sites)))
    part = observation.named(observed, models, sites)
    part["available"][:] = rng.random((lanes, models, sites)) < 0.8
    part["rules"][:, 0] = rng.uniform(0.5, 1.0, lanes)
    part["preference"][:] = rng.dirichlet(np.ones(4), lanes)
    return rows_of(observed, models, sites)


def some_intent(seed: int, rows: Rows) -> Intent:
    rng = np.random.default_rng(seed)
    raw = rng.random(rows.shape) * rows.mask
    total = raw.sum(axis=2, keepdims=True)
    shares = np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)
    return Intent(shares, rng.random(rows.shape), rng.uniform(0.5, 2.0, rows.shape))


def own_preference(rows: Rows) -> FloatArray:
    return np.repeat(np.eye(4)[:, None], rows.shape[0], axis=1)

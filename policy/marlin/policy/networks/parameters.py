"""Names and shapes of the weights, and a first draw of them.

All four agents lie in one array, agent first, so that they are evaluated and trained together. Parameters are a
mapping from name to float32 array: what a safetensors file holds, and nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marlin.policy.networks.rows import FEATURES
from marlin.simulator.environments.action import CHANNELS

AGENTS: Final = 4
CHANNEL_COUNT: Final = len(CHANNELS)
"""C, numbers of an action in a row. All three, whether or not a pool can power down: one artifact serves both."""
PREFERENCE: Final = 4
TWINS: Final = 2
ACTION_FEATURES: Final = 4
"""What a critic sees of an intent in a row: share, utilisation it leads to, fill, margin."""

FIRST_SORT: Final = 1.5
"""Preference, before tanh, that a site loses for costing twice the mean."""
FIRST_FILL: Final = 2.2
"""Fill, before tanh: 0.988 of the limit. With 0.953 a sort was 0.7 % dearer (paper-8 at mean56, balanced)."""
FIRST_MARGIN: Final = 0.75
"""Margin, before tanh: replicas for 1.55 times the upper forecast. With those for the forecast itself plans were up to
2 % dearer where replicas power down."""

Weight = NDArray[np.floating[Any]]
"""float32 as stored; evaluated in double precision, because observations are."""
Parameters = Mapping[str, Weight]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Sizes (section 6 of the paper: actors of 128, critics of 256)."""

    actor_hidden: int = 128
    critic_hidden: int = 256
    pooled: int = 32
    """Numbers that a pool passes on."""
    film_hidden: int = 32
    fleet: tuple[int, int] | None = None
    """(V, D) of the one fleet that plain networks know (``flat``); None: networks of any fleet."""


def actor_shapes(settings: NetworkSettings) -> dict[str, tuple[int, ...]]:
    """Shapes of an actor's weights, each with the agents in front."""
    hidden, pooled, film = settings.actor_hidden, settings.pooled, settings.film_hidden
    of_film: dict[str, tuple[int, ...]] = {
        "actor.film.weight": (AGENTS, PREFERENCE + FEATURES, film),
        "actor.film.bias": (AGENTS, 1, film),
        "actor.film.out": (AGENTS, film, 4 * hidden),
    }
    if settings.fleet is not None:
        cells = settings.fleet[0] * settings.fleet[1]
        return of_film | {
            "actor.flat.weight": (AGENTS, cells * FEATURES, hidden),
            "actor.flat.bias": (AGENTS, 1, hidden),
            "actor.mix.weight": (AGENTS, hidden, hidden),
            "actor.mix.bias": (AGENTS, 1, hidden),
            "actor.head.weight": (AGENTS, hidden, cells * 2 * CHANNEL_COUNT),
            "actor.head.bias": (AGENTS, 1, cells * 2 * CHANNEL_COUNT),
        }
    return {
        "actor.row.weight": (AGENTS, FEATURES, hidden),
        "actor.row.bias": (AGENTS, 1, hidden),
        "actor.pool.weight": (AGENTS, hidden, pooled),
        "actor.mix.weight": (AGENTS, hidden, hidden),
        "actor.mix.of_model": (AGENTS, pooled, hidden),
        "actor.mix.of_fleet": (AGENTS, pooled, hidden),
        "actor.mix.bias": (AGENTS, 1, hidden),
        **of_film,  # here, for a first draw goes through them in this order
        "actor.head.weight": (AGENTS, hidden, 2 * CHANNEL_COUNT),
        "actor.head.bias": (AGENTS, 1, 2 * CHANNEL_COUNT),
        "actor.sort.scale": (AGENTS, PREFERENCE),
    }


def critic_shapes(settings: NetworkSettings) -> dict[str, tuple[int, ...]]:
    """Shapes of the twin critics' weights, each with agents times twins in front."""
    many, hidden, pooled = AGENTS * TWINS, settings.critic_hidden, settings.pooled
    if settings.fleet is not None:
        cells = settings.fleet[0] * settings.fleet[1]
        return {
            "critic.flat.weight": (many, cells * (FEATURES + ACTION_FEATURES), hidden),
            "critic.flat.of_preference": (many, PREFERENCE, hidden),
            "critic.flat.bias": (many, 1, hidden),
            "critic.mix.weight": (many, hidden, hidden),
            "critic.mix.bias": (many, 1, hidden),
            "critic.head.weight": (many, hidden, 1),
            "critic.head.bias": (many, 1, 1),
        }
    return {
        "critic.row.weight": (many, FEATURES + ACTION_FEATURES, hidden),
        "critic.row.of_preference": (many, PREFERENCE, hidden),
        "critic.row.bias": (many, 1, hidden),
        "critic.pool.weight": (many, hidden, pooled),
        "critic.mix.weight": (many, hidden, hidden),
        "critic.mix.of_model": (many, pooled, hidden),
        "critic.mix.of_fleet": (many, pooled, hidden),
        "critic.mix.bias": (many, 1, hidden),
        "critic.head.of_mean": (many, hidden, 1),
        "critic.head.of_share": (many, hidden, 1),
        "critic.head.bias": (many, 1, 1),
    }


def is_flat(names: Container[str]) -> bool:
    """Whether weights of these names are of plain networks, which know one fleet."""
    return "actor.flat.weight" in names or "critic.flat.weight" in names


def drawn(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """A first draw: biases at 0, weights normal with the variance that keeps signals' size (He).

    The actors' last layer and FiLM are near 0 and ``actor.sort`` is not: learning begins at merit order, and what is
    learnt are corrections to it.
    """
    first = {
        name: np.zeros(shape, dtype=np.float32)
        if name.endswith("bias")
        else (rng.normal(size=shape) * _scale(name, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    if "actor.sort.scale" in first:
        first["actor.sort.scale"][:] = FIRST_SORT
    if "actor.head.bias" in first:
        # Means and spreads of all channels, cell after cell where there are several.
        for channel, value in (("fill", FIRST_FILL), ("margin", FIRST_MARGIN)):
            first["actor.head.bias"][..., CHANNELS.index(channel) :: 2 * CHANNEL_COUNT] = value
    return first


def _scale(name: str, shape: tuple[int, ...]) -> float:
    small = 0.01 if ".head." in name or name.endswith("film.out") else 1.0
    return small * float(np.sqrt(2.0 / shape[1]))

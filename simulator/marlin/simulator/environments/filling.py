"""Filling sites in the order of preferences, softly: what shares a preference and a fill level stand for.

A sort that fills sites in turn is nearly the best plan where energy counts (docs/explanation/yardsticks.md), and no
softmax over sites can say "the first one to 90 %, then the next". So a preference is held against a waterline: sites
well above it are filled, those below get nothing, those near it something, and the waterline lies where the expected
requests are placed. The edge is algebraic and not exponential: a site far below the line still keeps its place in the
order, and a derivative never dies.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray

SHARPNESS: Final = 30.0
"""Edges per unit of preference: sites whose preferences differ by 0.3 are filled one after the
other. Part of what an artifact means: whoever changes it trains anew."""

LEAST_FILL: Final = 0.02
"""Of the utilisation limit. A site without any room would have no place in the order."""

LEAST_PLACED: Final = 1e-3
MOST_PLACED: Final = 0.999
"""The waterline is sought for at least and at most so much of the room: nothing lies at infinity."""

REACH: Final = 1.0
"""How far beyond the preferences (-1 to 1) the waterline may lie: edges are 0.9999 and 0.0001 there."""

HALVINGS: Final = 8
NEWTON_STEPS: Final = 4
"""Steps of the search. In edges, u, the slope of an edge's slope is at most 1.5 times it (3 |u| / (1 + u^2)), so that a
step of Newton's leaves at most about 0.75 e^2 of an error e. Halving leaves 0.23; the steps 0.04, 1e-3, 1e-6, 1e-12."""


def edge(above: FloatArray) -> FloatArray:
    """Part of a site's room that is used, by how far it is above the waterline: 0 to 1, a half at the line."""
    return np.asarray(0.5 + 0.5 * above / np.sqrt(1.0 + above**2))


def filled_shares(
    preference: FloatArray,  # (..., V, D) between -1 and 1
    room: FloatArray,  # (..., V, D) capacity that may be used, 0 where a site may not serve
    demand: FloatArray,  # (..., V) in the unit of room
) -> FloatArray:
    """Shares (..., V, D); rows add up to one.

    Equal preferences share in proportion to room; so does a demand beyond all room. A row without room is all zeros.
    """
    total = room.sum(axis=-1)
    placed = np.clip(demand, LEAST_PLACED * total, MOST_PLACED * total)
    used = room * edge(SHARPNESS * (preference - _waterline(preference, room, placed)[..., None]))
    whole = used.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(used, whole, out=np.zeros_like(used), where=whole > 0))


def _waterline(preference: FloatArray, room: FloatArray, placed: FloatArray) -> FloatArray:
    """(..., V) the line at which ``placed`` (..., V) of ``room`` (..., V, D) is used: halving, then Newton's method."""
    line, length = np.zeros(placed.shape), 1.0 + REACH
    for _ in range(HALVINGS):
        length /= 2.0
        used = (room * edge(SHARPNESS * (preference - line[..., None]))).sum(axis=-1)
        line = line + np.where(used > placed, length, -length)
    for _ in range(NEWTON_STEPS):
        above = SHARPNESS * (preference - line[..., None])
        inverse = 1.0 / np.sqrt(1.0 + above**2)
        used = (room * (0.5 + 0.5 * above * inverse)).sum(axis=-1)
        falls = (0.5 * SHARPNESS) * (room * (inverse * inverse * inverse)).sum(axis=-1)  # as the line rises
        line = line + (used - placed) / np.maximum(falls, np.finfo(np.float64).tiny)
    return line


def room_of(
    fill: FloatArray,  # (..., V, D) between 0 and 1
    capacity: FloatArray,  # (..., V, D)
    allowed: NDArray[np.bool_],  # (..., V, D)
    limit: FloatArray,  # (...,) utilisation that no site is to exceed
) -> FloatArray:
    """(..., V, D) what of each site may be used."""
    return np.asarray(np.maximum(fill, LEAST_FILL) * capacity * allowed * limit[..., None, None])

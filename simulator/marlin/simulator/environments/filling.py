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

HALVINGS: Final = 30
"""Steps of the search: the line is known to 4e-9."""


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
    low = np.full(total.shape, -1.0 - REACH)
    high = -low
    for _ in range(HALVINGS):
        line = 0.5 * (low + high)
        is_above = (room * edge(SHARPNESS * (preference - line[..., None]))).sum(axis=-1) > placed
        low, high = np.where(is_above, line, low), np.where(is_above, high, line)
    used = room * edge(SHARPNESS * (preference - high[..., None]))
    whole = used.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(used, whole, out=np.zeros_like(used), where=whole > 0))


def room_of(
    fill: FloatArray,  # (..., V, D) between 0 and 1
    capacity: FloatArray,  # (..., V, D)
    allowed: NDArray[np.bool_],  # (..., V, D)
    limit: FloatArray,  # (...,) utilisation that no site is to exceed
) -> FloatArray:
    """(..., V, D) what of each site may be used."""
    return np.asarray(np.maximum(fill, LEAST_FILL) * capacity * allowed * limit[..., None, None])

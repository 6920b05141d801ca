"""Where names go on a map of circles: beside their circle, off the others. Plain geometry, in points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_GAP: Final = 3.0
_DIRECTIONS: Final = (0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200, 70, 110, 250, 290)
"""Degrees from due right, in the order of preference."""
_DISTANCES: Final = (0.0, 12.0, 26.0)
"""Points beyond the circle's edge; farther only where near has no place."""


def place_labels(centres: Sequence[Point], radii: Sequence[float], sizes: Sequence[Point], within: Box) -> list[Point]:
    """The middle of each label.

    The largest circles are labelled first, for they leave the fewest places. Where everything overlaps, least wins.

    Args:
        centres: of the circles.
        radii: of the circles.
        sizes: width and height of the labels.
        within: where labels may be.
    """
    taken: dict[int, Box] = {}
    found: dict[int, Point] = {}
    for i in sorted(range(len(centres)), key=lambda i: -radii[i]):
        others = [
            *taken.values(),
            *(_square(c, r) for k, (c, r) in enumerate(zip(centres, radii, strict=True)) if k != i),
        ]
        options = [
            _beside(centres[i], radii[i] + _GAP + far, sizes[i], direction)
            for far in _DISTANCES
            for direction in _DIRECTIONS
        ]
        costs = [_cost(_box(option, sizes[i]), others, within) for option in options]
        found[i] = options[costs.index(min(costs))]
        taken[i] = _box(found[i], sizes[i])
    return [found[i] for i in range(len(centres))]


def _cost(label: Box, others: Sequence[Box], within: Box) -> float:
    """What a label hides and what of it is cut off, in square points; rounded, so that preference decides a tie."""
    cut_off = _common(label, label) - _common(label, within)
    return round(sum(_common(label, other) for other in others) + 2.0 * cut_off, 3)


def _beside(centre: Point, distance: float, size: Point, direction: float) -> Point:
    """The middle of a label whose nearest edge is ``distance`` away."""
    along = (math.cos(math.radians(direction)), math.sin(math.radians(direction)))
    return (
        centre[0] + along[0] * (distance + size[0] / 2),
        centre[1] + along[1] * (distance + size[1] / 2),
    )


def _box(middle: Point, size: Point) -> Box:
    return (middle[0] - size[0] / 2, middle[1] - size[1] / 2, middle[0] + size[0] / 2, middle[1] + size[1] / 2)


def _square(centre: Point, radius: float) -> Box:
    return (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)


def _common(a: Box, b: Box) -> float:
    """The area two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

"""Leaving rows out: predict them from the others, by the roofline and by interpolation, and compare.

Observations of one GPU type and one engine come in; pairs of relative errors come out. Interpolation is what a user
without a model would do, so a model that does not beat it earns nothing; it is given the coordinate in which it does
best: batches as they are, and GPU counts as 1 / n, because work is split by n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from marlin.simulator.fitting.observations import Observation, Quantity
from marlin.simulator.fitting.roofline import fit_roofline, relative_error


class Left(StrEnum):
    """What is left out together."""

    GPU_COUNT = "GPU count"
    """All rows of one model on one number of GPUs."""
    BATCH = "batch"
    """All rows of one model on one number of GPUs with one batch, whatever their lengths."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One row that was predicted without having been seen."""

    observation: Observation
    left: Left
    is_edge: bool
    """Whether no row of the same kind lies beyond it on one side: an extrapolation."""
    roofline_error: float
    """Predicted over measured, minus 1."""
    interpolation_error: float | None
    """The same; None where fewer than two rows are left to interpolate between."""


def leave_one_out(observations: Sequence[Observation], left: Left) -> tuple[HeldOut, ...]:
    """Predicts each group of rows from all the others.

    With ``Left.BATCH`` only rows with a batch to leave out are judged: a prefill of one prompt has none.

    Args:
        observations: of one GPU type and one engine.
        left: what is left out together.

    Raises:
        InputError: too few rows for a fit.
    """
    groups: dict[tuple[Any, ...], list[Observation]] = defaultdict(list)
    for o in observations:
        if left is Left.GPU_COUNT:
            groups[(o.setup.model, o.setup.gpus)].append(o)
        elif o.quantity is not Quantity.PREFILL:
            groups[(o.setup.model, o.setup.gpus, o.setup.batch)].append(o)
    judged = []
    for group in groups.values():
        seen = [o for o in observations if o not in group]
        model = fit_roofline(seen)
        for o in group:
            points = _alike(o, seen, left)
            at = _coordinate(left)(o)
            judged.append(
                HeldOut(
                    observation=o,
                    left=left,
                    is_edge=not (any(x < at for x, _ in points) and any(x > at for x, _ in points)),
                    roofline_error=relative_error(model, o),
                    interpolation_error=None if len(points) < 2 else _on_the_line(points, at) / o.seconds - 1.0,
                )
            )
    return tuple(judged)


def _coordinate(left: Left) -> Callable[[Observation], float]:
    return (lambda o: 1.0 / o.setup.gpus) if left is Left.GPU_COUNT else (lambda o: o.setup.batch)


def _alike(o: Observation, seen: Sequence[Observation], left: Left) -> list[tuple[float, float]]:
    """(coordinate, s) of the rows that differ from ``o`` in nothing but what was left out, ascending."""
    coordinate = _coordinate(left)

    def rest(other: Observation) -> tuple[Any, ...]:
        s = other.setup
        blank = replace(s, gpus=0) if left is Left.GPU_COUNT else replace(s, batch=0.0)
        return blank, other.quantity

    return sorted((coordinate(p), p.seconds) for p in seen if rest(p) == rest(o))


def _on_the_line(points: Sequence[tuple[float, float]], at: float) -> float:
    """Linear between the two points around ``at``; beyond the last, along the line through the nearest two."""
    right = next((i for i, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    right = max(right, 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)

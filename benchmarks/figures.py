"""What a benchmark group is: a set of promised figures and a function that measures them.

``run`` prints one line per figure, ``NAME VALUE UNIT``. Names are stable: dashboards and the docs refer to them. A
group that does not deliver all it promised has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A promised figure."""

    name: str
    unit: str
    meaning: str
    needs_index: bool = False
    """Compares with software from the package index: where that does not install, the figure is left out."""


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[], Mapping[str, float]]
    """Name to value; runs for at most twelve minutes."""


def missing(group: Group, values: Mapping[str, float]) -> list[str]:
    """Figures the group promised and did not deliver."""
    return [f.name for f in group.figures if f.name not in values and not f.needs_index]

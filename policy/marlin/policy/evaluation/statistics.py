"""What many scores say together: shares of what could be saved, with intervals that pair what met the same requests.

Draws are what chance is: the same frameworks on the same day with other requests. So draws are resampled, all
frameworks together; days are what they are. Trained policies, where several are given, are resampled beside them and
not as pairs of a policy and a draw: a surge hits every policy alike, so that more policies do not make more surges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.policy.evaluation.frameworks import BASELINE, CLAIRVOYANT, SIMPLE
from marlin.policy.evaluation.scoring import Score
from marlin.simulator.physics import FloatArray

RESAMPLES: Final = 2000
_ENDS: Final = (0.025, 0.975)
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it lies 95 times of 100; without ends where there is one draw only."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Line:
    """A framework under a scheme, over all days and draws."""

    cell: str
    """Load, power-down and dispatch."""
    scheme: str
    framework: str
    value: Interval
    """Weighted objective; capacity-proportional is 1 where nobody is late."""
    against_simple: Interval
    """Relative to the best simple policy: -0.01 is a percent better."""
    captured: Interval
    """Share of what the clairvoyant oracle saves over capacity-proportional."""
    recovered: Interval
    """Share of what the best simple policy leaves."""
    served_share: float
    late_share: float
    held_share: float
    units: int


def lines(scores: Sequence[Score], *, seed: int = 0) -> list[Line]:
    """One line for each cell, scheme and framework, in the order in which they were scored."""
    found = []
    for cell, scheme in dict.fromkeys((s.cell, s.scheme) for s in scores):
        of_scheme = [s for s in scores if (s.cell, s.scheme) == (cell, scheme)]
        found += _of_scheme(cell, scheme, of_scheme, seed)
    return found


@dataclass(frozen=True, slots=True)
class Means:
    """Every framework of one cell and scheme, its mean first and then its means over draws that were drawn anew."""

    values: Mapping[str, FloatArray]  # (1 + K,) each
    late: Mapping[str, FloatArray]  # (1 + K,) shares
    draws: int
    """Times policies."""


def means_of(scores: Sequence[Score], *, seed: int = 0) -> Means:
    """The means of one cell and scheme; all frameworks over the same draws."""
    names = list(dict.fromkeys(s.framework for s in scores))
    artifacts = sorted({s.artifact for s in scores if s.artifact}) or [""]
    seeds = sorted({s.seed for s in scores})
    rng = np.random.default_rng(seed)
    of_draws = rng.integers(len(seeds), size=(RESAMPLES, 1, len(seeds)))
    of_policies = rng.integers(len(artifacts), size=(RESAMPLES, len(artifacts), 1))

    def drawn_anew(what: str) -> dict[str, FloatArray]:
        grids = {name: _by_draw([s for s in scores if s.framework == name], artifacts, seeds, what) for name in names}
        return {
            name: np.concatenate([[grid.mean()], grid[of_policies, of_draws].mean(axis=(1, 2))])
            for name, grid in grids.items()
        }

    return Means(drawn_anew("value"), drawn_anew("late_share"), len(artifacts) * len(seeds))


def _of_scheme(cell: str, scheme: str, scores: list[Score], seed: int) -> list[Line]:
    all_means = means_of(scores, seed=seed)
    means, draws = all_means.values, all_means.draws
    base, simple, bound = means[BASELINE], means[SIMPLE], means[CLAIRVOYANT]
    found = []
    for name in means:
        mine = [s for s in scores if s.framework == name]
        found.append(
            Line(
                cell=cell,
                scheme=scheme,
                framework=name,
                value=figure_of(means[name], draws),
                against_simple=figure_of(means[name] / simple - 1.0, draws),
                captured=figure_of(_share(base - means[name], base - bound), draws),
                recovered=figure_of(_share(simple - means[name], simple - bound), draws),
                served_share=float(np.mean([s.served_share for s in mine])),
                late_share=float(np.mean([s.late_share for s in mine])),
                held_share=float(np.mean([s.held_share for s in mine])),
                units=len(mine),
            )
        )
    return found


def _by_draw(scores: list[Score], artifacts: list[str], seeds: list[int], what: str) -> FloatArray:
    """(A, S) mean over the days of each draw by each policy; those without a policy beside every one of them."""
    return np.array(
        [
            [np.mean([getattr(s, what) for s in scores if s.seed == seed and s.artifact in {"", a}]) for seed in seeds]
            for a in artifacts
        ]
    )


def figure_of(figures: FloatArray, draws: int) -> Interval:
    """Of a figure (1 + K,): as it is, and of draws drawn anew."""
    if draws < 2:
        return Interval(float(figures[0]), None, None)
    low, high = np.quantile(figures[1:], _ENDS)
    return Interval(float(figures[0]), float(low), float(high))


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Part of a whole; nothing of nothing is nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=np.abs(whole) > _TINY)

"""Divides a total among sites so that the sum of their costs is least, whatever shape the costs have.

Energy is concave in load, waiting is convex, waking replicas is a staircase: no slope leads to the optimum of their
sum. But the costs of sites only meet in the total, so that dynamic programming finds the best division on a grid, over
all divisions there are; exchanges between pairs of sites then refine it beyond the grid. ``lower_bound`` says how far
from the true optimum the result can be at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray

Costs = Callable[[FloatArray], FloatArray]
"""From amounts (D, N) to costs (D, N): N amounts of each of the D sites."""

UNITS: Final = 240
"""Grid of the coarse search: parts that the total is divided into."""

BOUND_UNITS: Final = 960
"""Grid of the lower bound: its distance from the optimum falls in proportion."""

_PER_CELL: Final = 4
"""Points at which a cost is looked at within one cell of the grid, for the lower bound."""

_WORTH_IT: Final = 1e-6
"""Part of the cost that an exchange must save."""

_MOST_EXCHANGES: Final = 200
_STEPS: Final = 12
"""Sizes of exchange that are tried, each half of the one before."""


@dataclass(frozen=True, slots=True)
class Division:
    """A total, divided."""

    amounts: FloatArray  # (D,)
    cost: float


def divide(costs: Costs, total: float, limits: FloatArray, units: int = UNITS) -> Division:
    """The cheapest division of ``total`` among sites that take at most ``limits`` (D,).

    What exceeds all limits together is left out: every site is then full.

    Args:
        costs: of each site; called with amounts between 0 and its limit.
        total: not negative.
        limits: not negative.
        units: grid of the coarse search.
    """
    if total >= limits.sum():
        return _division(costs, limits.copy())
    if total <= 0.0:
        return _division(costs, np.zeros_like(limits))
    unit = total / units
    # A site may be rounded up beyond its limit by less than a unit; what that leaves over is placed by _repaired.
    most = np.minimum(np.ceil(limits / unit - 1e-9), units).astype(np.int64)
    # No site is asked about more than the largest can take: of eight sites mostly a fifth of the total.
    grid = np.arange(int(most.max()) + 1) * unit
    values = costs(np.minimum(grid, limits[:, None]))
    counts = _best_counts([row[: many + 1] for row, many in zip(values, most, strict=True)], units)
    coarse = counts.astype(np.float64) * unit
    return _refined(costs, _repaired(coarse, total, limits), limits, unit)


def lower_bound(costs: Costs, total: float, limits: FloatArray, units: int = BOUND_UNITS) -> float:
    """A cost below which no division of ``total`` can be, up to how finely a cell is looked at.

    Every division puts each site in a cell of the grid, and the cells' numbers add up to the total's within half a cell
    per site. So the least sum of the cells' least costs bounds all divisions; after a slope common to all sites is
    taken off (the total's share of it is known), what half a cell is worth is almost nothing.
    """
    if total >= limits.sum() or total <= 0.0:
        return divide(costs, total, limits).cost
    unit = total / units
    # Cell k holds the amounts around k units, and none outside of 0 and the limit.
    offsets = np.linspace(-0.5, 0.5, _PER_CELL + 1)
    points = (np.arange(units + 1)[:, None] + offsets).reshape(-1) * unit  # (P,)
    inside = np.clip(points, 0.0, limits[:, None])
    values = costs(inside)  # (D, P)
    first, last = points[:: len(offsets)], points[len(offsets) - 1 :: len(offsets)]
    there = (first[None, :] <= limits[:, None]) & (last[None, :] >= 0.0)
    slope = _common_slope(values, inside, total)
    cells = (values - slope * inside).reshape(len(limits), units + 1, -1).min(axis=2)
    cells = np.where(there, cells, np.inf)
    slack = (len(limits) + 1) // 2
    best = np.full(1, 0.0)
    for row in cells:
        best = _convolved(best, row, units + slack)[0]
    return float(best[max(0, units - slack) : units + slack + 1].min() + slope * total)


def _division(costs: Costs, amounts: FloatArray) -> Division:
    return Division(amounts, float(costs(amounts[:, None])[:, 0].sum()))


def _convolved(before: FloatArray, row: FloatArray, most: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Least sums over all ways to make k from a number of ``before`` and one of ``row``, and which of ``row``."""
    size = min(len(before) + len(row) - 1, most + 1)
    padded = np.concatenate([np.full(len(row) - 1, np.inf), before, np.full(max(0, size - len(before)), np.inf)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(row))[:size, ::-1]  # (K, N): before[k - n]
    sums = windows + row
    chosen = sums.argmin(axis=1)
    return sums[np.arange(size), chosen], chosen


def _best_counts(values: Sequence[FloatArray], units: int) -> NDArray[np.int64]:
    """How many units each site gets, (D,), so that they add up to ``units`` and the sum of ``values`` is least.

    Args:
        values: of no unit, one, and so on to the most a site can take; of each of the D sites.
        units: no more than all of them take together.
    """
    best, choices = np.zeros(1), []
    for row in values:
        best, chosen = _convolved(best, row, units)
        choices.append(chosen)
    counts = np.zeros(len(values), dtype=np.int64)
    left = units
    for d in range(len(values) - 1, -1, -1):
        counts[d] = choices[d][left]
        left -= int(counts[d])
    return counts


def _repaired(amounts: FloatArray, total: float, limits: FloatArray) -> FloatArray:
    """Within the limits, and adding up to the total: what was cut off goes where there is room."""
    amounts = np.minimum(amounts, limits)
    room = limits - amounts
    missing = total - amounts.sum()
    moved = amounts + room * (missing / room.sum() if room.sum() > 0 else 0.0)
    return np.asarray(np.clip(moved, 0.0, limits))


def _refined(costs: Costs, amounts: FloatArray, limits: FloatArray, unit: float) -> Division:
    """Moves amounts from one site to another as long as that is worth it."""
    value = costs(amounts[:, None])[:, 0]  # (D,)
    for _ in range(_MOST_EXCHANGES):
        # Halves of halves, and what empties one site or fills another: optima are often at such ends.
        sizes = np.concatenate([unit * 0.5 ** np.arange(-2, _STEPS - 2), amounts, limits - amounts])  # (T,)
        down, up = amounts[:, None] - sizes, amounts[:, None] + sizes
        slack = 1e-12 * limits[:, None]
        # Of both ends of all exchanges in one call, which takes little longer than of one of them.
        ends = np.concatenate([np.maximum(down, 0.0), np.minimum(up, limits[:, None])], axis=1)  # (D, 2 T)
        after = costs(ends)
        without, with_more = np.hsplit(after, 2)  # (D, T)
        less = np.where((down >= -slack) & (sizes > 0), without - value[:, None], np.inf)
        more = np.where((up <= limits[:, None] + slack) & (sizes > 0), with_more - value[:, None], np.inf)
        gains = less[:, None, :] + more[None, :, :]  # (D, D, T) from, to, size
        gains[np.arange(len(amounts)), np.arange(len(amounts))] = np.inf
        giver, taker, size = (int(i) for i in np.unravel_index(int(gains.argmin()), gains.shape))
        if not gains[giver, taker, size] < -_WORTH_IT * abs(float(value.sum())):
            break
        amounts, value = amounts.copy(), value.copy()
        for site, end in ((giver, size), (taker, len(sizes) + size)):
            amounts[site], value[site] = ends[site, end], after[site, end]
    return Division(amounts, float(value.sum()))


def _common_slope(values: FloatArray, amounts: FloatArray, total: float) -> float:
    """The slope whose Lagrangian bound, slope x total + sum of min(cost - slope x amount), is highest."""
    spread = float(np.abs(values).max()) / max(total, 1e-12)
    low, high = -spread * len(values), spread * len(values)
    for _ in range(60):
        slope = (low + high) / 2.0
        where = (values - slope * amounts).argmin(axis=1)
        taken = float(np.take_along_axis(amounts, where[:, None], axis=1).sum())
        low, high = (slope, high) if taken < total else (low, slope)
    return (low + high) / 2.0

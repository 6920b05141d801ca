"""Each origin's row where rules say which sites may serve it: the best that a search in the twin finds.

Planners decide how much every site gets of all origins together. Where an origin may use some sites only, that decision
may not be had, and who makes room for whom is a question of its own. Here rows are given, each on the sites that its
origin may use. One after another, the largest origin first, they are moved towards single sites and away from them, and
the best move is made, as long as the user's weighted metrics fall. All moves of a row are one call of the twin.

The search is bounded by what it tries and not by time, so that the same fleet has the same rows. It ends in a plan that
no single move improves, which need not be the best of all: where the load of a site makes time rise steeply, two
origins may have to move at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from marlin.policy.deciding import AWAKE_UTILIZATION
from marlin.policy.objective import relative_score
from marlin.simulator.fluid import Plans, awake_for, simulate_epochs
from marlin.simulator.fluid.coefficients import conditions

if TYPE_CHECKING:
    from marlin.policy.objective import Weights
    from marlin.simulator.physics import FloatArray
    from marlin.simulator.twin_state import TwinState

_STEPS: Final = (0.03, 0.1, 0.3, 1.0)
"""How far a row is moved, of the way to one site."""

_LEAST_GAIN: Final = 1e-5
"""Of the objective, below which nothing is moved."""

MOST_CELLS: Final = 2_000_000
"""Trials times models times sites: about a second. 64 models at 64 sites get some moves, ten at ten all they need."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where rows are tried."""

    twin: TwinState
    upper_requests: FloatArray  # (V,) that replicas are kept awake for, where they can power down
    weights: Weights
    reference: FloatArray  # (4,) metrics of what the objective is measured against

    def totals(self, rows: FloatArray) -> FloatArray:
        """(..., V, D) part of each model's requests that each site gets, of rows (..., V, R, D)."""
        share = self.twin.origin_share  # (V, R)
        return np.asarray((share[:, :, None] * rows).sum(axis=-2))

    def awake(self, totals: FloatArray) -> FloatArray | None:
        """(..., V, D) replicas to keep awake for ``totals``; None where no pool can power down."""
        if not self.twin.can_sleep.any():
            return None
        return awake_for(self.twin, totals * self.upper_requests[:, None] / self.twin.epoch_s, AWAKE_UTILIZATION)

    def metrics(self, rows: FloatArray) -> FloatArray:
        """(B, 4) what rows (B, V, R, D) come to when the forecast comes true."""
        twin = self.twin
        flow = twin.origin_share[:, :, None] * rows  # (B, V, R, D)
        totals = flow.sum(axis=2)
        rtt_s = np.divide((flow * twin.rtt_s).sum(axis=2), totals, out=np.zeros_like(totals), where=totals > 0)
        rtt_s = np.where(totals > 0, rtt_s, twin.mean_rtt_s)
        plans = Plans(shares=totals, awake=self.awake(totals), rtt_s=rtt_s)
        return simulate_epochs(twin, conditions(twin), plans).metrics

    def values(self, rows: FloatArray) -> FloatArray:
        """(B,) the user's objective; less is better."""
        return relative_score(self.metrics(rows), self.reference, self.weights)


def improved(
    fleet: Fleet,
    start: FloatArray,  # (V, R, D) on the simplex
    masks: NDArray[np.bool_],  # (V, R, D) sites that each row may use
    moves: NDArray[np.bool_],  # (V,) models whose rows may be changed
    most_cells: int = MOST_CELLS,
) -> FloatArray:
    """Rows (V, R, D) on the simplex, within the masks, whose objective is no larger than that of ``start``."""
    rows = start.copy()
    best = float(fleet.values(rows[None])[0])
    cells = rows.shape[0] * rows.shape[2]
    volume = fleet.twin.origin_share * moves[:, None]  # (V, R)
    turns = [(int(i) // rows.shape[1], int(i) % rows.shape[1]) for i in np.argsort(-volume, axis=None, kind="stable")]
    turns = [(v, r) for v, r in turns if volume[v, r] > 0 and masks[v, r].sum() > 1]
    left, unmoved = most_cells, 0
    while unmoved < len(turns):
        v, r = turns.pop(0)
        turns.append((v, r))
        tried = np.array(list(_moves(rows[v, r], masks[v, r])))  # (B, D)
        left -= len(tried) * cells
        if left < 0:
            break
        batch = np.repeat(rows[None], len(tried), axis=0)
        batch[:, v, r] = tried
        values = fleet.values(batch)
        first = int(values.argmin())
        if values[first] < best - _LEAST_GAIN:
            rows[v, r], best, unmoved = tried[first], float(values[first]), 0
        else:
            unmoved += 1
    return rows


def _moves(row: FloatArray, mask: NDArray[np.bool_]) -> Iterator[FloatArray]:
    """Rows (D,) some way towards each site that may be used, and away from each that is."""
    for site in np.flatnonzero(mask):
        towards = np.zeros_like(row)
        towards[site] = 1.0
        without = np.where(np.arange(len(row)) == site, 0.0, row)
        others = without.sum()
        for step in _STEPS:
            yield (1.0 - step) * row + step * towards
            if row[site] > 0 and others > 0:
                yield (1.0 - step) * row + step * without / others

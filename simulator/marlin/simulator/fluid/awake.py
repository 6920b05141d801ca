"""Which replicas are awake, the thriftiest first, and what they draw and how fast they answer at a load; with NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marlin.simulator.fluid.coefficients import ASLEEP_W, CELLS, CURVES, RPS, TINY, WAKE_J, Coefficients
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Awake:
    """Which replicas are awake, of each model at each site under each plan."""

    replicas: FloatArray  # (V, D, S, N), of which S is mostly 1, and N where it is the same under all plans
    row: NDArray[np.int64]  # the same shape; (v x D + d) x M + m, where m deployments are wholly awake
    part: FloatArray  # the same shape; replicas awake of deployment m

    @classmethod
    def of(cls, c: Coefficients, replicas: FloatArray) -> Awake:
        """Those of (V, D, S, N) replicas, the thriftiest first."""
        models, sites, steps = c.before.shape
        row = np.arange(0, models * sites * steps, steps).reshape(models, sites, 1, 1)
        for m in range(1, steps):
            row = row + (replicas >= c.before[:, :, m, None, None])
        return cls(replicas, row, replicas - c.before.reshape(-1)[row])

    def totals(self, c: Coefficients) -> FloatArray:
        """All of the other tables, summed over the awake replicas: (4, V, D, S, N)."""
        return np.asarray(rows_of(c.summed, self.row) + self.part * rows_of(c.each, self.row))

    def total(self, c: Coefficients, what: int) -> FloatArray:
        """One of the other tables, summed over the awake replicas: (V, D, S, N)."""
        summed, each = c.summed[..., what].reshape(-1), c.each[..., what].reshape(-1)
        return np.asarray(summed[self.row] + self.part * each[self.row])

    def curves(self, c: Coefficients, load: FloatArray) -> FloatArray:
        """The curves at ``load`` (V, D, S, N), summed over the awake replicas: (3, V, D, S, N)."""
        segment, along = position(c, load)
        cell = self.row * len(c.knots) + segment
        low, high = rows_of(c.curve_summed, cell), rows_of(c.curve_summed, cell + 1)
        if self.part.any():
            low += self.part * rows_of(c.curve_each, cell)
            high += self.part * rows_of(c.curve_each, cell + 1)
        return np.asarray(low + along * (high - low))


def rows_of(table: FloatArray, place: _Index) -> FloatArray:
    """Rows of a table (..., W) at flat places (V, D, S, N): (W, V, D, S, N)."""
    flat = np.ascontiguousarray(table.reshape(-1, table.shape[-1]).T)
    return flat.take(place, axis=1, mode="clip")


def at_load(
    c: Coefficients, awake: Awake, awake_rps: FloatArray, rps: FloatArray, load: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Power (W), mean time to first token (s) and share of late requests of the awake replicas, each (V, D, S, N)."""
    if c.pack_utilization > 0:
        return packed(c, awake, rps, load)
    power_w, first, late_sum = awake.curves(c, load)
    per_rps = np.maximum(awake_rps, TINY)
    return power_w, first / per_rps, late_sum / per_rps


def packed(
    c: Coefficients, kept: Awake, rps: FloatArray, load: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Power (W), mean time to first token (s) and share of late requests, each (V, D, S, N), under ``pack``.

    Replicas are filled one after the other: some full, one in part, the others idle.
    """
    full = np.minimum(np.maximum(load, c.pack_utilization), 1.0)  # (V, D, S, N)
    full_at, part_left = position(c, full), rps
    sums = [np.zeros_like(load) for _ in range(CURVES)]
    for i in range(c.count.shape[2]):
        awake = np.clip(kept.replicas - c.before[:, :, i, None, None], 0.0, c.count[:, :, i, None, None])
        one = c.each[:, :, i, RPS, None, None] * full  # requests per second of a full replica
        filled = np.minimum(part_left / np.maximum(one, TINY), awake)
        part_left = np.maximum(part_left - filled * one, 0.0)
        whole = np.floor(filled + 1e-9)
        part = np.maximum(filled - whole, 0.0)
        started = (part > 0).astype(np.float64)
        part_at = position(c, part * full)
        curves = c.curve_each[:, :, i]  # (V, D, K, 3)
        sums[0] += whole * _at(curves, full_at, 0) + started * _at(curves, part_at, 0)
        sums[0] += np.maximum(awake - whole - started, 0.0) * curves[:, :, 0, 0, None, None]
        for curve in (1, 2):  # per capacity: weighted by what each replica carries
            sums[curve] += (whole * _at(curves, full_at, curve) + part * _at(curves, part_at, curve)) * full
    carried, capacity = np.maximum(rps, TINY), np.maximum(c.capacity, TINY)
    idle = c.curve_summed[:, :, -1, 0] / capacity[:, :, None]  # (V, D, 3)
    first_s, late = (np.where(rps > 0, sums[i] / carried, idle[:, :, i, None, None]) for i in (1, 2))
    return sums[0], first_s, late


def _at(curves: FloatArray, position: tuple[_Index, FloatArray], what: int) -> FloatArray:
    """A curve of one deployment of each model per site (V, D, K, 3) at a position: (V, D, S, N)."""
    segment, along = position
    models, sites = np.arange(len(curves))[:, None, None, None], np.arange(curves.shape[1])[:, None, None]
    low = curves[models, sites, segment, what]
    return np.asarray(low + along * (curves[models, sites, segment + 1, what] - low))


def position(c: Coefficients, load: FloatArray) -> tuple[_Index, FloatArray]:
    """The segment of the knots that each load (..., in 0 to 1) lies in, and how far along it."""
    segment = c.segment[(load * CELLS).astype(np.int64)]
    return segment, (load - c.knots[segment]) * c.inverse_width[segment]


def sleepers_j(c: Coefficients, kept: FloatArray, was: Awake) -> FloatArray:
    """Energy of the replicas that sleep, and of those that wake for the plan; (V, D, S, N) J.

    Args:
        c: the fleet.
        kept: (4, V, D, S, N) the totals of those awake for the plan.
        was: awake before.
    """
    asleep_j = (c.summed[:, :, -1, ASLEEP_W, None, None] - kept[ASLEEP_W]) * c.epoch_s
    return np.asarray(asleep_j + np.maximum(kept[WAKE_J] - was.total(c, WAKE_J), 0.0))

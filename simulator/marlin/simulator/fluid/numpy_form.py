"""The fluid engine's formulas with NumPy alone: for the operator, the demo and ``marlin plan``.

The plans' axis comes last and plans are taken in pieces that fit the processor's cache; that is worth a factor of
three. All models are taken at once, and what is the same under all plans is worked out once: for the few hundred rows
of one decision NumPy's calls cost more than its sums. No matrix products, because their rounding depends on how many
plans there are: here a plan alone gives bit for bit what it gives in a batch. ``numba_form`` holds the same formulas
compiled; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.simulator.fluid.coefficients import (
    ASLEEP_W,
    BUSY_W,
    CELLS,
    CURVES,
    NEVER_S,
    RPS,
    TINY,
    WAKE_J,
    Coefficients,
    Conditions,
)
from marlin.simulator.fluid.outcome import Buffers, Plans
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    _Number = TypeVar("_Number", np.float64, np.int64)
    _Index = NDArray[np.int64]

PIECE: Final = 512
"""Plans times models taken at once."""


def evaluate(c: Coefficients, now: Conditions, plans: Plans, out: Buffers) -> None:
    """Carries B plans out and writes what they do into ``out``.

    Args:
        c: the fleet.
        now: the epoch, or one per plan.
        plans: what to do.
        out: written.
    """
    size = max(PIECE // len(c.count), 1)
    for start in range(0, len(plans), size):
        piece = slice(start, start + size)
        _evaluate_piece(c, now if len(now) == 1 else now.take(piece), plans.take(piece), out.view(piece))


def _evaluate_piece(c: Coefficients, now: Conditions, plans: Plans, out: Buffers) -> None:
    """All models at once: arrays are (V, D, B), and (V, D, 1) where all plans have the same."""
    kept = _Awake.of(c, _wanted(c, plans))
    awake_rps = kept.total(c, RPS)
    allowed = _plans_last(now.allowed)  # (V, D, N)
    limit = allowed * awake_rps * c.max_utilization
    asleep_rps = np.maximum(c.capacity[:, :, None] - awake_rps, 0.0)
    spare = allowed * asleep_rps * (c.max_utilization if c.wakes else 0.0)
    spare_total = _over_sites(spare)  # (V, B)
    served_rps, queued, rejected, waited_s = _queue(c, now, _over_sites(limit), spare_total)
    base_rps = _dispatch(plans, allowed, awake_rps, limit, served_rps)
    left = np.maximum(served_rps - _over_sites(base_rps), 0.0)
    woken_rps = spare * (left / np.maximum(spare_total, TINY))[:, None] if spare.any() else spare
    per_rps = np.maximum(awake_rps, TINY)
    load = np.minimum(base_rps / per_rps, 1.0)
    if c.pack_utilization > 0:
        power_w, first_s, late_share = _packed(c, kept, base_rps, load)
    else:
        power_w, first, late_sum = kept.curves(c, load)
        first_s, late_share = first / per_rps, late_sum / per_rps
    it_j, awake_after = power_w * c.epoch_s, kept.replicas
    if c.sleeps.any():
        part = _part_woken(c, asleep_rps, woken_rps)
        was = _Awake.of(c, _plans_last(now.awake_before))
        it_j += c.sleeps[:, None, None] * _sleepers_j(c, kept, was, part)
        awake_after = awake_after + part * np.maximum(c.all_replicas[:, :, None] - awake_after, 0.0)
    site_requests = (base_rps + woken_rps) * c.epoch_s
    ttft_s = first_s + _plans_last(now.rtt_s if plans.rtt_s is None else plans.rtt_s)
    for written, values in ((out.served, site_requests), (out.utilization, load), (out.ttft_s, ttft_s)):
        written[:] = values.transpose(2, 0, 1)
    out.awake[:] = awake_after.transpose(2, 0, 1)
    out.queued[:], out.rejected[:], out.waited_s[:] = queued.T, rejected.T, waited_s.T
    seconds = _over_models(_over_sites(site_requests * ttft_s) + waited_s + c.patience_s * rejected)
    late = _over_models(_over_sites(site_requests * late_share) + rejected)
    counted = _over_models(_over_sites(site_requests) + rejected)
    site_j = _over_models(it_j) + (c.base_w * c.epoch_s)[:, None]  # (D, B)
    np.multiply(site_j.T[:, :, None], now.per_joule, out=out.footprint)  # (B, D, 4)
    out.metrics[:, 0] = np.where(counted > 0, seconds / np.maximum(counted, TINY), 0.0)
    out.metrics[:, 1:] = _over_sites(out.footprint[..., 1:].transpose(2, 1, 0)).T
    out.late[:] = np.where(counted > 0, late / np.maximum(counted, TINY), 0.0)


def _plans_last(values: NDArray[_Number]) -> NDArray[_Number]:
    """(B, V, D) as (V, D, B)."""
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def _over_sites(values: FloatArray) -> FloatArray:
    """The sum of (..., D, B) over sites, one after the other whatever B is: a plan alone rounds as among others.

    Rows of plans are added up in turn; NumPy adds one column, or values that lie the other way, in pairs.
    """
    if values.shape[-1] > 1:
        return np.asarray(np.add.reduce(np.ascontiguousarray(values), axis=-2))
    total = np.zeros((*values.shape[:-2], 1))
    for d in range(values.shape[-2]):
        total = total + values[..., d, :]
    return total


def _over_models(values: FloatArray) -> FloatArray:
    """The sum of (V, ...) over models, one after the other as well."""
    total: FloatArray = values[0]
    for of_model in values[1:]:
        total = total + of_model
    return total


def _wanted(c: Coefficients, plans: Plans) -> FloatArray:
    """Replicas to be awake, (V, D, B); (V, D, 1) where all are, whatever the plan."""
    everyone = c.all_replicas[:, :, None]
    if plans.awake is None or not c.sleeps.any():
        return everyone
    wanted = np.clip(_plans_last(plans.awake), 0.0, everyone)
    return np.asarray(np.where(c.sleeps[:, None, None] > 0, wanted, everyone))


@dataclass(frozen=True, slots=True)
class _Awake:
    """Which replicas are awake, of each model at each site under each plan."""

    replicas: FloatArray  # (V, D, B), or (V, D, 1): the same under all plans
    row: NDArray[np.int64]  # the same shape; (v x D + d) x M + m, where m deployments are wholly awake
    part: FloatArray  # the same shape; replicas awake of deployment m

    @classmethod
    def of(cls, c: Coefficients, replicas: FloatArray) -> _Awake:
        """Those of (V, D, B) replicas, the thriftiest first."""
        models, sites, steps = c.before.shape
        row = np.arange(0, models * sites * steps, steps).reshape(models, sites, 1)
        for m in range(1, steps):
            row = row + (replicas >= c.before[:, :, m, None])
        return cls(replicas, row, replicas - c.before.reshape(-1)[row])

    def total(self, c: Coefficients, what: int) -> FloatArray:
        """One of the other tables, summed over the awake replicas: (V, D, B)."""
        summed, each = c.summed[..., what].reshape(-1), c.each[..., what].reshape(-1)
        return np.asarray(summed[self.row] + self.part * each[self.row])

    def curves(self, c: Coefficients, load: FloatArray) -> list[FloatArray]:
        """The curves at ``load`` (V, D, B), summed over the awake replicas: each (V, D, B)."""
        segment, along = _position(c, load)
        cell = self.row * len(c.knots) + segment
        ends, is_parted = (cell, cell + 1), bool(self.part.any())
        return [self._curve(c, ends, along, what, is_parted=is_parted) for what in range(CURVES)]

    def _curve(
        self, c: Coefficients, ends: tuple[_Index, _Index], along: FloatArray, what: int, *, is_parted: bool
    ) -> FloatArray:
        summed, each = (t[..., what].reshape(-1) for t in (c.curve_summed, c.curve_each))
        low, high = (_looked_up(summed, end) for end in ends)
        if is_parted:
            low, high = (at + self.part * _looked_up(each, end) for at, end in zip((low, high), ends, strict=True))
        return np.asarray(low + along * (high - low))


def _looked_up(table: FloatArray, place: _Index) -> FloatArray:
    """Values of a flat table; every place is one of it, so that nothing is clipped and nothing need be checked."""
    return np.asarray(table.take(place, mode="clip"))


def _position(c: Coefficients, load: FloatArray) -> tuple[_Index, FloatArray]:
    """The segment of the knots that each load (..., in 0 to 1) lies in, and how far along it."""
    segment = c.segment[(load * CELLS).astype(np.int64)]
    return segment, (load - c.knots[segment]) * c.inverse_width[segment]


def _queue(
    c: Coefficients, now: Conditions, limit: FloatArray, spare: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """What becomes of each model's requests when they come evenly: a queue before all sites.

    Until sleeping replicas have woken, ``limit`` (V, B) requests per second can be served, afterwards ``spare`` more. A
    request that would wait longer than patience leaves. Returns the rate served, the queue at the end, those who left
    (requests), and the seconds waited together; each (V, B).
    """
    rate, backlog = now.requests.T / c.epoch_s, now.backlog.T
    wakes = np.where(spare > 0, c.wake_s[:, None], c.epoch_s)
    end, gone, waited_s = _flow(backlog, rate, limit, wakes, c.patience_s)
    if (spare > 0).any():  # else nothing is left of the epoch
        end, more_gone, more_s = _flow(end, rate, limit + spare, c.epoch_s - wakes, c.patience_s)
        gone, waited_s = gone + more_gone, waited_s + more_s
    served_rps = np.maximum(rate + (backlog - end - gone) / c.epoch_s, 0.0)
    return served_rps, end, gone, waited_s


def _flow(
    queue: FloatArray, rate: FloatArray, service: FloatArray, duration_s: FloatArray, patience_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A queue that is fed and served evenly: its end, those who left it, and the seconds waited in it; each (V, B)."""
    most = patience_s * service
    start = np.minimum(queue, most)
    net = rate - service
    free_end = start + net * duration_s
    end = np.minimum(np.maximum(free_end, 0.0), most)
    gone = (queue - start) + np.maximum(free_end - most, 0.0)
    # Time until the queue is full or empty; after it the queue stays as it is.
    change_s = np.where(net > 0, (most - start) / np.maximum(net, TINY), start / np.maximum(-net, TINY))
    change_s = np.minimum(np.where(net == 0.0, NEVER_S, change_s), duration_s)
    waited_s = (start + end) / 2.0 * change_s + end * (duration_s - change_s)
    return end, gone, waited_s


def _dispatch(
    plans: Plans, allowed: FloatArray, awake_rps: FloatArray, limit: FloatArray, rate: FloatArray
) -> FloatArray:
    """Rates (V, D, B) of the awake replicas when ``rate`` (V, B) is to be served; what has no room is left out."""
    if plans.order is not None:
        room = limit
        if plans.cap is not None:
            room = np.minimum(limit, allowed * awake_rps * _plans_last(plans.cap))
        served = _in_turn(_plans_last(plans.order), room, rate)
    else:
        share = _plans_last(plans.shares) * allowed
        total = _over_sites(share)  # (V, B)
        part = share / np.maximum(total, TINY)[:, None]
        if not (total > 0).all():  # a row whose sites are all closed goes by capacity
            by_capacity = limit / np.maximum(_over_sites(limit), TINY)[:, None]
            part = np.where((total > 0)[:, None], part, by_capacity)
        served = np.minimum(part * rate[:, None], limit)
    # Spill-over: the next by free capacity, as the router does it.
    free = limit - served
    total_free = _over_sites(free)
    spilled = np.minimum(np.maximum(rate - _over_sites(served), 0.0), total_free)
    return np.asarray(served + free * (spilled / np.maximum(total_free, TINY))[:, None])


def _in_turn(order: _Index, room: FloatArray, rate: FloatArray) -> FloatArray:
    """Rates (V, D, B) when ``rate`` (V, B) fills ``room`` (V, D, B) site after site, as ``order`` (V, D, B) says.

    -1 ends an order: it stands for a last site, one too many, that has no room.
    """
    models, sites, plans = order.shape
    whole = np.zeros((models, sites + 1, plans))
    whole[:, :-1] = room
    site = order + (sites + 1) * (order < 0)
    place = (np.arange(models)[:, None, None] * (sites + 1) + site) * plans + np.arange(plans)
    in_turn = _looked_up(whole.reshape(-1), place)
    before = np.zeros_like(in_turn)
    for d in range(1, sites):
        np.add(before[:, d - 1], in_turn[:, d - 1], out=before[:, d])
    served = np.zeros_like(whole)
    served.reshape(-1)[place] = np.minimum(np.maximum(rate[:, None] - before, 0.0), in_turn)
    return served[:, :-1]


def _packed(
    c: Coefficients, kept: _Awake, rps: FloatArray, load: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Power (W), mean time to first token (s) and share of late requests, each (V, D, B), under ``pack``.

    Replicas are filled one after the other: some full, one in part, the others idle.
    """
    full = np.minimum(np.maximum(load, c.pack_utilization), 1.0)  # (V, D, B)
    full_at, part_left = _position(c, full), rps
    sums = [np.zeros_like(load) for _ in range(CURVES)]
    for i in range(c.count.shape[2]):
        awake = np.clip(kept.replicas - c.before[:, :, i, None], 0.0, c.count[:, :, i, None])
        one = c.each[:, :, i, RPS, None] * full  # requests per second of a full replica
        filled = np.minimum(part_left / np.maximum(one, TINY), awake)
        part_left = np.maximum(part_left - filled * one, 0.0)
        whole = np.floor(filled + 1e-9)
        part = np.maximum(filled - whole, 0.0)
        started = (part > 0).astype(np.float64)
        part_at = _position(c, part * full)
        curves = c.curve_each[:, :, i]  # (V, D, K, 3)
        sums[0] += whole * _at(curves, full_at, 0) + started * _at(curves, part_at, 0)
        sums[0] += np.maximum(awake - whole - started, 0.0) * curves[:, :, 0, 0, None]
        for curve in (1, 2):  # per capacity: weighted by what each replica carries
            sums[curve] += (whole * _at(curves, full_at, curve) + part * _at(curves, part_at, curve)) * full
    carried, capacity = np.maximum(rps, TINY), np.maximum(c.capacity, TINY)
    idle = c.curve_summed[:, :, -1, 0] / capacity[:, :, None]  # (V, D, 3)
    first_s, late = (np.where(rps > 0, sums[i] / carried, idle[:, :, i, None]) for i in (1, 2))
    return sums[0], first_s, late


def _at(curves: FloatArray, position: tuple[_Index, FloatArray], what: int) -> FloatArray:
    """A curve of one deployment of each model per site (V, D, K, 3) at a position: (V, D, B)."""
    segment, along = position
    models, sites = np.arange(len(curves))[:, None, None], np.arange(curves.shape[1])[:, None]
    low = curves[models, sites, segment, what]
    return np.asarray(low + along * (curves[models, sites, segment + 1, what] - low))


def _part_woken(c: Coefficients, asleep_rps: FloatArray, woken_rps: FloatArray) -> FloatArray:
    """Part of the sleeping replicas that are woken during the epoch because requests wait, (V, D, B)."""
    working = np.maximum(1.0 - c.wake_s / c.epoch_s, TINY)[:, None, None]
    most = asleep_rps * (c.max_utilization * working)
    return np.asarray(np.minimum(woken_rps / np.maximum(most, TINY), 1.0))


def _sleepers_j(c: Coefficients, kept: _Awake, was: _Awake, part: FloatArray | None = None) -> FloatArray:
    """Energy of the replicas that sleep, and of those that wake, for the plan or because requests wait; (V, D, B) J.

    Args:
        c: the fleet.
        kept: awake for the plan.
        was: awake before.
        part: (V, D, B) of those asleep that are woken because requests wait. Default: none.
    """
    asleep_j = (c.summed[:, :, -1, ASLEEP_W, None] - kept.total(c, ASLEEP_W)) * c.epoch_s
    to_wake_j = kept.total(c, WAKE_J)
    prewarmed_j = np.maximum(to_wake_j - was.total(c, WAKE_J), 0.0)
    if part is None:
        return np.asarray(asleep_j + prewarmed_j)
    busy_w = c.summed[:, :, -1, BUSY_W, None] - kept.total(c, BUSY_W)
    woken_j = (c.summed[:, :, -1, WAKE_J, None] - to_wake_j) + busy_w * (c.epoch_s - c.wake_s)[:, None, None]
    return np.asarray(asleep_j + part * (woken_j - asleep_j) + prewarmed_j)

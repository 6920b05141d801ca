"""The fluid engine's formulas with NumPy alone: for the operator, the demo and ``marlin plan``.

The plans' axis comes last and plans are taken in pieces that fit the processor's cache; that is worth a factor of
three. No matrix products, because their rounding depends on how many plans there are: here a plan alone gives bit
for bit what it gives in a batch. ``numba_form`` holds the same formulas compiled; a test holds the two equal.
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
    from numpy.typing import NDArray

PIECE: Final = 256
"""Plans taken at once."""


def evaluate(c: Coefficients, now: Conditions, plans: Plans, out: Buffers) -> None:
    """Carries B plans out and writes what they do into ``out``.

    Args:
        c: the fleet.
        now: the epoch, or one per plan.
        plans: what to do.
        out: written.
    """
    for start in range(0, len(plans), PIECE):
        piece = slice(start, start + PIECE)
        _evaluate_piece(c, now if len(now) == 1 else now.take(piece), plans.take(piece), out.view(piece))


def _evaluate_piece(c: Coefficients, now: Conditions, plans: Plans, out: Buffers) -> None:
    n_models = len(c.count)
    size = len(plans)
    it_j = np.repeat((c.base_w * c.epoch_s)[:, None], size, axis=1)  # (D, B)
    seconds, late, counted = np.zeros(size), np.zeros(size), np.zeros(size)
    for v in range(n_models):
        kept = _Awake.of(c, v, _wanted(c, v, plans))
        awake_rps = kept.total(c, RPS)  # (D, B), or (D, 1)
        allowed = now.allowed[:, v].T  # (D, N)
        limit = np.broadcast_to(allowed * awake_rps * c.max_utilization, (len(awake_rps), size))  # (D, B)
        asleep_rps = np.maximum(c.capacity[v][:, None] - awake_rps, 0.0)
        spare = np.broadcast_to(allowed * asleep_rps * (c.max_utilization if c.wakes else 0.0), limit.shape)
        spare_total = _over_sites(spare)
        served_rps, queued, rejected, waited_s = _queue(c, v, now, _over_sites(limit), spare_total)
        base_rps = _dispatch(plans, v, allowed, awake_rps, limit, served_rps)
        left = np.maximum(served_rps - _over_sites(base_rps), 0.0)
        woken_rps = spare * (left / np.maximum(spare_total, TINY))  # (D, B)
        load = np.minimum(base_rps / np.maximum(awake_rps, TINY), 1.0)
        if c.pack_utilization > 0:
            power_w, first_s, late_share = _packed(c, kept, base_rps, load)
        else:
            power_w, first, late_sum = kept.curves(c, load)
            per_rps = np.maximum(awake_rps, TINY)
            first_s, late_share = first / per_rps, late_sum / per_rps
        it_j += power_w * c.epoch_s
        awake_after = kept.replicas
        if c.sleeps[v]:
            part = _part_woken(c, v, asleep_rps, woken_rps)
            was = _Awake.of(c, v, now.awake_before[:, v].T)
            it_j += _sleepers_j(c, kept, was, part)
            awake_after = awake_after + part * np.maximum(c.all_replicas[v][:, None] - awake_after, 0.0)
        site_requests = (base_rps + woken_rps) * c.epoch_s
        rtt_s = now.rtt_s[:, v].T if plans.rtt_s is None else plans.rtt_s[:, v].T
        ttft_s = first_s + rtt_s
        out.served[:, v], out.utilization[:, v] = site_requests.T, load.T
        out.ttft_s[:, v], out.awake[:, v] = ttft_s.T, awake_after.T
        out.queued[:, v], out.rejected[:, v], out.waited_s[:, v] = queued, rejected, waited_s
        seconds += _over_sites(site_requests * ttft_s) + waited_s + c.patience_s * rejected
        late += _over_sites(site_requests * late_share) + rejected
        counted += _over_sites(site_requests) + rejected
    out.footprint[:] = np.moveaxis(it_j[:, None] * np.moveaxis(now.per_joule, 0, -1), -1, 0)  # (B, D, 4)
    out.metrics[:, 0] = np.where(counted > 0, seconds / np.maximum(counted, TINY), 0.0)
    for metric in range(1, 4):
        out.metrics[:, metric] = _over_sites(out.footprint[:, :, metric].T)
    out.late[:] = np.where(counted > 0, late / np.maximum(counted, TINY), 0.0)


def _over_sites(values: FloatArray) -> FloatArray:
    """The sum of (D, B) over sites, one after the other whatever B is: a plan alone rounds as it does among others.

    Rows of plans are added up in turn; NumPy adds one column, or values that lie the other way, in pairs.
    """
    if values.shape[1] > 1:
        return np.asarray(np.add.reduce(np.ascontiguousarray(values), axis=0))
    total = np.zeros(1)
    for row in values:
        total = total + row
    return total


def _wanted(c: Coefficients, v: int, plans: Plans) -> FloatArray:
    """Replicas to be awake, (D, B); (D, 1) where all are, whatever the plan."""
    if plans.awake is None or not c.sleeps[v]:
        return np.asarray(c.all_replicas[v][:, None])  # (D, 1)
    return np.clip(plans.awake[:, v].T, 0.0, c.all_replicas[v][:, None])


@dataclass(frozen=True, slots=True)
class _Awake:
    """Which replicas are awake, of one model at each site under each plan."""

    v: int
    replicas: FloatArray  # (D, B), or (D, 1): the same under all plans
    row: NDArray[np.int64]  # the same shape; d x M + m, where m deployments are wholly awake
    part: FloatArray  # the same shape; replicas awake of deployment m

    @classmethod
    def of(cls, c: Coefficients, v: int, replicas: FloatArray) -> _Awake:
        """Those of (D, B) replicas, the thriftiest first."""
        before = c.before[v]  # (D, M)
        whole = np.zeros(replicas.shape, dtype=np.int64)
        for m in range(1, before.shape[1]):
            whole += replicas >= before[:, m][:, None]
        row = np.arange(len(before))[:, None] * before.shape[1] + whole
        return cls(v, replicas, row, replicas - before.reshape(-1)[row])

    def total(self, c: Coefficients, what: int) -> FloatArray:
        """One of the other tables, summed over the awake replicas: (D, B)."""
        summed, each = c.summed[self.v, ..., what].reshape(-1), c.each[self.v, ..., what].reshape(-1)
        return np.asarray(summed[self.row] + self.part * each[self.row])

    def curves(self, c: Coefficients, load: FloatArray) -> list[FloatArray]:
        """The curves at ``load`` (D, B), summed over the awake replicas: each (D, B)."""
        segment, along = _position(c, load)
        cell = self.row * len(c.knots) + segment
        return [self._curve(c, cell, along, what) for what in range(CURVES)]

    def _curve(self, c: Coefficients, cell: NDArray[np.int64], along: FloatArray, what: int) -> FloatArray:
        summed, each = (t[self.v, ..., what].reshape(-1) for t in (c.curve_summed, c.curve_each))
        low, high = summed[cell], summed[cell + 1]
        if self.part.any():
            low, high = low + self.part * each[cell], high + self.part * each[cell + 1]
        return np.asarray(low + along * (high - low))


def _position(c: Coefficients, load: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """The segment of the knots that each load (..., in 0 to 1) lies in, and how far along it."""
    segment = c.segment[(load * CELLS).astype(np.int64)]
    return segment, (load - c.knots[segment]) * c.inverse_width[segment]


def _queue(
    c: Coefficients, v: int, now: Conditions, limit: FloatArray, spare: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """What becomes of a model's requests when they come evenly: a queue before all sites.

    Until sleeping replicas have woken, ``limit`` (B,) requests per second can be served, afterwards ``spare`` more. A
    request that would wait longer than patience leaves. Returns the rate served, the queue at the end, those who left
    (requests), and the seconds waited together; each (B,).
    """
    rate = now.requests[:, v] / c.epoch_s
    wakes = np.where(spare > 0, c.wake_s[v], c.epoch_s)
    end, gone, waited_s = _flow(now.backlog[:, v], rate, limit, wakes, c.patience_s)
    end, more_gone, more_s = _flow(end, rate, limit + spare, c.epoch_s - wakes, c.patience_s)
    gone = gone + more_gone
    served_rps = np.maximum(rate + (now.backlog[:, v] - end - gone) / c.epoch_s, 0.0)
    return served_rps, end, gone, waited_s + more_s


def _flow(
    queue: FloatArray, rate: FloatArray, service: FloatArray, duration_s: FloatArray, patience_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A queue that is fed and served evenly: its end, those who left it, and the seconds waited in it; each (B,)."""
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
    plans: Plans, v: int, allowed: FloatArray, awake_rps: FloatArray, limit: FloatArray, rate: FloatArray
) -> FloatArray:
    """Rates (D, B) of the awake replicas when ``rate`` (B,) is to be served; what has no room is left out."""
    if plans.order is not None:
        room = limit if plans.cap is None else np.minimum(limit, allowed * awake_rps * plans.cap[:, v].T)
        served = _in_turn(plans.order[:, v].T, room, rate)
    else:
        share = plans.shares[:, v].T * allowed  # (D, B)
        total = _over_sites(share)
        # A row whose sites are all closed goes by capacity.
        by_capacity = limit / np.maximum(_over_sites(limit), TINY)
        part = np.where(total > 0, share / np.maximum(total, TINY), by_capacity)
        served = np.minimum(part * rate, limit)
    # Spill-over: the next by free capacity, as the router does it.
    free = limit - served
    total_free = _over_sites(free)
    spilled = np.minimum(np.maximum(rate - _over_sites(served), 0.0), total_free)
    return np.asarray(served + free * (spilled / np.maximum(total_free, TINY)))


def _in_turn(order: NDArray[np.int64], room: FloatArray, rate: FloatArray) -> FloatArray:
    """Rates (D, B) when ``rate`` (B,) fills ``room`` (D, B) site after site, as ``order`` (D, B) says; -1 ends it."""
    lanes = np.arange(len(rate))
    goes_on = order >= 0
    in_turn = np.where(goes_on, room[order, lanes], 0.0)
    before = np.zeros_like(in_turn)
    np.cumsum(in_turn[:-1], axis=0, out=before[1:])
    served = np.zeros((len(room) + 1, len(rate)))  # -1 writes into the row that is one too many
    served[order, lanes] = np.minimum(np.maximum(rate - before, 0.0), in_turn)
    return served[:-1]


def _packed(
    c: Coefficients, kept: _Awake, rps: FloatArray, load: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Power (W), mean time to first token (s) and share of late requests, each (D, B), under ``pack``.

    Replicas are filled one after the other: some full, one in part, the others idle.
    """
    full = np.minimum(np.maximum(load, c.pack_utilization), 1.0)  # (D, B)
    full_at, part_left = _position(c, full), rps
    sums = [np.zeros_like(load) for _ in range(CURVES)]
    for i in range(c.count.shape[2]):
        awake = np.clip(kept.replicas - c.before[kept.v, :, i][:, None], 0.0, c.count[kept.v, :, i][:, None])
        one = c.each[kept.v, :, i, RPS][:, None] * full  # requests per second of a full replica
        filled = np.minimum(part_left / np.maximum(one, TINY), awake)
        part_left = np.maximum(part_left - filled * one, 0.0)
        whole = np.floor(filled + 1e-9)
        part = np.maximum(filled - whole, 0.0)
        started = (part > 0).astype(np.float64)
        part_at = _position(c, part * full)
        curves = c.curve_each[kept.v, :, i]  # (D, K, 3)
        sums[0] += whole * _at(curves, full_at, 0) + started * _at(curves, part_at, 0)
        sums[0] += np.maximum(awake - whole - started, 0.0) * curves[:, 0, 0][:, None]
        for curve in (1, 2):  # per capacity: weighted by what each replica carries
            sums[curve] += (whole * _at(curves, full_at, curve) + part * _at(curves, part_at, curve)) * full
    carried, capacity = np.maximum(rps, TINY), np.maximum(c.capacity[kept.v], TINY)
    idle = c.curve_summed[kept.v, :, -1, 0] / capacity[:, None]  # (D, 3)
    first_s, late = (np.where(rps > 0, sums[i] / carried, idle[:, i][:, None]) for i in (1, 2))
    return sums[0], first_s, late


def _at(curves: FloatArray, position: tuple[NDArray[np.int64], FloatArray], what: int) -> FloatArray:
    """A curve of one deployment per site (D, K, 3) at a position: (D, B)."""
    segment, along = position
    sites = np.arange(len(curves))[:, None]
    low = curves[sites, segment, what]
    return np.asarray(low + along * (curves[sites, segment + 1, what] - low))


def _part_woken(c: Coefficients, v: int, asleep_rps: FloatArray, woken_rps: FloatArray) -> FloatArray:
    """Part of the sleeping replicas that are woken during the epoch because requests wait, (D, B)."""
    most = asleep_rps * (c.max_utilization * max(1.0 - c.wake_s[v] / c.epoch_s, TINY))
    return np.asarray(np.minimum(woken_rps / np.maximum(most, TINY), 1.0))


def _sleepers_j(c: Coefficients, kept: _Awake, was: _Awake, part: FloatArray) -> FloatArray:
    """Energy of the replicas that sleep, and of those that wake, for the plan or because requests wait; (D, B) J."""
    asleep_j, wake_j, busy_w = (
        c.summed[kept.v, :, -1, what][:, None] - kept.total(c, what) for what in (ASLEEP_W, WAKE_J, BUSY_W)
    )
    asleep_j = asleep_j * c.epoch_s
    woken_j = wake_j + busy_w * (c.epoch_s - c.wake_s[kept.v])
    prewarmed_j = np.maximum(kept.total(c, WAKE_J) - was.total(c, WAKE_J), 0.0)
    return np.asarray(asleep_j + part * (woken_j - asleep_j) + prewarmed_j)

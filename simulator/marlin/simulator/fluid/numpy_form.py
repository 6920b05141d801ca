"""The fluid engine's formulas with NumPy alone: for the operator, the demo and ``marlin plan``.

The plans' axis comes last and plans are taken in pieces that fit the processor's cache; that is worth a factor of
three. All models are taken at once, and what is the same under all plans is worked out once: for the few hundred rows
of one decision NumPy's calls cost more than its sums. No matrix products, because their rounding depends on how many
plans there are: here a plan alone gives bit for bit what it gives in a batch. ``numba_form`` holds the same formulas
compiled; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.simulator.fluid.coefficients import (
    ASLEEP_W,
    BUSY_W,
    CELLS,
    CURVES,
    NEVER_S,
    RPS,
    SLACK,
    TINY,
    WAKE_J,
    Coefficients,
    Conditions,
)
from marlin.simulator.fluid.outcome import Buffers, ModelTotals, Plans
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    _Number = TypeVar("_Number", np.float64, np.int64)
    _Index = NDArray[np.int64]

PIECE: Final = 512
"""Plans times models taken at once, where each has an epoch of its own."""

PIECE_OF_EACH: Final = 2048
"""Plans times epochs times models taken at once, where each plan is tried in each epoch."""


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
        here = now if len(now) == 1 else now.take(piece)
        _write(c, here, _carried_out(c, _beside(here), plans.take(piece)), out.view(piece))


def evaluate_each(c: Coefficients, epochs: Conditions, plans: Plans, out: Buffers) -> None:
    """Carries each of N plans out in each of S epochs of one fleet, of which only requests and backlog may differ.

    Args:
        c: the fleet.
        epochs: S of them.
        plans: N of them.
        out: written; (N x S) rows, the epochs of a plan side by side.
    """
    now, many = _across(epochs), len(epochs)
    for piece in _pieces_of_each(c, epochs, plans):
        rows = slice(piece.start * many, piece.stop * many)
        _write(c, epochs, _carried_out(c, now, plans.take(piece)), out.view(rows))


def of_models(c: Coefficients, epochs: Conditions, plans: Plans) -> tuple[ModelTotals, FloatArray]:
    """What each model alone comes to, charges left out, and its requests (N x S, V) that left; as ``evaluate_each``."""
    now = _across(epochs)
    each = [_of_models(c, now, _carried_out(c, now, plans.take(piece))) for piece in _pieces_of_each(c, epochs, plans)]
    seconds, late, footprint, rejected = (np.concatenate(parts) for parts in zip(*each, strict=True))
    return ModelTotals(seconds, late, footprint), rejected


def _pieces_of_each(c: Coefficients, epochs: Conditions, plans: Plans) -> list[slice]:
    size = max(PIECE_OF_EACH // (len(c.count) * len(epochs)), 1)
    return [slice(start, min(start + size, len(plans))) for start in range(0, len(plans), size)]


@dataclass(frozen=True, slots=True)
class _Epochs:
    """Epochs as the formulas take them. S and N are 1 or what they are for the outcome: (V, D, S, N)."""

    requests: FloatArray  # (V, S, N)
    backlog: FloatArray  # (V, S, N)
    allowed: FloatArray  # (V, D, S, N)
    awake_before: FloatArray  # (V, D, S, N)
    rtt_s: FloatArray  # (V, D, S, N)
    per_joule: FloatArray  # (4, D, S, N)


def _beside(now: Conditions) -> _Epochs:
    """N epochs, each with a plan of its own, or one for all; S = 1."""
    return _Epochs(
        requests=now.requests.T[:, None],
        backlog=now.backlog.T[:, None],
        allowed=_plans_last(now.allowed),
        awake_before=_plans_last(now.awake_before),
        rtt_s=_plans_last(now.rtt_s),
        per_joule=now.per_joule.transpose(2, 1, 0)[:, :, None],
    )


def _across(epochs: Conditions) -> _Epochs:
    """S epochs, each with all of the plans; N = 1."""
    still = (epochs.allowed, epochs.awake_before, epochs.rtt_s, epochs.per_joule)
    assert all(len(values) == 1 for values in still), "epochs may differ in requests and backlog alone"
    once = _beside(epochs)
    return replace(once, requests=once.requests.swapaxes(1, 2), backlog=once.backlog.swapaxes(1, 2))


@dataclass(frozen=True, slots=True)
class _CarriedOut:
    """What each model does at each site, under N plans in S epochs. Axes are 1 where it is the same in all."""

    requests: FloatArray  # (V, D, S, N) served
    load: FloatArray  # (V, D, S, N)
    ttft_s: FloatArray  # (V, D, S, N)
    late_share: FloatArray  # (V, D, S, N)
    it_j: FloatArray  # (V, D, S, N) IT energy, but for what a site uses whoever is served
    awake: FloatArray  # (V, D, S, N) replicas when the epoch ends
    queued: FloatArray  # (V, S, N) requests
    rejected: FloatArray  # (V, S, N) requests
    waited_s: FloatArray  # (V, S, N)

    def of_models(self, c: Coefficients) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Request-seconds, late requests and those who were served or left, of each model: (V, S, N) each."""
        seconds = _over_sites(self.requests * self.ttft_s) + self.waited_s + c.patience_s * self.rejected
        late = _over_sites(self.requests * self.late_share) + self.rejected
        return seconds, late, _over_sites(self.requests) + self.rejected


def _carried_out(c: Coefficients, now: _Epochs, plans: Plans) -> _CarriedOut:
    """All models at once. What is the same under all plans, or in all epochs, is worked out once: its axis is 1."""
    kept = _Awake.of(c, _wanted(c, plans))
    awake_rps = kept.total(c, RPS)
    limit = now.allowed * awake_rps * c.max_utilization
    asleep_rps = np.maximum(c.capacity[:, :, None, None] - awake_rps, 0.0)
    spare = now.allowed * asleep_rps * (c.max_utilization if c.wakes else 0.0)
    spare_total = _over_sites(spare)  # (V, 1, N)
    served_rps, queued, rejected, waited_s = _queue(c, now, _over_sites(limit), spare_total)
    base_rps = _dispatch(plans, now.allowed, awake_rps, limit, served_rps)
    left = np.maximum(served_rps - _over_sites(base_rps), 0.0)
    woken_rps = spare * (left / np.maximum(spare_total, TINY))[:, None] if spare.any() else spare
    rps = base_rps + woken_rps
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
        it_j = it_j + c.sleeps[:, None, None, None] * _sleepers_j(c, kept, _Awake.of(c, now.awake_before), part)
        awake_after = awake_after + part * np.maximum(c.all_replicas[:, :, None, None] - awake_after, 0.0)
    return _CarriedOut(
        requests=rps * c.epoch_s,
        load=load,
        ttft_s=first_s + _way_s(plans, now.rtt_s, rps, served_rps),
        late_share=late_share,
        it_j=it_j,
        awake=awake_after,
        queued=queued,
        rejected=rejected,
        waited_s=waited_s,
    )


def _write(c: Coefficients, now: Conditions, done: _CarriedOut, out: Buffers) -> None:
    """Outcomes into rows, the epochs of a plan side by side."""
    *_, epochs, plans = done.requests.shape
    each = out.split(plans, epochs)
    for written, values in (
        (each.served, done.requests),
        (each.utilization, done.load),
        (each.ttft_s, done.ttft_s),
        (each.awake, done.awake),
    ):
        written[:] = values.transpose(3, 2, 0, 1)
    for written, of_model in (
        (each.queued, done.queued),
        (each.rejected, done.rejected),
        (each.waited_s, done.waited_s),
    ):
        written[:] = of_model.transpose(2, 1, 0)
    seconds, late, counted = (_over_models(values).T for values in done.of_models(c))  # (N, S)
    site_j = _over_models(done.it_j) + (c.base_w * c.epoch_s)[:, None, None]  # (D, S, N)
    np.multiply(site_j.transpose(2, 1, 0)[..., None], now.per_joule[:, None], out=each.footprint)  # (N, S, D, 4)
    each.metrics[..., 0] = np.where(counted > 0, seconds / np.maximum(counted, TINY), 0.0)
    each.metrics[..., 1:] = _over_sites(each.footprint[..., 1:].transpose(3, 2, 1, 0)).transpose(2, 1, 0)
    each.late[:] = np.where(counted > 0, late / np.maximum(counted, TINY), 0.0)


def _of_models(c: Coefficients, now: _Epochs, done: _CarriedOut) -> tuple[FloatArray, ...]:
    """Request-seconds, late requests (N x S, V), footprint (N x S, V, 3) and requests that left (N x S, V)."""
    seconds, late, _ = done.of_models(c)
    footprint = [_over_sites(done.it_j * of_metric) for of_metric in now.per_joule[1:]]  # (V, S, N) each
    rejected = np.broadcast_to(done.rejected, seconds.shape)
    models = len(seconds)
    seconds, late, rejected, *rest = (
        values.transpose(2, 1, 0).reshape(-1, models) for values in (seconds, late, rejected, *footprint)
    )
    return seconds, late, np.stack(rest, axis=-1), rejected


def _plans_last(values: NDArray[_Number]) -> NDArray[_Number]:
    """(B, V, D) as (V, D, 1, B)."""
    return np.ascontiguousarray(values.transpose(1, 2, 0))[:, :, None]


def _over_sites(values: FloatArray) -> FloatArray:
    """The sum of (V, D, S, N) over sites, one after the other however many plans there are: one alone rounds as others.

    Rows of plans are added up in turn; NumPy adds one column, or values that lie the other way, in pairs.
    """
    if values.shape[-1] * values.shape[-2] > 1:
        return np.asarray(np.add.reduce(np.ascontiguousarray(values), axis=1))
    total = np.zeros((len(values), *values.shape[2:]))
    for d in range(values.shape[1]):
        total = total + values[:, d]
    return total


def _over_models(values: FloatArray) -> FloatArray:
    """The sum of (V, ...) over models, one after the other as well."""
    total: FloatArray = values[0]
    for of_model in values[1:]:
        total = total + of_model
    return total


def _wanted(c: Coefficients, plans: Plans) -> FloatArray:
    """Replicas to be awake, (V, D, 1, N); (V, D, 1, 1) where all are, whatever the plan."""
    everyone = c.all_replicas[:, :, None, None]
    if plans.awake is None or not c.sleeps.any():
        return everyone
    wanted = np.clip(_plans_last(plans.awake), 0.0, everyone)
    return np.asarray(np.where(c.sleeps[:, None, None, None] > 0, wanted, everyone))


@dataclass(frozen=True, slots=True)
class _Awake:
    """Which replicas are awake, of each model at each site under each plan."""

    replicas: FloatArray  # (V, D, S, N), of which S is mostly 1, and N where it is the same under all plans
    row: NDArray[np.int64]  # the same shape; (v x D + d) x M + m, where m deployments are wholly awake
    part: FloatArray  # the same shape; replicas awake of deployment m

    @classmethod
    def of(cls, c: Coefficients, replicas: FloatArray) -> _Awake:
        """Those of (V, D, S, N) replicas, the thriftiest first."""
        models, sites, steps = c.before.shape
        row = np.arange(0, models * sites * steps, steps).reshape(models, sites, 1, 1)
        for m in range(1, steps):
            row = row + (replicas >= c.before[:, :, m, None, None])
        return cls(replicas, row, replicas - c.before.reshape(-1)[row])

    def total(self, c: Coefficients, what: int) -> FloatArray:
        """One of the other tables, summed over the awake replicas: (V, D, S, N)."""
        summed, each = c.summed[..., what].reshape(-1), c.each[..., what].reshape(-1)
        return np.asarray(summed[self.row] + self.part * each[self.row])

    def curves(self, c: Coefficients, load: FloatArray) -> list[FloatArray]:
        """The curves at ``load`` (V, D, S, N), summed over the awake replicas: each (V, D, S, N)."""
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
    c: Coefficients, now: _Epochs, limit: FloatArray, spare: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """What becomes of each model's requests when they come evenly: a queue before all sites.

    Until sleeping replicas have woken, ``limit`` (V, 1, N) requests per second can be served, then ``spare`` more. A
    request that would wait longer than patience leaves. Returns the rate served, the queue at the end, those who left
    (requests), and the seconds waited together; each (V, S, N).
    """
    rate, backlog = now.requests / c.epoch_s, now.backlog
    wakes = np.where(spare > 0, c.wake_s[:, None, None], c.epoch_s)
    end, gone, waited_s = _flow(backlog, rate, limit, wakes, c.patience_s)
    if (spare > 0).any():  # else nothing is left of the epoch
        end, more_gone, more_s = _flow(end, rate, limit + spare, c.epoch_s - wakes, c.patience_s)
        gone, waited_s = gone + more_gone, waited_s + more_s
    served_rps = np.maximum(rate + (backlog - end - gone) / c.epoch_s, 0.0)
    return served_rps, end, gone, waited_s


def _flow(
    queue: FloatArray, rate: FloatArray, service: FloatArray, duration_s: FloatArray, patience_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A queue that is fed and served evenly: its end, those who left it, and seconds waited in it; each (V, S, N)."""
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
    """Rates (V, D, S, N) of the awake replicas when ``rate`` (V, S, N) is to be served; what has no room is not."""
    if plans.order is not None:
        room = limit
        if plans.cap is not None:
            room = np.minimum(limit, allowed * awake_rps * _plans_last(plans.cap))
        served = _in_turn(_plans_last(plans.order), room, rate)
    else:
        share = _plans_last(plans.shares) * allowed
        total = _over_sites(share)  # (V, 1, N)
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


def _way_s(plans: Plans, mean_s: FloatArray, rps: FloatArray, rate: FloatArray) -> FloatArray:
    """Mean round trip (V, D, S, N) of what each site serves, ``rps`` of the ``rate`` (V, S, N) of all.

    Without rows of origins everybody's requests are alike, and ``mean_s`` it is. With rows a site that serves more than
    they send it has the rest from sites that are full or closed. Where it is known what the rows send there, those
    requests come as they do from all sites that overflow. Else they are counted as a mean of all that the rows send
    elsewhere, which follows from the site's own round trip and everybody's.
    """
    if plans.rtt_s is None:
        return mean_s
    own_s = _plans_last(plans.rtt_s)
    if plans.order is not None:  # sites are filled in turn, whatever the rows say
        return own_s
    shares = _plans_last(plans.shares)
    own = shares / np.maximum(_over_sites(shares), TINY)[:, None]  # (V, D, 1, N)
    spilled_rps = np.maximum(rps - (own + SLACK) * rate[:, None], 0.0)
    if not spilled_rps.any():
        return own_s
    if plans.beyond_s is None:
        others_s = np.maximum(mean_s - own * own_s, 0.0) / np.maximum(1.0 - own, TINY)
    else:
        over_rps = np.maximum(own * rate[:, None] - rps, 0.0)
        to_each_s = np.ascontiguousarray(plans.beyond_s.transpose(1, 2, 3, 0))[:, :, :, None]  # (V, D, D, 1, N)
        total_rps = np.maximum(_over_sites(over_rps), TINY)
        others_s = _over_sites(over_rps[:, :, None] * to_each_s) / total_rps[:, None]
    return np.asarray(own_s + (others_s - own_s) * (spilled_rps / np.maximum(rps, TINY)))


def _in_turn(order: _Index, room: FloatArray, rate: FloatArray) -> FloatArray:
    """Rates (V, D, S, N) when ``rate`` (V, S, N) fills ``room`` (V, D, 1, N) in turn, as ``order`` (V, D, 1, N) says.

    -1 ends an order: it stands for a last site, one too many, that has no room.
    """
    models, sites, _, plans = order.shape
    epochs = rate.shape[1]
    whole = np.zeros((models, sites + 1, 1, plans))
    whole[:, :-1] = room
    # Row of the tables: model and site, the last one where an order has ended.
    row = np.arange(models)[:, None, None, None] * (sites + 1) + order + (sites + 1) * (order < 0)
    in_turn = _looked_up(whole.reshape(-1), row * plans + np.arange(plans))
    before = np.zeros_like(in_turn)
    for d in range(1, sites):
        np.add(before[:, d - 1], in_turn[:, d - 1], out=before[:, d])
    served = np.zeros((models, sites + 1, epochs, plans))
    place = (row * epochs + np.arange(epochs)[:, None]) * plans + np.arange(plans)
    served.reshape(-1)[place] = np.minimum(np.maximum(rate[:, None] - before, 0.0), in_turn)
    return served[:, :-1]


def _packed(
    c: Coefficients, kept: _Awake, rps: FloatArray, load: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Power (W), mean time to first token (s) and share of late requests, each (V, D, S, N), under ``pack``.

    Replicas are filled one after the other: some full, one in part, the others idle.
    """
    full = np.minimum(np.maximum(load, c.pack_utilization), 1.0)  # (V, D, S, N)
    full_at, part_left = _position(c, full), rps
    sums = [np.zeros_like(load) for _ in range(CURVES)]
    for i in range(c.count.shape[2]):
        awake = np.clip(kept.replicas - c.before[:, :, i, None, None], 0.0, c.count[:, :, i, None, None])
        one = c.each[:, :, i, RPS, None, None] * full  # requests per second of a full replica
        filled = np.minimum(part_left / np.maximum(one, TINY), awake)
        part_left = np.maximum(part_left - filled * one, 0.0)
        whole = np.floor(filled + 1e-9)
        part = np.maximum(filled - whole, 0.0)
        started = (part > 0).astype(np.float64)
        part_at = _position(c, part * full)
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


def _part_woken(c: Coefficients, asleep_rps: FloatArray, woken_rps: FloatArray) -> FloatArray:
    """Part of the sleeping replicas that are woken during the epoch because requests wait, (V, D, S, N)."""
    working = np.maximum(1.0 - c.wake_s / c.epoch_s, TINY)[:, None, None, None]
    most = asleep_rps * (c.max_utilization * working)
    return np.asarray(np.minimum(woken_rps / np.maximum(most, TINY), 1.0))


def _sleepers_j(c: Coefficients, kept: _Awake, was: _Awake, part: FloatArray | None = None) -> FloatArray:
    """Energy of the replicas that sleep, and of those that wake, for the plan or because requests wait; (V, D, S, N) J.

    Args:
        c: the fleet.
        kept: awake for the plan.
        was: awake before.
        part: (V, D, S, N) of those asleep that are woken because requests wait. Default: none.
    """
    asleep_j = (c.summed[:, :, -1, ASLEEP_W, None, None] - kept.total(c, ASLEEP_W)) * c.epoch_s
    to_wake_j = kept.total(c, WAKE_J)
    prewarmed_j = np.maximum(to_wake_j - was.total(c, WAKE_J), 0.0)
    if part is None:
        return np.asarray(asleep_j + prewarmed_j)
    busy_w = c.summed[:, :, -1, BUSY_W, None, None] - kept.total(c, BUSY_W)
    woken_j = (c.summed[:, :, -1, WAKE_J, None, None] - to_wake_j) + busy_w * (c.epoch_s - c.wake_s)[
        :, None, None, None
    ]
    return np.asarray(asleep_j + part * (woken_j - asleep_j) + prewarmed_j)

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

from marlin.simulator.fluid.awake import Awake, at_load, sleepers_j
from marlin.simulator.fluid.coefficients import RPS, SLACK, TINY, Coefficients, Conditions
from marlin.simulator.fluid.columns import Epochs, across, beside, over_models, over_sites, plans_last
from marlin.simulator.fluid.outcome import Buffers, ModelTotals, Plans
from marlin.simulator.fluid.waiting import Waiting
from marlin.simulator.fluid.waking import Sites, full_rps, queue, with_woken
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        _write(c, here, _carried_out(c, beside(here), plans.take(piece)), out.view(piece))


def evaluate_each(c: Coefficients, epochs: Conditions, plans: Plans, out: Buffers) -> None:
    """Carries each of N plans out in each of S epochs of one fleet, of which only requests and backlog may differ.

    Args:
        c: the fleet.
        epochs: S of them.
        plans: N of them.
        out: written; (N x S) rows, the epochs of a plan side by side.
    """
    now, many = across(epochs), len(epochs)
    for piece in _pieces_of_each(c, epochs, plans):
        rows = slice(piece.start * many, piece.stop * many)
        _write(c, epochs, _carried_out(c, now, plans.take(piece)), out.view(rows))


def of_models(c: Coefficients, epochs: Conditions, plans: Plans) -> tuple[ModelTotals, FloatArray]:
    """What each model alone comes to, charges left out, and its requests (N x S, V) that left; as ``evaluate_each``."""
    now = across(epochs)
    each = [_of_models(c, now, _carried_out(c, now, plans.take(piece))) for piece in _pieces_of_each(c, epochs, plans)]
    seconds, late, footprint, rejected = (np.concatenate(parts) for parts in zip(*each, strict=True))
    return ModelTotals(seconds, late, footprint), rejected


def _pieces_of_each(c: Coefficients, epochs: Conditions, plans: Plans) -> list[slice]:
    size = max(PIECE_OF_EACH // (len(c.count) * len(epochs)), 1)
    return [slice(start, min(start + size, len(plans))) for start in range(0, len(plans), size)]


@dataclass(frozen=True, slots=True)
class _CarriedOut:
    """What each model does at each site, under N plans in S epochs. Axes are 1 where it is the same in all."""

    requests: FloatArray  # (V, D, S, N) served
    load: FloatArray  # (V, D, S, N)
    ttft_s: FloatArray  # (V, D, S, N)
    late_share: FloatArray  # (V, D, S, N)
    it_j: FloatArray  # (V, D, S, N) IT energy, but for what a site uses whoever is served
    awake: FloatArray  # (V, D, S, N) replicas when the epoch ends
    waiting: Waiting

    def of_models(self, c: Coefficients) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Request-seconds, late requests and those who were served or left, of each model: (V, S, N) each."""
        gone = self.waiting.gone
        seconds = over_sites(self.requests * self.ttft_s) + self.waiting.seconds + c.patience_s * gone
        served = over_sites(self.requests)
        late = np.minimum(over_sites(self.requests * self.late_share) + self.waiting.late, served) + gone
        return seconds, late, served + gone


def _carried_out(c: Coefficients, now: Epochs, plans: Plans) -> _CarriedOut:
    """All models at once. What is the same under all plans, or in all epochs, is worked out once: its axis is 1."""
    kept = Awake.of(c, _wanted(c, plans))
    totals = kept.totals(c)
    awake_rps = totals[RPS]
    full = full_rps(c, now.allowed, totals)
    waiting, woken = queue(c, now, (kept, totals, full), len(plans))
    served_rps = np.maximum((now.requests + now.backlog - waiting.end - waiting.gone) / c.epoch_s, 0.0)
    rps = _dispatch(c, plans, now.allowed, (awake_rps, full), served_rps)
    load = np.minimum(rps / np.maximum(awake_rps, TINY), 1.0)
    power_w, ttft_s, late_share = at_load(c, kept, awake_rps, rps, load)
    it_j = power_w * c.epoch_s
    if c.sleeps.any():
        it_j = it_j + c.sleeps[:, None, None, None] * sleepers_j(c, totals, Awake.of(c, now.awake_before))
    sites = Sites(rps, load, ttft_s, late_share, it_j, kept.replicas)
    if woken is not None:
        sites = with_woken(c, woken, served_rps, power_w, sites)
    return _CarriedOut(
        requests=sites.rps * c.epoch_s,
        load=sites.load,
        ttft_s=sites.ttft_s + _way_s(plans, now.rtt_s, sites.rps, served_rps),
        late_share=sites.late_share,
        it_j=sites.it_j,
        awake=sites.awake,
        waiting=waiting,
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
        (each.queued, done.waiting.end),
        (each.rejected, done.waiting.gone),
        (each.waited_s, done.waiting.seconds),
    ):
        written[:] = of_model.transpose(2, 1, 0)
    seconds, late, counted = (over_models(values).T for values in done.of_models(c))  # (N, S)
    site_j = over_models(done.it_j) + (c.base_w * c.epoch_s)[:, None, None]  # (D, S, N)
    np.multiply(site_j.transpose(2, 1, 0)[..., None], now.per_joule[:, None], out=each.footprint)  # (N, S, D, 4)
    each.metrics[..., 0] = np.where(counted > 0, seconds / np.maximum(counted, TINY), 0.0)
    each.metrics[..., 1:] = over_sites(each.footprint[..., 1:].transpose(3, 2, 1, 0)).transpose(2, 1, 0)
    each.late[:] = np.where(counted > 0, late / np.maximum(counted, TINY), 0.0)


def _of_models(c: Coefficients, now: Epochs, done: _CarriedOut) -> tuple[FloatArray, ...]:
    """Request-seconds, late requests (N x S, V), footprint (N x S, V, 3) and requests that left (N x S, V)."""
    seconds, late, _ = done.of_models(c)
    footprint = [over_sites(done.it_j * of_metric) for of_metric in now.per_joule[1:]]  # (V, S, N) each
    rejected = np.broadcast_to(done.waiting.gone, seconds.shape)
    models = len(seconds)
    seconds, late, rejected, *rest = (
        values.transpose(2, 1, 0).reshape(-1, models) for values in (seconds, late, rejected, *footprint)
    )
    return seconds, late, np.stack(rest, axis=-1), rejected


def _dispatch(
    c: Coefficients, plans: Plans, allowed: FloatArray, state: tuple[FloatArray, FloatArray], rate: FloatArray
) -> FloatArray:
    """Rates (V, D, S, N) of the awake replicas when ``rate`` (V, S, N) is to be served; what has no room is not."""
    awake_rps, full = state
    limit = allowed * awake_rps * c.max_utilization
    if plans.order is not None:
        room = limit
        if plans.cap is not None:
            room = np.minimum(limit, allowed * awake_rps * plans_last(plans.cap))
        served = _in_turn(plans_last(plans.order), room, rate)
    else:
        share = plans_last(plans.shares) * allowed
        total = over_sites(share)  # (V, 1, N)
        part = share / np.maximum(total, TINY)[:, None]
        if not (total > 0).all():  # a row whose sites are all closed goes by capacity
            by_capacity = limit / np.maximum(over_sites(limit), TINY)[:, None]
            part = np.where((total > 0)[:, None], part, by_capacity)
        served = np.minimum(part * rate[:, None], limit)
    # Spill-over: the next by free capacity, as the router does it; once all are at the limit, what they can serve.
    left = np.maximum(rate - over_sites(served), 0.0)
    for most in (limit, full):
        if left.any():
            free = np.maximum(most - served, 0.0)
            total_free = over_sites(free)
            spilled = np.minimum(left, total_free)
            served = served + free * (spilled / np.maximum(total_free, TINY))[:, None]
            left = left - spilled
    return np.asarray(served)


def _way_s(plans: Plans, mean_s: FloatArray, rps: FloatArray, rate: FloatArray) -> FloatArray:
    """Mean round trip (V, D, S, N) of what each site serves, ``rps`` of the ``rate`` (V, S, N) of all.

    Without rows of origins everybody's requests are alike, and ``mean_s`` it is. With rows a site that serves more than
    they send it has the rest from sites that are full or closed. Where it is known what the rows send there, those
    requests come as they do from all sites that overflow. Else they are counted as a mean of all that the rows send
    elsewhere, which follows from the site's own round trip and everybody's.
    """
    if plans.rtt_s is None:
        return mean_s
    own_s = plans_last(plans.rtt_s)
    if plans.order is not None:  # sites are filled in turn, whatever the rows say
        return own_s
    shares = plans_last(plans.shares)
    own = shares / np.maximum(over_sites(shares), TINY)[:, None]  # (V, D, 1, N)
    spilled_rps = np.maximum(rps - (own + SLACK) * rate[:, None], 0.0)
    if not spilled_rps.any():
        return own_s
    if plans.beyond_s is None:
        others_s = np.maximum(mean_s - own * own_s, 0.0) / np.maximum(1.0 - own, TINY)
    else:
        over_rps = np.maximum(own * rate[:, None] - rps, 0.0)
        to_each_s = np.ascontiguousarray(plans.beyond_s.transpose(1, 2, 3, 0))[:, :, :, None]  # (V, D, D, 1, N)
        total_rps = np.maximum(over_sites(over_rps), TINY)
        others_s = over_sites(over_rps[:, :, None] * to_each_s) / total_rps[:, None]
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


def _wanted(c: Coefficients, plans: Plans) -> FloatArray:
    """Replicas to be awake, (V, D, 1, N); (V, D, 1, 1) where all are, whatever the plan."""
    everyone = c.all_replicas[:, :, None, None]
    if plans.awake is None or not c.sleeps.any():
        return everyone
    wanted = np.clip(plans_last(plans.awake), 0.0, everyone)
    return np.asarray(np.where(c.sleeps[:, None, None, None] > 0, wanted, everyone))


def _looked_up(table: FloatArray, place: _Index) -> FloatArray:
    """Values of a flat table; every place is one of it, so that nothing is clipped and nothing need be checked."""
    return np.asarray(table.take(place, mode="clip"))

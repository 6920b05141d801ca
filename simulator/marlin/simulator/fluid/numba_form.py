"""The fluid engine's formulas compiled, for training and experiments; a test holds them equal to ``numpy_form``.

Plans are taken in pieces of ``LANES``; each loop over a piece has that fixed length, so that the compiler turns it into
vector instructions and every plan goes through the very same ones: a plan alone gives bit for bit what it gives in a
batch. Pieces are shared out among the cores. A short piece is filled up with copies of its last plan.

Needs the extra ``[sim]``. Nothing here is a decision of its own: whoever changes a formula changes it in both.
"""

# Loops over lanes are written out: they are what the compiler vectorises.
# ruff: noqa: PLR0913, PLR0917, PLR0915, C901, PLR0912

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numba as nb
import numpy as np
from numpy.typing import NDArray

from marlin.simulator.compiling import KEEP
from marlin.simulator.fluid.coefficients import CELLS, SLACK
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from marlin.simulator.fluid.coefficients import Coefficients, Conditions
    from marlin.simulator.fluid.outcome import Buffers, Plans

LANES: Final = 64
_TINY: Final = 1e-12

_NO_FLOATS: Final = np.zeros((0, 0, 0))
_NO_PAIRS: Final = np.zeros((0, 0, 0, 0))
_NO_ORDER: Final = np.zeros((0, 0, 0), dtype=np.int64)
_FAST: Final = {"contract", "nsz", "arcp"}
"""Contracting a product and a sum into one instruction changes the last bit, the same for every plan."""

_Floats = tuple[FloatArray, ...]
_Order = NDArray[np.int64]


def evaluate(c: Coefficients, now: Conditions, plans: Plans, out: Buffers) -> None:
    """Carries B plans out and writes what they do into ``out``; arguments as in ``numpy_form.evaluate``."""
    now = now.spread()
    # One piece needs no other core: waking them takes longer than the work.
    run = _evaluate if len(plans) > LANES else _piece_alone
    run(
        (c.epoch_s, c.max_utilization, c.patience_s, c.pack_utilization, float(c.wakes)),
        (c.sleeps, c.wake_s, c.base_w, c.knots, c.inverse_width),
        c.segment,
        (c.capacity, c.all_replicas, now.requests, now.backlog),
        (c.count, c.before, now.allowed, now.awake_before, now.rtt_s, now.per_joule),
        (c.summed, c.each),
        (c.curve_summed, c.curve_each),
        (
            plans.shares,
            _NO_FLOATS if plans.cap is None else plans.cap,
            _NO_FLOATS if plans.awake is None else plans.awake,
            _NO_FLOATS if plans.rtt_s is None else plans.rtt_s,
            _NO_PAIRS if plans.beyond_s is None else plans.beyond_s,
        ),
        _NO_ORDER if plans.order is None else plans.order,
        (out.served, out.ttft_s, out.utilization, out.awake, out.footprint),
        (out.metrics, out.queued, out.rejected, out.waited_s),
        out.late,
    )


@nb.njit(parallel=True, fastmath=_FAST, error_model="numpy", cache=KEEP, nogil=True)
def _evaluate(
    numbers: tuple[float, ...],
    lines: _Floats,
    segment: _Order,
    planes: _Floats,
    boxes: _Floats,
    tables: _Floats,
    curves: _Floats,
    plans: _Floats,
    order: _Order,
    out_site: _Floats,
    out_model: _Floats,
    out_late: FloatArray,
) -> None:
    n_plans = plans[0].shape[0]
    for piece in nb.prange((n_plans + LANES - 1) // LANES):
        _piece(
            piece * LANES, numbers, lines, segment, planes, boxes, tables, curves, plans, order,
            out_site, out_model, out_late,
        )  # fmt: skip


@nb.njit(fastmath=_FAST, error_model="numpy", cache=KEEP, nogil=True)
def _piece_alone(
    numbers: tuple[float, ...],
    lines: _Floats,
    segment: _Order,
    planes: _Floats,
    boxes: _Floats,
    tables: _Floats,
    curves: _Floats,
    plans: _Floats,
    order: _Order,
    out_site: _Floats,
    out_model: _Floats,
    out_late: FloatArray,
) -> None:
    _piece(
        0, numbers, lines, segment, planes, boxes, tables, curves, plans, order, out_site, out_model, out_late
    )  # fmt: skip


@nb.njit(fastmath=_FAST, error_model="numpy", cache=KEEP, nogil=True)
def _piece(
    start: int,
    numbers: tuple[float, ...],
    lines: _Floats,
    segment: _Order,
    planes: _Floats,
    boxes: _Floats,
    tables: _Floats,
    curves: _Floats,
    plans: _Floats,
    order: _Order,
    out_site: _Floats,
    out_model: _Floats,
    out_late: FloatArray,
) -> None:
    epoch_s, max_utilization, patience_s, pack_utilization, wakes = numbers
    sleeps, wake_s, base_w, knots, inverse_width = lines
    capacity, all_replicas, now_requests, now_backlog = planes
    count, before, now_allowed, now_awake_before, now_rtt, now_per_joule = boxes
    summed, each = tables
    curve_summed, curve_each = curves
    shares, cap, awake, rtt, beyond = plans
    out_served, out_ttft, out_utilization, out_awake, out_footprint = out_site
    out_metrics, out_queued, out_rejected, out_waited = out_model
    n_models, n_sites, n_deployments = count.shape
    last = shares.shape[0] - 1
    used = min(LANES, last + 1 - start)
    per_plan = now_requests.shape[0] > 1
    has_order, has_cap, has_awake, has_rtt = order.shape[0] > 0, cap.shape[0] > 0, awake.shape[0] > 0, rtt.shape[0] > 0

    it_j = np.empty((n_sites, LANES))
    limit, spare = np.empty((n_sites, LANES)), np.empty((n_sites, LANES))
    kept, part = np.empty((n_sites, LANES)), np.empty((n_sites, LANES))
    whole = np.empty((n_sites, LANES), dtype=np.int64)
    awake_rps, served = np.empty((n_sites, LANES)), np.empty((n_sites, LANES))
    per_rps = np.empty((n_sites, LANES))
    room, way_s = np.empty((n_sites, LANES)), np.empty((n_sites, LANES))
    seconds, late_sum, counted = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    rate, queue_end, gone, waited = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    total, spare_total, left, carried = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    load, power_w, first_s, late_part = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    own = np.empty((n_sites if has_rtt else 0, LANES))
    for d in range(n_sites):
        for i in range(LANES):
            it_j[d, i] = base_w[d] * epoch_s

    for v in range(n_models):
        # --- who is awake, and what can be carried
        for i in range(LANES):
            total[i] = 0.0
            spare_total[i] = 0.0
        for d in range(n_sites):
            for i in range(LANES):
                b = min(start + i, last)
                n = b if per_plan else 0
                allowed = now_allowed[n, v, d]
                way_s[d, i] = rtt[b, v, d] if has_rtt else now_rtt[n, v, d]
                served[d, i] = shares[b, v, d] * allowed
                kept[d, i] = all_replicas[v, d]
                if has_awake and sleeps[v] > 0:
                    kept[d, i] = min(max(awake[b, v, d], 0.0), all_replicas[v, d])
                m = 0
                for k in range(1, n_deployments + 1):
                    m += 1 if kept[d, i] >= before[v, d, k] else 0
                whole[d, i] = m
                part[d, i] = kept[d, i] - before[v, d, m]
                awake_rps[d, i] = summed[v, d, m, 0] + part[d, i] * each[v, d, m, 0]
                per_rps[d, i] = 1.0 / max(awake_rps[d, i], _TINY)
                limit[d, i] = allowed * awake_rps[d, i] * max_utilization
                spare[d, i] = allowed * max(capacity[v, d] - awake_rps[d, i], 0.0) * (max_utilization * wakes)
                total[i] += limit[d, i]
                spare_total[i] += spare[d, i]
                room[d, i] = limit[d, i]
                if has_cap:
                    room[d, i] = min(limit[d, i], allowed * awake_rps[d, i] * cap[b, v, d])
        # --- the queue before all sites
        for i in range(LANES):
            n = min(start + i, last) if per_plan else 0
            arriving = now_requests[n, v] / epoch_s
            until_s = wake_s[v] if spare_total[i] > 0 else epoch_s
            end, left_now, waited_now = _flow(now_backlog[n, v], arriving, total[i], until_s, patience_s)
            end, left_later, waited_later = _flow(
                end, arriving, total[i] + spare_total[i], epoch_s - until_s, patience_s
            )
            queue_end[i] = end
            gone[i] = left_now + left_later
            waited[i] = waited_now + waited_later
            rate[i] = max(arriving + (now_backlog[n, v] - end - gone[i]) / epoch_s, 0.0)
        # --- who serves it
        if has_order:
            for i in range(LANES):
                left[i] = rate[i]
            for d in range(n_sites):
                for i in range(LANES):
                    served[d, i] = 0.0
            for position in range(n_sites):
                for i in range(LANES):
                    site = order[min(start + i, last), v, position]
                    if site >= 0:
                        taken = min(left[i], room[site, i])
                        served[site, i] += taken
                        left[i] -= taken
        else:
            for i in range(LANES):
                carried[i] = 0.0
            for d in range(n_sites):
                for i in range(LANES):
                    carried[i] += served[d, i]
            for d in range(n_sites):
                for i in range(LANES):
                    share = (
                        served[d, i] / max(carried[i], _TINY) if carried[i] > 0 else limit[d, i] / max(total[i], _TINY)
                    )
                    served[d, i] = min(share * rate[i], limit[d, i])
        for i in range(LANES):
            total[i] = 0.0
            carried[i] = 0.0
        for d in range(n_sites):
            for i in range(LANES):
                carried[i] += served[d, i]
                total[i] += limit[d, i] - served[d, i]
        for i in range(LANES):
            left[i] = min(max(rate[i] - carried[i], 0.0), total[i]) / max(total[i], _TINY)
            carried[i] = 0.0
        for d in range(n_sites):
            for i in range(LANES):
                served[d, i] += (limit[d, i] - served[d, i]) * left[i]
                carried[i] += served[d, i]
        for i in range(LANES):
            left[i] = max(rate[i] - carried[i], 0.0) / max(spare_total[i], _TINY)
        # --- whose requests these are: see ``numpy_form._way_s``
        if has_rtt and not has_order:
            for i in range(LANES):
                carried[i] = 0.0
                total[i] = 0.0
            for d in range(n_sites):
                for i in range(LANES):
                    carried[i] += shares[min(start + i, last), v, d]
            for d in range(n_sites):
                for i in range(LANES):
                    b = min(start + i, last)
                    own[d, i] = shares[b, v, d] / max(carried[i], _TINY)
                    room[d, i] = max(own[d, i] * rate[i] - (served[d, i] + spare[d, i] * left[i]), 0.0)
                    total[i] += room[d, i]
            for d in range(n_sites):
                for i in range(LANES):
                    b = min(start + i, last)
                    if beyond.shape[0] > 0:
                        others_s = 0.0
                        for sent in range(n_sites):
                            others_s += room[sent, i] * beyond[b, v, sent, d]
                        others_s /= max(total[i], _TINY)
                    else:
                        mean_s = now_rtt[b if per_plan else 0, v, d]
                        others_s = max(mean_s - own[d, i] * way_s[d, i], 0.0) / max(1.0 - own[d, i], _TINY)
                    rps = served[d, i] + spare[d, i] * left[i]
                    spilled_rps = max(rps - (own[d, i] + SLACK) * rate[i], 0.0)
                    way_s[d, i] += (others_s - way_s[d, i]) * (spilled_rps / max(rps, _TINY))
        # --- what it takes: power, time, energy
        for d in range(n_sites):
            for i in range(LANES):
                load[i] = min(served[d, i] * per_rps[d, i], 1.0)
            if pack_utilization > 0:
                _packed(
                    power_w, first_s, late_part, kept[d], served[d], load, count[v, d], before[v, d], each[v, d],
                    knots, inverse_width, segment, pack_utilization, curve_each[v, d],
                    curve_summed[v, d, n_deployments, 0], capacity[v, d],
                )  # fmt: skip
            else:
                for i in range(LANES):
                    m = whole[d, i]
                    j = segment[int(load[i] * CELLS)]
                    along = (load[i] - knots[j]) * inverse_width[j]
                    low = curve_summed[v, d, m, j, 0] + part[d, i] * curve_each[v, d, m, j, 0]
                    high = curve_summed[v, d, m, j + 1, 0] + part[d, i] * curve_each[v, d, m, j + 1, 0]
                    power_w[i] = low + along * (high - low)
                    low = curve_summed[v, d, m, j, 1] + part[d, i] * curve_each[v, d, m, j, 1]
                    high = curve_summed[v, d, m, j + 1, 1] + part[d, i] * curve_each[v, d, m, j + 1, 1]
                    first_s[i] = (low + along * (high - low)) * per_rps[d, i]
                    low = curve_summed[v, d, m, j, 2] + part[d, i] * curve_each[v, d, m, j, 2]
                    high = curve_summed[v, d, m, j + 1, 2] + part[d, i] * curve_each[v, d, m, j + 1, 2]
                    late_part[i] = (low + along * (high - low)) * per_rps[d, i]
            if sleeps[v] > 0:
                working_s = epoch_s - wake_s[v]
                working = max(1.0 - wake_s[v] / epoch_s, _TINY)
                wake_was_j = _wake_j(now_awake_before[0, v, d], before[v, d], summed[v, d], each[v, d])
                for i in range(LANES):
                    m = whole[d, i]
                    p = part[d, i]
                    asleep_rps = max(capacity[v, d] - awake_rps[d, i], 0.0)
                    most = asleep_rps * (max_utilization * working)
                    woken = min(spare[d, i] * left[i] / max(most, _TINY), 1.0)
                    asleep_w = summed[v, d, n_deployments, 1] - (summed[v, d, m, 1] + p * each[v, d, m, 1])
                    wake_now_j = summed[v, d, m, 2] + p * each[v, d, m, 2]
                    wake_j = summed[v, d, n_deployments, 2] - wake_now_j
                    busy_w = summed[v, d, n_deployments, 3] - (summed[v, d, m, 3] + p * each[v, d, m, 3])
                    if per_plan:
                        wake_was_j = _wake_j(
                            now_awake_before[min(start + i, last), v, d], before[v, d], summed[v, d], each[v, d]
                        )
                    asleep_j = asleep_w * epoch_s
                    it_j[d, i] += (
                        asleep_j + woken * (wake_j + busy_w * working_s - asleep_j) + max(wake_now_j - wake_was_j, 0.0)
                    )
                    kept[d, i] += woken * max(all_replicas[v, d] - kept[d, i], 0.0)
            for i in range(LANES):
                it_j[d, i] += power_w[i] * epoch_s
                site_requests = (served[d, i] + spare[d, i] * left[i]) * epoch_s
                seconds[i] += site_requests * (first_s[i] + way_s[d, i])
                late_sum[i] += site_requests * late_part[i]
                counted[i] += site_requests
            for i in range(used):
                b = start + i
                out_served[b, v, d] = (served[d, i] + spare[d, i] * left[i]) * epoch_s
                out_utilization[b, v, d] = load[i]
                out_ttft[b, v, d] = first_s[i] + way_s[d, i]
                out_awake[b, v, d] = kept[d, i]
        for i in range(LANES):
            seconds[i] += waited[i] + patience_s * gone[i]
            late_sum[i] += gone[i]
            counted[i] += gone[i]
        for i in range(used):
            out_queued[start + i, v] = queue_end[i]
            out_rejected[start + i, v] = gone[i]
            out_waited[start + i, v] = waited[i]

    for i in range(used):
        b = start + i
        n = b if per_plan else 0
        out_metrics[b, 0] = seconds[i] / max(counted[i], _TINY)
        out_late[b] = late_sum[i] / max(counted[i], _TINY)
        for metric in range(4):
            amount = 0.0
            for d in range(n_sites):
                out_footprint[b, d, metric] = it_j[d, i] * now_per_joule[n, d, metric]
                amount += out_footprint[b, d, metric]
            if metric > 0:
                out_metrics[b, metric] = amount


@nb.njit(fastmath=_FAST, error_model="numpy", inline="always")
def _wake_j(was: float, before: FloatArray, summed: FloatArray, each: FloatArray) -> float:
    """What it took to wake the replicas that are awake already, J; ``was`` of them."""
    was = min(max(was, 0.0), before[-1])
    m = 0
    for k in range(1, len(before)):
        m += 1 if was >= before[k] else 0
    return float(summed[m, 2] + (was - before[m]) * each[m, 2])


@nb.njit(inline="always")
def _flow(
    queue: float, rate: float, service: float, duration_s: float, patience_s: float
) -> tuple[float, float, float]:
    """See ``numpy_form._flow``."""
    most = patience_s * service
    start = min(queue, most)
    net = rate - service
    free_end = start + net * duration_s
    end = min(max(free_end, 0.0), most)
    gone = (queue - start) + max(free_end - most, 0.0)
    if net > 0:
        change_s = min((most - start) / max(net, _TINY), duration_s)
    elif net < 0:
        change_s = min(start / max(-net, _TINY), duration_s)
    else:
        change_s = duration_s
    return end, gone, (start + end) / 2.0 * change_s + end * (duration_s - change_s)


@nb.njit(fastmath=_FAST, error_model="numpy", cache=KEEP, nogil=True)
def _packed(
    power_w: FloatArray,
    first_s: FloatArray,
    late_part: FloatArray,
    kept: FloatArray,
    served: FloatArray,
    load: FloatArray,
    count: FloatArray,
    before: FloatArray,
    each: FloatArray,
    knots: FloatArray,
    inverse_width: FloatArray,
    segment: _Order,
    pack_utilization: float,
    curves: FloatArray,
    idle: FloatArray,
    capacity: float,
) -> None:
    """See ``numpy_form._packed``."""
    for i in range(LANES):
        full = min(max(load[i], pack_utilization), 1.0)
        left = served[i]
        watts, first_sum, late_sum = 0.0, 0.0, 0.0
        for k in range(len(count)):
            awake = min(max(kept[i] - before[k], 0.0), count[k])
            one = each[k, 0] * full
            filled = min(left / max(one, _TINY), awake)
            left = max(left - filled * one, 0.0)
            whole = np.floor(filled + 1e-9)
            part = max(filled - whole, 0.0)
            started = 1.0 if part > 0 else 0.0
            j = segment[int(full * CELLS)]
            along = (full - knots[j]) * inverse_width[j]
            q = segment[int(part * full * CELLS)]
            across = (part * full - knots[q]) * inverse_width[q]
            watts += (
                whole * (curves[k, j, 0] + along * (curves[k, j + 1, 0] - curves[k, j, 0]))
                + started * (curves[k, q, 0] + across * (curves[k, q + 1, 0] - curves[k, q, 0]))
                + max(awake - whole - started, 0.0) * curves[k, 0, 0]
            )
            first_sum += full * (
                whole * (curves[k, j, 1] + along * (curves[k, j + 1, 1] - curves[k, j, 1]))
                + part * (curves[k, q, 1] + across * (curves[k, q + 1, 1] - curves[k, q, 1]))
            )
            late_sum += full * (
                whole * (curves[k, j, 2] + along * (curves[k, j + 1, 2] - curves[k, j, 2]))
                + part * (curves[k, q, 2] + across * (curves[k, q + 1, 2] - curves[k, q, 2]))
            )
        power_w[i] = watts
        if served[i] > 0:
            first_s[i] = first_sum / max(served[i], _TINY)
            late_part[i] = late_sum / max(served[i], _TINY)
        else:
            first_s[i] = idle[1] / max(capacity, _TINY)
            late_part[i] = idle[2] / max(capacity, _TINY)

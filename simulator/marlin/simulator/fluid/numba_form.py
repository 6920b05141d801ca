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
from marlin.simulator.fluid.coefficients import CELLS, CHANCE, SLACK
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
        (c.sleeps, c.wake_s, c.ttft_limit_s, c.base_w, c.knots, c.inverse_width),
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
    sleeps, wake_s, ttft_limit_s, base_w, knots, inverse_width = lines
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
    later_w, later_first_s, later_late = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    later_load, later_rps, later_awake = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    late_here, served_here = np.empty(LANES), np.empty(LANES)
    awake_places, usable, then_usable, then_places = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    sleepers, places, asleep_rps, until_s = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    woken, waited_late, full, is_woken = np.empty(LANES), np.empty(LANES), np.empty(LANES), np.empty(LANES)
    awake_then, rps_then = np.empty((n_sites, LANES)), np.empty((n_sites, LANES))
    whole_then, part_then = np.empty((n_sites, LANES), dtype=np.int64), np.empty((n_sites, LANES))
    own = np.empty((n_sites if has_rtt else 0, LANES))
    for d in range(n_sites):
        for i in range(LANES):
            it_j[d, i] = base_w[d] * epoch_s

    for v in range(n_models):
        # --- who is awake, and what can be carried
        for i in range(LANES):
            total[i] = 0.0
            spare_total[i] = 0.0
            sleepers[i] = 0.0
            full[i] = 0.0
            awake_places[i] = 0.0
            late_here[i] = 0.0
            served_here[i] = 0.0
            places[i] = 0.0
            asleep_rps[i] = 0.0
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
                m = _wholly_awake(kept[d, i], before[v, d])
                whole[d, i] = m
                part[d, i] = kept[d, i] - before[v, d, m]
                awake_rps[d, i] = summed[v, d, m, 0] + part[d, i] * each[v, d, m, 0]
                per_rps[d, i] = 1.0 / max(awake_rps[d, i], _TINY)
                limit[d, i] = allowed * awake_rps[d, i] * max_utilization
                total[i] += limit[d, i]
                full[i] += allowed * awake_rps[d, i]
                awake_places[i] += allowed * (summed[v, d, m, 3] + part[d, i] * each[v, d, m, 3])
                sleepers[i] += allowed * max(all_replicas[v, d] - kept[d, i], 0.0) * wakes
                asleep_rps[i] += allowed * max(summed[v, d, n_deployments, 0] - awake_rps[d, i], 0.0)
                places_here = summed[v, d, m, 3] + part[d, i] * each[v, d, m, 3]
                places[i] += allowed * max(summed[v, d, n_deployments, 3] - places_here, 0.0)
                spare[d, i] = 0.0
                room[d, i] = limit[d, i]
                if has_cap:
                    room[d, i] = min(limit[d, i], allowed * awake_rps[d, i] * cap[b, v, d])
        # --- the queue before all sites
        any_woken = False
        for i in range(LANES):
            n = min(start + i, last) if per_plan else 0
            arriving = now_requests[n, v] / epoch_s
            usable[i] = max(1.0 - CHANCE / np.sqrt(max(awake_places[i], 1.0)), max_utilization)
            full[i] *= usable[i]
            until_s[i] = wake_s[v] if sleepers[i] > 0 else epoch_s
            end, left_now, waited_now, late_now = _flow(
                now_backlog[n, v], arriving, full[i], until_s[i], patience_s, ttft_limit_s[v]
            )
            queue_end[i] = end
            gone[i] = left_now
            waited[i] = waited_now
            waited_late[i] = late_now
            woken[i] = 0.0
            is_woken[i] = 0.0
            if sleepers[i] > 0 and (end > 0 or arriving > full[i]):
                any_woken = True
                is_woken[i] = 1.0
                if places[i] > 0:
                    lacking = max((arriving - full[i]) / max(asleep_rps[i], _TINY), 0.0)
                    woken[i] = min(max(end / max(places[i], _TINY), lacking), 1.0)
        # --- who wakes for it
        if any_woken:
            for i in range(LANES):
                then_places[i] = 0.0
            for d in range(n_sites):
                for i in range(LANES):
                    n = min(start + i, last) if per_plan else 0
                    asleep = now_allowed[n, v, d] * max(all_replicas[v, d] - kept[d, i], 0.0) * wakes
                    awake_then[d, i] = kept[d, i] + woken[i] * asleep
                    m = _wholly_awake(awake_then[d, i], before[v, d])
                    whole_then[d, i] = m
                    part_then[d, i] = awake_then[d, i] - before[v, d, m]
                    rps_then[d, i] = summed[v, d, m, 0] + part_then[d, i] * each[v, d, m, 0]
                    places_then = summed[v, d, m, 3] + part_then[d, i] * each[v, d, m, 3]
                    then_places[i] += now_allowed[n, v, d] * places_then
            for i in range(LANES):
                then_usable[i] = max(1.0 - CHANCE / np.sqrt(max(then_places[i], 1.0)), max_utilization)
            for d in range(n_sites):
                for i in range(LANES):
                    n = min(start + i, last) if per_plan else 0
                    more_rps = rps_then[d, i] * then_usable[i] - awake_rps[d, i] * usable[i]
                    spare[d, i] = now_allowed[n, v, d] * max(more_rps, 0.0) * is_woken[i]
                    spare_total[i] += spare[d, i]
            for i in range(LANES):
                if is_woken[i] > 0:
                    n = min(start + i, last) if per_plan else 0
                    end, left_later, waited_later, late_later = _flow(
                        queue_end[i], now_requests[n, v] / epoch_s, full[i] + spare_total[i],
                        epoch_s - until_s[i], patience_s, ttft_limit_s[v],
                    )  # fmt: skip
                    queue_end[i] = end
                    gone[i] += left_later
                    waited[i] += waited_later
                    waited_late[i] += late_later
        for i in range(LANES):
            n = min(start + i, last) if per_plan else 0
            # As late count those who are served now: who waited before, and not who still waits.
            most = ttft_limit_s[v] * (full[i] + spare_total[i])
            if now_backlog[n, v] > most:
                waited_late[i] += now_backlog[n, v]
            if queue_end[i] > most:
                waited_late[i] -= queue_end[i]
            waited_late[i] = max(waited_late[i], 0.0)
            rate[i] = max((now_requests[n, v] + now_backlog[n, v] - queue_end[i] - gone[i]) / epoch_s, 0.0)
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
        # Once all are at the limit, up to what they can carry.
        for i in range(LANES):
            beyond_rps = max(full[i] - carried[i], 0.0)
            left[i] = min(max(rate[i] - carried[i], 0.0), beyond_rps) / max(beyond_rps, _TINY)
            carried[i] = 0.0
        for d in range(n_sites):
            for i in range(LANES):
                b = min(start + i, last)
                open_rps = now_allowed[b if per_plan else 0, v, d] * awake_rps[d, i] * usable[i]
                served[d, i] += max(open_rps - served[d, i], 0.0) * left[i]
                carried[i] += served[d, i]
        for i in range(LANES):
            left[i] = max(rate[i] * (1.0 - SLACK) - carried[i], 0.0) / max(spare_total[i], _TINY)
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
                _spread(
                    power_w, first_s, late_part, whole[d], part[d], awake_rps[d], load, knots, inverse_width, segment,
                    curve_summed[v, d], curve_each[v, d],
                )  # fmt: skip
            for i in range(LANES):
                it_j[d, i] += power_w[i] * epoch_s
            if sleeps[v] > 0:
                wake_was_j = _wake_j(now_awake_before[0, v, d], before[v, d], summed[v, d], each[v, d])
                for i in range(LANES):
                    m = whole[d, i]
                    p = part[d, i]
                    asleep_w = summed[v, d, n_deployments, 1] - (summed[v, d, m, 1] + p * each[v, d, m, 1])
                    wake_now_j = summed[v, d, m, 2] + p * each[v, d, m, 2]
                    if per_plan:
                        wake_was_j = _wake_j(
                            now_awake_before[min(start + i, last), v, d], before[v, d], summed[v, d], each[v, d]
                        )
                    it_j[d, i] += asleep_w * epoch_s + max(wake_now_j - wake_was_j, 0.0)
            if any_woken:
                for i in range(LANES):
                    later_awake[i] = awake_then[d, i]
                    rps = served[d, i] + spare[d, i] * left[i]
                    later_rps[i] = max(rps * epoch_s - served[d, i] * until_s[i], 0.0) / max(
                        epoch_s - until_s[i], _TINY
                    )
                    later_load[i] = min(later_rps[i] / max(rps_then[d, i], _TINY), 1.0)
                if pack_utilization > 0:
                    _packed(
                        later_w, later_first_s, later_late, later_awake, later_rps, later_load, count[v, d],
                        before[v, d], each[v, d], knots, inverse_width, segment, pack_utilization, curve_each[v, d],
                        curve_summed[v, d, n_deployments, 0], capacity[v, d],
                    )  # fmt: skip
                else:
                    _spread(
                        later_w, later_first_s, later_late, whole_then[d], part_then[d], rps_then[d], later_load, knots,
                        inverse_width, segment, curve_summed[v, d], curve_each[v, d],
                    )  # fmt: skip
                for i in range(LANES):
                    m, p = whole[d, i], part[d, i]
                    m2, p2 = whole_then[d, i], part_then[d, i]
                    rps = served[d, i] + spare[d, i] * left[i]
                    early = served[d, i] * until_s[i] / max(rps * epoch_s, _TINY) if rps > 0 else 0.0
                    passed = until_s[i] / epoch_s
                    if is_woken[i] == 0:  # bit for bit what it is where nobody is short
                        early, passed = 1.0, 1.0
                    first_s[i] = first_s[i] * early + later_first_s[i] * (1.0 - early)
                    late_part[i] = late_part[i] * early + later_late[i] * (1.0 - early)
                    load[i] = load[i] * passed + later_load[i] * (1.0 - passed)
                    asleep_less_w = (
                        summed[v, d, m2, 1] + p2 * each[v, d, m2, 1] - (summed[v, d, m, 1] + p * each[v, d, m, 1])
                    )
                    wake_j = summed[v, d, m2, 2] + p2 * each[v, d, m2, 2] - (summed[v, d, m, 2] + p * each[v, d, m, 2])
                    more_j = (later_w[i] - power_w[i]) * (epoch_s - until_s[i]) + wake_j - asleep_less_w * epoch_s
                    it_j[d, i] += more_j * is_woken[i]
                    kept[d, i] = awake_then[d, i]
            for i in range(LANES):
                site_requests = (served[d, i] + spare[d, i] * left[i]) * epoch_s
                seconds[i] += site_requests * (first_s[i] + way_s[d, i])
                late_here[i] += site_requests * late_part[i]
                served_here[i] += site_requests
            for i in range(used):
                b = start + i
                out_served[b, v, d] = (served[d, i] + spare[d, i] * left[i]) * epoch_s
                out_utilization[b, v, d] = load[i]
                out_ttft[b, v, d] = first_s[i] + way_s[d, i]
                out_awake[b, v, d] = kept[d, i]
        for i in range(LANES):
            late_sum[i] += min(late_here[i] + waited_late[i], served_here[i])
            seconds[i] += waited[i] + patience_s * gone[i]
            late_sum[i] += gone[i]
            counted[i] += served_here[i]
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
def _wholly_awake(replicas: float, before: FloatArray) -> int:
    """How many deployments of a place are wholly among its first ``replicas``, which begin at ``before``."""
    m = 0
    for k in range(1, len(before)):
        m += 1 if replicas >= before[k] else 0
    return m


@nb.njit(fastmath=_FAST, error_model="numpy", inline="always")
def _wake_j(was: float, before: FloatArray, summed: FloatArray, each: FloatArray) -> float:
    """What it took to wake the replicas that are awake already, J; ``was`` of them."""
    was = min(max(was, 0.0), before[-1])
    m = _wholly_awake(was, before)
    return float(summed[m, 2] + (was - before[m]) * each[m, 2])


@nb.njit(inline="always")
def _flow(
    queue: float, rate: float, service: float, duration_s: float, patience_s: float, late_s: float
) -> tuple[float, float, float, float]:
    """See ``waiting.flow``."""
    most, late_from = patience_s * service, late_s * service
    start = min(queue, most)
    net = rate - service
    free_end = start + net * duration_s
    end = min(max(free_end, 0.0), most)
    refused = max(free_end - most, 0.0)
    if net > 0:
        change_s = min((most - start) / max(net, _TINY), duration_s)
    elif net < 0:
        change_s = min(start / max(-net, _TINY), duration_s)
    else:
        change_s = duration_s
    still_s = duration_s - change_s
    low, high = start - late_from, end - late_from
    beyond = max(low, 0.0) + max(high, 0.0)
    beyond_s = change_s * beyond / max(abs(low) + abs(high), _TINY) + (still_s if high > 0 else 0.0)
    waited_s = (start + end) / 2.0 * change_s + end * still_s
    return end, (queue - start) + refused, waited_s, max(rate * beyond_s - refused, 0.0)


@nb.njit(fastmath=_FAST, error_model="numpy", cache=KEEP, nogil=True)
def _spread(
    power_w: FloatArray,
    first_s: FloatArray,
    late_part: FloatArray,
    whole: _Order,
    part: FloatArray,
    awake_rps: FloatArray,
    load: FloatArray,
    knots: FloatArray,
    inverse_width: FloatArray,
    segment: _Order,
    summed: FloatArray,
    each: FloatArray,
) -> None:
    """See ``awake.at_load``: what replicas draw and how they answer when all that are awake are loaded alike."""
    for i in range(LANES):
        m, p = whole[i], part[i]
        per_rps = 1.0 / max(awake_rps[i], _TINY)
        j = segment[int(load[i] * CELLS)]
        along = (load[i] - knots[j]) * inverse_width[j]
        low = summed[m, j, 0] + p * each[m, j, 0]
        high = summed[m, j + 1, 0] + p * each[m, j + 1, 0]
        power_w[i] = low + along * (high - low)
        low = summed[m, j, 1] + p * each[m, j, 1]
        high = summed[m, j + 1, 1] + p * each[m, j + 1, 1]
        first_s[i] = (low + along * (high - low)) * per_rps
        low = summed[m, j, 2] + p * each[m, j, 2]
        high = summed[m, j + 1, 2] + p * each[m, j + 1, 2]
        late_part[i] = (low + along * (high - low)) * per_rps


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
    """See ``awake.packed``."""
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

"""What becomes of requests that nobody is awake for: they wait before all sites, and wake replicas that help later.

A replica wakes for every batch that waits, at every site the same part of those asleep; from when they are ready a
site's requests go to all that are awake there, until the epoch ends. With NumPy; ``numba_form`` has it compiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marlin.simulator.fluid.awake import Awake, at_load
from marlin.simulator.fluid.coefficients import ASLEEP_W, CHANCE, PLACES, RPS, SLACK, TINY, WAKE_J, Coefficients
from marlin.simulator.fluid.columns import Columns, Epochs, over_sites
from marlin.simulator.fluid.waiting import Waiting, flow
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Woken:
    """Replicas that wake because requests wait, in the epochs and under the plans where any do."""

    columns: Columns
    is_so: NDArray[np.bool_]  # (V, 1, K) of which models
    awake: Awake  # (V, D, 1, K) with those who woke
    totals: FloatArray  # (4, V, D, 1, K) of these
    more: FloatArray  # (4, V, D, 1, K) than of those kept awake
    spare: FloatArray  # (V, D, 1, K) requests per second that those who woke can serve


def queue(
    c: Coefficients, now: Epochs, state: tuple[Awake, FloatArray, FloatArray], plans: int
) -> tuple[Waiting, Woken | None]:
    """What becomes of each model's requests when they come evenly, in a queue before all sites, and who wakes for it.

    Who is awake serves as much as it can; more is in the queue until the replicas that it wakes are ready to help.
    ``state`` says who is kept awake, what they come to, and what they can serve (V, D, 1, N).
    """
    kept, totals, full = state
    rate, service = now.requests / c.epoch_s, over_sites(full)
    if not (c.wakes and c.sleeps.any()):
        return flow(c, now.backlog, rate, service, c.epoch_s).served_late(c, now.backlog, service), None
    sleepers = now.allowed * np.maximum(c.all_replicas[:, :, None, None] - kept.replicas, 0.0)
    anyone = over_sites(sleepers) > 0  # (V, 1, N)
    first = flow(c, now.backlog, rate, service, np.where(anyone, c.wake_s[:, None, None], c.epoch_s))
    is_short = anyone & ((first.end > 0) | (rate > service))
    if not is_short.any():
        return first.served_late(c, now.backlog, service), None
    part = np.where(is_short, _part_woken(c, totals, now.allowed, first.end, rate - service), 0.0)  # (V, S, N)
    shape = (part.shape[1], plans)
    epoch, plan = np.nonzero(np.broadcast_to(part.any(axis=0), shape))
    columns = Columns(epoch, plan, shape)
    awake = Awake.of(c, columns.of(kept.replicas) + columns.of(part)[:, None] * columns.of(sleepers))
    then, is_so = awake.totals(c), columns.of(is_short)
    spare = np.maximum(full_rps(c, columns.of(now.allowed), then) - columns.of(full), 0.0) * is_so[:, None]
    help_rps = np.zeros((len(part), *shape))
    columns.put(help_rps, over_sites(spare))
    then_rps = service + help_rps
    later = flow(c, first.end, rate, then_rps, np.where(is_short, c.epoch_s - c.wake_s[:, None, None], 0.0))
    both = Waiting(later.end, first.gone + later.gone, first.seconds + later.seconds, first.late + later.late)
    woken = Woken(columns, is_so, awake, then, then - columns.of(totals), spare)
    return both.served_late(c, now.backlog, then_rps), woken


def full_rps(c: Coefficients, allowed: FloatArray, totals: FloatArray) -> FloatArray:
    """What the awake replicas, which come to ``totals`` (4, V, D, S, N), serve before requests wait, (V, D, S, N)."""
    places = over_sites(allowed * totals[PLACES])
    part = np.maximum(1.0 - CHANCE / np.sqrt(np.maximum(places, 1.0)), c.max_utilization)
    return np.asarray(allowed * totals[RPS] * part[:, None])


def _part_woken(
    c: Coefficients, kept: FloatArray, allowed: FloatArray, queue: FloatArray, lacking_rps: FloatArray
) -> FloatArray:
    """Part of the sleeping replicas that are woken, (V, S, N): one for every batch that waits, enough for who comes.

    The same part at every site: they are told apart by ``Awake``. ``kept`` (4, V, D, 1, N) is what is awake already.
    """
    asleep_rps, asleep_places = (
        over_sites(allowed * np.maximum(c.summed[:, :, -1, what, None, None] - kept[what], 0.0))
        for what in (RPS, PLACES)
    )
    part = np.maximum(queue / np.maximum(asleep_places, TINY), lacking_rps / np.maximum(asleep_rps, TINY))
    return np.asarray(np.minimum(np.maximum(part, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class Sites:
    """What each model does at each site, (V, D, S, N)."""

    rps: FloatArray  # served
    load: FloatArray
    ttft_s: FloatArray  # network left out
    late_share: FloatArray
    it_j: FloatArray
    awake: FloatArray  # when the epoch ends

    def all(self) -> tuple[FloatArray, ...]:
        """In the order above."""
        return self.rps, self.load, self.ttft_s, self.late_share, self.it_j, self.awake


def with_woken(c: Coefficients, woken: Woken, served_rps: FloatArray, power_w: FloatArray, sites: Sites) -> Sites:
    """With what those who woke serve once they are ready: a site's requests then go to all that are awake there."""
    columns, wake_s, now_rps = woken.columns, c.wake_s[:, None, None, None], woken.totals[RPS]
    rps, load, ttft_s, late_share, it_j, power_w = (columns.of(values) for values in (*sites.all()[:-1], power_w))
    served_rps = columns.of(served_rps)
    left = np.maximum(served_rps * (1.0 - SLACK) - over_sites(rps), 0.0)  # more than sums are rounded by
    early = rps * wake_s  # requests
    rps = rps + woken.spare * (left / np.maximum(over_sites(woken.spare), TINY))[:, None]
    # Nothing changes, to the last bit, for a model of which nobody wakes.
    later_s = np.where(woken.is_so[:, None], c.epoch_s - wake_s, 0.0)
    later = np.where(woken.is_so[:, None], 1.0 - early / np.maximum(rps * c.epoch_s, TINY), 0.0)  # of the requests
    then_rps = np.maximum(rps * c.epoch_s - early, 0.0) / np.maximum(c.epoch_s - wake_s, TINY)
    then_load = np.minimum(then_rps / np.maximum(now_rps, TINY), 1.0)
    then_w, then_s, then_late = at_load(c, woken.awake, now_rps, then_rps, then_load)
    done = (
        rps,
        load + (then_load - load) * (later_s / c.epoch_s),
        ttft_s + (then_s - ttft_s) * later,
        late_share + (then_late - late_share) * later,
        it_j + (then_w - power_w) * later_s + woken.more[WAKE_J] - woken.more[ASLEEP_W] * c.epoch_s,
        woken.awake.replicas,
    )
    whole = Sites(*(columns.whole(values) for values in sites.all()))
    for into, values in zip(whole.all(), done, strict=True):
        columns.put(into, values)
    return whole

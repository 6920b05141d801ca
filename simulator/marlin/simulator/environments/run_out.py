"""After the last epoch the horizon runs on until nobody waits, and that counts (marlin-model, section 3).

Otherwise a plan would win by leaving its last queue to nobody. The time it takes is added to the last epoch's outcome,
energy of the idle fleet included, as ``experiment`` adds it to a study.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.engines import MOST_RUN_OUT_S
from marlin.simulator.environments.lanes import Fleets, Happened, happened, plans_at
from marlin.simulator.fluid import Form, Plans, simulate_epochs
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


def with_run_out(
    done: Happened,
    fleets: Fleets,
    index: NDArray[np.int64],  # (B,)
    now: Conditions,
    plans: Plans,
    form: Form,
    *,
    last: NDArray[np.int64],
) -> Happened:
    """The outcome with the queues of the rows in ``last`` worked off under the same plans."""
    waiting = [int(row) for row in last if done.queued[row].any()]
    if not waiting:
        return done
    longer = Happened(**{f.name: getattr(done, f.name).copy() for f in fields(Happened)})
    for row in waiting:
        _run_out(longer, row, fleets.twins[index[row]], now.take([row]), plans_at(plans, np.array([row])), form)
    return longer


def _run_out(longer: Happened, row: int, twin: TwinState, now: Conditions, plan: Plans, form: Form) -> None:
    """Works one row's queue off, and writes what that did into ``longer``."""
    while True:
        backlog = longer.queued[row].copy()  # (V,)
        quiet = replace(twin, requests=np.zeros_like(twin.requests), epoch_s=_needed_s(twin, now, plan, backlog))
        then = replace(
            now, requests=np.zeros_like(now.requests), backlog=backlog[None], awake_before=longer.awake[row][None]
        )
        more = happened(simulate_epochs(quiet, then, plan, form))
        _add(longer, row, more)
        if not more.queued.any() or more.queued.sum() >= backlog.sum():
            return  # nobody waits, or nothing may serve them any more


def _needed_s(twin: TwinState, now: Conditions, plan: Plans, backlog: FloatArray) -> float:
    """Time to serve a queue (V,) with what stays awake, s; at most ``MOST_RUN_OUT_S``."""
    everyone = twin.all_replicas
    awake = everyone if plan.awake is None else np.minimum(plan.awake[0], everyone)
    part = np.divide(awake, everyone, out=np.zeros_like(awake), where=everyone > 0)
    # A lower bound of what is awake: its best replicas are at least as fast as the mean.
    limit = (now.allowed[0] * twin.capacity_rps * part * twin.max_utilization).sum(axis=1)  # (V,)
    needed_s = np.divide(backlog, limit, out=np.full_like(backlog, MOST_RUN_OUT_S), where=limit > 0)
    needed_s = np.where(backlog > 0, needed_s, 0.0)
    return float(min(max(needed_s.max(), 1.0) * 1.01, MOST_RUN_OUT_S))


def _add(longer: Happened, row: int, more: Happened) -> None:
    counted = longer.counted[row]
    both = counted + more.counted[0]
    seconds = longer.metrics[row, 0] * counted + more.metrics[0, 0] * more.counted[0]
    longer.metrics[row, 0] = seconds / both if both > 0 else 0.0
    longer.metrics[row, 1:] += more.metrics[0, 1:]
    longer.served[row] += more.served[0]
    longer.rejected[row] += more.rejected[0]
    longer.queued[row] = more.queued[0]
    longer.awake[row] = more.awake[0]
    longer.late[row] += more.late[0]
    longer.energy_kwh[row] += more.energy_kwh[0]

"""After the last epoch the horizon runs on until nobody waits, and that counts (marlin-model, section 3).

Otherwise a plan would win by leaving its last queue to nobody. The time it takes is added to the last epoch's outcome,
energy of the idle fleet included, as ``experiment`` adds it to a study.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.engines import time_to_empty_s
from marlin.simulator.environments.lanes import Fleets, Happened, happened, plans_at
from marlin.simulator.fluid import Form, Plans, simulate_epochs
from marlin.simulator.fluid.coefficients import Conditions
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
        needed_s = time_to_empty_s(twin, backlog, now.allowed[0], None if plan.awake is None else plan.awake[0])
        quiet = replace(twin, requests=np.zeros_like(twin.requests), epoch_s=needed_s)
        then = replace(
            now, requests=np.zeros_like(now.requests), backlog=backlog[None], awake_before=longer.awake[row][None]
        )
        more = happened(simulate_epochs(quiet, then, plan, form))
        _add(longer, row, more)
        if not more.queued.any() or more.queued.sum() >= backlog.sum():
            return  # nobody waits, or nothing may serve them any more


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

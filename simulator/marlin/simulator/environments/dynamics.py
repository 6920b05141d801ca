"""What carries over from epoch to epoch in N lanes, as a value, and the one step that changes it.

``step`` is pure: the same lanes under the same plans end up the same, and a lane does not notice who is beside it. It
knows plans and requests; rewards and observations are ``task``'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.environments.episode import Episodes
from marlin.simulator.environments.lanes import Happened, carry_out
from marlin.simulator.environments.run_out import with_run_out
from marlin.simulator.fluid import Form, Plans
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """N lanes between two epochs."""

    epoch: int
    """The next one to be planned; E when the episodes are over."""
    backlog: FloatArray  # (N, V) requests that wait
    awake: FloatArray  # (N, V, D) replicas


def start(episodes: Episodes) -> Carried:
    """Before the first epoch: nobody waits and everything is awake, as at the start of a study."""
    return Carried(
        epoch=0,
        backlog=np.zeros_like(episodes.arrived[0]),
        awake=episodes.fleets.all_replicas[episodes.real_index[0]],
    )


def step(episodes: Episodes, carried: Carried, plans: Plans, form: Form) -> tuple[Carried, Happened]:
    """Carries N plans out in one epoch each. The last epoch runs on until nobody waits.

    Raises:
        ValueError: the episodes are over, or there are not N plans.
    """
    e = carried.epoch
    if e >= len(episodes):
        raise ValueError(f"the episode of {len(episodes)} epochs is over: reset before the next step")
    if len(plans) != episodes.lanes:
        raise ValueError(f"{episodes.lanes} lanes need as many plans, not {len(plans)}")
    fleets, index = episodes.fleets, episodes.real_index[e]
    now = Conditions(
        requests=episodes.arrived[e],
        backlog=carried.backlog,
        allowed=episodes.allowed[e],
        awake_before=np.minimum(carried.awake, fleets.all_replicas[index]),
        rtt_s=episodes.rtt_s[e],
        per_joule=episodes.per_joule[e],
    )
    done = carry_out(fleets, index, now, plans, form)
    if e == len(episodes) - 1:
        every: NDArray[np.int64] = np.arange(episodes.lanes)
        done = with_run_out(done, fleets, index, now, plans, form, last=every)
    return Carried(e + 1, done.queued, done.awake), done

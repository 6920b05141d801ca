"""What plans are expected to earn in an epoch, over the demands that may come instead of the forecast.

What a plan earned on the requests that came is mostly chance: whether a surge found sites asleep. An agent knows the
forecast and its interval, so what it can learn is the mean over what these allow, and the twin says that mean in the
batch in which it plays anyway. Every plan meets the same demands, and so does capacity-proportional routing from the
same state, which gains are over (an input-driven baseline, Mao et al. 2018). It is what the planner tries plans on too
(``demands``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marlin.policy.demands import UPPER_Z, usual_errors
from marlin.simulator.environments.action import Intent, plans
from marlin.simulator.environments.lanes import Happened, carry_out
from marlin.simulator.environments.proportional import proportional_plans
from marlin.simulator.environments.reward import Terms, terms
from marlin.simulator.environments.task import Lanes, Task
from marlin.simulator.fluid import Plans
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray


def expected_terms(task: Task, lanes: Lanes, intents: Sequence[Intent]) -> list[Terms]:
    """Parts of N rewards for each of M intents (N, V, D), as expected before the next epoch.

    A request that still waits when the epoch ends counts as late: nobody looks further here.
    """
    episodes, e = lanes.episodes, lanes.carried.epoch
    fleets, index, allowed = episodes.fleets, episodes.seen_index[e], episodes.seen_allowed[e]
    expected, high = episodes.expected[e], episodes.high[e]  # (N, V)
    points, chances = usual_errors(is_tailed=fleets.can_power_down)  # (S,)
    spread = np.log(np.maximum(high, expected) / np.maximum(expected, 1e-9) + 1e-12).clip(min=0.0) / UPPER_Z
    open_rps = (fleets.capacity_rps[index] * allowed).sum(axis=2) * fleets.max_utilization[index][:, None]
    most = open_rps * fleets.epoch_s[index][:, None] / np.maximum(expected, 1e-9)
    factors = np.minimum(np.exp(points[:, None, None] * spread), np.maximum(most, 1.0))  # (S, N, V)
    tried = [plans(intent, task.settings.dispatch, fleets, index, allowed, high) for intent in intents]
    everyone = fleets.all_replicas[index]
    parts = [
        _mean(
            carry_out(
                fleets,
                np.tile(index, len(points)),
                Conditions(
                    requests=(expected * factors).reshape(-1, expected.shape[1]),
                    backlog=np.tile(lanes.carried.backlog, (len(points), 1)),
                    allowed=np.tile(allowed.astype(np.float64), (len(points), 1, 1)),
                    awake_before=np.tile(np.minimum(lanes.carried.awake, everyone), (len(points), 1, 1)),
                    rtt_s=np.tile(episodes.rtt_s[e], (len(points), 1, 1)),
                    per_joule=np.tile(episodes.per_joule[e], (len(points), 1, 1)),
                ),
                _repeated(one, len(points)),
                task.settings.form,
            ),
            chances,
        )
        for one in (proportional_plans(fleets, index, allowed, high), *tried)
    ]
    (baseline, _, _), *others = parts
    replicas = np.maximum(everyone.sum(axis=(1, 2)), 1.0)
    return [
        terms(totals, baseline, episodes.scale, lanes.average_gain, 1.0 - awake / replicas, late)
        for totals, late, awake in others
    ]


def _repeated(one: Plans, times: int) -> Plans:
    """N plans, so many times one after the other."""
    return Plans(
        shares=np.tile(one.shares, (times, 1, 1)),
        order=None if one.order is None else np.tile(one.order, (times, 1, 1)),
        cap=None if one.cap is None else np.tile(one.cap, (times, 1, 1)),
        awake=None if one.awake is None else np.tile(one.awake, (times, 1, 1)),
    )


def _mean(happened: Happened, chances: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Totals (N, 4), share of late requests (N,), replicas awake at the end (N,): means over the demands."""

    def over(values: FloatArray) -> FloatArray:
        return np.asarray(np.tensordot(chances, values.reshape(len(chances), -1, *values.shape[1:]), axes=1))

    waiting = happened.queued.sum(axis=1)
    late, counted = over(happened.late + waiting), over(happened.counted + waiting)
    share = np.divide(late, counted, out=np.zeros_like(late), where=counted > 0)
    return over(happened.totals), share, over(happened.awake.sum(axis=(1, 2)))

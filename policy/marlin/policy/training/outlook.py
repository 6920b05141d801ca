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
    many = len(intents)
    everywhere, open_there = np.tile(index, many), np.tile(allowed, (many, 1, 1))  # (M N, ...)
    parts = zip(*((intent.shares, intent.fill, intent.margin) for intent in intents), strict=True)
    together = Intent(*(np.concatenate(part) for part in parts))
    of_all = plans(together, task.settings.dispatch, fleets, everywhere, open_there, np.tile(high, (many, 1)))
    # Capacity-proportional routing has no order, so that the two kinds of plans are carried out one after the other.
    baseline_plan = proportional_plans(fleets, index, allowed, high)
    baseline = _carried_out(task, lanes, expected * factors, chances, baseline_plan)[0][0]
    totals, late, awake = _carried_out(task, lanes, expected * factors, chances, of_all)  # (M, N, ...)
    replicas = np.maximum(fleets.all_replicas[index].sum(axis=(1, 2)), 1.0)
    return [
        terms(totals[m], baseline, episodes.scale, lanes.average_gain, 1.0 - awake[m] / replicas, late[m])
        for m in range(many)
    ]


def _carried_out(
    task: Task, lanes: Lanes, requests: FloatArray, chances: FloatArray, tried: Plans
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Totals (M, N, 4), share of late requests (M, N), replicas awake at the end (M, N) of M plans in each of N lanes.

    Args:
        task: the fleets.
        lanes: N of them, before the epoch.
        requests: (S, N, V) that may come.
        chances: (S,) of them.
        tried: M N plans, all lanes of a plan side by side.
    """
    episodes, e = lanes.episodes, lanes.carried.epoch
    fleets, index, allowed = episodes.fleets, episodes.seen_index[e], episodes.seen_allowed[e]
    many, count = len(tried) // len(index), len(chances)
    times = count * many

    def tiled(values: FloatArray) -> FloatArray:
        return np.tile(values, (times, *(1,) * (values.ndim - 1)))

    conditions = Conditions(
        requests=np.repeat(requests[:, None], many, axis=1).reshape(-1, requests.shape[2]),
        backlog=tiled(lanes.carried.backlog),
        allowed=tiled(allowed.astype(np.float64)),
        awake_before=tiled(np.minimum(lanes.carried.awake, fleets.all_replicas[index])),
        rtt_s=tiled(episodes.rtt_s[e]),
        per_joule=tiled(episodes.per_joule[e]),
    )
    happened = carry_out(fleets, np.tile(index, times), conditions, _repeated(tried, count), task.settings.form)
    totals, late, awake = _mean(happened, chances)
    lanes_and_plans = (many, len(index))
    return totals.reshape(*lanes_and_plans, -1), late.reshape(lanes_and_plans), awake.reshape(lanes_and_plans)


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

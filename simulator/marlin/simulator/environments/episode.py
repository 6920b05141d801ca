"""One draw of a course, and what capacity-proportional routing makes of it; N of them stacked are what steps run on.

Requests are drawn here and nowhere else. A seed is a study's seed: the episode of seed 7 meets the very requests that
``experiment.run`` meets with ``seed=7``, whoever steps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.environments.course import Course
from marlin.simulator.environments.forecast import Forecast, Forecaster
from marlin.simulator.environments.lanes import Fleets, Happened, carry_out
from marlin.simulator.environments.observation import known_part
from marlin.simulator.environments.proportional import proportional_plans
from marlin.simulator.environments.reward import scale_of
from marlin.simulator.environments.run_out import with_run_out
from marlin.simulator.experiment import demand_stream
from marlin.simulator.fluid import Form, Plans
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """E epochs that wait for plans."""

    course: Course
    arrived: FloatArray  # (E, V) requests
    rtt_s: FloatArray  # (E, V, D) mean round trip of the requests that come
    forecast: Forecast
    known: NDArray[np.float32]  # (E + 1, K) observations without what depends on plans
    baseline: Happened  # B = E: capacity-proportional routing
    scale: FloatArray  # (4,) the unit of gains


def draw(course: Course, seed: int, forecaster: Forecaster, form: Form) -> Episode:
    """Draws the requests of a course.

    Args:
        course: the epochs.
        seed: what a study's seed is: it chooses, splits and rounds requests.
        forecaster: what planners expect of them.
        form: which form of the fluid engine runs the baseline.

    Raises:
        InputError: a day of the trace cannot be scaled to the load asked for.
    """
    rng = demand_stream(seed)
    requests = np.concatenate([day.draw(rng).requests for day in course.days]).astype(np.float64)  # (E, V, R)
    arrived = requests.sum(axis=2)
    even = np.full_like(requests, 1.0 / requests.shape[2])
    by_origin = np.divide(requests, arrived[:, :, None], out=even, where=arrived[:, :, None] > 0)
    rtt_s = by_origin @ course.rtt_s
    forecast = forecaster(arrived)
    fleets, seen = course.fleets, course.seen_index
    plans = proportional_plans(fleets, seen, course.seen_allowed, forecast.high[:-1])
    baseline = _follow(course, arrived, rtt_s, plans, form)
    most = fleets.capacity_rps[seen].sum(axis=2) * fleets.epoch_s[seen][:, None]  # (E, V)
    return Episode(
        course=course,
        arrived=arrived,
        rtt_s=rtt_s,
        forecast=forecast,
        known=known_part(course.still, forecast, most),
        baseline=baseline,
        scale=scale_of(baseline.totals),
    )


def _follow(course: Course, arrived: FloatArray, rtt_s: FloatArray, plans: Plans, form: Form) -> Happened:
    """Plans (B = E) that are known before the day begins, carried out one after the other.

    All epochs are taken at once as if nothing waited, then again with the queues and the awake replicas that this left,
    until they are the ones assumed. Epoch e is right after e + 1 rounds at the latest; mostly two or three rounds do.
    """
    fleets, index = course.fleets, course.real_index
    everyone = fleets.all_replicas[index]  # (E, V, D)
    backlog, awake_before = np.zeros_like(arrived), everyone
    while True:
        now = Conditions(arrived, backlog, course.allowed, awake_before, rtt_s, course.per_joule)
        happened = carry_out(fleets, index, now, plans, form)
        left = np.concatenate([np.zeros_like(arrived[:1]), happened.queued[:-1]])
        awake = np.minimum(np.concatenate([everyone[:1], happened.awake[:-1]]), everyone)
        if np.array_equal(left, backlog) and np.array_equal(awake, awake_before):
            return with_run_out(happened, fleets, index, now, plans, form, last=np.array([len(arrived) - 1]))
        backlog, awake_before = left, awake


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """N episodes side by side; the epoch comes first, so that a step reads one block."""

    fleets: Fleets
    seen_index: NDArray[np.int64]  # (E, N) into fleets
    real_index: NDArray[np.int64]  # (E, N)
    seen_allowed: NDArray[np.bool_]  # (E, N, V, D)
    allowed: FloatArray  # (E, N, V, D)
    per_joule: FloatArray  # (E, N, D, 4)
    arrived: FloatArray  # (E, N, V)
    rtt_s: FloatArray  # (E, N, V, D)
    high: FloatArray  # (E + 1, N, V) upper forecast
    known: NDArray[np.float32]  # (E + 1, N, K)
    baseline_metrics: FloatArray  # (E, N, 4) of capacity-proportional routing
    baseline_totals: FloatArray  # (E, N, 4)
    scale: FloatArray  # (N, 4)

    def __len__(self) -> int:
        """E."""
        return len(self.arrived)

    @property
    def lanes(self) -> int:
        """N."""
        return int(self.arrived.shape[1])


def side_by_side(episodes: Sequence[Episode]) -> Episodes:
    """N episodes of courses that were made together, as one value."""
    fleets = episodes[0].course.fleets
    assert all(e.course.fleets is fleets for e in episodes), "the courses were not made together"
    return Episodes(
        fleets=fleets,
        seen_index=np.stack([e.course.seen_index for e in episodes], axis=1),
        real_index=np.stack([e.course.real_index for e in episodes], axis=1),
        seen_allowed=np.stack([e.course.seen_allowed for e in episodes], axis=1),
        allowed=np.stack([e.course.allowed for e in episodes], axis=1),
        per_joule=np.stack([e.course.per_joule for e in episodes], axis=1),
        arrived=np.stack([e.arrived for e in episodes], axis=1),
        rtt_s=np.stack([e.rtt_s for e in episodes], axis=1),
        high=np.stack([e.forecast.high for e in episodes], axis=1),
        known=np.stack([e.known for e in episodes], axis=1),
        baseline_metrics=np.stack([e.baseline.metrics for e in episodes], axis=1),
        baseline_totals=np.stack([e.baseline.totals for e in episodes], axis=1),
        scale=np.stack([e.scale for e in episodes]),
    )

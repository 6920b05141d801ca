"""One draw of a course, and what capacity-proportional routing makes of it; N of them stacked are what steps run on.

Requests are drawn here and nowhere else. A seed is a study's seed: the episode of seed 7 meets the very requests that
``experiment.run`` meets with ``seed=7``, whoever steps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.environments.course import Course
from marlin.simulator.environments.forecast import Forecast, Forecaster
from marlin.simulator.environments.lanes import Fleets, Happened, carry_out, plans_at, rows_of
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


def draw(chosen: Sequence[tuple[Course, int]], forecaster: Forecaster, form: Form) -> tuple[Episode, ...]:
    """Draws the requests of courses that were made together; many at once are cheaper than one by one.

    Args:
        chosen: for each episode the epochs, and a seed as a study has it: it chooses, splits and rounds requests.
        forecaster: what planners expect of them.
        form: which form of the fluid engine runs the baselines.

    Raises:
        InputError: a day of a trace cannot be scaled to the load asked for.
    """
    drawn = [_drawn(course, seed) for course, seed in chosen]
    forecasts = [forecaster(requests.arrived) for requests in drawn]
    baselines = _baselines([course for course, _ in chosen], drawn, forecasts, form)
    return tuple(
        Episode(
            course=course,
            arrived=requests.arrived,
            rtt_s=requests.rtt_s,
            forecast=forecast,
            known=known_part(course.still, forecast, course.most),
            baseline=baseline,
            scale=scale_of(baseline.totals),
        )
        for (course, _), requests, forecast, baseline in zip(chosen, drawn, forecasts, baselines, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    arrived: FloatArray  # (E, V)
    rtt_s: FloatArray  # (E, V, D)


def _drawn(course: Course, seed: int) -> _Drawn:
    rng = demand_stream(seed)
    requests = np.concatenate([day.draw(rng).requests for day in course.days]).astype(np.float64)  # (E, V, R)
    arrived = requests.sum(axis=2)
    even = np.full_like(requests, 1.0 / requests.shape[2])
    by_origin = np.divide(requests, arrived[:, :, None], out=even, where=arrived[:, :, None] > 0)
    return _Drawn(arrived, by_origin @ course.rtt_s)


def _baselines(
    courses: Sequence[Course], drawn: Sequence[_Drawn], forecasts: Sequence[Forecast], form: Form
) -> list[Happened]:
    """Capacity-proportional routing of each episode, B = E."""
    fleets, epochs = courses[0].fleets, len(courses[0])
    assert all(course.fleets is fleets for course in courses), "the courses were not made together"
    plans = proportional_plans(
        fleets,
        np.concatenate([c.seen_index for c in courses]),
        np.concatenate([c.seen_allowed for c in courses]),
        np.concatenate([f.high[:-1] for f in forecasts]),
    )
    index = np.concatenate([c.real_index for c in courses])
    arrived = np.concatenate([d.arrived for d in drawn])
    fresh = Conditions(
        requests=arrived,
        backlog=np.zeros_like(arrived),
        allowed=np.concatenate([c.allowed for c in courses]),
        awake_before=fleets.all_replicas[index],
        rtt_s=np.concatenate([d.rtt_s for d in drawn]),
        per_joule=np.concatenate([c.per_joule for c in courses]),
    )
    followed = _follow(fleets, index, fresh, plans, epochs, form)
    return [rows_of(followed, slice(i * epochs, (i + 1) * epochs)) for i in range(len(courses))]


def _follow(
    fleets: Fleets, index: NDArray[np.int64], fresh: Conditions, plans: Plans, epochs: int, form: Form
) -> Happened:
    """Plans that are known before their days begin, carried out one after the other; B = N E, a day's rows together.

    All epochs are taken at once as if nothing waited. Then those are taken again whose queue or awake replicas turn out
    to be others than assumed, until there are none. Epoch e of a day is right after e + 1 rounds at the latest; mostly
    two rounds do.
    """
    everyone = fleets.all_replicas[index]  # (B, V, D)
    now = replace(fresh, backlog=fresh.backlog.copy(), awake_before=everyone.copy())
    followed = carry_out(fleets, index, now, plans, form)
    first = np.arange(0, len(index), epochs)
    while True:
        left, awake = np.roll(followed.queued, 1, axis=0), np.roll(followed.awake, 1, axis=0)
        left[first], awake[first] = 0.0, everyone[first]
        awake = np.minimum(awake, everyone)
        differs = (left != now.backlog).any(axis=1) | (awake != now.awake_before).any(axis=(1, 2))
        again = np.flatnonzero(differs)
        if not len(again):
            return with_run_out(followed, fleets, index, now, plans, form, last=first + epochs - 1)
        now.backlog[again], now.awake_before[again] = left[again], awake[again]
        anew = carry_out(fleets, index[again], now.take(again.tolist()), plans_at(plans, again), form)
        for f in fields(Happened):
            getattr(followed, f.name)[again] = getattr(anew, f.name)


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
    expected: FloatArray  # (E + 1, N, V) forecast
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
        expected=np.stack([e.forecast.mean for e in episodes], axis=1),
        high=np.stack([e.forecast.high for e in episodes], axis=1),
        known=np.stack([e.known for e in episodes], axis=1),
        baseline_metrics=np.stack([e.baseline.metrics for e in episodes], axis=1),
        baseline_totals=np.stack([e.baseline.totals for e in episodes], axis=1),
        scale=np.stack([e.scale for e in episodes]),
    )

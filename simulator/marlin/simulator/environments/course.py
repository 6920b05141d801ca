"""A study without its chance: the fleet and its signals in every epoch, worked out once and kept.

Drawing requests takes milliseconds, making a fleet's arrays from documents 96 times takes half a second; a training
run resets thousands of times. So what does not depend on the draw is here. Epochs whose fleets differ in nothing but
signals and availability share one ``TwinState``, of whichever study they are: the fluid engine takes them in one call.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marlin.api.errors import InputError
from marlin.api.history import RecordedEpoch
from marlin.simulator.demand import DayFrame, day_frame
from marlin.simulator.environments.lanes import Fleets
from marlin.simulator.environments.observation import still_part
from marlin.simulator.experiment import EPOCH_S, Study
from marlin.simulator.fleet import Demand
from marlin.simulator.fluid.coefficients import footprint_per_joule
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.shipped import shipped_week
from marlin.simulator.workload.trace import Trace

_OF_THE_FLEET = (
    "max_utilization",
    "can_sleep",
    "model_index",
    "replicas",
    "replica_rps",
    "power_knots_w",
    "first_token_knots_s",
    "late_knots",
    "asleep_w",
    "wake_s",
    "base_w",
)
"""What two epochs must have in common to be taken in one call; everything else is a condition of the epoch."""


class Requests(Protocol):
    """The requests of a day."""

    @property
    def requests(self) -> NDArray[Any]:
        """(E, V, R) of each epoch, pool and origin."""


class Day(Protocol):
    """A day but for its chance."""

    def draw(self, rng: np.random.Generator) -> Requests:
        """One day of requests."""


@dataclass(frozen=True, slots=True)
class _Came:
    """Requests that were recorded: a draw of them is what they are."""

    requests: FloatArray  # (E, V, R)

    def draw(self, rng: np.random.Generator) -> Requests:
        """The same, whatever chance says."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """E epochs of a fleet. ``seen`` is what a planner knows, ``real`` what the plan meets."""

    days: tuple[Day, ...]
    fleets: Fleets
    """Those of all courses that were made together."""
    seen_index: NDArray[np.int64]  # (E,) into fleets
    real_index: NDArray[np.int64]  # (E,)
    seen_allowed: NDArray[np.bool_]  # (E, V, D)
    allowed: FloatArray  # (E, V, D) 1 or 0
    per_joule: FloatArray  # (E, D, 4)
    rtt_s: FloatArray  # (E, R, D)
    still: NDArray[np.float32]  # (E + 1, K) of observations, what no draw and no plan changes

    def __len__(self) -> int:
        """E."""
        return len(self.seen_index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """E, V, D: what lanes side by side must have in common."""
        return self.allowed.shape

    @property
    def most(self) -> FloatArray:
        """(E + 1, V) requests that all replicas together could carry; the row after the last is the last epoch's."""
        seen = np.append(self.seen_index, self.seen_index[-1])
        return np.asarray(self.fleets.capacity_rps[seen].sum(axis=2) * self.fleets.epoch_s[seen][:, None])


def courses(studies: Sequence[Study]) -> tuple[Course, ...]:
    """Works out the epochs of studies. Their seeds are not used: draws are the episodes'.

    Raises:
        InputError: a trace has fewer days, a fleet cannot be simulated, or studies differ in epochs, pools or sites.
    """
    if not studies:
        raise InputError("an environment needs at least one study")
    # Said at once where the documents already show it; an ``adjust`` may still change the shape.
    _check_shapes((s.epochs, len(s.builder.pools), len(s.builder.documents.datacenters)) for s in studies)
    drafts = []
    for study in studies:
        days = _days(study)
        pairs = list(_fleets(study, days))
        drafts.append(_Draft(days, _starts(study), [before for before, _ in pairs], [after for _, after in pairs]))
    return _together(drafts)


def recorded_courses(histories: Sequence[Sequence[RecordedEpoch]]) -> tuple[Course, ...]:
    """The same of epochs that were recorded: every draw of them is what came.

    Args:
        histories: epochs that follow one another; each becomes a course.

    Raises:
        InputError: a fleet cannot be simulated, or they differ in epochs, pools or sites.
    """
    if not histories or not all(histories):
        raise InputError("an environment needs at least one recorded epoch")
    drafts = []
    for history in histories:
        seen = [arrays_from(one.state) for one in history]
        starts = [one.state.start_time for one in history]
        starts.append(starts[-1] + timedelta(seconds=history[-1].state.epoch_s))
        came = _Came(np.array([one.arrived_requests for one in history], dtype=np.float64))
        drafts.append(_Draft((came,), starts, seen, seen))
    return _together(drafts)


def _together(drafts: Sequence[_Draft]) -> tuple[Course, ...]:
    """Courses that share their fleets."""
    positions: dict[Hashable, int] = {}
    twins: list[TwinState] = []

    def position(twin: TwinState) -> int:
        key = _fleet_key(twin)
        if key not in positions:
            positions[key] = len(twins)
            twins.append(twin)
        return positions[key]

    indices = [([position(t) for t in draft.seen], [position(t) for t in draft.real]) for draft in drafts]
    _check_shapes((len(d.seen), *twin.all_replicas.shape) for d in drafts for twin in (*d.seen, *d.real))
    fleets = Fleets.of(twins)
    return tuple(draft.course(fleets, *index) for draft, index in zip(drafts, indices, strict=True))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A course whose fleets are not stacked yet."""

    days: tuple[Day, ...]
    starts: list[datetime]  # E + 1
    seen: list[TwinState]
    real: list[TwinState]

    def course(self, fleets: Fleets, seen_index: list[int], real_index: list[int]) -> Course:
        seen_allowed = np.array([_allowed(twin) for twin in self.seen])
        return Course(
            days=self.days,
            fleets=fleets,
            seen_index=np.array(seen_index),
            real_index=np.array(real_index),
            seen_allowed=seen_allowed,
            allowed=np.array([_allowed(twin) for twin in self.real], dtype=np.float64),
            per_joule=np.array([footprint_per_joule(twin) for twin in self.real]),
            rtt_s=np.array([twin.rtt_s for twin in self.real]),
            still=still_part(self.starts, self.seen, seen_allowed),
        )


def _allowed(twin: TwinState) -> NDArray[np.bool_]:
    return np.asarray(twin.allowed & (twin.capacity_rps > 0))


def _check_shapes(shapes: Iterable[tuple[int, int, int]]) -> None:
    if len(different := sorted(set(shapes))) > 1:
        listed = ", ".join(f"{e} epochs x {v} pools x {d} sites" for e, v, d in different)
        raise InputError(f"the epochs of one environment must have one shape, not {listed}; make one for each")


def _starts(study: Study) -> list[datetime]:
    """When each epoch starts, and the one after the last: E + 1."""
    return [study.first_date + timedelta(seconds=e * EPOCH_S) for e in range(study.epochs + 1)]


def _days(study: Study) -> tuple[DayFrame, ...]:
    trace: Trace = study.trace or shipped_week()
    if study.first_day + study.days > trace.days:
        raise InputError(
            f"{trace.name} has days 0 to {trace.days - 1}: {study.days} from day {study.first_day} on is too many"
        )
    return tuple(
        day_frame(
            study.builder,
            trace,
            study.first_day + day,
            load=study.load,
            start=study.first_date + timedelta(days=day),
            epoch_s=EPOCH_S,
            origins=study.origins,
        )
        for day in range(study.days)
    )


def _fleets(study: Study, days: Sequence[DayFrame]) -> Iterator[tuple[TwinState, TwinState]]:
    """The fleet of each epoch as planners see it, and as plans meet it; nothing is asked of it yet."""
    builder = study.builder
    starts = iter(_starts(study))
    for day in days:
        prompt, output = (float(size) for size in day.sizes)
        for shares, start in zip(day.origin_shares, starts, strict=False):
            # One request, so that the shares of the origins are known; the episode puts the real ones in.
            demand = Demand(tuple(float(share) for share in shares), prompt, output)
            state = builder.state(
                start,
                {pool.metadata.name: demand for pool in builder.pools},
                epoch=int(start.timestamp() // EPOCH_S),
                epoch_s=EPOCH_S,
                start_time=start,
            )
            state = state if study.adjust is None else study.adjust(state)
            seen = arrays_from(state, study.settings)
            yield seen, seen if study.surprise is None else arrays_from(study.surprise(state), study.settings)


def _fleet_key(twin: TwinState) -> Hashable:
    return twin.settings, *((name, np.asarray(getattr(twin, name)).tobytes()) for name in _OF_THE_FLEET)

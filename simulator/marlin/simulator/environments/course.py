"""A study without its chance: the fleet and its signals in every epoch, worked out once and kept.

Drawing requests takes milliseconds, making a fleet's arrays from documents 96 times takes a fifth of a second; a
training run resets thousands of times. So what does not depend on the draw is here. Epochs whose fleets differ in
nothing but signals and availability share one ``TwinState``: the fluid engine then takes them in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from marlin.api.errors import InputError
from marlin.simulator.demand import Origins
from marlin.simulator.experiment import EPOCH_S, EPOCHS_PER_DAY, Study
from marlin.simulator.fleet import Demand
from marlin.simulator.fluid.coefficients import footprint_per_joule
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.origins import local_hour_shares, uniform_shares
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


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """E epochs of a fleet. ``seen`` is what a planner knows, ``real`` what the plan meets."""

    study: Study
    trace: Trace
    twins: tuple[TwinState, ...]
    seen_index: NDArray[np.int64]  # (E,) into twins
    real_index: NDArray[np.int64]  # (E,) into twins
    seen: tuple[TwinState, ...]  # E fleets with the epoch's signals and availability
    seen_allowed: NDArray[np.bool_]  # (E, V, D)
    allowed: FloatArray  # (E, V, D) 1 or 0
    per_joule: FloatArray  # (E, D, 4)
    rtt_s: FloatArray  # (E, R, D)

    def __len__(self) -> int:
        """E."""
        return len(self.seen)

    @property
    def shape(self) -> tuple[int, int, int]:
        """E, V, D: what lanes side by side must have in common."""
        return (len(self.seen), *self.twins[0].all_replicas.shape)

    def starts(self) -> tuple[datetime, ...]:
        """When each epoch starts, and the one after the last: E + 1."""
        return tuple(self.study.first_date + timedelta(seconds=e * EPOCH_S) for e in range(len(self) + 1))


def course(study: Study) -> Course:
    """Works out the epochs of a study. Its seed is not used: draws are the episode's.

    Raises:
        InputError: the trace has fewer days, or the fleet cannot be simulated.
    """
    trace = study.trace or shipped_week()
    if study.first_day + study.days > trace.days:
        raise InputError(
            f"{trace.name} has days 0 to {trace.days - 1}: {study.days} from day {study.first_day} on is too many"
        )
    twins: list[TwinState] = []
    seen, real, seen_index, real_index = [], [], [], []
    for before, after in _fleets(study, trace):
        seen.append(before)
        real.append(after)
        seen_index.append(_position(twins, before))
        real_index.append(_position(twins, after))
    if len({twin.all_replicas.shape for twin in twins}) > 1:
        raise InputError("the study's adjust adds or removes sites or pools: an environment's fleet keeps its shape")
    return Course(
        study=study,
        trace=trace,
        twins=tuple(twins),
        seen_index=np.array(seen_index),
        real_index=np.array(real_index),
        seen=tuple(seen),
        seen_allowed=np.array([twin.allowed & (twin.capacity_rps > 0) for twin in seen]),
        allowed=np.array([twin.allowed & (twin.capacity_rps > 0) for twin in real], dtype=np.float64),
        per_joule=np.array([footprint_per_joule(twin) for twin in real]),
        rtt_s=np.array([twin.rtt_s for twin in real]),
    )


def _fleets(study: Study, trace: Trace) -> Iterator[tuple[TwinState, TwinState]]:
    """The fleet of each epoch as planners see it, and as plans meet it; nothing is asked of it yet."""
    builder = study.builder
    for day in range(study.days):
        midnight = study.first_date + timedelta(days=day)
        prompt, output = (float(size) for size in trace.day_sizes(study.first_day + day))
        shares = (
            uniform_shares(EPOCHS_PER_DAY, len(builder.origins()))
            if study.origins is Origins.UNIFORM
            else local_hour_shares(builder.origin_zones(), midnight, EPOCHS_PER_DAY, EPOCH_S)
        )
        for e in range(EPOCHS_PER_DAY):
            start = midnight + timedelta(seconds=e * EPOCH_S)
            # One request, so that the shares of the origins are known; the episode puts the real ones in.
            demand = Demand(tuple(float(share) for share in shares[e]), prompt, output)
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


def _position(twins: list[TwinState], twin: TwinState) -> int:
    """Where a fleet alike is kept, or will be."""
    for i in range(len(twins) - 1, -1, -1):
        if _alike(twins[i], twin):
            return i
    twins.append(replace(twin))
    return len(twins) - 1


def _alike(one: TwinState, other: TwinState) -> bool:
    return one.settings == other.settings and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in _OF_THE_FLEET
    )

"""A day of a trace as one fleet's requests: how many of each model, from which origin, in each epoch.

This is where workload and fleet meet: what a day's requests need is counted in the fleet's own capacity, scaled to the
load asked for, and made whole by the one rule of ``workload.scaling``. Both engines, every planner and the training
environments get their days from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np

from marlin.simulator.fleet import Builder, Demand
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from
from marlin.simulator.workload.epochs import check_day, epoch_requests
from marlin.simulator.workload.mix import draw_by_model, model_shares
from marlin.simulator.workload.origins import local_hour_shares, split_by_origin, uniform_shares
from marlin.simulator.workload.scaling import Scaling, fit_scaling, whole_requests
from marlin.simulator.workload.trace import S_PER_DAY, IntArray, Trace


class Origins(StrEnum):
    """Where a day's requests come from."""

    UNIFORM = "uniform"
    """The same number from every origin, always (the paper)."""
    LOCAL_HOUR = "local-hour"
    """Each origin asks most when its people are awake."""


@dataclass(frozen=True, slots=True)
class DayDemand:
    """One day's requests."""

    requests: IntArray  # (E, V, R)
    origin_shares: FloatArray  # (E, R) what the requests were split by
    sizes: FloatArray  # (2,) mean prompt and output tokens
    recorded: IntArray  # (E, V) requests of each model before they were scaled
    scalings: tuple[Scaling | None, ...]  # of each model; None where the day has no requests of it
    capacity: FloatArray  # (V,) requests of an epoch that the whole fleet could carry

    def rescaled(self, recorded: IntArray) -> FloatArray:
        """Requests (T, V) of other epochs as this day's scaling makes them: expected, not drawn.

        Whoever predicts this day from days before must see them on its scale, across midnight too.
        """
        return np.asarray(recorded * _multipliers(recorded / self.capacity, self.scalings))


@dataclass(frozen=True, slots=True, eq=False)
class DayFrame:
    """A day but for its chance, worked out once: ``draw`` then takes a millisecond."""

    trace: Trace
    day: int
    load: str
    epoch_s: int
    capacity: FloatArray  # (V,) requests of an epoch that the whole fleet could carry
    origin_shares: FloatArray  # (E, R)
    sizes: FloatArray  # (2,) mean prompt and output tokens

    def draw(self, rng: np.random.Generator) -> DayDemand:
        """One day of requests.

        Args:
            rng: splits, chooses and rounds.

        Raises:
            InputError: the day cannot be scaled to the load asked for.
        """
        recorded = self.recorded(self.day, rng)
        needed = recorded / self.capacity  # (E, V)
        scalings = tuple(fit_scaling(need, self.load) if need.any() else None for need in needed.T)
        requests = whole_requests(recorded, _multipliers(needed, scalings), rng)
        by_origin = split_by_origin(requests, self.origin_shares, rng)
        return DayDemand(by_origin, self.origin_shares, self.sizes, recorded, scalings, self.capacity)

    def recorded(self, day: int, rng: np.random.Generator) -> IntArray:
        """Requests (E, V) of each model on any day of the trace, not scaled.

        Args:
            day: day UTC of the trace.
            rng: splits and chooses.

        Raises:
            InputError: the trace has no such day.
        """
        counts = epoch_requests(self.trace, day, self.epoch_s, rng)  # (E, C)
        if len(self.capacity) == 2:
            return draw_by_model(counts, model_shares(self.trace), rng)
        even = np.tile(self.capacity / self.capacity.sum(), (counts.shape[1], 1))  # (C, V)
        return draw_by_model(counts, even, rng)


def _multipliers(needed: FloatArray, scalings: tuple[Scaling | None, ...]) -> FloatArray:
    """By what requests are multiplied (E, V), from the part of the fleet's capacity that they need (E, V)."""
    each = [
        np.zeros_like(need) if scaling is None else scaling.multipliers(need)
        for need, scaling in zip(needed.T, scalings, strict=True)
    ]
    return np.stack(each, axis=1)


def day_frame(
    builder: Builder,
    trace: Trace,
    day: int,
    *,
    load: str,
    start: datetime,
    epoch_s: int,
    origins: Origins = Origins.UNIFORM,
) -> DayFrame:
    """What a day's draw needs to know of trace and fleet; arguments as in ``day_demand``.

    Raises:
        InputError: the trace has no such day, the epoch does not fit it, or the fleet cannot be simulated.
    """
    check_day(trace, day, epoch_s)
    prompt, output = trace.day_sizes(day)
    names = [pool.metadata.name for pool in builder.pools]
    nothing = {name: Demand((0.0,) * len(builder.origins()), float(prompt), float(output)) for name in names}
    twin = arrays_from(builder.state(start, nothing, epoch=0, epoch_s=epoch_s, start_time=start))
    epochs = S_PER_DAY // epoch_s
    return DayFrame(
        trace=trace,
        day=day,
        load=load,
        epoch_s=epoch_s,
        capacity=twin.capacity_rps.sum(axis=1) * epoch_s,
        origin_shares=(
            uniform_shares(epochs, len(builder.origins()))
            if origins is Origins.UNIFORM
            else local_hour_shares(builder.origin_zones(), start, epochs, epoch_s)
        ),
        sizes=np.array([prompt, output]),
    )


def day_demand(
    builder: Builder,
    trace: Trace,
    day: int,
    *,
    load: str,
    start: datetime,
    epoch_s: int,
    rng: np.random.Generator,
    origins: Origins = Origins.UNIFORM,
) -> DayDemand:
    """A day of the trace, scaled to a fleet.

    The trace has a smaller and a larger model. With two pools they are the first and the second; otherwise every pool
    gets the trace's total in proportion to its capacity. Each pool is scaled on its own: the busiest epoch of each
    needs what the load says of its own capacity.

    Args:
        builder: the fleet.
        trace: whose arrivals.
        day: day UTC of the trace.
        load: one of ``workload.scaling.LOADS``.
        start: the moment the day is paired with, for signals and local hours.
        epoch_s: length of an epoch, s.
        rng: splits, chooses and rounds.
        origins: where the requests come from.

    Raises:
        InputError: the trace has no such day, or its day cannot be scaled so.
    """
    frame = day_frame(builder, trace, day, load=load, start=start, epoch_s=epoch_s, origins=origins)
    return frame.draw(rng)

"""Epochs that were recorded, while a study ran or a fleet was served: written down, and lived through again.

A replay asks another planner what it would have done in each epoch, with the forecast of then, and lets the twin carry
it out on the requests that came. Queues and awake replicas are those of the replay, so that a plan's consequences are
its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from marlin.api.history import RecordedEpoch
from marlin.api.plan import RoutingPlan
from marlin.api.state import FleetState
from marlin.simulator.engines import Engine, FluidEngine, Left
from marlin.simulator.experiment import Decide, Epoch, run_out
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import arrays_from, with_demand


def recorded(state: FleetState, arrived: FloatArray, plan: RoutingPlan | None = None) -> RecordedEpoch:
    """An epoch as a history holds it.

    Args:
        state: the fleet as it was planned.
        arrived: (V,) requests that came; origins get the parts that were expected of them.
        plan: what was carried out; None where that is not known.
    """
    expected = np.array([pool.forecast_requests for pool in state.pools])
    whole = expected.sum(axis=1, keepdims=True)
    even = np.full_like(expected, 1.0 / expected.shape[1])
    by_origin = arrived[:, None] * np.divide(expected, whole, out=even, where=whole > 0)
    return RecordedEpoch(
        state=state,
        arrived_requests=tuple(tuple(float(requests) for requests in row) for row in by_origin),
        plan=plan,
    )


def replay(history: Sequence[RecordedEpoch], decide: Decide, engine: Engine[Any] | None = None) -> Iterator[Epoch]:
    """What another planner would have done, and what would have come of it.

    Args:
        history: epochs in order. After a gap the twin begins anew: nobody waits, all replicas are awake.
        decide: the planner.
        engine: what carries the plans out. Default: the fluid engine's NumPy form.

    Raises:
        InputError: the fleet cannot be simulated.
    """
    engine, rng = engine or FluidEngine(), np.random.default_rng(0)
    for stretch in stretches(history):
        left: Left[Any] | None = None
        last: Epoch | None = None
        twin = None
        for one in stretch:
            state = _continued(one.state, left)
            plan = decide(state)
            arrived = np.array(one.arrived_requests, dtype=np.float64)  # (V, R)
            twin = with_demand(arrays_from(state), arrived)
            outcome, left = engine.run(twin, plan, left, rng)
            forecast = np.array([sum(pool.forecast_requests) for pool in state.pools])
            last = Epoch(state.start_time, plan, forecast, arrived.sum(axis=1), outcome)
            yield last
        if twin is not None and last is not None and left is not None:
            yield from run_out(engine, twin, last, left)


def stretches(history: Sequence[RecordedEpoch]) -> list[list[RecordedEpoch]]:
    """Epochs that follow one another, of one fleet: the same sites, pools and origins."""
    found: list[list[RecordedEpoch]] = []
    for one in history:
        if found and _follows(found[-1][-1].state, one.state):
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _follows(before: FleetState, after: FleetState) -> bool:
    return (
        abs((after.start_time - before.start_time).total_seconds() - before.epoch_s) < 1.0
        and before.epoch_s == after.epoch_s
        and [site.name for site in before.datacenters] == [site.name for site in after.datacenters]
        and [pool.name for pool in before.pools] == [pool.name for pool in after.pools]
        and before.origins == after.origins
    )


def _continued(state: FleetState, left: Left[Any] | None) -> FleetState:
    """The state with the queue and the awake replicas that the replay left."""
    pools = tuple(
        pool.model_copy(
            update={
                "backlog_requests": () if left is None else tuple(float(x) for x in left.waiting[v]),
                "awake_replicas": () if left is None else tuple(float(x) for x in left.awake[v]),
            }
        )
        for v, pool in enumerate(state.pools)
    )
    return state.model_copy(update={"pools": pools})

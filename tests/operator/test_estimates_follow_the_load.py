"""What routers say that requests took is, added up, what the twin says that the fleet drew, at every load.

The judge is the request-level engine, which follows every request. A router's part of it is what it does itself: once a
second it looks at how many requests a site holds, and charges those that end by the table's curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.footprint import JOULES_PER_KWH
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState, NodeGroupState, PoolDeployment
from marlin.operator.core.tables import energy_curve
from marlin.router.energy import HeldMean, factor_at
from marlin.simulator.engines import Left
from marlin.simulator.fluid import Plans, awake_for, energy_by_load, joules_per_token
from marlin.simulator.fluid.marginal import MODERATE_LOAD
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.engine import Inside, RequestLevelEngine
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.requests import Requests, draw_requests

pytestmark = pytest.mark.timeout(400)  # whichever comes first has the request-level engine compiled

AIM = 0.10
WARM_S, SECONDS = 30, 150


def one_kind(power_down: PowerDown) -> FleetState:
    """Two sites alike, eight replicas each."""
    return _fleet(power_down, 8, (600.0, 120.0), ())


def two_kinds(power_down: PowerDown) -> FleetState:
    """A site that also has quicker replicas, and one that has not; short requests."""
    quick = PoolDeployment(datacenter="a", node_group="h100x8", replicas=2, tensor_parallel=4)
    return _fleet(power_down, 4, (200.0, 40.0), (quick,))


def _fleet(
    power_down: PowerDown, replicas: int, tokens: tuple[float, float], more: tuple[PoolDeployment, ...]
) -> FleetState:
    """No spare nodes: what holds no replica serves no request, and nobody is charged for it."""
    nodes = NodeGroupState(name="a100x4", accelerator="A100-80GB", accelerators_per_node=4, nodes=replicas)
    quick = NodeGroupState(name="h100x8", accelerator="H100-80GB", accelerators_per_node=8, nodes=1)
    state = fleet(site("a", node_groups=(nodes, quick) if more else (nodes,)), site("b", node_groups=(nodes,)))
    pool = state.pools[0]
    usual = tuple(d.model_copy(update={"replicas": replicas}) for d in pool.deployments)
    changes = {
        "power_down": power_down,
        "deployments": (*usual, *more),
        "mean_prompt_tokens": tokens[0],
        "mean_output_tokens": tokens[1],
    }
    return state.model_copy(update={"pools": (pool.model_copy(update=changes),)})


def at_load(state: FleetState, load: float) -> tuple[TwinState, FloatArray]:
    """The fleet, and how many replicas (V, D) a load keeps awake; no capacity is kept free, so that it can be 95 %."""
    twin = arrays_from(state)
    awake = awake_for(twin, load * twin.capacity_rps, 0.8)
    return replace(twin, awake_before=awake, max_utilization=1.0, epoch_s=1.0), awake


def requests_at(twin: TwinState, loads: dict[int, float]) -> Requests:
    """Requests of seconds at parts of the fleet's capacity, one after the other."""
    sizes = np.stack([twin.prompt_tokens, twin.output_tokens], axis=1)
    rng, start_s, drawn = np.random.default_rng(1), 0, []
    for seconds, load in loads.items():
        count = round(load * float(twin.capacity_rps.sum()) * seconds)
        some = draw_requests(np.array([[count]]), sizes, float(seconds), rng)
        drawn.append(replace(some, arrival_s=some.arrival_s + start_s))
        start_s += seconds
    return Requests(*(np.concatenate([getattr(one, f.name) for one in drawn]) for f in fields(Requests)))


def lived(twin: TwinState, awake: FloatArray, requests: Requests, seconds: int) -> tuple[float, float]:
    """Second by second: (J that routers charge, J that the replicas drew) from ``WARM_S`` on."""
    engine, curves = RequestLevelEngine(), energy_by_load(twin, awake)
    table = [curve for d in range(2) if (curve := energy_curve(curves, 0, d)) is not None]
    per_prompt, per_output = joules_per_token(twin)
    plans = Plans((twin.capacity_rps / twin.capacity_rps.sum())[None], awake=awake[None])
    means = [HeldMean() for _ in table]
    told = drawn = 0.0
    before: Left[Inside] | None = None
    for second in range(seconds):
        came = (requests.arrival_s >= second) & (requests.arrival_s < second + 1)
        now = Requests(*(getattr(requests, field.name)[came] for field in fields(Requests)))
        now = replace(now, arrival_s=now.arrival_s - second)
        outcome, before = engine.replay(twin, plans, before, now, 1.0)
        held = before.inside.state.sites
        for d, curve in enumerate(table):
            means[d].add(float(held["in_flight"][d] + held["queue_length"][d]))
            if second >= WARM_S:
                joules = per_prompt[0, d] * now.prompt_tokens.sum() + per_output[0, d] * now.output_tokens.sum()
                part = outcome.served[0, d] / max(outcome.served.sum(), 1.0)
                told += float(part * joules) * factor_at(curve.in_flight, curve.factor, means[d].value)
        if second >= WARM_S:
            drawn += float(outcome.energy_kwh.sum()) * JOULES_PER_KWH
    return told, drawn


@pytest.mark.parametrize(
    ("make", "power_down", "load"),
    [
        (one_kind, PowerDown.NONE, 0.1),
        (one_kind, PowerDown.NONE, 0.95),
        (two_kinds, PowerDown.NONE, 0.3),
        (two_kinds, PowerDown.NONE, 0.8),
        (one_kind, PowerDown.SLEEP, 0.3),
        (one_kind, PowerDown.SLEEP, 0.8),
        (two_kinds, PowerDown.SLEEP, 0.1),
        (two_kinds, PowerDown.SLEEP, 0.95),
    ],
)
def test_what_requests_are_charged_is_what_the_fleet_draws(
    make: Callable[[PowerDown], FleetState], power_down: PowerDown, load: float
) -> None:
    twin, awake = at_load(make(power_down), load)
    told, drawn = lived(twin, awake, requests_at(twin, {SECONDS: load}), SECONDS)
    assert told / drawn == pytest.approx(1.0, abs=AIM)


def test_estimates_follow_a_plan_that_moves_much_of_the_load() -> None:
    twin, awake = at_load(one_kind(PowerDown.NONE), 1.0)
    steps = {WARM_S + 60: 0.3, 120: 0.85, 121: 0.15}
    told, drawn = lived(twin, awake, requests_at(twin, steps), sum(steps))
    assert told / drawn == pytest.approx(1.0, abs=AIM)


def test_at_moderate_load_a_token_takes_what_the_table_says() -> None:
    twin = arrays_from(two_kinds(PowerDown.NONE))
    curves = energy_by_load(twin)
    for d in range(2):
        curve = energy_curve(curves, 0, d)
        assert curve is not None
        held = (twin.replicas[0, d, :, None] * twin.in_flight_knots[0, d]).sum(axis=0)  # (K,)
        at = float(np.interp(MODERATE_LOAD, KNOTS, held))
        assert factor_at(curve.in_flight, curve.factor, at) == pytest.approx(1.0, abs=0.03)


def test_what_sleeps_makes_a_token_dear_no_longer() -> None:
    twin = arrays_from(one_kind(PowerDown.SCALE_TO_ZERO))
    awake, asleep = (energy_by_load(twin, np.full((1, 2), kept)) for kept in (8.0, 1.0))
    held = float(awake.in_flight[0, 0, 1])
    dear, cheap = (factor_at(list(one.in_flight[0, 0]), list(one.factor[0, 0]), held) for one in (awake, asleep))
    assert cheap < 0.5 * dear


def test_a_site_without_replicas_has_no_curve() -> None:
    twin = arrays_from(one_kind(PowerDown.NONE))
    assert energy_curve(energy_by_load(replace(twin, replicas=np.zeros_like(twin.replicas))), 0, 0) is None

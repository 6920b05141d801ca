"""Whoever has to queue in the request-level engine wakes replicas at other sites too, as in the fluid engine."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.pool import PowerDown
from marlin.api.state import PoolDeployment
from marlin.simulator.constants import Settings
from marlin.simulator.fluid import Plans, simulate
from marlin.simulator.outcome import Outcome
from marlin.simulator.request_level.engine import RequestLevelEngine
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.requests import Requests, draw_requests

EPOCH_S = 300.0
ENGINE = RequestLevelEngine()


def slept(kept: tuple[int, ...], of: tuple[int, ...], *, wakes: bool = True) -> tuple[TwinState, np.ndarray]:
    """Sites of so many replicas, and how many of them (1, D) the plan keeps awake."""
    sites = [site(name) for name in "abcd"[: len(of)]]
    state = fleet(*sites, epoch_s=EPOCH_S)
    deployments = tuple(
        PoolDeployment(datacenter=s.name, node_group="a100x4", replicas=n, tensor_parallel=4)
        for s, n in zip(sites, of, strict=True)
    )
    pool = state.pools[0].model_copy(update={"deployments": deployments, "power_down": PowerDown.SLEEP})
    awake = np.array([kept], dtype=np.float64)
    twin = arrays_from(state.model_copy(update={"pools": (pool,)}), Settings(wakes_on_demand=wakes))
    return replace(twin, awake_before=awake), awake


def asked(twin: TwinState, load: float) -> Requests:
    count = round(load * float(twin.capacity_rps.sum()) * EPOCH_S)
    return draw_requests(np.array([[count]]), np.array([[600.0, 120.0]]), EPOCH_S, np.random.default_rng(0))


def until(requests: Requests, end_s: float) -> Requests:
    return Requests(*(getattr(requests, field.name)[requests.arrival_s < end_s] for field in fields(Requests)))


def to_the_first(awake: np.ndarray, *, ordered: bool) -> Plans:
    sites = awake.shape[1]
    shares = np.zeros((1, 1, sites))
    shares[..., 0] = 1.0
    order = np.arange(sites)[None, None] if ordered else None
    return Plans(shares, order=order, awake=awake[None])


def run(twin: TwinState, plans: Plans, requests: Requests, duration_s: float = EPOCH_S) -> Outcome:
    return ENGINE.replay(twin, plans, None, requests, duration_s)[0]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "shares"])
def test_a_site_that_sleeps_wakes_for_those_who_queue_at_another_and_serves_who_comes_then(ordered: bool) -> None:
    twin, awake = slept((6, 0), (6, 6))
    plans, requests = to_the_first(awake, ordered=ordered), asked(twin, 0.7)
    wake_s = twin.models[0].wake_s
    outcome = run(twin, plans, requests)
    other = run(slept((6, 0), (6, 6), wakes=False)[0], plans, requests)

    assert other.served[0, 1] == 0
    assert other.rejected.sum() > 0
    assert outcome.rejected.sum() == 0
    assert outcome.late_share < 0.6 * other.late_share

    # What exceeds the first site's capacity goes to the second as soon as it is there, and no sooner.
    assert run(twin, plans, until(requests, wake_s), wake_s).served[0, 1] == 0
    beyond_rps = len(requests) / EPOCH_S - float(twin.capacity_rps[0, 0])
    assert outcome.served[0, 1] > beyond_rps * (EPOCH_S - wake_s)

    flow = simulate(
        replace(twin, requests=np.array([[float(len(requests))]])), plans.shares[0], awake=awake, order=plans.order
    )
    assert outcome.metrics[0] == pytest.approx(flow.metrics[0, 0], rel=0.1)
    assert outcome.served[0] == pytest.approx(flow.served[0, 0], rel=0.12)
    assert outcome.energy_kwh.sum() == pytest.approx(flow.energy_kwh.sum(), rel=0.05)


def waking(twin: TwinState, awake: np.ndarray, load: float) -> list[int]:
    """Replicas of each site that are on their way after a minute in which the first site was asked for everything."""
    requests = until(asked(twin, load), 60.0)
    _, left = ENGINE.replay(twin, to_the_first(awake, ordered=True), None, requests, 60.0)
    found: list[int] = left.inside.state.sites["waking"].tolist()
    return found


def test_those_asleep_at_other_sites_wake_in_proportion_to_how_many_the_plan_left_asleep() -> None:
    twin, awake = slept((6, 0, 0, 6), (6, 6, 3, 6))
    assert waking(twin, awake, 0.5) == [0, 0, 0, 0]
    assert waking(twin, awake, 0.64) == [0, 2, 1, 0]
    assert waking(twin, awake, 0.95) == [0, 6, 3, 0]


def test_a_site_s_own_replicas_wake_before_those_elsewhere() -> None:
    twin, awake = slept((2, 0), (6, 6))
    own, elsewhere = waking(twin, awake, 0.22)
    assert 0 < own <= 4
    assert elsewhere == 0
    own, elsewhere = waking(twin, awake, 0.5)
    assert own == 4
    assert elsewhere > 0


def test_nobody_is_sent_to_wait_at_a_site_where_all_sleep_while_another_is_awake() -> None:
    twin, awake = slept((0, 6), (6, 6), wakes=False)
    plans = Plans(np.array([[[0.0, 1.0]]]), awake=awake[None])
    requests = until(asked(twin, 1.0), 50.0)  # before anyone's patience ends
    outcome, left = ENGINE.replay(twin, plans, None, requests, 50.0)
    assert left.waiting[0, 1] > 100
    assert left.waiting[0, 0] == 0
    assert outcome.served.sum() + left.waiting.sum() == len(requests)

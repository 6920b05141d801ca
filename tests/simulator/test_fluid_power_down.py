"""Sleep and wake in the fluid engine, worked out by hand for one site of two replicas, in both forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, site

from marlin.api.pool import PowerDown
from marlin.simulator.constants import Settings
from marlin.simulator.fluid import FluidResult, Form, simulate
from marlin.simulator.profiles import own_figures_name
from marlin.simulator.twin_state import TwinState, arrays_from

PROMPT, OUTPUT = 512.0, 41.0
CAPACITY_RPS = 1.0 / (PROMPT / 2048.0 + (OUTPUT - 1.0) / 80.0)  # of one replica, which holds one request at a time
PUE, EPOCH_S, LIMIT = 1.25, 900.0, 0.95
HOST_W = 4 * (812.5 - 400.0) * 0.6  # of four A100s
IDLE_W = 4 * 80.0
WEIGHTS_BYTES = 60e9
SLEEP_WAKE_S = WEIGHTS_BYTES / 6e9 + 60.0  # storage is slower than the GPUs' links; then the engine starts
ZERO_WAKE_S = SLEEP_WAKE_S + 180.0  # and the node boots before


def toy(load: float, power_down: PowerDown, *, was_awake: float = 2.0, **settings: object) -> TwinState:
    """``load`` is a part of what two replicas can carry."""
    profile = own_figures_name(2048.0, 80.0, single_stream_tokens_per_s=80.0, max_batch=1, watts=1200.0)
    state = fleet(site("a"), forecast=max(load * 2 * CAPACITY_RPS * EPOCH_S, 1e-9), rtt_ms=((20.0,),))
    changes = {
        "profile": profile,
        "mean_prompt_tokens": PROMPT,
        "mean_output_tokens": OUTPUT,
        "power_down": power_down,
        "weights_bytes": WEIGHTS_BYTES,
    }
    pools = (state.pools[0].model_copy(update=changes),)
    twin = arrays_from(state.model_copy(update={"pools": pools}), Settings(**settings))  # type: ignore[arg-type]
    return replace(twin, awake_before=np.array([[was_awake]]))


def run(twin: TwinState, awake: float, form: Form) -> FluidResult:
    return simulate(twin, np.array([[1.0]]), awake=np.array([[awake]]), form=form)


def kwh(watts: float, seconds: float = EPOCH_S) -> float:
    return PUE * watts * seconds / 3.6e6


both_forms = pytest.mark.parametrize("form", list(Form))


@both_forms
@pytest.mark.parametrize(
    ("power_down", "asleep_w"),
    [
        (PowerDown.IDLE_P_STATE, HOST_W + 4 * 65.0),
        (PowerDown.SLEEP, HOST_W + 4 * 50.0),
        (PowerDown.SCALE_TO_ZERO, 4 * 3.0),
    ],
)
def test_an_idle_replica_asleep_draws_what_its_pool_can_do(power_down: PowerDown, asleep_w: float, form: Form) -> None:
    result = run(toy(0.0, power_down, was_awake=1.0), 1.0, form)
    assert result.energy_kwh[0, 0] == pytest.approx(kwh(HOST_W + IDLE_W) + kwh(asleep_w), rel=1e-6)


@both_forms
def test_a_pool_that_cannot_power_down_keeps_all_awake_whatever_the_plan_says(form: Form) -> None:
    result = run(toy(0.0, PowerDown.NONE), 1.0, form)
    assert result.energy_kwh[0, 0] == pytest.approx(2 * kwh(HOST_W + IDLE_W), rel=1e-6)
    assert result.awake[0, 0, 0] == 2.0


@both_forms
def test_waking_for_the_plan_costs_energy_once(form: Form) -> None:
    stayed = run(toy(0.2, PowerDown.SLEEP, was_awake=2.0), 2.0, form)
    woken = run(toy(0.2, PowerDown.SLEEP, was_awake=1.0), 2.0, form)
    difference = float(woken.energy_kwh[0, 0] - stayed.energy_kwh[0, 0])
    assert difference == pytest.approx(kwh(HOST_W + IDLE_W, SLEEP_WAKE_S), rel=1e-6)


@both_forms
@pytest.mark.parametrize(
    ("power_down", "wake_s"), [(PowerDown.SLEEP, SLEEP_WAKE_S), (PowerDown.SCALE_TO_ZERO, ZERO_WAKE_S)]
)
def test_who_comes_too_many_waits_until_a_replica_has_loaded_its_weights(
    power_down: PowerDown, wake_s: float, form: Form
) -> None:
    load = 0.6  # one replica alone can take 0.475 of the two
    twin = toy(load, power_down, was_awake=1.0, patience_s=1e6)
    result = run(twin, 1.0, form)
    surplus_rps = (load * 2 - LIMIT) * CAPACITY_RPS
    longest = surplus_rps * wake_s  # requests, when the second one is ready
    drained_s = longest / ((2 * LIMIT - load * 2) * CAPACITY_RPS)
    assert drained_s < EPOCH_S - wake_s, "the example empties its queue within the epoch"
    assert result.waited_s[0, 0] == pytest.approx(longest * (wake_s + drained_s) / 2, rel=1e-6)
    assert result.queued[0, 0] == pytest.approx(0.0, abs=1e-6)
    assert result.awake[0, 0, 0] == pytest.approx(2.0)


@both_forms
def test_where_nobody_wakes_on_demand_the_surplus_waits_for_the_next_epoch(form: Form) -> None:
    twin = toy(0.6, PowerDown.SLEEP, was_awake=1.0, patience_s=1e6, wakes_on_demand=False)
    result = run(twin, 1.0, form)
    assert result.queued[0, 0] == pytest.approx((1.2 - LIMIT) * CAPACITY_RPS * EPOCH_S, rel=1e-6)
    assert result.awake[0, 0, 0] == 1.0


@both_forms
def test_what_would_wait_longer_than_patience_leaves_and_the_rest_stays(form: Form) -> None:
    twin = toy(0.6, PowerDown.SLEEP, was_awake=1.0, patience_s=60.0, wakes_on_demand=False)
    result = run(twin, 1.0, form)
    most = 60.0 * LIMIT * CAPACITY_RPS  # requests that can be served within the patience
    surplus = (1.2 - LIMIT) * CAPACITY_RPS * EPOCH_S
    assert surplus > most
    assert result.queued[0, 0] == pytest.approx(most, rel=1e-6)
    assert result.rejected[0, 0] == pytest.approx(surplus - most, rel=1e-6)


@both_forms
def test_who_waits_longer_than_the_limit_before_all_sites_is_late(form: Form) -> None:
    load = 0.97
    twin = toy(load, PowerDown.NONE, patience_s=1e6)
    result = run(twin, 2.0, form)
    growing_rps = 2 * (load - LIMIT) * CAPACITY_RPS
    waits_too_long_from_s = twin.ttft_limit_s[0] * 2 * LIMIT * CAPACITY_RPS / growing_rps
    assert waits_too_long_from_s < EPOCH_S, "in the example some are late"
    come_late = 2 * load * CAPACITY_RPS * (EPOCH_S - waits_too_long_from_s)
    late = come_late - result.queued[0, 0]  # who still waits is late in the epoch that serves him
    assert late > 0
    inside = run(toy(LIMIT, PowerDown.NONE), 2.0, form).late_share[0]  # of those who are served, for want of room
    assert result.late_share[0] == pytest.approx(late / result.served.sum() + inside, rel=1e-3)


@both_forms
def test_who_was_left_waiting_too_long_is_late_in_the_epoch_that_serves_him(form: Form) -> None:
    twin = toy(0.2, PowerDown.NONE, patience_s=1e6)
    left = 3 * twin.ttft_limit_s[0] * 2 * LIMIT * CAPACITY_RPS
    result = run(replace(twin, backlog_requests=np.array([[left]])), 2.0, form)
    assert result.queued[0, 0] == 0.0
    drained_s = left / (2 * (LIMIT - 0.2) * CAPACITY_RPS)
    come_late = 2 * 0.2 * CAPACITY_RPS * drained_s * 2 / 3  # while more wait than are served within the limit
    assert result.late_share[0] * result.served.sum() == pytest.approx(left + come_late, rel=1e-3)


def many(kept: float, load: float, *, was: float | None = None, replicas: int = 40, wakes: bool = True) -> TwinState:
    """As ``toy`` with more replicas; ``load`` is a part of what those kept awake can carry."""
    twin = toy(0.5, PowerDown.SLEEP, was_awake=kept if was is None else was, patience_s=1e6, wakes_on_demand=wakes)
    requests = np.array([[load * kept * CAPACITY_RPS * EPOCH_S]])
    return replace(
        twin,
        replicas=np.full_like(twin.replicas, replicas),
        requests=requests,
    )


@both_forms
def test_one_replica_wakes_for_every_batch_that_waits_and_all_that_are_awake_then_share_the_requests(
    form: Form,
) -> None:
    surplus_rps = 5.0 / SLEEP_WAKE_S  # so that five wait when those who were woken are ready
    load = LIMIT + surplus_rps / (20 * CAPACITY_RPS)
    twin = many(20, load)
    result = run(twin, 20.0, form)
    assert result.awake[0, 0, 0] == pytest.approx(25.0)
    waits = 5.0 * (SLEEP_WAKE_S + 5.0 / ((25 * LIMIT - load * 20) * CAPACITY_RPS)) / 2
    assert result.waited_s[0, 0] == pytest.approx(waits, rel=1e-6)
    first = run(many(20, LIMIT), 20.0, form)
    later_rps = (load * EPOCH_S - LIMIT * SLEEP_WAKE_S) * 20 * CAPACITY_RPS / (EPOCH_S - SLEEP_WAKE_S)
    later = run(many(25, later_rps / (25 * CAPACITY_RPS)), 25.0, form)
    waking = 5 * kwh(HOST_W + IDLE_W - HOST_W - 4 * 50.0, SLEEP_WAKE_S)  # more than they draw asleep
    part = SLEEP_WAKE_S / EPOCH_S
    expected = part * first.energy_kwh[0, 0] + (1 - part) * later.energy_kwh[0, 0] + waking
    assert result.energy_kwh[0, 0] == pytest.approx(expected, rel=1e-6)
    early = LIMIT * SLEEP_WAKE_S / (load * EPOCH_S)
    assert result.ttft_s[0, 0, 0] == pytest.approx(
        early * first.ttft_s[0, 0, 0] + (1 - early) * later.ttft_s[0, 0, 0], rel=1e-6
    )


@both_forms
def test_as_many_wake_as_serve_what_comes_though_fewer_batches_wait(form: Form) -> None:
    twin = many(20, 1.5)
    places = 1e6  # of each replica; so few of all that are awake stand empty
    result = run(replace(twin, batch_limit=np.full_like(twin.batch_limit, places)), 20.0, form)
    served = 1.0 - 1.0 / np.sqrt(20 * places)
    assert result.awake[0, 0, 0] == pytest.approx(20 + (1.5 - served) * 20)

"""What must hold of the request-level engine, whatever the requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.pool import PowerDown
from marlin.api.state import FleetState, PoolDeployment
from marlin.simulator.constants import Balancer, Settings
from marlin.simulator.engines import Left
from marlin.simulator.experiment import FIRST_DATE
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.fluid import Plans, simulate
from marlin.simulator.outcome import Outcome
from marlin.simulator.request_level.engine import Inside, RequestLevelEngine
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.requests import Requests, draw_requests

EPOCH_S = 300.0
ENGINE = RequestLevelEngine()
SIZES = np.array([[600.0, 120.0]])


def twin(replicas: tuple[int, ...] = (2, 2), physics: Settings | None = None, **pool: Any) -> TwinState:
    """A site for each number of replicas, each replica on four A100s."""
    sites = [site(name) for name in "abcd"[: len(replicas)]]
    state: FleetState = fleet(*sites, epoch_s=EPOCH_S)
    deployments = tuple(
        PoolDeployment(datacenter=s.name, node_group="a100x4", replicas=n, tensor_parallel=4)
        for s, n in zip(sites, replicas, strict=True)
    )
    changed = state.pools[0].model_copy(update={"deployments": deployments} | pool)
    return arrays_from(state.model_copy(update={"pools": (changed,)}), physics or Settings())


def asked(fleet_: TwinState, load: float, seed: int = 0) -> Requests:
    """So many as ``load`` of the capacity can serve."""
    count = round(load * float(fleet_.capacity_rps.sum()) * EPOCH_S)
    return draw_requests(np.array([[count]]), SIZES, EPOCH_S, np.random.default_rng(seed))


def evenly(fleet_: TwinState) -> Plans:
    return Plans(fleet_.capacity_rps[None])


def run(fleet_: TwinState, plans: Plans, requests: Requests, before: Left[Inside] | None = None) -> Outcome:
    return ENGINE.replay(fleet_, plans, before, requests, EPOCH_S)[0]


def total(outcome: Outcome) -> float:
    return float(outcome.served.sum() + outcome.queued.sum() + outcome.rejected.sum())


@settings(max_examples=12, deadline=None)
@given(
    st.floats(0.05, 3.0),
    st.integers(0, 5),
    st.sampled_from(list(Balancer)),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2).filter(lambda row: sum(row) > 0),
)
def test_every_request_is_served_waits_or_left(load: float, seed: int, balancer: Balancer, row: list[float]) -> None:
    fleet_ = twin(physics=Settings(balancer=balancer, patience_s=20.0))
    requests = asked(fleet_, load, seed)
    outcome, left = ENGINE.replay(fleet_, Plans(np.array([[row]])), None, requests, EPOCH_S)
    assert total(outcome) == len(requests)
    nobody = draw_requests(np.array([[0]]), SIZES, EPOCH_S, np.random.default_rng(0))
    after, _ = ENGINE.replay(fleet_, Plans(np.array([[row]])), left, nobody, EPOCH_S)
    assert total(after) == outcome.queued.sum()
    assert after.queued.sum() == 0, "five minutes later everybody who was patient has an answer"


def test_the_same_requests_give_the_same_outcome_bit_for_bit() -> None:
    fleet_ = twin()
    first, second = (run(fleet_, evenly(fleet_), asked(fleet_, 0.9)) for _ in range(2))
    assert np.array_equal(first.metrics, second.metrics)
    assert np.array_equal(first.ttft_quantiles_s, second.ttft_quantiles_s)


def test_two_half_epochs_are_one_whole_epoch() -> None:
    fleet_ = twin()
    requests = asked(fleet_, 0.9)
    whole = run(fleet_, evenly(fleet_), requests)
    half = EPOCH_S / 2
    is_early = requests.arrival_s < half
    outcomes, left = [], None
    for chosen, since_s in ((is_early, 0.0), (~is_early, half)):
        part = Requests(
            requests.arrival_s[chosen] - since_s,
            requests.model[chosen],
            requests.origin[chosen],
            requests.prompt_tokens[chosen],
            requests.output_tokens[chosen],
        )
        outcome, left = ENGINE.replay(fleet_, evenly(fleet_), left, part, half)
        outcomes.append(outcome)
    assert sum(o.served.sum() for o in outcomes) == whole.served.sum()
    assert sum(o.energy_kwh.sum() for o in outcomes) == pytest.approx(whole.energy_kwh.sum(), rel=1e-9)


@pytest.mark.parametrize("following", [(60.0, 10.0), (2000.0, 600.0)], ids=["shorter", "longer"])
def test_who_waits_when_the_requests_of_another_day_begin_keeps_the_place(following: tuple[float, float]) -> None:
    fleet_ = twin(physics=Settings(patience_s=40.0))
    outcome, left = ENGINE.replay(fleet_, evenly(fleet_), None, asked(fleet_, 1.6), EPOCH_S)
    assert outcome.queued.sum() > 300, "more than the least room of a queue"
    queued = left.inside.state.queue[left.inside.state.queue["arrival_s"] > 0]["arrival_s"]
    other = twin(physics=Settings(patience_s=40.0), mean_prompt_tokens=following[0], mean_output_tokens=following[1])
    nobody = draw_requests(np.array([[0]]), SIZES, EPOCH_S, np.random.default_rng(0))
    after, _ = ENGINE.replay(other, evenly(other), left, nobody, EPOCH_S)
    same, _ = ENGINE.replay(fleet_, evenly(fleet_), left, nobody, EPOCH_S)
    assert len(queued) > 0
    assert total(after) == outcome.queued.sum()
    assert after.metrics[0] == same.metrics[0], "the requests are those of before, whoever comes next"


def test_another_fleet_is_refused_and_does_not_mix_with_the_one_before() -> None:
    fleet_, other = twin((2, 2)), twin((2, 3))
    _, left = ENGINE.replay(fleet_, evenly(fleet_), None, asked(fleet_, 0.5), EPOCH_S)
    with pytest.raises(ValueError, match="the fleet must not change"):
        ENGINE.replay(other, evenly(other), left, asked(other, 0.5), EPOCH_S)


def test_deployments_keep_their_order_whatever_the_day_s_tokens() -> None:
    state = loaded_state(Builder(scenario_documents("8x12")), FIRST_DATE, 0.5)

    def models(prompt: float, output: float) -> list[list[list[object]]]:
        sizes = {"mean_prompt_tokens": prompt, "mean_output_tokens": output}
        fleet_ = arrays_from(
            state.model_copy(update={"pools": tuple(pool.model_copy(update=sizes) for pool in state.pools)})
        )
        return [[[fleet_.models[m] for m in cell] for cell in row] for row in fleet_.model_index]

    assert models(20.0, 900.0) == models(4000.0, 20.0)


def test_shares_are_carried_out_request_by_request() -> None:
    fleet_ = twin()
    requests = asked(fleet_, 0.4)
    outcome = run(fleet_, Plans(np.array([[[0.3, 0.7]]])), requests)
    assert outcome.served[0, 0] / len(requests) == pytest.approx(0.3, abs=0.01)


def test_what_a_site_has_no_room_for_spills_to_the_other() -> None:
    fleet_ = twin()
    outcome = run(fleet_, Plans(np.array([[[1.0, 0.0]]])), asked(fleet_, 0.7))
    rate = outcome.served[0] / EPOCH_S
    assert rate[0] == pytest.approx(0.95 * fleet_.capacity_rps[0, 0], rel=0.04)
    assert rate[1] == pytest.approx(0.45 * fleet_.capacity_rps[0, 1], rel=0.15)
    assert outcome.rejected.sum() == 0


def test_ordered_dispatch_fills_the_first_before_the_second() -> None:
    fleet_ = twin()
    order = np.array([[[1, 0]]])
    little = run(fleet_, Plans(np.ones((1, 1, 2)), order=order), asked(fleet_, 0.3))
    assert little.served[0, 0] == 0
    much = run(fleet_, Plans(np.ones((1, 1, 2)), order=order), asked(fleet_, 0.7))
    assert much.served[0, 1] / EPOCH_S == pytest.approx(0.95 * fleet_.capacity_rps[0, 1], rel=0.04)


def test_origins_go_where_their_own_row_says() -> None:
    state = fleet(site("a"), site("b"), origins=("x", "y"), rtt_ms=((10.0, 200.0), (200.0, 10.0)), epoch_s=EPOCH_S)
    fleet_ = arrays_from(state)
    requests = draw_requests(np.array([[300, 300]]), SIZES, EPOCH_S, np.random.default_rng(0))
    rows = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    near = run(fleet_, Plans(np.array([[[0.5, 0.5]]]), by_origin=rows), requests)
    far = run(fleet_, Plans(np.array([[[0.5, 0.5]]]), by_origin=rows[:, ::-1]), requests)
    assert far.metrics[0] - near.metrics[0] == pytest.approx(0.190, abs=1e-3)


def test_spread_gives_each_replica_its_turn_and_pack_leaves_the_last_ones_idle() -> None:
    spread, pack = (twin((8,), Settings(balancer=balancer)) for balancer in (Balancer.SPREAD, Balancer.PACK))
    requests = asked(spread, 0.4)
    busy = {}
    for name, fleet_ in (("spread", spread), ("pack", pack)):
        _, left = ENGINE.replay(fleet_, evenly(fleet_), None, requests, EPOCH_S)
        busy[name] = left.inside.state.replicas["steps"]  # decode steps each replica has done
    assert busy["spread"].min() > 0.9 * busy["spread"].max()
    assert busy["pack"][-1] == 0
    assert busy["pack"][0] > 0
    assert run(pack, evenly(pack), requests).energy_kwh.sum() < run(spread, evenly(spread), requests).energy_kwh.sum()


def test_a_request_that_waits_longer_than_its_patience_leaves_and_counts_at_it() -> None:
    fleet_ = replace(twin((1,), Settings(patience_s=10.0)), base_w=np.zeros(1))
    requests = asked(fleet_, 3.0)
    outcome = run(fleet_, evenly(fleet_), requests)
    served, gone = float(outcome.served.sum()), float(outcome.rejected.sum())
    # Two of three have no place: the replica serves at its capacity, the rest leaves or still waits.
    assert served / EPOCH_S == pytest.approx(float(fleet_.capacity_rps.sum()), rel=0.05)
    assert gone == pytest.approx(len(requests) - served - outcome.queued.sum())
    mean_served_s = float(outcome.ttft_s[0, 0])
    assert outcome.metrics[0] == pytest.approx((served * mean_served_s + gone * 10.0) / (served + gone))
    assert mean_served_s < 10.0 + 2.0, "who is served waited no longer than patience, and was then read"
    assert outcome.late_share >= gone / (served + gone)


def test_sleeping_replicas_draw_what_sleep_draws_and_take_nothing() -> None:
    fleet_ = twin((4,), power_down=PowerDown.SLEEP)
    nobody = asked(fleet_, 0.0)
    awake, asleep = (run(fleet_, Plans(np.ones((1, 1, 1)), awake=np.array([[[kept]]])), nobody) for kept in (4.0, 1.0))
    model = fleet_.models[0]
    saved_j = 3 * (model.idle_w - model.asleep_w) * EPOCH_S
    difference = float((awake.energy_kwh - asleep.energy_kwh).sum())
    assert difference * 3.6e6 / 1.25 == pytest.approx(saved_j, rel=1e-9)


def test_waking_for_the_plan_costs_its_energy_once() -> None:
    fleet_ = twin((4,), power_down=PowerDown.SLEEP)
    nobody = asked(fleet_, 0.0)
    one, all_ = (Plans(np.ones((1, 1, 1)), awake=np.array([[[kept]]])) for kept in (1.0, 4.0))
    _, left = ENGINE.replay(fleet_, one, None, nobody, EPOCH_S)
    waking, left = ENGINE.replay(fleet_, all_, left, nobody, EPOCH_S)
    staying, _ = ENGINE.replay(fleet_, all_, left, nobody, EPOCH_S)
    model = fleet_.models[0]
    extra_j = float((waking.energy_kwh - staying.energy_kwh).sum()) * 3.6e6 / 1.25
    assert extra_j == pytest.approx(3 * model.wake_s * model.idle_w, rel=1e-9)


@pytest.mark.parametrize("wakes", [True, False])
def test_who_has_to_queue_wakes_replicas_and_waits_for_their_weights(wakes: bool) -> None:
    fleet_ = twin((4,), Settings(wakes_on_demand=wakes, patience_s=1000.0), power_down=PowerDown.SLEEP)
    plan = Plans(np.ones((1, 1, 1)), awake=np.array([[[1.0]]]))
    outcome = run(fleet_, plan, asked(fleet_, 0.6))
    one_rps = float(fleet_.replica_rps.max())
    if wakes:
        assert outcome.awake.sum() >= 3
        assert outcome.ttft_quantiles_s[2] > 10.0, "an under-forecast pays"
        assert outcome.served.sum() / EPOCH_S > 1.5 * one_rps
    else:
        assert outcome.awake.sum() == 1
        assert outcome.served.sum() / EPOCH_S == pytest.approx(one_rps, rel=0.1)


def test_the_queue_of_a_site_that_is_drained_goes_to_the_others() -> None:
    fleet_ = twin((1, 4), Settings(patience_s=1000.0))
    only_first = replace(fleet_, allowed=np.array([[True, False]]))
    crowd, left = ENGINE.replay(only_first, evenly(fleet_), None, asked(fleet_, 0.5), EPOCH_S)
    assert crowd.queued.sum() > 50
    nobody = asked(fleet_, 0.0)
    only_second = replace(fleet_, allowed=np.array([[False, True]]))
    outcome, _ = ENGINE.replay(only_second, evenly(fleet_), left, nobody, EPOCH_S)
    assert outcome.served[0, 1] > 0
    assert total(outcome) == crowd.queued.sum()


def test_a_model_that_nobody_may_serve_is_refused_not_lost() -> None:
    fleet_ = replace(twin(), allowed=np.array([[False, False]]))
    requests = asked(fleet_, 0.1)
    outcome = run(fleet_, evenly(fleet_), requests)
    assert outcome.rejected.sum() == len(requests)


@pytest.mark.parametrize(("balancer", "tolerance"), [(Balancer.SPREAD, 0.05), (Balancer.PACK, 0.15)])
def test_the_fluid_engine_says_the_same_of_a_steady_load(balancer: Balancer, tolerance: float) -> None:
    fleet_ = twin((6, 6), Settings(balancer=balancer))
    outcomes, left = [], None
    for seed in range(4):
        outcome, left = ENGINE.replay(fleet_, evenly(fleet_), left, asked(fleet_, 0.5, seed), EPOCH_S)
        outcomes.append(outcome)
    count = np.array([[0.5 * float(fleet_.capacity_rps.sum()) * EPOCH_S]])
    flow = simulate(replace(fleet_, requests=count), fleet_.capacity_rps)
    assert flow.energy_kwh.sum() == pytest.approx(np.mean([o.energy_kwh.sum() for o in outcomes[1:]]), rel=0.01)
    assert flow.metrics[0, 0] == pytest.approx(np.mean([o.metrics[0] for o in outcomes[1:]]), rel=tolerance)

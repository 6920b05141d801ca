"""An episode is a study: the same requests, the same outcomes, the same sums, whoever plans it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from tasks import study, task

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, Scheme
from marlin.api.state import FleetState
from marlin.policy.planners import make_planner
from marlin.policy.simulating import prepare
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.forecast import Forecast, smoothed
from marlin.simulator.environments.observation import named, of_fleet
from marlin.simulator.environments.task import Lanes, Step, Task, make_task
from marlin.simulator.experiment import FIRST_DATE, Epoch, run
from marlin.simulator.fluid import Plans
from marlin.simulator.outages import outage, without
from marlin.simulator.physics import FloatArray
from marlin.simulator.scenario_file import Scenario
from marlin.simulator.twin_state import arrays_from

EQUAL = np.full((1, 4), 0.25)
Policy = Callable[[Task, int], FloatArray | Intent]
"""The action (size,) for an epoch."""

KINDS = pytest.mark.parametrize(
    "kind",
    [{}, {"outages": True}, {"sleeps": True}, {"outages": True, "sleeps": True}],
    ids=["shares", "outages", "sleeping", "outages-sleeping"],
)


def played(task_: Task, policy: Policy, seed: int = 5) -> tuple[Lanes, list[Step]]:
    """A whole episode of the first study."""
    lanes, steps = task_.begin(task_.draw([(0, seed)]), EQUAL), []
    while not lanes.is_over:
        wanted = policy(task_, lanes.carried.epoch)
        lanes, done = task_.step(lanes, wanted if isinstance(wanted, Intent) else task_.propose(lanes, wanted[None]))
        steps.append(done)
    return lanes, steps


def nothing(task_: Task, epoch: int) -> FloatArray:
    return np.zeros(task_.action.size)


def by_chance(task_: Task, epoch: int) -> FloatArray:
    return np.random.default_rng(epoch).uniform(-1, 1, task_.action.size)


def whole_shares(task_: Task, epoch: int) -> Intent:
    """An intent whose shares a router's plan can hold: whole numbers out of 10,000."""
    models, sites = task_.action.models, task_.action.sites
    rng = np.random.default_rng(epoch)
    weights = np.zeros((models, sites))
    for v in range(models):
        is_open = task_.courses[0].seen_allowed[epoch, v]
        cuts = np.sort(rng.choice(np.arange(500, 9500), is_open.sum() - 1, replace=False))
        weights[v, is_open] = np.diff([0, *cuts, 10_000])
    return full_and_awake(weights)


def full_and_awake(weights: FloatArray) -> Intent:
    """Shares (V, D) in 1 of 10,000, sites filled to the limit and awake for what is expected."""
    one = np.ones((1, *weights.shape))
    return Intent(weights[None] / 10_000, one, one)


def most_to_one(task_: Task, epoch: int) -> Intent:
    """As whole shares are, most of them to the last open site."""
    models, sites = task_.action.models, task_.action.sites
    weights = np.zeros((models, sites))
    for v in range(models):
        is_open = np.flatnonzero(task_.courses[0].seen_allowed[epoch, v])
        weights[v, is_open] = 500
        weights[v, is_open[-1]] += 10_000 - 500 * len(is_open)
    return full_and_awake(weights)


def full_or_empty(task_: Task, epoch: int) -> FloatArray:
    """An ordered action in which a site is filled to the limit or left for the rest: caps that a plan can hold."""
    action = by_chance(task_, epoch).reshape(task_.action.models, task_.action.sites, -1)
    action[..., 1] = np.sign(action[..., 1])
    return action.reshape(-1)


def as_planner(steps: list[Step]) -> Callable[[FleetState], RoutingPlan]:
    """What a study asks to get the plans of these steps."""
    plans = iter([step.plans for step in steps])

    def decide(state: FleetState) -> RoutingPlan:
        return routing_plan(state, next(plans))

    return decide


def routing_plan(state: FleetState, plans: Plans) -> RoutingPlan:
    pools = []
    for v, pool in enumerate(state.pools):
        is_ordered = plans.order is not None and plans.cap is not None
        weights = np.rint(plans.shares[0, v] * 10_000)
        weights[weights.argmax()] += 10_000 - weights.sum()
        pools.append(
            PoolPlan(
                name=pool.name,
                dispatch=Dispatch.ORDERED if is_ordered else Dispatch.SHARES,
                weights=tuple(int(w) for w in weights),
                order=() if plans.order is None else tuple(int(d) for d in plans.order[0, v] if d >= 0),
                cap=() if plans.cap is None else tuple(round(float(c) * 10_000) for c in plans.cap[0, v]),
                replicas=() if plans.awake is None else tuple(int(n) for n in plans.awake[0, v]),
            )
        )
    return RoutingPlan(
        epoch=state.epoch,
        decided_time=state.start_time,
        valid_from=state.start_time,
        valid_until=state.start_time.replace(year=state.start_time.year + 1),
        planner=PlannerKind.MERIT_ORDER,
        scheme=Scheme.BALANCED,
        datacenters=tuple(site.name for site in state.datacenters),
        pools=tuple(pools),
    ).sealed()


def proportional(state: FleetState) -> RoutingPlan:
    return make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES).decide(state).plan


def studied(kind: dict[str, bool], decide: Callable[[FleetState], RoutingPlan], seed: int = 5) -> list[Epoch]:
    return list(run(replace(study(**kind), seed=seed), decide))


def sums(epochs: list[Epoch]) -> FloatArray:
    return np.asarray(
        sum(epoch.outcome.metrics * (epoch.outcome.counted, 1.0, 1.0, 1.0) for epoch in epochs), dtype=np.float64
    )


@KINDS
def test_an_action_of_zeros_is_capacity_proportional_but_for_rounding(kind: dict[str, bool]) -> None:
    lanes, steps = played(task(**kind), nothing)
    np.testing.assert_allclose([s.happened.metrics[0] for s in steps], lanes.episodes.baseline_metrics[:, 0], rtol=1e-9)
    assert max(np.abs(s.terms.gain).max() for s in steps) < 1e-8


@cache
def proportionally_studied() -> list[Epoch]:
    return studied({"outages": True, "sleeps": True}, proportional)


def test_an_action_of_zeros_is_what_the_planner_of_that_name_does_in_a_study() -> None:
    epochs = proportionally_studied()
    _, steps = played(task(outages=True, sleeps=True), nothing)
    weights = np.array([[pool.weights for pool in epoch.plan.pools] for epoch in epochs[: len(steps)]]) / 10_000
    assert np.abs(weights - np.concatenate([s.plans.shares for s in steps])).max() <= 1.0 / 10_000
    # A plan for a router is rounded to 1 in 10,000.
    assert sum(s.happened.totals[0] for s in steps) == pytest.approx(sums(epochs), rel=2e-3)


@pytest.mark.parametrize("kind", [{"outages": True}, {"sleeps": True}], ids=["outages", "sleeping"])
def test_an_episode_is_the_study_of_its_seed(kind: dict[str, bool]) -> None:
    lanes, steps = played(task(**kind), whole_shares)
    epochs = studied(kind, as_planner(steps))
    assert np.array_equal([epoch.arrived for epoch in epochs[: len(steps)]], lanes.episodes.arrived[:, 0])
    assert (len(epochs) > len(steps)) == kind.get("outages", False), "the last queue has to run out"
    for epoch, step in list(zip(epochs, steps, strict=False))[:-1]:
        assert step.happened.metrics[0] == pytest.approx(epoch.outcome.metrics, rel=1e-9)
        assert step.happened.late_share[0] == pytest.approx(epoch.outcome.late_share, rel=1e-9, abs=1e-12)
        assert step.happened.awake[0] == pytest.approx(epoch.outcome.awake)
    # In the time after the last epoch a study weighs all origins alike, an episode as they last asked.
    assert sum(s.happened.totals[0] for s in steps) == pytest.approx(sums(epochs), rel=1e-7)


def test_an_ordered_episode_is_the_study_of_its_seed() -> None:
    _, steps = played(task(outages=True, dispatch=Dispatch.ORDERED), full_or_empty)
    epochs = studied({"outages": True}, as_planner(steps))
    assert sum(s.happened.totals[0] for s in steps) == pytest.approx(sums(epochs), rel=1e-7)


def test_the_mean_gain_is_the_share_that_a_study_says_was_saved() -> None:
    kind = {"outages": True, "sleeps": True}
    _, steps = played(task(**kind), most_to_one)
    base, own = sums(proportionally_studied()), sums(studied(kind, as_planner(steps)))
    gain = np.mean([s.terms.gain[0] for s in steps], axis=0)
    assert gain == pytest.approx(1 - own / base, abs=2e-3)
    assert np.abs(gain).max() > 0.02


def test_the_rewards_of_an_episode_add_up_to_its_parts() -> None:
    _, steps = played(task(sleeps=True), by_chance)
    gain = np.array([s.terms.gain[0] for s in steps])  # (E, 4)
    average, trend = np.zeros(4), []
    for row in gain:
        trend.append(row - average)
        average = average + 0.1 * (row - average)
    asleep, late = (np.array([getattr(s.terms, name)[0] for s in steps]) for name in ("asleep", "late"))
    whole = gain.sum(axis=0) + np.sum(trend, axis=0) + asleep.sum() - late.sum()
    assert sum(s.rewards[0] for s in steps) == pytest.approx(whole)
    assert sum(s.scalar[0] for s in steps) == pytest.approx(whole.mean())
    everyone = task(sleeps=True).courses[0].fleets.all_replicas[0].sum()
    assert asleep == pytest.approx([1 - s.happened.awake.sum() / everyone for s in steps])
    assert asleep.max() > 0.3
    requests = [s.happened.served.sum() + s.happened.rejected.sum() for s in steps]
    assert late * requests == pytest.approx([s.happened.late[0] for s in steps])
    assert late.max() > 0


@KINDS
def test_what_arrives_is_served_or_rejected_by_the_end_of_the_episode(kind: dict[str, bool]) -> None:
    lanes, steps = played(task(**kind), by_chance)
    served = sum(s.happened.served.sum() for s in steps)
    rejected = sum(s.happened.rejected.sum() for s in steps)
    assert served + rejected == pytest.approx(lanes.episodes.arrived.sum(), rel=1e-9)
    assert not lanes.carried.backlog.any()
    assert rejected > 0 or not kind.get("outages")


def test_a_queue_is_there_to_be_seen_and_to_be_worked_off() -> None:
    task_ = task(outages=True)
    lanes = task_.begin(task_.draw([(0, 5)]), EQUAL)
    queues, seen = [], []
    while not lanes.is_over:
        observed = named(task_.observe(lanes)[0].astype(np.float64), task_.action.models, task_.action.sites)
        seen.append(observed["backlog"].sum())
        queues.append(lanes.carried.backlog.sum())
        lanes, _ = task_.step(lanes, task_.propose(lanes, np.zeros((1, task_.action.size))))
    assert np.array_equal(np.array(queues) > 0, np.array(seen) > 0)
    assert any(before > 0 and after == 0 for before, after in pairwise(queues))


def test_a_site_that_is_drained_gets_exactly_nothing_and_a_failed_one_only_once() -> None:
    task_ = task(outages=True)
    _, steps = played(task_, by_chance)
    shares = np.concatenate([s.plans.shares for s in steps])  # (E, V, D)
    served = np.concatenate([s.happened.served for s in steps])
    drained, failed = 1, 2
    assert not shares[30:61, :, drained].any()
    assert shares[[29, 61], :, drained].all()
    assert shares[80, :, failed].all(), "the plan counts on the site"
    assert not served[80:, :, failed].any()
    assert not shares[81:, :, failed].any()


def test_a_fleet_that_is_closed_for_a_while_has_an_end_all_the_same() -> None:
    closed = without(
        [outage(f"{site}@{epochs}") for site in ("de-lu", "us-cal-ciso", "sg") for epochs in ("20-22", "94-95")],
        FIRST_DATE,
    )
    lanes, steps = played(make_task([replace(study(), adjust=closed)]), by_chance)
    assert all(np.isfinite(s.rewards).all() and np.isfinite(s.happened.metrics).all() for s in steps)
    assert not any(steps[e].happened.served.any() for e in (20, 21, 22, 94, 95))
    counted = sum(s.happened.counted[0] for s in steps)
    assert counted == pytest.approx(lanes.episodes.arrived.sum(), rel=1e-9)


def test_one_site_has_nothing_to_choose_and_nothing_to_gain() -> None:
    small = prepare(Scenario(base="demo-3", pools=("llama-2-7b",), datacenters=("sg",))).study
    _, steps = played(make_task([small]), by_chance)
    assert not any(s.terms.gain.any() for s in steps)
    assert all((s.plans.shares == 1.0).all() for s in steps)


def test_a_planner_can_show_a_policy_what_it_saw_in_training() -> None:
    kind = {"outages": True, "sleeps": True}
    task_ = task(**kind)
    _, steps = played(task_, whole_shares)
    plans, states = as_planner(steps), []

    def decide(state: FleetState) -> RoutingPlan:
        states.append(state)
        return plans(state)

    studied(kind, decide)
    lanes = task_.begin(task_.draw([(0, 5)]), EQUAL)
    for e, state in enumerate(states):
        twin = arrays_from(state)
        expected = twin.arriving[None]
        served = of_fleet(twin, state.start_time, Forecast(expected, expected, expected), EQUAL[0], Dispatch.SHARES)
        seen = task_.observe(lanes)[0]
        seen[-8:-4] = 0.0  # the average gain, which is known in training alone
        assert served == pytest.approx(seen, rel=1e-5, abs=1e-6), e
        lanes, _ = task_.step(lanes, whole_shares(task_, e))


def test_a_forecast_is_made_of_the_past_alone() -> None:
    arrived = np.random.default_rng(0).uniform(10, 100, (20, 2))
    later = arrived.copy()
    later[12:] *= 7
    one, other = smoothed(arrived), smoothed(later)
    for name in ("mean", "low", "high"):
        before, after = getattr(one, name), getattr(other, name)
        assert np.array_equal(before[:13], after[:13])
        assert not np.array_equal(before[13:], after[13:])

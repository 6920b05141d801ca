"""The best of many plans, model by model."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import differing_site, fleet, site
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.policy.agents.guard import Guard, Looked, look
from marlin.policy.agents.models_apart import models_apart
from marlin.policy.agents.settling import as_agreed
from marlin.policy.agents.situation import Situation, situation_of
from marlin.policy.even_margins import even_orders, even_shares, slices_of
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.proportional import by_capacity
from marlin.simulator.fluid import Plans
from marlin.simulator.twin_state import arrays_from


def two_models(seed: int, dispatch: Dispatch, power_down: PowerDown = PowerDown.SCALE_TO_ZERO) -> Situation:
    """Four sites that differ, and two models there."""
    rng = np.random.default_rng(seed)
    base = fleet(*(differing_site(rng, f"s{d}") for d in range(4)), rtt_ms=((10.0, 40.0, 90.0, 160.0),))
    capacity = float(arrays_from(base).capacity_rps.sum()) * base.epoch_s
    pools = []
    for name, wanted in zip(("one", "other"), rng.uniform(0.05, 0.6, 2) * capacity, strict=True):
        expected = {"forecast_requests": (wanted,), "forecast_upper_requests": 1.5 * wanted}
        pools.append(base.pools[0].model_copy(update={"name": name, "power_down": power_down} | expected))
    state = base.model_copy(update={"pools": tuple(pools)})
    return situation_of(state, dispatch, (0.25, 0.25, 0.25, 0.25))


def many_plans(situation: Situation) -> Plans:
    """One for each of the demands that may come."""
    slices = slices_of(situation.twin, situation.objective, situation.allowed)
    demand_rps = situation.demands.requests / situation.twin.epoch_s
    if situation.dispatch is Dispatch.SHARES:
        return even_shares(slices, demand_rps)
    return even_orders(slices, demand_rps)[0]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(Dispatch))
def test_models_apart_are_expected_to_be_no_worse_than_any_of_the_plans(seed: int, dispatch: Dispatch) -> None:
    situation = two_models(seed, dispatch)
    plans = many_plans(situation)
    values = situation.tried(plans).values(situation.objective)
    of_best, put_together = situation.tried(models_apart(situation, plans)).values(situation.objective)
    assert of_best == pytest.approx(values.min(), rel=1e-9)
    assert put_together <= values.min() + 1e-9


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_each_model_takes_the_plan_that_is_best_for_it(seed: int) -> None:
    """Of two plans for two models the best of all four ways to put them together is found."""
    situation, rng = two_models(seed, Dispatch.ORDERED), np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(4), (2, 2))  # (N, V, D)
    awake = rng.integers(1, 3, shares.shape).astype(float)
    both = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    each = Plans(shares=shares[both, [0, 1]], awake=awake[both, [0, 1]])
    best = situation.tried(each).values(situation.objective).min()
    found = situation.tried(models_apart(situation, Plans(shares=shares, awake=awake))).values(situation.objective)
    assert found[1] == pytest.approx(best, rel=1e-9)


def test_one_model_has_nothing_to_put_together() -> None:
    state = two_models(1, Dispatch.ORDERED).state
    situation = situation_of(state.model_copy(update={"pools": state.pools[:1]}), Dispatch.ORDERED, (0, 1, 0, 0))
    assert len(models_apart(situation, many_plans(situation))) == 1


def looked_at(situation: Situation) -> Looked:
    """What the guard finds where all agents want what capacity-proportional routing does."""
    even = Intent(by_capacity(situation.twin.capacity_rps, situation.allowed), *np.ones((2, *situation.allowed.shape)))
    of_agents = Intent(*(np.repeat(part[None], 4, axis=0) for part in (even.shares, even.fill, even.margin)))
    return look(situation, as_agreed(even), of_agents, (0.25,) * 4, Guard.SIMPLE)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PowerDown))
def test_under_shares_the_guard_tries_what_each_model_is_best_off_with(seed: int, power_down: PowerDown) -> None:
    """Expected to be no worse than capacity-proportional routing or any plain plan, and no model is worse off."""
    situation = two_models(seed, Dispatch.SHARES, power_down)
    looked = looked_at(situation)
    names = ("merit order", "even margins", "nearest", *(("by capacity",) if power_down is not PowerDown.NONE else ()))
    assert looked.plain == (*names, "model by model")
    plain = [looked.values[name] for name in ("capacity-proportional", *names)]
    assert looked.values["model by model"] <= min(plain) + 1e-9
    own = situation.values_by_model(looked.plans)  # (1 + J + K, V)
    assert (own[-1] <= own[-len(looked.plain) :].min(axis=0) + 1e-9).all()


def test_the_guard_tries_nothing_model_by_model_for_one_model_or_in_turn() -> None:
    one = fleet(site("a"), site("b"))
    for situation in (situation_of(one, Dispatch.SHARES, (0.25,) * 4), two_models(0, Dispatch.ORDERED)):
        assert "model by model" not in looked_at(situation).plain


@pytest.mark.parametrize("power_down", PowerDown)
def test_under_shares_the_guard_sends_everybody_to_the_nearest_site_where_that_is_the_quickest(
    power_down: PowerDown,
) -> None:
    """Three sites of a kind, each far from the other two, and room for all who are near: no other plan is as quick."""
    far = ((5.0, 150.0, 150.0), (150.0, 5.0, 150.0), (150.0, 150.0, 5.0))
    base = fleet(site("a"), site("b"), site("c"), origins=("a", "b", "c"), rtt_ms=far)
    capacity = float(arrays_from(base).capacity_rps.sum()) * base.epoch_s
    wanted = (0.05 * capacity, 0.02 * capacity, 0.01 * capacity)
    expected = {"forecast_requests": wanted, "forecast_upper_requests": 1.2 * sum(wanted)}
    pool = base.pools[0].model_copy(update={"power_down": power_down} | expected)
    state = base.model_copy(update={"pools": (pool,)})
    situation = situation_of(state, Dispatch.SHARES, (1.0, 0.0, 0.0, 0.0)).with_rows()
    looked = looked_at(situation)
    assert looked.instead == "nearest"
    assert looked.published.shares[0, 0] == pytest.approx(np.array(wanted) / sum(wanted), abs=1e-9)
    assert "nearest" not in looked_at(situation_of(state, Dispatch.ORDERED, (1.0, 0.0, 0.0, 0.0))).plain


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_a_model_that_cannot_power_down_is_filled_to_the_rate_as_well_beside_one_that_can(seed: int) -> None:
    state = two_models(seed, Dispatch.ORDERED).state
    awake = state.pools[1].model_copy(update={"power_down": PowerDown.NONE})
    mixed = situation_of(state.model_copy(update={"pools": (state.pools[0], awake)}), Dispatch.ORDERED, (0.25,) * 4)
    looked = looked_at(mixed)
    assert looked.plain == ("merit order", "even margins", "even margins, to the rate")
    assert looked_at(two_models(seed, Dispatch.ORDERED)).plain == ("merit order", "even margins")
    assert looked.plans.cap is not None
    sleepy, filled = looked.plans.cap[-1]  # (V, D)
    assert (sleepy == 1.0).all(), "what is awake says what they take"
    assert (filled < 1.0).any()

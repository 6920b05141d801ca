"""Even margins: laws of the division, and what it costs beside the oracle, a sort and capacity-proportional routing."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import differing_site, fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from marlin.api.plan import Scheme
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState, PoolDeployment
from marlin.policy.deciding import Ground
from marlin.policy.even_margins import Slices, _hull_slopes, even_orders, even_shares, slices_of
from marlin.policy.objective import scheme_weights
from marlin.policy.oracle.epoch import optimum
from marlin.policy.site_costs import cheapest_awake, site_costs
from marlin.policy.trials import Objective, objective_of
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

SCHEMES = [s for s in Scheme if s is not Scheme.CUSTOM]
POWER_DOWN = [PowerDown.NONE, PowerDown.SLEEP, PowerDown.SCALE_TO_ZERO]
some_sleeper = given(
    st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.floats(0.05, 1.0), st.sampled_from(POWER_DOWN[1:])
)


def varied(seed: int, power_down: PowerDown = PowerDown.NONE) -> FleetState:
    """Five sites that differ in everything, the last of them closed."""
    rng = np.random.default_rng(seed)
    base = fleet(
        *(differing_site(rng, f"s{d}", is_available=d < 4) for d in range(5)),
        rtt_ms=(tuple(float(x) for x in rng.uniform(5, 200, 5)),),
    )
    replicas = rng.integers(4, 40, 5)
    pool = base.pools[0].model_copy(
        update={
            "power_down": power_down,
            "deployments": tuple(
                PoolDeployment(datacenter=f"s{d}", node_group="a100x4", replicas=int(replicas[d]), tensor_parallel=4)
                for d in range(5)
            ),
        }
    )
    return base.model_copy(update={"pools": (pool,)})


def sliced(state: FleetState, scheme: Scheme) -> tuple[Ground, Objective, Slices]:
    ground = Ground.of(state)
    objective = objective_of(ground.twin, scheme_weights(scheme))
    return ground, objective, slices_of(ground.twin, objective, ground.allowed)


def cost(twin: TwinState, objective: Objective, rates: FloatArray) -> float:
    """Of rates (D,) of the only model."""
    return float(site_costs(twin, objective, 0, rates[:, None], twin.all_replicas[0][:, None]).sum())


@given(st.lists(st.floats(-10.0, 10.0), min_size=2, max_size=12))
def test_a_hull_is_convex_below_the_values_and_joins_their_ends(values: list[float]) -> None:
    slopes = _hull_slopes(np.array(values))
    hull = values[0] + np.concatenate([[0.0], np.cumsum(slopes)])
    assert (np.diff(slopes) >= -1e-9).all()
    assert (hull <= np.array(values) + 1e-9).all()
    assert hull[-1] == pytest.approx(values[-1])
    touched = np.isclose(hull, values)
    for k in np.flatnonzero(~touched[1:-1]) + 1:  # straight wherever it is below: no other is higher
        assert slopes[k] == pytest.approx(slopes[k - 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.floats(0.0, 1.3), st.sampled_from(POWER_DOWN))
def test_all_is_carried_within_the_limits_and_margins_are_even_where_there_is_room(
    seed: int, scheme: Scheme, part: float, power_down: PowerDown
) -> None:
    _, _, slices = sliced(varied(seed, power_down), scheme)
    wanted = part * slices.limit_rps.sum()
    rates = slices.rates(np.array([[wanted]]))[0, 0]
    assert rates.sum() == pytest.approx(min(wanted, slices.limit_rps.sum()))
    assert (rates >= 0).all()
    assert (rates <= slices.limit_rps[0] * (1 + 1e-12)).all()
    assert rates[4] == 0.0
    filled = rates / np.maximum(slices.width_rps[0], 1e-12)
    last = [slices.slope[0, d, int(np.ceil(filled[d] - 1e-9)) - 1] for d in range(4) if filled[d] > 1e-9]
    following = [
        slices.slope[0, d, int(filled[d] + 1e-9)] for d in range(4) if filled[d] < slices.slope.shape[2] - 1e-6
    ]
    if last and following:  # nobody's last slice is dearer than one that somebody has left
        assert max(last) <= min(following) + 1e-9


def hull_cost(slices: Slices, rates: FloatArray) -> float:
    """Of rates (D,) of the only model, beyond that of no requests."""
    many = slices.slope.shape[2]
    parts = np.clip(rates[:, None] - slices.width_rps[0][:, None] * np.arange(many), 0.0, slices.width_rps[0][:, None])
    return float((parts * np.where(np.isfinite(slices.slope[0]), slices.slope[0], 0.0)).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.floats(0.05, 1.0), st.sampled_from(POWER_DOWN))
def test_no_other_division_is_cheaper_on_the_hulls(
    seed: int, scheme: Scheme, part: float, power_down: PowerDown
) -> None:
    _, _, slices = sliced(varied(seed, power_down), scheme)
    limit = slices.limit_rps[0]
    ours = slices.rates(np.array([[part * limit.sum()]]))[0, 0]
    rng = np.random.default_rng(seed)
    others = [limit * part]
    for _ in range(20):  # on the way to anywhere: limits hold on all of it
        filled = np.zeros_like(limit)
        for d in rng.permutation(len(limit)):
            filled[d] = min(limit[d], part * limit.sum() - filled.sum())
        others.append(ours + rng.uniform() * (filled - ours))
    assert hull_cost(slices, ours) <= min(hull_cost(slices, other) for other in others) + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.95))
def test_where_waiting_alone_counts_it_is_near_the_optimum_and_no_worse_than_capacity_proportional(
    seed: int, part: float
) -> None:
    ground, objective, slices = sliced(varied(seed), Scheme.MIN_TTFT)
    wanted = part * slices.limit_rps.sum()
    ours = cost(ground.twin, objective, slices.rates(np.array([[wanted]]))[0, 0])
    # As fine as its slices: where little is asked for, one is much, and near the limit all divisions are alike.
    assert ours <= cost(ground.twin, objective, slices.limit_rps[0] * part) * 1.01
    assert ours <= optimum(ground.twin, objective, np.array([wanted])).cost * 1.03


@pytest.mark.parametrize("scheme", [Scheme.MIN_CARBON, Scheme.MIN_WATER, Scheme.MIN_COST])
def test_where_energy_alone_counts_sites_are_filled_one_by_one(scheme: Scheme) -> None:
    """Energy is cheaper per request the fuller a site is: hulls are straight, and what comes out is a merit order."""
    for seed in range(10):
        _, _, slices = sliced(varied(seed), scheme)
        rates = slices.rates(np.array([[0.5 * slices.limit_rps.sum()]]))[0, 0]
        part = rates[:4] / slices.limit_rps[0, :4]
        assert ((part > 1e-6) & (part < 1 - 1e-6)).sum() <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES))
def test_its_plans_name_each_open_site_once_and_no_closed_one(seed: int, scheme: Scheme) -> None:
    _, _, slices = sliced(varied(seed), scheme)
    demand = np.array([[0.0], [0.3], [2.0]]) * slices.limit_rps.sum()
    open_ended, to_the_rate = even_orders(slices, demand)
    for plans in (even_shares(slices, demand), open_ended, to_the_rate):
        assert plans.shares.sum(axis=2) == pytest.approx(1.0)
        assert (plans.shares[:, :, 4] == 0).all()
        if plans.order is not None and plans.cap is not None:
            assert (np.sort(plans.order, axis=2) == [-1, 0, 1, 2, 3]).all()
            assert ((plans.cap >= 0) & (plans.cap <= 1)).all()
    assert (open_ended.cap >= to_the_rate.cap).all()  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@some_sleeper
def test_what_is_awake_carries_its_demand_and_nothing_is_awake_where_nothing_goes(
    seed: int, scheme: Scheme, part: float, power_down: PowerDown
) -> None:
    ground, _, slices = sliced(varied(seed, power_down), scheme)
    demand = np.array([[part], [0.5 * part]]) * slices.limit_rps.sum()
    rates = slices.rates(demand)
    for plans in even_orders(slices, demand):
        assert plans.awake is not None
        assert (plans.awake * ground.twin.replica_rps[:, :, 0] >= rates - 1e-9).all()
        assert (plans.awake[rates == 0.0] == 0).all()
        assert (plans.cap == 1.0).all(), "what is awake says what a site takes"  # type: ignore[union-attr]


@settings(max_examples=40, deadline=None)
@some_sleeper
def test_shares_are_for_one_demand_and_what_is_awake_for_it_and_for_one_that_is_no_less(
    seed: int, scheme: Scheme, part: float, power_down: PowerDown
) -> None:
    ground, _, slices = sliced(varied(seed, power_down), scheme)
    rates = slices.rates(np.array([[0.3 * part], [0.6 * part], [part]]) * slices.limit_rps.sum())
    plans = even_shares(slices, rates.sum(axis=2))
    assert plans.awake is not None
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    for (usual, largest), shares, awake in zip(pairs, plans.shares, plans.awake, strict=True):
        both = np.maximum(rates[usual], rates[largest])
        assert shares == pytest.approx(rates[usual] / rates[usual].sum(axis=1, keepdims=True))
        assert (awake * ground.twin.replica_rps[:, :, 0] >= both - 1e-9).all()
        assert (awake[both == 0.0] == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.floats(0.1, 0.95), st.sampled_from(POWER_DOWN[1:]))
def test_where_replicas_power_down_it_is_near_the_optimum(
    seed: int, scheme: Scheme, part: float, power_down: PowerDown
) -> None:
    """Within what one slice is worth: no more than one site's replicas are begun and not filled."""
    ground, objective, slices = sliced(varied(seed, power_down), scheme)
    wanted = part * slices.limit_rps.sum()
    ours = cheapest_awake(ground.twin, objective, 0, slices.rates(np.array([[wanted]]))[0, 0][:, None])[0].sum()
    best = optimum(ground.twin, objective, np.array([wanted])).cost
    assert ours <= best + 0.03 * abs(best)

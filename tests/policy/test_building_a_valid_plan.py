from __future__ import annotations

import numpy as np
import pytest
from fleets import START, fleet, site
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.policy.building import InfeasibleError, Proposal, allowed_sites, build_plan, fill_in_order


def plan_of(shares: list[float], mask: list[bool], dispatch: Dispatch = Dispatch.SHARES) -> RoutingPlan:
    state = fleet(*(site(f"s{i}") for i in range(len(shares))))
    return build_plan(
        state,
        Proposal(np.array([shares]), (tuple(range(len(shares))),)),
        np.array([mask]),
        kind=PlannerKind.ROUND_ROBIN,
        scheme=Scheme.BALANCED,
        dispatch=dispatch,
        now=None,
        explanation="",
    )


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=2, max_size=12))
def test_masked_sites_get_exactly_nothing_and_rows_add_up(sites: list[tuple[float, bool]]) -> None:
    shares, mask = [share for share, _ in sites], [up for _, up in sites]
    if not any(mask):
        mask[0] = True
    weights = plan_of(shares, mask).pools[0].weights
    assert sum(weights) == 10_000
    assert all(weight == 0 for weight, up in zip(weights, mask, strict=True) if not up)


def test_a_proposal_of_nothing_becomes_equal_shares_of_the_allowed_sites() -> None:
    assert plan_of([0, 0, 0], [True, False, True]).pools[0].weights == (5000, 0, 5000)


def test_an_ordered_plan_names_every_allowed_site_once_and_caps_the_others_at_zero() -> None:
    pool = plan_of([1, 1, 1], [True, False, True], Dispatch.ORDERED).pools[0]
    assert pool.order == (0, 2)
    assert pool.cap == (9500, 0, 9500)


def test_a_plan_is_sealed_and_spans_its_epoch() -> None:
    plan = plan_of([1, 2], [True, True])
    assert plan.hash == plan.content_hash()
    assert plan.valid_from == START
    assert (plan.valid_until - plan.valid_from).total_seconds() == 900
    assert plan.epoch == 7


def test_drained_and_forbidden_sites_and_sites_without_replicas_are_not_allowed() -> None:
    state = fleet(site("a"), site("b", is_available=False), site("c"), site("d"))
    pool = state.pools[0].model_copy(update={"allowed": (True, True, False, True)})
    state = state.model_copy(update={"pools": (pool,)})
    capacity = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert allowed_sites(state, capacity).tolist() == [[True, False, False, False]]


def test_a_pool_that_nobody_may_serve_is_refused_by_name() -> None:
    state = fleet(site("a", is_available=False), site("b", is_available=False))
    with pytest.raises(InfeasibleError, match="pool chat: no datacenter may serve it"):
        allowed_sites(state, np.ones((1, 2)))


def test_filling_in_order_takes_the_first_sites_up_to_their_cap() -> None:
    shares = fill_in_order((2, 0, 1), 5.0, np.array([4.0, 4.0, 4.0]), cap=0.5)
    assert shares.tolist() == [2.0, 1.0, 2.0]


def test_demand_beyond_all_caps_is_spread_by_capacity_and_not_dropped() -> None:
    shares = fill_in_order((0, 1), 10.0, np.array([1.0, 3.0]), cap=1.0)
    assert shares.sum() == pytest.approx(10.0)
    assert shares.tolist() == pytest.approx([2.5, 7.5])

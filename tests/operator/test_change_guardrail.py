from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from worlds import NOON

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan, largest_remainder
from marlin.api.values import SHARE_SCALE
from marlin.operator.core.guardrails import change, within_change

NAMES = ("a", "b", "c", "d")
ALL = {"chat": set(NAMES)}
shares = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda row: sum(row) > 0.1)


def plan(weights: tuple[int, ...], dispatch: Dispatch = Dispatch.SHARES, names: tuple[str, ...] = NAMES) -> RoutingPlan:
    ordered = dispatch is Dispatch.ORDERED
    row = PoolPlan(
        name="chat",
        dispatch=dispatch,
        weights=weights,
        order=tuple(range(len(names))) if ordered else (),
        cap=(9500,) * len(names) if ordered else (),
    )
    return RoutingPlan(
        epoch=1,
        decided_time=NOON,
        valid_from=NOON,
        valid_until=NOON + timedelta(minutes=15),
        planner=PlannerKind.MERIT_ORDER,
        datacenters=names,
        pools=(row,),
    ).sealed()


def moved(before: RoutingPlan, after: RoutingPlan) -> float:
    return change(before.pools[0].weights, after.pools[0].weights) / SHARE_SCALE


@given(shares, shares, st.integers(1, 100))
def test_no_row_moves_further_than_it_may(first: list[float], second: list[float], percent: int) -> None:
    before, wanted = plan(largest_remainder(first)), plan(largest_remainder(second))
    result, held = within_change(wanted, before, percent, ALL)
    assert moved(before, result) <= percent / 100 + len(NAMES) / SHARE_SCALE
    assert sum(result.pools[0].weights) == SHARE_SCALE
    assert bool(held) == (result != wanted)
    assert result.hash == result.content_hash()


@given(shares, shares, st.integers(5, 100))
def test_a_goal_that_stays_is_reached(first: list[float], second: list[float], percent: int) -> None:
    result, wanted = plan(largest_remainder(first)), plan(largest_remainder(second))
    for _ in range(25):
        result, _ = within_change(wanted, result, percent, ALL)
    assert result == wanted


def test_a_row_that_is_held_back_is_carried_out_as_shares_because_an_order_cannot_be_half_changed() -> None:
    before, wanted = plan((10_000, 0, 0, 0)), plan((0, 10_000, 0, 0), Dispatch.ORDERED)
    result, held = within_change(wanted, before, 25, ALL)
    assert held == ("chat",)
    assert result.pools[0].weights == (7500, 2500, 0, 0)
    assert result.pools[0].dispatch is Dispatch.SHARES


def test_leaving_a_site_that_may_not_be_used_is_exempt() -> None:
    before, wanted = plan((8000, 1000, 1000, 0)), plan((0, 5000, 5000, 0))
    result, held = within_change(wanted, before, 10, {"chat": {"b", "c", "d"}})
    assert result == wanted
    assert held == ()


def test_what_leaves_an_unusable_site_does_not_use_up_what_the_others_may_move() -> None:
    before, wanted = plan((5000, 5000, 0, 0)), plan((0, 0, 0, 10_000))
    result, _ = within_change(wanted, before, 25, {"chat": {"b", "c", "d"}})
    assert result.pools[0].weights == (0, 7500, 0, 2500)


def test_sites_are_compared_by_name_not_by_position() -> None:
    before, wanted = plan((10_000, 0), names=("a", "b")), plan((0, 10_000), names=("b", "a"))
    assert within_change(wanted, before, 10, {"chat": {"a", "b"}}) == (wanted, ())


def test_the_first_plan_of_all_may_be_anything() -> None:
    wanted = plan((0, 10_000, 0, 0))
    assert within_change(wanted, None, 1, ALL) == (wanted, ())

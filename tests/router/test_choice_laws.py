from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from marlin.router.choice import Draws, choose_backend, choose_by_order, choose_by_shares
from marlin.router.view import Ordered


@dataclass
class SiteState:
    is_usable: bool
    has_room: bool
    in_flight: int = 0
    concurrency: float = 0.0
    is_late: bool = False


@dataclass
class BackendState:
    in_flight: int
    capacity_rps: float
    has_room: bool = True
    last_pick: int = 0
    is_kv_full: bool = False
    elsewhere: int = 0


weights = st.lists(st.integers(0, 10_000), min_size=1, max_size=12).filter(lambda row: sum(row) > 0)


def up(in_flight: int = 0, concurrency: float = 10.0, *, has_room: bool = True) -> SiteState:
    return SiteState(is_usable=True, has_room=has_room, in_flight=in_flight, concurrency=concurrency)


DOWN = SiteState(is_usable=False, has_room=False)


@given(weights, st.integers(1, 400))
def test_after_any_number_of_draws_every_count_is_within_one_of_its_share(row: list[int], draws: int) -> None:
    sequence = Draws(row)
    counts = [0] * len(row)
    for n in range(1, draws + 1):
        counts[sequence.next()] += 1
        for count, weight in zip(counts, row, strict=True):
            assert abs(count - n * weight / sum(row)) < 1
    assert all(count == 0 for count, weight in zip(counts, row, strict=True) if weight == 0)


def test_a_full_site_passes_the_request_to_the_one_with_most_free_capacity() -> None:
    sites = [up(10, has_room=False), up(8), up(2)]
    assert choose_by_shares(Draws((1.0, 0.0, 0.0)), sites) == 2


def test_when_every_site_of_the_plan_is_down_another_steps_in() -> None:
    assert choose_by_shares(None, [DOWN, up()]) == 1
    assert choose_by_order(Ordered((0,), (0.95, 0.0)), [DOWN, up()]) == 1
    assert choose_by_order(Ordered((0,), (0.95, 0.0)), [DOWN, DOWN]) is None


def test_ordered_fills_the_first_site_up_to_its_cap_and_then_the_next() -> None:
    rule = Ordered((1, 0, 2), (0.5, 0.9, 0.9))
    assert choose_by_order(rule, [up(0), up(8), up(0)]) == 1
    assert choose_by_order(rule, [up(4), up(9), up(0)]) == 0
    assert choose_by_order(rule, [up(5), up(9), up(0)]) == 2


def test_when_all_are_at_their_cap_the_least_loaded_takes_it() -> None:
    rule = Ordered((0, 1, 2), (0.5, 0.5, 0.5))
    assert choose_by_order(rule, [up(9), up(6), up(8)]) == 1


def test_a_cap_of_zero_is_used_only_when_nothing_else_has_room() -> None:
    rule = Ordered((0, 1), (0.0, 0.5))
    assert choose_by_order(rule, [up(0), up(9)]) == 1
    assert choose_by_order(rule, [up(0), up(9, has_room=False)]) == 0


def test_in_a_datacenter_the_backend_with_the_least_load_for_its_size_is_chosen() -> None:
    assert choose_backend([BackendState(4, 1.0), BackendState(6, 3.0), BackendState(5, 1.0)]) == 1
    assert choose_backend([BackendState(0, 1.0, has_room=False), BackendState(9, 1.0)]) == 1
    assert choose_backend([BackendState(3, 1.0, has_room=False)]) is None


def test_among_equals_the_one_that_waited_longest_is_next() -> None:
    assert choose_backend([BackendState(0, 1.0, is_kv_full=True), BackendState(9, 1.0)]) == 1
    assert choose_backend([BackendState(0, 1.0, is_kv_full=True)]) == 0, "full is better than none"
    assert choose_backend([BackendState(1, 1.0, last_pick=7), BackendState(1, 1.0, last_pick=3)]) == 1

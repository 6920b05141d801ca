from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.footprint import Intensity
from marlin.router.balancer import (
    BACK_OFF_S,
    FAILURES_BEFORE_REST,
    LONGEST_REST_S,
    LONGEST_RETRY_AFTER_S,
    MAX_SLOWDOWN,
    Balancer,
    LiveBackend,
    LivePool,
)
from marlin.router.loads import LoadPage
from marlin.router.view import Backend, Datacenter, Ordered, Pool, Shares, Site, Table


class Clock:
    """Time that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def backend(name: str, **changes: Any) -> Backend:
    fields: dict[str, Any] = {
        "pool": "chat",
        "name": name,
        "datacenter": name,
        "url": f"http://{name}.example",
        "capacity_rps": 2.0,
    }
    return Backend(**(fields | changes))


def table(*backends: Backend, weights: tuple[float, ...] = (), order: tuple[int, ...] = ()) -> Table:
    """One pool with a site for each datacenter that the backends name."""
    sites: dict[str, list[Backend]] = {}
    for one in backends:
        sites.setdefault(one.datacenter, []).append(one)
    shares = weights or (1.0 / len(sites),) * len(sites)
    pool = Pool(
        name="chat",
        model_name="m",
        sites=tuple(Site(Datacenter(n, "eu", "Active", Intensity(1.0, 1.0, 1.0)), tuple(b)) for n, b in sites.items()),
        rule=Ordered(order, (0.5,) * len(sites)) if order else Shares(shares),
        shares=shares,
        is_planned=False,
    )
    return Table.of(1, (pool,), tuple(site.datacenter for site in pool.sites), None)


class Bench:
    """A balancer with a table, and a clock to turn."""

    def __init__(self, *backends: Backend, page: LoadPage | None = None, **rule: Any) -> None:
        self.clock = Clock()
        self.balancer = Balancer(self.clock, Random(1), page)
        self.balancer.adopt(table(*backends, **rule))

    @property
    def pool(self) -> LivePool:
        return self.balancer.by_model["m"]

    def live(self, name: str) -> LiveBackend:
        return next(live for live in self.pool.backends() if live.backend.name == name)

    def choose(self, *tried: LiveBackend, is_forwarded: bool = False) -> str | None:
        chosen = self.balancer.choose(self.pool, self.clock.now_s, tried, is_forwarded=is_forwarded)
        return None if chosen is None else chosen.backend.name

    def names(self, draws: int = 6) -> set[str | None]:
        return {self.choose() for _ in range(draws)}

    def serve(self, name: str, duration_s: float) -> None:
        self.balancer.open(self.live(name))
        self.clock.now_s += duration_s
        self.balancer.close(self.live(name), duration_s)

    def concurrency(self, name: str) -> float:
        self.pool.measure()
        return self.live(name).concurrency


def test_concurrency_is_what_the_table_states() -> None:
    bench = Bench(backend("a", concurrency_at_capacity=21.5, max_concurrent_requests=99))
    bench.serve("a", 1000.0)
    assert bench.concurrency("a") == 21.5
    assert Bench(backend("b", max_concurrent_requests=7)).concurrency("b") == 7.0


def test_without_a_statement_it_is_capacity_times_service_time() -> None:
    bench = Bench(backend("a"))
    bench.serve("a", 3.0)
    assert bench.concurrency("a") == pytest.approx(6.0)


def test_a_backend_that_only_gets_slower_does_not_grow_without_end() -> None:
    bench = Bench(backend("a"))
    bench.serve("a", 3.0)
    for _ in range(200):
        bench.serve("a", 300.0)
    assert bench.concurrency("a") == pytest.approx(6.0 * MAX_SLOWDOWN)


def test_a_backend_that_refused_is_left_alone_for_a_while() -> None:
    bench = Bench(backend("a"), backend("b"))
    bench.balancer.report_unreachable(bench.live("a"))
    assert bench.names() == {"b"}
    bench.clock.now_s += BACK_OFF_S
    assert bench.names() == {"a", "b"}


def test_a_probe_takes_a_backend_out_and_brings_it_back() -> None:
    bench = Bench(backend("a"))
    bench.balancer.report_probe(bench.live("a"), is_well=False)
    assert bench.choose() is None
    bench.balancer.report_probe(bench.live("a"), is_well=True)
    assert bench.choose() == "a"


def test_a_busy_backend_rests_as_long_as_it_asks_for_but_not_for_ever() -> None:
    bench = Bench(backend("a"), backend("b"))
    bench.balancer.report_overloaded(bench.live("a"), 5.0)
    bench.clock.now_s += 4.9
    assert bench.names() == {"b"}
    bench.clock.now_s += 0.2
    assert bench.names() == {"a", "b"}
    bench.balancer.report_overloaded(bench.live("a"), 1e6)
    bench.clock.now_s += LONGEST_RETRY_AFTER_S
    assert bench.names() == {"a", "b"}


def test_where_all_rest_all_are_used() -> None:
    bench = Bench(backend("a"), backend("b"))
    bench.balancer.report_overloaded(bench.live("a"))
    bench.balancer.report_overloaded(bench.live("b"))
    assert bench.names() == {"a", "b"}


def test_failures_in_a_row_let_a_backend_rest_and_one_success_between_them_does_not() -> None:
    bench = Bench(backend("a"), backend("b"))
    a = bench.live("a")
    for _ in range(FAILURES_BEFORE_REST - 1):
        bench.balancer.report_failed(a)
    assert bench.names() == {"a", "b"}
    a.failures = 0
    bench.balancer.report_failed(a)
    assert bench.names() == {"a", "b"}
    for _ in range(FAILURES_BEFORE_REST):
        bench.balancer.report_failed(a)
    assert bench.names() == {"b"}
    bench.clock.now_s += LONGEST_REST_S
    assert bench.names() == {"a", "b"}


def test_what_was_tried_for_a_request_is_not_tried_again() -> None:
    bench = Bench(backend("a"), backend("b"))
    a, b = bench.live("a"), bench.live("b")
    assert bench.choose(a) == "b"
    assert bench.choose(b) == "a"
    assert bench.choose(a, b) is None


def test_a_forwarded_request_never_goes_to_a_member_router() -> None:
    bench = Bench(backend("a", is_member_router=True), backend("b"))
    assert {bench.choose(is_forwarded=True) for _ in range(6)} == {"b"}


@given(st.permutations([0.5, 0.3, 0.2]), st.integers(0, 2))
def test_a_site_that_is_down_takes_no_part_and_the_others_keep_their_ratio(weights: list[float], down: int) -> None:
    bench = Bench(backend("d0"), backend("d1"), backend("d2"), weights=tuple(weights))
    bench.balancer.report_probe(bench.live(f"d{down}"), is_well=False)
    counts = Counter(bench.choose() for _ in range(200))
    left = [i for i in range(3) if i != down]
    assert set(counts) == {f"d{i}" for i in left}
    for i in left:
        assert abs(counts[f"d{i}"] - 200 * weights[i] / sum(weights[j] for j in left)) <= 1


def test_a_full_site_passes_on_what_is_drawn_for_it() -> None:
    bench = Bench(backend("a", max_concurrent_requests=1), backend("b"), weights=(1.0, 0.0))
    assert bench.choose() == "a"
    bench.balancer.open(bench.live("a"))
    assert bench.choose() == "b"
    bench.balancer.close(bench.live("a"))
    assert bench.choose() == "a"


def test_ordered_fills_the_first_site_to_its_cap_live() -> None:
    bench = Bench(backend("a", concurrency_at_capacity=4.0), backend("b", concurrency_at_capacity=4.0), order=(1, 0))
    assert bench.choose() == "b"
    for _ in range(2):
        bench.balancer.open(bench.live("b"))
    assert bench.choose() == "a"
    bench.balancer.close(bench.live("b"))
    assert bench.choose() == "b"


events = st.lists(
    st.tuples(st.sampled_from(["open", "close", "refuse", "busy", "ill", "well", "wait", "table"]), st.integers(0, 3)),
    max_size=60,
)


@given(events)
def test_a_site_s_sum_is_that_of_its_usable_backends_whatever_happens(happenings: list[tuple[str, int]]) -> None:
    names = ["a", "b", "c", "d"]
    fleet = [backend(name, datacenter="x" if name < "c" else "y") for name in names]
    bench = Bench(*fleet)
    held: list[LiveBackend] = []
    for what, which in happenings:
        live = bench.live(names[which])
        if what == "open":
            bench.balancer.open(live)
            held.append(live)
        elif what == "close" and held:
            bench.balancer.close(held.pop(which % len(held)), 1.0)
        elif what == "refuse":
            bench.balancer.report_unreachable(live)
        elif what == "busy":
            bench.balancer.report_overloaded(live)
        elif what in {"ill", "well"}:
            bench.balancer.report_probe(live, is_well=what == "well")
        elif what == "wait":
            bench.clock.now_s += 0.7
            bench.choose()
        elif what == "table":
            bench.balancer.adopt(table(*fleet))
        for site in bench.pool.sites:
            usable = [b for b in site.backends if b.is_usable]
            assert site.in_flight == sum(b.own_in_flight for b in usable)
            assert site.is_usable == bool(usable)
    for live in held:
        bench.balancer.close(live)
    assert bench.balancer.in_flight() == 0
    assert all(site.in_flight == 0 for site in bench.pool.sites)


def test_a_backend_that_left_the_table_is_counted_until_its_last_request_has_ended() -> None:
    bench = Bench(backend("a"), backend("b"))
    a = bench.live("a")
    bench.balancer.open(a)
    bench.balancer.adopt(table(backend("b")))
    assert bench.balancer.in_flight() == 1
    bench.balancer.close(a)
    assert bench.balancer.in_flight() == 0
    bench.balancer.adopt(table(backend("b")))
    assert a not in bench.balancer.all_live()


def test_workers_see_what_the_others_have_in_flight() -> None:
    fd = LoadPage.create(2)
    pages = [LoadPage(fd, 2, row) for row in range(2)]
    fleet = [backend(name, datacenter="x") for name in ("a", "b")]
    first, second = (Bench(*fleet, page=page) for page in pages)
    for _ in range(3):
        first.balancer.open(first.live("a"))
    assert {second.choose() for _ in range(4)} == {"b"}
    for _ in range(3):
        first.balancer.close(first.live("a"))
    second.clock.now_s += 1.0
    assert second.names() == {"a", "b"}
    del first, second


def test_the_last_place_below_a_limit_is_given_once_however_old_a_worker_s_view_is() -> None:
    fd = LoadPage.create(2)
    fleet = [backend("a", datacenter="x", max_concurrent_requests=3), backend("b", datacenter="x")]
    first, second = (Bench(*fleet, page=LoadPage(fd, 2, row)) for row in range(2))
    assert second.choose() is not None  # from now on its view is of this moment
    assert [first.balancer.open(first.live("a")) for _ in range(2)] == [True, True]
    a = second.live("a")
    assert a.has_room
    assert second.balancer.open(a)
    assert not first.balancer.open(first.live("a")), "three of three are taken, by both together"
    assert not second.balancer.open(a)
    assert a.in_flight == 3, "it is seen as full at once"
    assert second.choose() == "b"
    assert (first.balancer.in_flight(), second.balancer.in_flight()) == (2, 1)
    first.balancer.close(first.live("a"))
    assert second.balancer.open(a), "whoever ends makes room for whoever comes"

"""Routers know what backends hold of other people's: from member routers' summaries and from engines' metrics."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from fake_backend import FakeBackend, Seen
from hypothesis import given
from hypothesis import strategies as st
from router_client import Client, Start
from router_client import table as document_of

from marlin.api.footprint import Intensity
from marlin.router.balancer import SHARED_VIEW_S, Balancer
from marlin.router.choice import in_time
from marlin.router.held import MAX_HELD, Held, SummaryError, held_of_engine, held_of_member, summary_of
from marlin.router.loads import LoadPage
from marlin.router.messages import BackendReport, Report
from marlin.router.scrapes import ASKED_PER_REQUEST, MEMBER_INTERVAL_S, SHORTEST_INTERVAL_S, Scrapes
from marlin.router.view import Backend, Datacenter, Ordered, Pool, Shares, Site, Table

CAP = 100
EXPOSITION = b"""# HELP vllm:num_requests_running Number of requests.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.2e+01
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 12.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
"""


def table(rule: Ordered | Shares, *, is_member: bool, slo_s: float = 5.0) -> Table:
    """Two sites with a backend each, that carry 200 requests at once, 10 a second."""
    sites = tuple(
        Site(
            Datacenter(name, "eu", "Active", Intensity(1.0, 1.0, 1.0)),
            (Backend("chat", name, name, f"http://{name}", 10.0, 2.0 * CAP, is_member_router=is_member),),
        )
        for name in ("first", "second")
    )
    pool = Pool("chat", "m", sites, rule, (0.5, 0.5), is_planned=True, ttft_slo_s=slo_s)
    return Table.of(1, (pool,), tuple(site.datacenter for site in sites), None)


class World:
    """Routers before the same two member routers, in a time of its own: arrivals, ends and polls are its events."""

    def __init__(self, routers: int) -> None:
        self.now_s = 0.0
        self.held = [0, 0]
        self.pages = [LoadPage(LoadPage.create(1), 1, 0) for _ in range(routers)]
        self.balancers = [Balancer(lambda: self.now_s, Random(i), page) for i, page in enumerate(self.pages)]
        for balancer in self.balancers:
            balancer.adopt(table(Ordered((0, 1), (0.5, 1.0)), is_member=True))
        self.over_s = 0.0
        self.highest = 0

    def poll(self, router: int) -> None:
        for site, total in enumerate(self.held):
            self.pages[router].write_held(site, total, 0, 2.0 * CAP)

    def arrive(self, router: int) -> tuple[int, int]:
        """A request comes; returns where it goes, and what the first site held before."""
        balancer, before = self.balancers[router], self.held[0]
        live = balancer.choose(balancer.pools[0], self.now_s)
        assert live is not None
        balancer.open(live)
        site = ("first", "second").index(live.backend.name)
        self.held[site] += 1
        self.highest = max(self.highest, self.held[0])
        return site, before

    def leave(self, router: int, site: int) -> None:
        balancer = self.balancers[router]
        balancer.close(balancer.pools[0].sites[site].backends[0])
        self.held[site] -= 1

    def close(self) -> None:
        for page in self.pages:
            page.close()


def arrivals(random: Random, service_s: float, seconds: float, routers: int) -> Iterator[tuple[float, int]]:
    """Moments and routers: a load of 20 % of the first site's cap, and from a third of the time on, of 120 %."""
    now_s = 0.0
    while now_s < seconds:
        share = 0.2 if now_s < seconds / 3 else 1.2
        now_s += random.uniform(0.5, 1.5) * service_s / (share * CAP)
        yield now_s, random.randrange(routers)


@pytest.mark.parametrize(
    ("service_s", "oldest_s", "routers"),
    [
        pytest.param(3.0, 0.2, 2, id="summaries as they usually are"),
        pytest.param(10.0, 0.75, 2, id="summaries as old as they may be"),
        pytest.param(0.6, 1.5 * SHORTEST_INTERVAL_S, 2, id="short requests: members are asked more often"),
        pytest.param(0.6, 1.5 * SHORTEST_INTERVAL_S, 4, id="four routers"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_routers_fill_the_first_site_together_to_its_cap_and_hardly_beyond(
    service_s: float, oldest_s: float, routers: int, seed: int
) -> None:
    """The cap is exceeded by at most 5 % for at most 2 s at a time, and nothing goes down while 5 % is free."""
    random, world = Random(seed), World(routers)
    # (time, order among equals, what happens)
    events: list[tuple[float, int, str, int, int]] = []
    for number, (at_s, router) in enumerate(arrivals(random, service_s, 12 * service_s, routers)):
        heapq.heappush(events, (at_s, number, "arrive", router, 0))
    for router in range(routers):
        heapq.heappush(events, (oldest_s * router / routers, -router, "poll", router, 0))
    over_since_s, longest_over_s, went_down = None, 0.0, []
    while events:
        world.now_s, number, what, router, site = heapq.heappop(events)
        if what == "arrive":
            site, before = world.arrive(router)
            heapq.heappush(events, (world.now_s + service_s, number, "leave", router, site))
            if site == 1:
                went_down.append(before)
        elif what == "leave":
            world.leave(router, site)
        else:
            world.poll(router)
            if world.now_s < 12 * service_s:
                heapq.heappush(events, (world.now_s + random.uniform(0.5, 1.0) * oldest_s, number, "poll", router, 0))
        is_over = world.held[0] > CAP
        over_since_s = (world.now_s if over_since_s is None else over_since_s) if is_over else None
        longest_over_s = max(longest_over_s, 0.0 if over_since_s is None else world.now_s - over_since_s)
    world.close()
    assert CAP * 0.95 <= world.highest <= CAP * 1.05
    assert longest_over_s <= 2.0
    assert len(went_down) > CAP // 2
    assert min(went_down) >= CAP * 0.95


@pytest.mark.parametrize(
    ("service_s", "interval_s"), [(None, 0.1), (60.0, 0.1), (1.5, 1.5 / ASKED_PER_REQUEST), (0.1, SHORTEST_INTERVAL_S)]
)
def test_a_member_router_is_asked_the_oftener_the_shorter_its_requests_are(
    service_s: float | None, interval_s: float
) -> None:
    members = table(Shares((0.5, 0.5)), is_member=True)
    first, second = members.backends()
    scrapes = Scrapes(lambda: members, lambda backend, held: None, 1.0, None, lambda: 0.0)
    scrapes.look_at_table()

    def of(backend: Backend, took_s: float | None) -> BackendReport:
        return BackendReport(*backend.key, in_flight=0, is_usable=True, concurrency=1.0, service_time_s=took_s)

    quick = Report(1, 0, [], [of(first, service_s), of(second, 60.0)])
    scrapes.learn([quick, Report(1, 0, [], [of(first, 60.0)])])
    assert scrapes.interval_s(first) == pytest.approx(interval_s)
    assert scrapes.interval_s(second) == MEMBER_INTERVAL_S
    assert scrapes.interval_s(replace(first, is_member_router=False)) == 1.0


@pytest.mark.parametrize(
    ("is_member", "engine_interval_s", "pause_s"), [(True, 1.0, 0.05), (False, 1.0, 0.25), (False, 0.1, 0.05)]
)
def test_whoever_is_due_is_looked_for_no_oftener_than_somebody_may_be(
    is_member: bool, engine_interval_s: float, pause_s: float
) -> None:
    known = table(Shares((0.5, 0.5)), is_member=is_member)
    scrapes = Scrapes(lambda: known, lambda backend, held: None, engine_interval_s, None, lambda: 0.0)
    scrapes.look_at_table()
    assert scrapes.pause_s == pytest.approx(pause_s)


def test_an_engine_s_metrics_are_added_up_over_its_engines() -> None:
    assert held_of_engine(EXPOSITION) == Held(in_flight=17, waiting=12, kv_usage=0.5)
    assert held_of_engine(b"go_goroutines 7\n") is None


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-3", b"..", b"1e", b"x"])
def test_a_figure_that_is_no_number_of_requests_is_left_out_and_the_others_count(value: bytes) -> None:
    unreadable: list[str] = []
    exposition = EXPOSITION + b'vllm:num_requests_running{engine="2"} %b\n' % value
    assert held_of_engine(exposition, unreadable.append) == Held(in_flight=17, waiting=12, kv_usage=0.5)
    assert unreadable == [f"vllm:num_requests_running {value.decode()}"]


@pytest.mark.parametrize("answer", [b"\xff", b"[" * 10_000, b"{}", b'{"models":{"m":{"in_flight":1e999}}}'])
def test_an_answer_that_is_no_summary_is_an_error_that_is_meant_for_it(answer: bytes) -> None:
    with pytest.raises(SummaryError):
        held_of_member(answer, "m")


def test_figures_that_cannot_be_are_bounded() -> None:
    absurd = b'{"models":{"m":{"in_flight":9223372036854775807,"waiting":-5,"capacity":1e300}}}'
    assert held_of_member(absurd, "m") == Held(MAX_HELD, 0, float(MAX_HELD))
    assert held_of_engine(b"vllm:num_requests_running 1e300\n") == Held(MAX_HELD, 0)


@pytest.mark.parametrize("headers", [{}, {"X-Session-Id": "ann"}, {"X-Session-Id": "bob"}, {"X-Session-Id": "eve"}])
async def test_a_backend_whose_kv_cache_is_full_is_passed_over_until_it_has_room(
    start: Start, headers: dict[str, str]
) -> None:
    async with FakeBackend() as full, FakeBackend() as other:
        document = document_of(full.url, other.url)
        document["datacenters"] = document["datacenters"][:1]
        document["pools"][0]["backends"][1]["datacenter"] = "dc0"
        async with start(document) as client:
            live = next(live for live in client.plane.balancer.all_live() if live.backend.url == full.url)

            async def ask(usage: float) -> int:
                client.page.write_held(live.slot, 0, 0, 0.0, usage)
                await asyncio.sleep(2 * SHARED_VIEW_S)
                for _ in range(6):
                    async with client.post(headers=headers) as response:
                        assert response.status == 200
                return len(full.seen)

            assert await ask(0.97) == 0
            other.seen.clear()
            assert await ask(0.5) + len(other.seen) == 6
            assert len(full.seen) == 3 or headers, "drawn again as before"


async def test_a_backend_whose_load_cannot_be_read_is_told_of_once(
    start: Start, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.metrics = b"vllm:num_requests_running NaN\n"
    async with start(document_of(backend.url), scrape_interval_s=0.01):
        for _ in range(500):
            if backend.asked >= 3:
                break
            await asyncio.sleep(0.01)
    assert backend.asked >= 3
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


@given(
    st.dictionaries(
        st.text(), st.builds(Held, st.integers(0, MAX_HELD), st.integers(0, MAX_HELD), st.floats(0, MAX_HELD))
    )
)
def test_a_summary_is_read_as_it_was_told(models: dict[str, Held]) -> None:
    for model, held in models.items():
        assert held_of_member(summary_of(models), model) == held
    assert held_of_member(b"", "m") is None


def test_a_site_whose_queue_is_longer_than_its_service_level_is_passed_over() -> None:
    page = LoadPage(LoadPage.create(1), 1, 0)
    for rule in (Ordered((0, 1), (0.9, 0.9)), Shares((1.0, 0.0))):
        now_s = [0.0]
        balancer = Balancer(lambda now_s=now_s: now_s[0], Random(0), page)  # type: ignore[misc]
        balancer.adopt(table(rule, is_member=False, slo_s=5.0))
        for waiting, name in ((50, "first"), (51, "second"), (0, "first")):
            page.write_held(0, waiting, waiting, 0.0)
            now_s[0] += 1.0
            for session in (b"", b"s"):
                live = balancer.choose(balancer.pools[0], now_s[0], session=session)
                assert live is not None
                assert live.backend.name == name
    page.close()


def test_where_a_token_would_come_too_late_everywhere_the_plan_stands() -> None:
    page = LoadPage(LoadPage.create(1), 1, 0)
    balancer = Balancer(lambda: 1.0, Random(0), page)
    balancer.adopt(table(Ordered((0, 1), (0.9, 0.9)), is_member=False))
    sites = balancer.pools[0].sites
    for site in sites:
        site.is_late = True
    assert in_time(balancer.pools[0].order, sites, 0) == 0
    page.close()


def test_of_two_engines_the_one_with_fewer_requests_of_others_is_chosen() -> None:
    page = LoadPage(LoadPage.create(1), 1, 0)
    two = table(Shares((1.0, 0.0)), is_member=False)
    site = two.pools[0].sites[0]
    both = replace(site, backends=(site.backends[0], replace(site.backends[0], name="b", url="http://b")))
    pool = replace(two.pools[0], sites=(both,), rule=Shares((1.0,)), shares=(1.0,))
    balancer = Balancer(lambda: 1.0, Random(0), page)
    balancer.adopt(Table.of(1, (pool,), (both.datacenter,), None))
    page.write_held(0, 7, 0, 0.0)
    for expected in ("b",) * 7:
        live = balancer.choose(balancer.pools[0], 1.0)
        assert live is not None
        assert live.backend.name == expected
        balancer.open(live)
    page.close()


async def outside(client: Client, wanted: int) -> None:
    """Waits until the router has heard that its backend holds as much of others."""
    while client.page.outside(0) != wanted:  # noqa: ASYNC110 answers come when they come
        await asyncio.sleep(0.01)


async def test_an_engine_is_asked_for_its_metrics_and_its_own_part_is_taken_out(
    start: Start, backend: FakeBackend
) -> None:
    go_on = asyncio.Event()

    async def wait(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    backend.metrics, backend.behaviour = EXPOSITION, wait
    async with start(document_of(backend.url), scrape_interval_s=0.05) as client:
        await asyncio.wait_for(outside(client, 17), 10)
        assert client.page.waiting(0) == 12
        asking = asyncio.ensure_future(client.post())
        await asyncio.wait_for(outside(client, 16), 10)
        go_on.set()
        (await asking).release()


async def test_metrics_that_come_in_many_pieces_are_read_to_their_end(start: Start, backend: FakeBackend) -> None:
    """A vLLM's metrics are too large for one read; whatever is cut off must not be taken for all of them."""
    backend.metrics = EXPOSITION[: EXPOSITION.index(b"vllm:num_requests_waiting")] + b"# more\n" * 200_000 + EXPOSITION
    async with start(document_of(backend.url), scrape_interval_s=0.05) as client:
        await asyncio.wait_for(outside(client, 22), 10)
        assert client.page.waiting(0) == 12


async def test_a_router_before_a_member_router_hears_what_that_holds(start: Start, backend: FakeBackend) -> None:
    """Two routers in a row: what others send to the member router is part of the first one's view."""
    go_on = asyncio.Event()

    async def wait(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    backend.behaviour = wait
    behind = document_of(backend.url)
    behind["pools"][0]["backends"][0]["concurrencyAtCapacity"] = 40.0
    async with start(behind) as member:
        before = document_of(member.url)
        before["pools"][0]["backends"][0]["isMemberRouter"] = True
        async with start(before, scrape_interval_s=1.0) as first:
            others = [asyncio.ensure_future(member.post()) for _ in range(5)]
            await asyncio.wait_for(outside(first, 5), 10)
            assert first.page.capacity(0) == 40.0
            go_on.set()
            for response in await asyncio.gather(*others):
                response.release()
            await asyncio.wait_for(outside(first, 0), 10)
        async with member.session.get(f"{member.url}/marlin/load") as response:
            told = json.loads(await response.read())
    assert told == {"models": {"m": {"in_flight": 0, "waiting": 0, "capacity": 40.0, "kv_usage": 0.0}}}

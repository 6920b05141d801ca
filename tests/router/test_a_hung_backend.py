"""A backend that accepts connections and never answers, as a stopped process does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fake_backend import OK, FakeBackend, Seen
from hypothesis import given
from hypothesis import strategies as st
from router_client import Start, table

from marlin.router.patience import MIN_SAMPLES, SHORTEST_S, Patience
from marlin.router.plane import HUNG_S, MIN_MOVED


@asynccontextmanager
async def stopped() -> AsyncIterator[str]:
    """The address of a listener whose connections nobody ever reads: the kernel accepts them, as for SIGSTOP."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(never, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        gone.set()
        server.close()


async def test_requests_at_a_hung_backend_are_answered_by_another_one(start: Start, backend: FakeBackend) -> None:
    async with stopped() as url, start(table(url, backend.url), probe_interval_s=60.0) as client:

        async def ask() -> int:
            async with client.post() as response:
                await response.read()
                return int(response.status)

        assert await asyncio.gather(*(ask() for _ in range(8))) == [200] * 8
        assert await client.metric("marlin_router_retries_total") == 4
        assert [await ask() for _ in range(8)] == [200] * 8
        assert await client.metric("marlin_router_upstream_errors_total") == 1, "nothing is sent to it any more"


async def test_a_backend_that_answers_another_worker_is_not_hung(start: Start, backend: FakeBackend) -> None:
    """Its requests of this worker may just take long; what counts is whether anybody hears of it."""
    clock = Shifted()
    async with stopped() as url, start(table(url, backend.url), probe_interval_s=60.0, clock=clock) as client:
        asking = [asyncio.ensure_future(client.post()) for _ in range(2)]
        live = next(live for live in client.plane.balancer.all_live() if live.backend.url == url)
        while not live.own_in_flight or not live.silent_since_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(10):
            clock.ahead_s += 1.0
            client.other_page.write_heard(live.slot, clock())
            client.plane.look_at_clock()
            client.plane.was_unanswered(url)
            assert live.is_usable
        clock.ahead_s += HUNG_S
        client.plane.was_unanswered(url)
        assert not live.is_usable
        for response in await asyncio.gather(*asking):
            assert response.status == 200
            response.release()


async def test_a_long_generation_is_left_alone_because_its_backend_answers_probes(
    start: Start, backend: FakeBackend
) -> None:
    go_on = asyncio.Event()

    async def think(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    async with FakeBackend(think) as slow, start(table(slow.url, backend.url), probe_interval_s=60.0) as client:
        asking = [asyncio.ensure_future(client.post()) for _ in range(2)]
        await slow.arrived.wait()
        live = next(live for live in client.plane.balancer.all_live() if live.backend.url == slow.url)
        while client.plane.clock() - live.silent_since_s < HUNG_S + 1.0 or not live.silent_since_s:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert live.is_usable
        go_on.set()
        for response in await asyncio.gather(*asking):
            assert response.status == 200
            response.release()
        assert len(slow.seen) == 1
        assert await client.metric("marlin_router_retries_total") == 0


class Shifted:
    """A clock that runs as the real one does, and can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


async def test_a_generation_of_ninety_seconds_beside_a_hung_backend_is_left_alone(
    start: Start, backend: FakeBackend
) -> None:
    clock, go_on = Shifted(), asyncio.Event()

    async def think(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    async with (
        stopped() as url,
        FakeBackend(think) as slow,
        start(table(url, slow.url, backend.url), probe_interval_s=60.0, clock=clock) as client,
    ):
        asking = [asyncio.ensure_future(client.post()) for _ in range(3)]
        await slow.arrived.wait()
        while (retries := await client.metric("marlin_router_retries_total")) == 0:
            clock.ahead_s += 0.5
            await asyncio.sleep(0.05)
        assert clock.ahead_s >= HUNG_S
        while clock.ahead_s < 90.0:
            clock.ahead_s += 1.0
            client.plane.look_at_clock()
            await asyncio.sleep(0.01)
        hung, well = (next(b for b in client.plane.balancer.all_live() if b.backend.url == u) for u in (url, slow.url))
        assert (hung.is_usable, well.is_usable) == (False, True)
        go_on.set()
        for response in await asyncio.gather(*asking):
            assert response.status == 200
            response.release()
        assert len(slow.seen) == 1, "sent once, although it took long"
        assert retries == await client.metric("marlin_router_retries_total") == 1


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def stream_at_once(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + EVENTS)


@pytest.fixture
async def stuck() -> AsyncIterator[FakeBackend]:
    """Streams until its engine is stuck: then a head comes and no event, and /health answers as ever."""
    fake = FakeBackend(stream_at_once)
    async with fake:
        yield fake


async def stream_head_only(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    await asyncio.Event().wait()


async def test_a_stream_that_does_not_begin_in_the_usual_time_begins_elsewhere(
    start: Start, stuck: FakeBackend
) -> None:
    clock = Shifted()
    async with FakeBackend(stream_at_once) as other, start(table(stuck.url, other.url), clock=clock) as client:

        async def ask(wants: dict[str, object]) -> tuple[int, bytes]:
            async with client.post({"model": "m"} | wants) as response:
                return int(response.status), await response.read()

        for _ in range(2 * MIN_SAMPLES):
            assert (await ask({"stream": True}))[0] == 200
        stuck.behaviour = stream_head_only
        seen = len(stuck.seen)
        asking = [asyncio.ensure_future(ask({"stream": True})) for _ in range(2)]
        while len(stuck.seen) == seen:  # noqa: ASYNC110 a backend tells of its first request only
            await asyncio.sleep(0.01)
        clock.ahead_s += SHORTEST_S - 0.5
        client.plane.look_at_clock()
        assert await client.metric("marlin_router_retries_total") == 0
        clock.ahead_s += 1.0
        client.plane.look_at_clock()
        assert await asyncio.gather(*asking) == [(200, b"data: 1\n\ndata: [DONE]\n\n")] * 2
        assert await client.metric("marlin_router_retries_total") == 1
        assert len(stuck.seen) == seen + 1


async def test_a_json_reply_has_no_such_deadline_and_neither_has_a_stream_that_has_begun(
    start: Start, stuck: FakeBackend
) -> None:
    clock, go_on = Shifted(), asyncio.Event()

    async def begin_only(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + EVENTS[:14])
        await go_on.wait()
        writer.write(EVENTS[14:])

    async def think(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    async with FakeBackend(stream_at_once) as other, start(table(stuck.url, other.url), clock=clock) as client:
        for _ in range(2 * MIN_SAMPLES):
            async with client.post({"model": "m", "stream": True}) as response:
                await response.read()
        for behaviour, body in ((think, {"model": "m"}), (begin_only, {"model": "m", "stream": True})):
            go_on.clear()
            stuck.behaviour = other.behaviour = behaviour
            asking = [asyncio.ensure_future(client.post(body)) for _ in range(2)]
            while client.plane.balancer.in_flight() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(100):
                clock.ahead_s += 1.0
                client.plane.look_at_clock()
                await asyncio.sleep(0)
            go_on.set()
            for response in await asyncio.gather(*asking):
                assert response.status == 200
                await response.read()
        assert await client.metric("marlin_router_retries_total") == 0


async def test_a_stream_that_dies_before_its_first_event_is_sent_again(start: Start) -> None:
    async def die(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await writer.drain()
        writer.close()

    async with (
        FakeBackend(die) as dying,
        FakeBackend(stream_at_once) as other,
        start(table(dying.url, other.url)) as client,
    ):
        for _ in range(4):
            async with client.post({"model": "m", "stream": True}) as response:
                assert (response.status, await response.read()) == (200, b"data: 1\n\ndata: [DONE]\n\n")
        assert await client.metric("marlin_router_retries_total") >= 1


async def test_no_more_are_moved_than_a_tenth_of_those_in_flight_or_eight(start: Start, backend: FakeBackend) -> None:
    """Twenty wait at a hung backend: eight go elsewhere, the others may still be answered by it."""
    clock, go_on = Shifted(), asyncio.Event()

    async def think(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    backend.behaviour = think
    async with stopped() as url, start(table(url, backend.url), probe_interval_s=60.0, clock=clock) as client:
        asking = [asyncio.ensure_future(client.post()) for _ in range(40)]
        while len(backend.seen) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while not await client.metric("marlin_router_retries_total"):
            clock.ahead_s += 0.5
            await asyncio.sleep(0.05)
        for _ in range(20):
            clock.ahead_s += 1.0
            client.plane.was_unanswered(url)
            await asyncio.sleep(0.01)
        assert await client.metric("marlin_router_retries_total") == MIN_MOVED
        go_on.set()
        answered, waiting = await asyncio.wait(asking, timeout=None, return_when=asyncio.FIRST_COMPLETED)
        while len(answered) < 20 + MIN_MOVED:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answered |= more
        for task in waiting:
            task.cancel()
        for task in answered:
            assert task.result().status == 200
            task.result().release()


@given(st.lists(st.floats(0.001, 10.0), min_size=MIN_SAMPLES, max_size=50), st.integers(0, 10**8))
def test_a_deadline_is_beyond_the_usual_and_grows_with_the_prompt(ttfts_s: list[float], prompt_bytes: int) -> None:
    patience = Patience()
    for count, ttft_s in enumerate(ttfts_s):
        assert (patience.longest_s(0) == math.inf) == (count < MIN_SAMPLES)
        patience.note(ttft_s)
    assert patience.longest_s(0) >= max(SHORTEST_S, min(ttfts_s))
    assert patience.longest_s(prompt_bytes) >= patience.longest_s(0)


def test_whoever_ran_out_of_patience_has_twice_as_much_until_a_stream_begins_again() -> None:
    patience = Patience()
    for _ in range(MIN_SAMPLES):
        patience.note(0.1)
    before_s = patience.longest_s(0)
    patience.ran_out()
    patience.ran_out()
    assert patience.longest_s(0) == 4 * before_s
    patience.note(0.1)
    assert patience.longest_s(0) <= before_s

"""When a request is sent to another backend, and when it never is."""

from __future__ import annotations

import asyncio

import aiohttp
from fake_backend import OK, FakeBackend, Seen, reply
from router_client import Start, table

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy"


async def hang_up(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_backend_that_hangs_up_before_its_reply_is_replaced_once(start: Start) -> None:
    async with FakeBackend(hang_up) as one, FakeBackend(hang_up) as two, FakeBackend(hang_up) as three:
        async with start(table(one.url, two.url, three.url)) as client, client.post() as response:
            assert response.status == 502
            assert response.headers["x-marlin-error"] == "upstream_disconnected"
        assert sorted(len(backend.seen) for backend in (one, two, three)) == [0, 1, 1]


async def test_clients_notice_nothing_of_a_backend_that_hangs_up(start: Start, backend: FakeBackend) -> None:
    async with FakeBackend(hang_up) as bad, start(table(bad.url, backend.url)) as client:
        for _ in range(40):
            async with client.post() as response:
                assert response.status == 200
                assert response.headers["x-marlin-backend"] == "b1"


async def test_clients_notice_nothing_of_a_busy_backend_and_it_is_left_alone(
    start: Start, backend: FakeBackend
) -> None:
    async with FakeBackend(reply(BUSY)) as busy, start(table(busy.url, backend.url)) as client:
        for _ in range(40):
            async with client.post() as response:
                assert response.status == 200
        assert len(busy.seen) == 1, "it asked for seven seconds"
        assert await client.metric("marlin_router_retries_total") == 1


async def test_when_all_are_busy_the_backend_s_own_answer_goes_through(start: Start) -> None:
    async with FakeBackend(reply(BUSY)) as one, FakeBackend(reply(BUSY)) as two:
        async with start(table(one.url, two.url)) as client, client.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "7"
            assert await response.read() == b"busy"
        assert len(one.seen) + len(two.seen) == 2


async def test_a_busy_backend_does_not_become_a_storm_of_retries(start: Start) -> None:
    from marlin.router.budget import RESERVE, SHARE

    async with FakeBackend(reply(BUSY)) as one, FakeBackend(reply(BUSY)) as two:
        requests = 400
        async with start(table(one.url, two.url)) as client:
            for _ in range(requests):
                async with client.post() as response:
                    assert response.status == 503
            retries = await client.metric("marlin_router_retries_total")
        # Time puts a little into the purse too; a test machine may take 20 s for this.
        assert retries <= RESERVE + SHARE * requests + 200
        assert len(one.seen) + len(two.seen) == requests + retries


UNREACHED = b"HTTP/1.1 502 Bad Gateway\r\nx-marlin-error: upstream_connect\r\nContent-Length: 4\r\n\r\nnone"


async def test_clients_notice_nothing_of_a_site_whose_member_router_reaches_no_engine(
    start: Start, backend: FakeBackend
) -> None:
    async with FakeBackend(reply(UNREACHED)) as member:
        document = table(member.url, backend.url)
        document["pools"][0]["backends"][0]["isMemberRouter"] = True
        async with start(document) as client:
            for _ in range(40):
                async with client.post() as response:
                    assert response.status == 200
                    assert response.headers["x-marlin-backend"] == "b1"
            assert 1 <= len(member.seen) <= 10, "it is left alone after some failures"
            assert await client.metric("marlin_router_retries_total") == len(member.seen)


async def test_an_engine_that_says_what_member_routers_say_is_not_believed(start: Start, backend: FakeBackend) -> None:
    async with FakeBackend(reply(UNREACHED)) as engine, start(table(engine.url, backend.url)) as client:
        statuses = []
        for _ in range(10):
            async with client.post() as response:
                statuses.append(response.status)
        assert len(engine.seen) == statuses.count(502) >= 1
        assert await client.metric("marlin_router_retries_total") == 0


async def test_a_client_s_own_error_is_its_own(start: Start, backend: FakeBackend) -> None:
    bad = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}"
    async with FakeBackend(reply(bad)) as one, start(table(one.url, backend.url)) as client:
        for _ in range(20):
            async with client.post() as response:
                assert response.status in {200, 400}
        assert len(one.seen) == 10, "a 400 lets no backend rest"


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing(start: Start, backend: FakeBackend) -> None:
    async def answer_and_close(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        if len(backend.seen) % 2:
            asyncio.get_running_loop().call_later(0.02, writer.close)

    backend.behaviour = answer_and_close
    async with start(table(backend.url)) as client:
        for _ in range(20):
            async with client.post() as response:
                assert response.status == 200
            await asyncio.sleep(0.01)
        assert await client.metric("marlin_router_upstream_errors_total") == 0


async def test_after_the_first_byte_nothing_is_sent_again(start: Start, backend: FakeBackend) -> None:
    async def die(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with FakeBackend(die) as one, start(table(one.url, backend.url)) as client:
        torn = 0
        for _ in range(2):
            try:
                async with client.post() as response:
                    await response.read()
            except aiohttp.ClientPayloadError:
                torn += 1
        assert torn == 1
        assert len(one.seen) == len(backend.seen) == 1

"""A backend that accepts connections and never answers, as a stopped process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fake_backend import OK, FakeBackend, Seen
from router_client import Start, table

from marlin.router.plane import HUNG_S


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

"""A backend's limit holds exactly, however many workers a router has."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
from fake_backend import FakeBackend, Seen, answer_ok
from router_client import table
from router_process import running

LIMIT, CLIENTS, WAVES = 4, 24, 8


async def test_a_backend_never_holds_more_than_its_limit_where_all_workers_are_asked_at_once(tmp_path: Path) -> None:
    held: list[int] = []
    running_now = 0

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal running_now
        if seen.request_line.startswith("POST"):
            running_now += 1
            held.append(running_now)
            await asyncio.sleep(0.02)
            running_now -= 1
        await answer_ok(seen, writer)

    statuses: Counter[int] = Counter()
    async with FakeBackend(slow) as backend:
        document = table(backend.url)
        document["pools"][0]["backends"][0]["maxConcurrentRequests"] = LIMIT
        # Each client keeps its connection, and so its worker: of 24 both have some, but for one run in 8 million.
        async with (
            running(tmp_path, document, "--workers", "2") as router,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):

            async def ask() -> int:
                async with session.post(f"{router.url}/v1/completions", json={"model": "m"}) as reply:
                    await reply.read()
                    return reply.status

            for _ in range(WAVES):
                statuses.update(await asyncio.gather(*(ask() for _ in range(CLIENTS))))
    assert statuses.keys() == {200, 503}
    assert statuses[200] >= WAVES * LIMIT / 2
    assert max(held) == LIMIT

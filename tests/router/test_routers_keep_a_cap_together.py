"""Two first-hop routers and a member router at each site, all processes: together they keep a plan's cap.

The law is the issue's: with load stepping from 20 to 120 % of the first site's cap it is exceeded by at most 5 % for at
most 2 s, and nothing goes further down while more than 5 % of it is free. The same in a time of its own, with more
routers and shorter requests, is in ``test_what_backends_hold``. Here real time passes, because what is tried is how old
summaries are on real sockets. A machine that stands still for a while breaks the law for any router, so it may be
tried again; a router that breaks it breaks it every time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from fake_backend import OK, FakeBackend, Seen
from router_client import table
from router_process import RouterProcess, running

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan

CAP = 100
CAPACITY = 2 * CAP
SERVICE_S = 2.5
CALM_S, BUSY_S = 4.0, 8.0
TRIES = 3


@dataclass
class Site:
    """What the engine of a site holds, at every change."""

    held: int = 0
    changes: list[tuple[float, int]] = field(default_factory=list)

    def change(self, by: int) -> None:
        self.held += by
        self.changes.append((asyncio.get_running_loop().time(), self.held))


def plan() -> dict[str, Any]:
    """First the first site, up to half of its capacity; then the other."""
    start = datetime.now(UTC) - timedelta(seconds=10)
    row = PoolPlan(name="chat", dispatch=Dispatch.ORDERED, weights=(5000, 5000), order=(0, 1), cap=(5000, 10000))
    made = RoutingPlan(
        epoch=1,
        decided_time=start,
        valid_from=start,
        valid_until=start + timedelta(minutes=15),
        planner=PlannerKind.MERIT_ORDER,
        datacenters=("dc0", "dc1"),
        pools=(row,),
    )
    return made.sealed().to_document()


@asynccontextmanager
async def fleet(folder: Path, sites: list[Site]) -> AsyncIterator[list[RouterProcess]]:
    """The two first-hop routers."""

    async def serve(site: Site, seen: Seen, writer: asyncio.StreamWriter) -> None:
        assert b"x-marlin-hop" not in seen.head
        site.change(+1)
        try:
            await asyncio.sleep(SERVICE_S)
        finally:
            site.change(-1)
        writer.write(OK)

    async with AsyncExitStack() as stack:

        async def router(name: str, document: dict[str, Any]) -> RouterProcess:
            (folder / name).mkdir()
            return await stack.enter_async_context(running(folder / name, document))

        members = []
        for number, site in enumerate(sites):
            engine = await stack.enter_async_context(FakeBackend(partial(serve, site)))
            document = table(engine.url)
            document["pools"][0]["backends"][0] |= {"concurrencyAtCapacity": CAPACITY}
            members.append(await router(f"member{number}", document))
        document = table(*(member.url for member in members), plan=plan())
        for backend in document["pools"][0]["backends"]:
            backend |= {"isMemberRouter": True, "capacityRps": CAPACITY / SERVICE_S}
        yield [await router(f"first{number}", document) for number in range(2)]


async def send(routers: list[RouterProcess], seed: int) -> None:
    """The load: a fifth of the cap, then 120 % of it; each request to either router."""
    random, loop, began = Random(seed), asyncio.get_running_loop(), 0.0
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as asking:

        async def ask(url: str) -> None:
            async with session.post(f"{url}/v1/chat/completions", json={"model": "m"}) as response:
                await response.read()
                assert response.status == 200

        began = loop.time()
        due_s = 0.0
        while due_s < CALM_S + BUSY_S:
            share = 0.2 if due_s < CALM_S else 1.2
            due_s += random.uniform(0.5, 1.5) * SERVICE_S / (share * CAP)
            await asyncio.sleep(began + due_s - loop.time())
            asking.create_task(ask(random.choice(routers).url))


def judged(first: Site, second: Site) -> tuple[int, float, int]:
    """Most that the first site held; longest time above the cap, s; least it held when one went further down."""
    over_since_s, longest_s = None, 0.0
    for at_s, held in first.changes:
        if over_since_s is not None:
            longest_s = max(longest_s, at_s - over_since_s)
        over_since_s = (at_s if over_since_s is None else over_since_s) if held > CAP else None
    least = CAP
    held_before = [0, *(held for _, held in second.changes)]
    for before, (at_s, held) in zip(held_before, second.changes, strict=False):
        if held > before:
            least = min(least, next((h for t, h in reversed(first.changes) if t <= at_s), 0))
    return max(held for _, held in first.changes), longest_s, least


async def test_two_routers_fill_the_first_site_to_its_cap_and_hardly_beyond(tmp_path: Path) -> None:
    found = []
    for number in range(TRIES):
        sites = [Site(), Site()]
        folder = tmp_path / str(number)
        folder.mkdir()
        async with fleet(folder, sites) as routers:
            await send(routers, number)
        most, over_s, least = judged(*sites)
        assert sites[1].changes, "what is beyond the cap goes further down"
        found.append((most, round(over_s, 2), least))
        if most <= 1.05 * CAP and over_s <= 2.0 and least >= 0.95 * CAP:
            return
    raise AssertionError(f"most held, s above the cap, held when one went further down: {found}")

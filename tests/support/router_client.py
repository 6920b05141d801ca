"""A router in the test's own loop, and a client that talks to it; the fixtures are in tests/router/conftest.py."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from marlin.api.tracing import Span
from marlin.router.held import Held
from marlin.router.launch import Controlled, controlling
from marlin.router.ledger import Ledger
from marlin.router.limits import Tenant
from marlin.router.loads import LoadPage
from marlin.router.messages import Report
from marlin.router.plane import Plane
from marlin.router.settings import Settings
from marlin.router.view import Backend, Table
from marlin.router.worker import report_of


def table(*backends: str, **changes: Any) -> dict[str, Any]:
    """A RoutingTable with one pool and a site for each backend's address."""
    return {
        "apiVersion": "marlin.dev/v1alpha1",
        "kind": "RoutingTable",
        "datacenters": [{"name": f"dc{i}", "region": f"region{i}"} for i in range(len(backends))],
        "pools": [
            {
                "name": "chat",
                "modelName": "m",
                "backends": [
                    {
                        "name": f"b{i}",
                        "datacenter": f"dc{i}",
                        "url": url,
                        "tls": {"verification": "Disabled"},
                        "capacityRps": 1.0,
                    }
                    for i, url in enumerate(backends)
                ],
            }
        ],
    } | changes


def write(path: Path, document: dict[str, Any]) -> None:
    """Replaces the configuration in one step, as the operator does."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document))
    os.replace(part, path)  # noqa: PTH105


class LocalWorkers:
    """A worker's data plane in the test's own loop, in place of processes."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.lines: list[bytes] = []
        write_log = self.lines.append if settings.has_access_log else None
        self.ledger = Ledger(Ledger.create(), is_shared=False)
        page_fd = LoadPage.create(2)
        self.page = LoadPage(page_fd, 2, 0)
        self.other_page = LoadPage(page_fd, 2, 1)
        """As another worker sees it, whose part a test may take."""
        self._slots: dict[tuple[str, str, str], int] = {}
        self.plane = Plane(settings, clock, time.time, self.page, write_log, self.ledger)

    def adopt(self, table: Table) -> None:
        backends = table.backends()
        self._slots = {backend.key: slot for slot, backend in enumerate(backends)}
        self.plane.adopt(table, range(len(backends)))

    def held(self, backend: Backend, held: Held | None) -> None:
        held = held or Held()
        slot = self._slots[backend.key]
        self.page.write_held(slot, held.in_flight, held.waiting, held.capacity, held.kv_usage)

    def adopt_tenants(self, tenants: tuple[Tenant, ...]) -> None:
        self.plane.adopt_tenants(tenants)

    def verdict(self, url: str, *, is_well: bool) -> None:
        self.plane.was_probed(url, is_well=is_well)

    @property
    def on_suspect(self) -> Callable[[str], None]:
        return self.plane.on_suspect

    @on_suspect.setter
    def on_suspect(self, take: Callable[[str], None]) -> None:
        self.plane.on_suspect = take

    @property
    def on_spans(self) -> Callable[[list[Span]], None]:
        return self.plane.on_spans

    @on_spans.setter
    def on_spans(self, take: Callable[[list[Span]], None]) -> None:
        self.plane.on_spans = take

    def unanswered(self, url: str) -> None:
        self.plane.was_unanswered(url)

    async def reports(self) -> list[Report]:
        return [report_of(self.plane, 1)]


class Client:
    """A router in this loop, and a session that talks to it."""

    def __init__(
        self, workers: LocalWorkers, port: int, controlled: Controlled, session: aiohttp.ClientSession, config: Path
    ) -> None:
        self.plane = workers.plane
        self.ledger = workers.ledger
        self.page = workers.page
        self.other_page = workers.other_page
        self.control = controlled.told.control
        self.admin = controlled.admin
        self.session = session
        self.config = config
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{controlled.admin_port}"

    def post(
        self,
        body: bytes | io.BytesIO | dict[str, Any] | None = None,
        path: str = "/v1/chat/completions",
        **kwargs: Any,
    ) -> Any:
        """A POST; without a body a request that only names the model."""
        data = body if isinstance(body, bytes | io.BytesIO) else json.dumps(body or {"model": "m"}).encode()
        headers = {"content-type": "application/json"} | kwargs.pop("headers", {})
        return self.session.post(self.url + path, data=data, headers=headers, **kwargs)

    async def metric(self, name: str) -> float:
        """Sum over the labels of a metric."""
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            text = await response.text()
        values = [
            line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name) and line[len(name)] in "{ "
        ]
        return sum(map(float, values))


@asynccontextmanager
async def router(settings: Settings, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Client]:
    """A router in this loop; ends by asserting that nothing is counted as in flight."""
    workers = LocalWorkers(settings, clock)
    plane = workers.plane
    async with controlling(settings, workers) as controlled, aiohttp.ClientSession(auto_decompress=False) as session:
        server = await asyncio.get_running_loop().create_server(plane.accept, "127.0.0.1", 0)
        looking = asyncio.create_task(plane.look_after())
        try:
            assert settings.config is not None
            yield Client(workers, server.sockets[0].getsockname()[1], controlled, session, settings.config)
            await asyncio.wait_for(plane.wait_until_idle(), 5)
            assert plane.balancer.in_flight() == 0, "requests are still counted as in flight"
        finally:
            looking.cancel()
            server.close()
            await plane.close()


Start = Callable[..., AbstractAsyncContextManager[Client]]

"""A router watches its table on a real API server, under the shipped role, through all that may happen to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster_fleet import Fleet
from control_plane import Cluster, RefusedError, eventually
from fake_backend import FakeBackend
from fault_proxy import FaultProxy
from router_client import table
from router_process import RouterProcess, running
from table_reading import table_reader

NAME = "marlin-balanced"

pytestmark = pytest.mark.timeout(300)  # as in test_faults


@pytest.fixture
def proxy(hub: Cluster, tmp_path: Path) -> Iterator[FaultProxy]:
    one = FaultProxy(hub, tmp_path)
    yield one
    one.close()


def put(fleet: Fleet, url: str, generation: int) -> None:
    """The table as an operator would publish it."""
    fleet.hub.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": fleet.namespace},
            "data": {"routing-table.json": json.dumps(table(url, generation=generation))},
        }
    )


@asynccontextmanager
async def watching(
    fleet: Fleet, proxy: FaultProxy, folder: Path, document: dict[str, Any] | None = None
) -> AsyncIterator[RouterProcess]:
    options = await asyncio.to_thread(
        table_reader, fleet.hub, fleet.namespace, NAME, folder, server=proxy.server, ca=proxy.ca()
    )
    async with running(folder, document, *options, "--table-cache", str(folder / "cache.json")) as router:
        yield router


async def page(router: RouterProcess) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{router.admin_url}/readyz") as answer:
        return dict(await answer.json())


async def until(router: RouterProcess, look: Callable[[dict[str, Any]], bool], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not look(await page(router)):  # noqa: ASYNC110 asking is what waits
            await asyncio.sleep(0.05)


async def is_served(router: RouterProcess) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"model": "m", "messages": []}
        async with session.post(f"{router.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()


async def test_a_table_is_taken_as_it_changes_and_survives_whatever_the_api_server_does(
    fleet: Fleet, proxy: FaultProxy, tmp_path: Path
) -> None:
    async with FakeBackend() as backend:
        await asyncio.to_thread(put, fleet, backend.url, 1)
        # Without a file: the first table is the one that is watched.
        async with watching(fleet, proxy, tmp_path) as router:
            await until(router, lambda said: said["generation"] == 1 and said["watched"])
            await asyncio.to_thread(put, fleet, backend.url, 2)
            await until(router, lambda said: said["generation"] == 2, timeout_s=10)

            # A cut stream is resumed, and what came meanwhile is heard.
            assert proxy.cut_watches() == 1
            await asyncio.to_thread(put, fleet, backend.url, 3)
            await until(router, lambda said: said["generation"] == 3)

            # The version is forgotten: it begins anew.
            proxy.watch_fault = (410, {})
            proxy.cut_watches()
            await asyncio.to_thread(eventually, lambda: proxy.answered[410] >= 2)
            proxy.watch_fault = None
            await asyncio.to_thread(put, fleet, backend.url, 4)
            await until(router, lambda said: said["generation"] == 4)

            # Nothing is lost while the server is too busy, and the trouble is told.
            proxy.fault = (503, {})
            proxy.cut_watches()
            await until(router, lambda said: not said["watched"] and "503" in str(said["watchError"]))
            await is_served(router)
            proxy.fault = None
            await asyncio.to_thread(put, fleet, backend.url, 5)
            await until(router, lambda said: said["generation"] == 5 and said["watchError"] is None)

            # Credentials are rotated: the old one is refused, the new one is read from its file.
            good = (tmp_path / "token").read_text()
            (tmp_path / "token").write_text("no-longer-valid")
            proxy.cut_watches()
            await until(router, lambda said: "401" in str(said["watchError"]))
            (tmp_path / "token").write_text(good)
            await until(router, lambda said: bool(said["watched"]))

            # Somebody deletes it, and the operator writes it anew with generations from 1 on.
            path = f"/api/v1/namespaces/{fleet.namespace}/configmaps/{NAME}"
            await asyncio.to_thread(fleet.hub.call, "DELETE", path)
            await is_served(router)
            await asyncio.to_thread(put, fleet, backend.url, 1)
            await until(router, lambda said: said["generation"] == 1)
        assert good not in router.log

        # The API server is away at the start: the table that was kept is served.
        proxy.fault = (503, {})
        async with watching(fleet, proxy, tmp_path) as router:
            await is_served(router)
            assert (await page(router))["generation"] == 1
            proxy.fault = None
            await asyncio.to_thread(put, fleet, backend.url, 7)
            await until(router, lambda said: said["generation"] == 7)


async def test_a_mounted_file_is_the_first_table_and_the_watch_overtakes_it(
    fleet: Fleet, proxy: FaultProxy, tmp_path: Path
) -> None:
    async with FakeBackend() as backend:
        document = table(backend.url, generation=3)
        async with watching(fleet, proxy, tmp_path, document) as router:  # there is no ConfigMap yet
            await is_served(router)
            assert (await page(router))["generation"] == 3
            await asyncio.to_thread(put, fleet, backend.url, 4)
            await until(router, lambda said: said["generation"] == 4)


def test_the_shipped_role_grants_this_one_object_and_nothing_else(fleet: Fleet, tmp_path: Path) -> None:
    put(fleet, "http://127.0.0.1:9", 1)
    table_reader(fleet.hub, fleet.namespace, NAME, tmp_path)
    token = (tmp_path / "token").read_text()
    path = f"/api/v1/namespaces/{fleet.namespace}/configmaps"
    assert fleet.hub.call("GET", f"{path}/{NAME}", token=token)["metadata"]["name"] == NAME
    for method, refused in (
        ("GET", path),
        ("GET", f"{path}/another"),
        ("GET", f"{path}?watch=true"),
        ("GET", f"{path}?watch=true&fieldSelector=metadata.name=another"),
        ("DELETE", f"{path}/{NAME}"),
        ("GET", f"/api/v1/namespaces/{fleet.namespace}/secrets"),
        ("GET", f"/api/v1/namespaces/default/configmaps/{NAME}"),
        ("GET", fleet.policy_path),
    ):
        with pytest.raises(RefusedError) as error:
            fleet.hub.call(method, refused, token=token)
        assert error.value.status == 403, refused

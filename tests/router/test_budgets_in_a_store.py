"""Budgets that several routers share, in a real redis-server or valkey-server (``make redis``)."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from control_plane import free_port
from fake_backend import FakeBackend
from router_process import RouterProcess, running
from tenancy import USAGE, listed, priced, saying, tenant, with_key

from marlin.api.errors import InputError
from marlin.router.ledger import Ledger
from marlin.router.store import BudgetStore

ROOT = Path(__file__).resolve().parents[2]


def server() -> str:
    found = subprocess.run(
        ["scripts/debian_tool.sh", "redis", "--find"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


@asynccontextmanager
async def store(folder: Path, port: int, password: str) -> AsyncIterator[None]:
    """A store that writes everything down, so that it can be stopped and come back."""
    process = await asyncio.create_subprocess_exec(
        *(server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--requirepass", password),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield
    finally:
        process.terminate()
        await process.wait()


async def status(router: RouterProcess) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{router.url}/v1/completions", json={"model": "m"}, headers=with_key()) as response,
    ):
        await response.read()
        return int(response.status)


async def budgets(router: RouterProcess) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{router.admin_url}/readyz") as response:
        return str((await response.json())["tenants"]["budgets"])


async def until(router: RouterProcess, state: str) -> None:
    while await budgets(router) != state:  # noqa: ASYNC110 the state is the router's, in another process
        await asyncio.sleep(0.02)


async def until_refused(router: RouterProcess, granted_at_most: int) -> int:
    """Asks until the budget is used up; returns how many were granted."""
    for granted in range(granted_at_most + 1):
        if await status(router) == 429:
            return granted
    raise AssertionError(f"more than {granted_at_most} requests were granted")


async def test_two_routers_spend_one_budget_and_a_store_that_goes_away_forgets_nothing(
    tmp_path: Path, backend: FakeBackend
) -> None:
    """A request costs 0.1 USD of 1.05: eleven are granted, whoever serves them, through an outage and a restart."""
    backend.behaviour = saying(USAGE)
    port, password = free_port(), secrets.token_hex(8)
    (tmp_path / "password").write_text(password + "\n")
    (tmp_path / "tenants.json").write_text(json.dumps(listed(tenant(budget={"usd": 1.05, "period": "Month"}))))
    options = (
        *("--tenants", str(tmp_path / "tenants.json"), "--budget-store", f"redis://127.0.0.1:{port}/2"),
        *("--budget-store-password-file", str(tmp_path / "password")),
    )
    document = priced(backend.url)
    for name in ("a", "b", "c", "redis"):
        (tmp_path / name).mkdir()
    async with running(tmp_path / "a", document, *options) as a:
        async with store(tmp_path / "redis", port, password), running(tmp_path / "b", document, *options) as b:
            for router in (a, b):
                await until(router, "Exact")
            assert [await status(router) for router in (a, b, b)] == [200] * 3
        await until(a, "Approximate")
        assert [await status(a) for _ in range(2)] == [200] * 2
        password = secrets.token_hex(8)  # exchanged meanwhile
        (tmp_path / "password").write_text(password + "\n")
        async with store(tmp_path / "redis", port, password):
            await until(a, "Exact")
            async with running(tmp_path / "c", document, *options) as c:
                await until(c, "Exact")
                # Spent: 0.3 on A, 0.2 on B, which is gone. C may spend the rest.
                assert await until_refused(c, 7) == 6
                for _ in range(100):
                    if await status(a) == 429:
                        break
                    await asyncio.sleep(0.05)
                else:
                    raise AssertionError("A was never told what C had spent")
                assert password not in c.log
    assert "budget store is away" in a.log
    assert password not in a.log


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "redis://",
        "redis://x/y",
        "redis://:secret@x",
        "localhost:6379",
        "redis://x:99999",
        "redis://x:secret",
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_a_password(url: str) -> None:
    ledger: Any = Ledger(Ledger.create(), is_shared=False)
    with pytest.raises(InputError) as raised:
        BudgetStore(url, None, ledger, tuple, lambda: 0.0, "x")
    assert "secret" not in str(raised.value)
    ledger.close()

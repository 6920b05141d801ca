"""A router in front of fake backends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend
from router_client import Client, Start, router, write

from marlin.router.settings import Settings


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a router for a table; keyword arguments but the clock are settings."""

    numbers = count()

    @asynccontextmanager
    async def start(
        document: dict[str, Any], clock: Callable[[], float] = time.monotonic, **settings: Any
    ) -> AsyncIterator[Client]:
        config = tmp_path / f"table-{next(numbers)}.json"
        write(config, document)
        quiet = {"has_access_log": False, "probe_interval_s": 0, "scrape_interval_s": 0}
        chosen = replace(Settings(config=config, port=0, admin_port=0, seed=0), **(quiet | settings))
        async with router(chosen, clock) as client:
            yield client

    return start


@pytest.fixture
async def backend() -> AsyncIterator[FakeBackend]:
    """One fake backend."""
    async with FakeBackend() as fake:
        yield fake

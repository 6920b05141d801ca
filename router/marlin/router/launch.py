"""What runs in the control process beside the workers: probes, scrapes, budgets, the admin port.

``process`` calls this when the workers have their table and listen: what is imported here takes as long as a worker
takes to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from marlin.api.tracing import Span, Traces
from marlin.router.admin import Admin
from marlin.router.control import ControlStatus
from marlin.router.crew import Workers
from marlin.router.ledger import Ledger
from marlin.router.metrics import Metrics
from marlin.router.peers import count_peers
from marlin.router.probes import Probes
from marlin.router.scrapes import Scrapes
from marlin.router.settings import Settings
from marlin.router.store import TIMEOUT_S as STORE_TIMEOUT_S
from marlin.router.store import BudgetStore
from marlin.router.tenant_file import TenantFile
from marlin.router.told import Told

if TYPE_CHECKING:
    from marlin.router.table_watch import TableWatch

_LOG = logging.getLogger("marlin.router")

REPORT_INTERVAL_S: Final = 2.0
"""Between two reports that nobody asked for: what a worker counts is lost with it for no longer than this."""


@dataclass(frozen=True, slots=True)
class Controlled:
    """What runs beside the workers."""

    admin_port: int
    told: Told
    admin: Admin


@asynccontextmanager
async def controlling(settings: Settings, workers: Workers, told: Told | None = None) -> AsyncIterator[Controlled]:
    """Probes backends and shows what happens, for as long as the block runs.

    Args:
        settings: what is wanted.
        workers: who serves requests.
        told: what they were told; None: they have not been told anything yet.

    Raises:
        DocumentError: the configuration is wrong.
        OSError: the admin port cannot be had.
    """
    told = told or Told(settings, workers)
    table, tenant_file = told.table, told.tenant_file
    async with contextlib.AsyncExitStack() as stack:
        metrics = Metrics(table, time.time)
        probes = Probes(table, workers.verdict, workers.unanswered, settings.probe_interval_s, settings.secrets_dir)
        await stack.enter_async_context(probes)
        if settings.probe_interval_s > 0:
            workers.on_suspect = probes.suspect

        if settings.otlp_endpoint is not None:
            stack.push_async_callback(asyncio.to_thread, (await _traces(settings.otlp_endpoint, workers)).close)

        scrapes = Scrapes(table, workers.held, settings.scrape_interval_s, settings.secrets_dir, time.monotonic)
        await stack.enter_async_context(scrapes)

        told.before_table += [probes.forget_certificates, scrapes.forget_certificates]
        told.count_reload, told.count_tenant_reload = metrics.count_reload, metrics.count_tenant_reload
        store = _store(settings, workers.ledger, tenant_file)
        watch = None if settings.table_config_map is None else _watch(settings, told)
        if watch is not None:
            metrics.is_table_watched = lambda: watch.is_up
        admin = Admin(table, lambda: _status(told, watch), workers, metrics, time.time, tenant_file, store)
        app = web.Application()
        for path, page in admin.pages().items():
            app.router.add_get(path, page)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.admin_host, settings.admin_port)
        await site.start()
        loops = [told.control.run(), _collect_reports(workers, scrapes)]
        if watch is not None:
            loops.append(watch.run())
        if settings.probe_interval_s > 0:
            loops.append(probes.run())
        if settings.scrape_interval_s > 0:
            loops.append(scrapes.run())
        if tenant_file is not None:
            loops += _tenant_loops(settings, tenant_file, workers.ledger)
        for loop in loops:
            stack.push_async_callback(_cancelled, asyncio.create_task(loop))
        if store is not None:
            stack.push_async_callback(_finished, store, asyncio.create_task(store.run()))
        yield Controlled(int(site.port), told, admin)


def _status(told: Told, watch: TableWatch | None) -> ControlStatus:
    status = told.control.status
    return status if watch is None else replace(status, is_watched=watch.is_up, watch_error=watch.last_error)


def _watch(settings: Settings, told: Told) -> TableWatch:
    from marlin.router.table_watch import watch_of  # noqa: PLC0415 not every router has one

    return watch_of(settings, told.control.offer)


def _tenant_loops(settings: Settings, tenant_file: TenantFile, ledger: Ledger) -> list[Coroutine[Any, Any, None]]:
    loops = [tenant_file.run(settings.reload_interval_s)]
    if settings.peers is not None:
        loops.append(count_peers(settings.peers, partial(_divide, ledger)))
    return loops


def _store(settings: Settings, ledger: Ledger, tenant_file: TenantFile | None) -> BudgetStore | None:
    url = settings.budget_store
    if url is None or tenant_file is None:
        return None
    file = settings.budget_store_password_file
    password = None if file is None else partial(_password, file)
    if password is not None:
        password()  # one that cannot be read stops the start
    return BudgetStore(url, password, ledger, lambda: tenant_file.tenants, time.time, secrets.token_hex(8))


def _password(file: Path) -> str:
    return file.read_text("utf-8").strip()


def _divide(ledger: Ledger, count: int) -> None:
    ledger.pods = count


async def _traces(endpoint: str, workers: Workers) -> Traces:
    """Where workers' spans go from now on."""
    # In a thread: its libraries take half a second to import.
    traces = await asyncio.to_thread(Traces, endpoint, "marlin-router", socket.gethostname(), version("marlin"))

    def collect(spans: list[Span]) -> None:
        for span in spans:
            traces.add(span)

    workers.on_spans = collect
    return traces


async def _collect_reports(workers: Workers, scrapes: Scrapes) -> None:
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        scrapes.learn(await workers.reports())


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _finished(store: BudgetStore, task: asyncio.Task[None]) -> None:
    store.stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(task, 2 * STORE_TIMEOUT_S)

"""The control process: starts the workers, gives them tables and verdicts, shows what they do, and drains on SIGTERM.

Called by ``cli`` with settings that were checked there. No request goes through here. The only module of the control
process that reads a clock or handles a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from marlin.api.errors import MarlinError
from marlin.router.admin import Admin
from marlin.router.control import Control
from marlin.router.crew import Crew, Workers
from marlin.router.ledger import Ledger
from marlin.router.metrics import Metrics
from marlin.router.peers import count_peers
from marlin.router.probes import Probes
from marlin.router.scrapes import Scrapes
from marlin.router.settings import Settings
from marlin.router.store import TIMEOUT_S as STORE_TIMEOUT_S
from marlin.router.store import BudgetStore
from marlin.router.tenant_file import TenantFile
from marlin.router.view import Table

_LOG = logging.getLogger("marlin.router")

READY_TIMEOUT_S: Final = 30.0
REPORT_INTERVAL_S: Final = 2.0
"""Between two reports that nobody asked for: what a worker counts is lost with it for no longer than this."""


class StartError(MarlinError):
    """The router did not come up."""


@dataclass(frozen=True, slots=True)
class Controlled:
    """What runs beside the workers."""

    admin_port: int
    control: Control
    admin: Admin
    tenant_file: TenantFile | None

    def reload_now(self) -> None:
        """Reads all files again; for SIGHUP."""
        self.control.reload_now()
        if self.tenant_file is not None:
            self.tenant_file.reload_now()


@asynccontextmanager
async def controlling(settings: Settings, workers: Workers) -> AsyncIterator[Controlled]:
    """Reads tables, probes backends and shows what happens, for as long as the block runs.

    Raises:
        DocumentError: the configuration is wrong.
        OSError: the admin port cannot be had.
    """

    def table() -> Table:
        return control.table

    async with contextlib.AsyncExitStack() as stack:
        metrics = Metrics(table, time.time)
        probes = Probes(table, workers.verdict, workers.unanswered, settings.probe_interval_s, settings.secrets_dir)
        await stack.enter_async_context(probes)
        if settings.probe_interval_s > 0:
            workers.on_suspect = probes.suspect

        scrapes = Scrapes(table, workers.held, settings.scrape_interval_s, settings.secrets_dir, time.monotonic)
        await stack.enter_async_context(scrapes)

        def adopt(taken: Table) -> None:
            probes.forget_certificates()
            scrapes.forget_certificates()
            workers.adopt(taken)

        tenant_file = None
        if settings.tenants is not None:
            # Before the table, which is what makes workers listen.
            tenant_file = TenantFile(
                settings.tenants, workers.ledger, workers.adopt_tenants, metrics.count_tenant_reload
            )
        store = None
        if settings.budget_store is not None and tenant_file is not None:
            store = _store(settings, settings.budget_store, workers.ledger, tenant_file)
        control = Control(settings, time.time, adopt, metrics.count_reload)
        admin = Admin(table, lambda: control.status, workers, metrics, time.time, tenant_file, store)
        app = web.Application()
        for path, page in admin.pages().items():
            app.router.add_get(path, page)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.admin_host, settings.admin_port)
        await site.start()
        loops = [control.run(), _collect_reports(workers)]
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
        yield Controlled(int(site.port), control, admin, tenant_file)


def _tenant_loops(settings: Settings, tenant_file: TenantFile, ledger: Ledger) -> list[Coroutine[Any, Any, None]]:
    loops = [tenant_file.run(settings.reload_interval_s)]
    if settings.peers is not None:
        loops.append(count_peers(settings.peers, partial(_divide, ledger)))
    return loops


def _store(settings: Settings, url: str, ledger: Ledger, tenant_file: TenantFile) -> BudgetStore:
    file = settings.budget_store_password_file
    password = None if file is None else partial(_password, file)
    if password is not None:
        password()  # one that cannot be read stops the start
    return BudgetStore(url, password, ledger, lambda: tenant_file.tenants, time.time, secrets.token_hex(8))


def _password(file: Path) -> str:
    return file.read_text("utf-8").strip()


def _divide(ledger: Ledger, count: int) -> None:
    ledger.pods = count


async def serve(settings: Settings) -> None:
    """Runs a router until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        DocumentError: the configuration is wrong.
        OSError: a port cannot be had.
        StartError: the workers do not come up.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    crew = Crew(settings, time.monotonic)
    # The workers start while this process still reads the table.
    crew.start()
    try:
        await asyncio.sleep(0)
        async with controlling(settings, crew) as controlled:
            _handle_signals(controlled.reload_now, stop, hurry)
            await _wait_until_ready(crew, stop)
            _LOG.info(
                "listening on %s://%s:%d, admin on http://%s:%d",
                "http" if settings.tls_certificate_file is None else "https",
                settings.host,
                crew.port,
                settings.admin_host,
                controlled.admin_port,
            )
            if settings.port_file is not None:
                _write_ports(settings.port_file, crew.port, controlled.admin_port)
            await stop.wait()
            await _drain(settings, crew, controlled.admin, hurry)
    finally:
        await crew.stop()
    _LOG.info("stopped")


def _handle_signals(reload_now: Callable[[], None], stop: asyncio.Event, hurry: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    loop.add_signal_handler(signal.SIGHUP, reload_now)


async def _wait_until_ready(crew: Crew, stop: asyncio.Event) -> None:
    ready, stopped = asyncio.create_task(crew.wait_until_ready()), asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({ready, stopped}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    for task in (ready, stopped):
        await _cancelled(task)
    if not done:
        raise StartError(f"the workers were not ready within {READY_TIMEOUT_S:.0f} s; the log says why")


async def _drain(settings: Settings, crew: Crew, admin: Admin, hurry: asyncio.Event) -> None:
    """Says "not ready", goes on accepting for a while, then waits for what is running."""
    admin.is_draining = True
    _LOG.info("draining: %d requests are running", await _running(crew))
    crew.drain(is_final=False)

    async def drain() -> None:
        await asyncio.sleep(settings.drain_grace_s)
        crew.drain(is_final=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(crew.wait_until_idle(), settings.drain_timeout_s)

    draining, impatient = asyncio.create_task(drain()), asyncio.create_task(hurry.wait())
    await asyncio.wait({draining, impatient}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        await _cancelled(task)
    if running := await _running(crew):
        _LOG.warning("%d requests were cut off", running)


async def _running(crew: Crew) -> int:
    return sum(report.active for report in await crew.reports())


async def _collect_reports(workers: Workers) -> None:
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        await workers.reports()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _finished(store: BudgetStore, task: asyncio.Task[None]) -> None:
    store.stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(task, 2 * STORE_TIMEOUT_S)


def _write_ports(path: Path, port: int, admin_port: int) -> None:
    """Complete from its first moment on: whoever waits for the file reads it as soon as it is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{port}\n{admin_port}\n")
    draft.replace(path)

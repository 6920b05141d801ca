"""Puts the router together and runs it: listens, watches, probes, and drains on SIGTERM.

Called by ``cli`` with settings that were checked there. The only module that reads a clock or handles a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from aiohttp import web

from marlin.router.admin import Admin
from marlin.router.balancer import Balancer
from marlin.router.control import Control
from marlin.router.forwarding import leave_unsaid
from marlin.router.metrics import Metrics
from marlin.router.probes import Probes
from marlin.router.proxy import Proxy
from marlin.router.settings import Settings
from marlin.router.upstream import CHUNK_BYTES, Upstream
from marlin.router.view import Table

_LOG = logging.getLogger("marlin.router")

_BACKLOG: Final = 4096
_KEEP_ALIVE_S: Final = 75.0
_CLOSE_S: Final = 1.0
"""After the last request, how long connections get to close."""


@dataclass(frozen=True, slots=True)
class Router:
    """A router that listens."""

    port: int
    admin_port: int | None
    balancer: Balancer
    control: Control
    proxy: Proxy
    admin: Admin
    sites: tuple[web.BaseSite, ...]

    async def drain(self, grace_s: float, timeout_s: float) -> bool:
        """Says "not ready", goes on accepting for a while, then waits for what is running.

        Returns:
            Whether all requests ended in time.
        """
        self.admin.is_draining = self.proxy.is_draining = True
        await asyncio.sleep(grace_s)
        for site in self.sites:
            await site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.proxy.wait_until_idle()
        return self.proxy.active == 0


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Router]:
    """A router for as long as the block runs.

    Raises:
        DocumentError: the configuration is wrong.
        OSError: a port cannot be had.
    """
    balancer = Balancer(clock=time.monotonic, random=Random(settings.seed))
    upstream = Upstream(settings.connect_timeout_s, settings.secrets_dir, settings.origin)

    def adopt(table: Table) -> None:
        balancer.adopt(table)
        upstream.forget_certificates()

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(upstream.close)

        def table() -> Table:
            return control.table

        metrics = Metrics(table, balancer, time.time)
        control = Control(settings, time.time, adopt, metrics.count_reload)
        proxy = Proxy(settings, table, balancer, upstream, metrics)
        admin = Admin(table, lambda: control.status, balancer, metrics, time.time)

        app, admin_app = web.Application(), web.Application()
        app.on_response_prepare.append(leave_unsaid)
        has_admin_port = settings.admin_port is not None
        for path, page in admin.pages().items():
            (admin_app if has_admin_port else app).router.add_get(path, page)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        site = await _listen(stack, app, settings.host, settings.port)
        sites, admin_port = [site], None
        if settings.admin_port is not None:
            # Not among the sites that are stopped first: readiness and metrics are asked for while draining.
            admin_port = _port(await _listen(stack, admin_app, settings.admin_host, settings.admin_port))
        for task in _tasks(settings, control, Probes(table, upstream, balancer, settings.probe_interval_s)):
            stack.push_async_callback(_cancelled, task)
        yield Router(_port(site), admin_port, balancer, control, proxy, admin, tuple(sites))


async def serve(settings: Settings) -> None:
    """Runs a router until SIGTERM or SIGINT; a second signal ends it at once."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    async with running(settings) as router:

        def on_stop() -> None:
            (hurry if stop.is_set() else stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, router.control.reload_now)
        _LOG.info("listening on http://%s:%d", settings.host, router.port)
        if settings.port_file is not None:
            _write_ports(settings.port_file, router)
        await stop.wait()
        _LOG.info("draining: %d requests are running", router.proxy.active)
        drain = asyncio.create_task(router.drain(settings.drain_grace_s, settings.drain_timeout_s))
        impatient = asyncio.create_task(hurry.wait())
        await asyncio.wait({drain, impatient}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, impatient):
            await _cancelled(task)
        if router.proxy.active:
            _LOG.warning("%d requests were cut off", router.proxy.active)
    _LOG.info("stopped")


async def _listen(stack: contextlib.AsyncExitStack, app: web.Application, host: str, port: int) -> web.TCPSite:
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        keepalive_timeout=_KEEP_ALIVE_S,
        shutdown_timeout=_CLOSE_S,
        read_bufsize=CHUNK_BYTES,
        max_line_size=65_536,
        max_field_size=65_536,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
    await site.start()
    return site


def _tasks(settings: Settings, control: Control, probes: Probes) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(control.run())]
    if settings.probe_interval_s > 0:
        tasks.append(asyncio.create_task(probes.run()))
    return tasks


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _port(site: web.TCPSite) -> int:
    return int(site.port)


def _write_ports(path: Path, router: Router) -> None:
    """Complete from its first moment on: whoever waits for the file reads it as soon as it is there."""
    ports = [router.port] + ([] if router.admin_port is None else [router.admin_port])
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text("".join(f"{port}\n" for port in ports))
    draft.replace(path)

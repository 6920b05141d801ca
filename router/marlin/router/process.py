"""The control process: starts the workers, lets them be told tables and verdicts, and drains on SIGTERM.

Called by ``cli`` with settings that were checked there. No request goes through here. A router is ready when its
workers are, so they come first: they are started before anything heavy is imported, and they get their table before
the libraries of the admin port are (``told``, then ``launch``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marlin.api.errors import MarlinError
from marlin.router.crew import Crew
from marlin.router.settings import Settings

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from marlin.router.admin import Admin
    from marlin.router.control import Offer
    from marlin.router.launch import Controlled
    from marlin.router.table_watch import TableWatch
    from marlin.router.told import Told

_LOG = logging.getLogger("marlin.router")

READY_TIMEOUT_S: Final = 30.0


class StartError(MarlinError):
    """The router did not come up."""


async def serve(settings: Settings) -> None:
    """Runs a router until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        DocumentError: the configuration is wrong.
        OSError: a port cannot be had.
        StartError: the workers do not come up.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    crew = Crew(settings, time.monotonic)
    # The workers start while this process still imports what reads the table, and serve while it imports the rest.
    crew.start()
    try:
        await asyncio.sleep(0)
        # In threads: workers that have started are told so meanwhile.
        first = await _first_table(settings)
        told = (await asyncio.to_thread(_import_told))(settings, crew, first)
        _handle_signals(told.reload_now, stop, hurry)
        controlling = await asyncio.to_thread(_import_controlling)
        async with controlling(settings, crew, told) as controlled:
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
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
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
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if running := await _running(crew):
        _LOG.warning("%d requests were cut off", running)


async def _running(crew: Crew) -> int:
    return sum(report.active for report in await crew.reports())


async def _first_table(settings: Settings) -> Offer | None:
    """The watched table, waited for where no file holds one to begin with."""
    files = (settings.config, settings.table_cache)
    if settings.table_config_map is None or any(path is not None and path.exists() for path in files):
        return None
    watch_of = await asyncio.to_thread(_import_watch)
    return await watch_of(settings, lambda _: None).first()


def _import_watch() -> Callable[[Settings, Callable[[Offer], None]], TableWatch]:
    from marlin.router.table_watch import watch_of  # noqa: PLC0415

    return watch_of


def _import_told() -> type[Told]:
    from marlin.router.told import Told  # noqa: PLC0415

    return Told


def _import_controlling() -> Callable[[Settings, Crew, Told], AbstractAsyncContextManager[Controlled]]:
    from marlin.router.launch import controlling  # noqa: PLC0415

    return controlling


def _write_ports(path: Path, port: int, admin_port: int) -> None:
    """Complete from its first moment on: whoever waits for the file reads it as soon as it is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{port}\n{admin_port}\n")
    draft.replace(path)

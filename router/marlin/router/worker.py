"""A worker: the process that serves requests. Imports neither pydantic nor NumPy nor aiohttp.

``crew`` starts it with file descriptors: a socket that listens already, one end of a socket pair for messages, and the
page of shared counters. It is told its settings and its table, says when it is ready, and ends when it is told to or
when the control process is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from marlin.router.access_log import write_lines
from marlin.router.ledger import Ledger
from marlin.router.loads import LoadPage
from marlin.router.logs import configure
from marlin.router.messages import (
    Adopt,
    AdoptTenants,
    Ask,
    BackendReport,
    Begin,
    Channel,
    Idle,
    Ready,
    Report,
    Spans,
    Stop,
    Suspect,
    ToWorker,
    Unanswered,
    Verdict,
)
from marlin.router.plane import Plane
from marlin.router.server_tls import LOOK_S, ServerTls
from marlin.router.settings import BACKLOG, Settings

_LOG = logging.getLogger("marlin.router")

_LOG_FD: Final = 2
_MAX_BATCHES: Final = 64
"""Batches of access log lines that may wait for whoever reads them; beyond that they are dropped, not waited for."""


class Worker:
    """What a worker does with its messages.

    Args:
        listener: a socket that listens.
        page: the shared counters.
        ledger: what tenants have used, shared too.
        write_log: takes batches of access log lines.
    """

    def __init__(
        self, listener: socket.socket, page: LoadPage, ledger: Ledger, write_log: Callable[[bytes], None]
    ) -> None:
        self._listener = listener
        self._page = page
        self._ledger = ledger
        self._write_log = write_log
        self._plane: Plane | None = None
        self._server: asyncio.Server | None = None
        self._is_asked_to_listen = False
        self._tls: ServerTls | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._channel = Channel(ToWorker, self._take, self._stop.set)

    async def run(self, end: socket.socket) -> None:
        """Serves until told to stop."""
        await self._channel.open(end)
        await self._stop.wait()
        if self._server is not None:
            self._server.close()
        if self._plane is not None:
            await self._plane.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._channel.close()

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Begin):
            self._begin(message.settings)
            return
        if isinstance(message, Stop):
            self._stop.set()
            return
        plane = self._plane
        assert plane is not None
        if isinstance(message, Adopt):
            self._adopt(plane, message)
        elif isinstance(message, AdoptTenants):
            plane.adopt_tenants(message.tenants)
        elif isinstance(message, Verdict):
            plane.was_probed(message.url, is_well=message.is_well)
        elif isinstance(message, Unanswered):
            plane.was_unanswered(message.url)
        elif isinstance(message, Ask):
            self._channel.send(report_of(plane, message.number))
        else:
            self._spawn(self._drain(plane, is_final=message.is_final))

    def _begin(self, settings: Settings) -> None:
        configure(settings.log_format)
        write_log = self._write_log if settings.has_access_log else None
        self._plane = Plane(settings, time.monotonic, time.time, self._page, write_log, self._ledger)
        self._plane.on_suspect = lambda url: self._channel.send(Suspect(url))
        self._plane.on_spans = lambda spans: self._channel.send(Spans(spans))
        if settings.tls_certificate_file is not None and settings.tls_key_file is not None:
            self._tls = ServerTls(settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file)

    def _adopt(self, plane: Plane, message: Adopt) -> None:
        try:
            plane.adopt(message.table(), message.slots)
        except OSError as error:
            _LOG.error("table not taken, the one before stays: a certificate cannot be used: %s", error)
            return
        # Not "no server yet": the next table may come while the first one's server is being made.
        if not self._is_asked_to_listen:
            self._is_asked_to_listen = True
            self._spawn(self._listen(plane))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        """A worker whose tasks fail is of no use: it ends, and another one is started."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("worker fails: %s", error, exc_info=error)
            self._stop.set()

    async def _listen(self, plane: Plane) -> None:
        loop = asyncio.get_running_loop()
        tls = None if self._tls is None else self._tls.context
        self._server = await loop.create_server(plane.accept, sock=self._listener, backlog=BACKLOG, ssl=tls)
        if self._tls is not None:
            self._spawn(self._look_at_certificate(self._tls))
        # What is alive now stays alive: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._channel.send(Ready())
        await plane.look_after()

    async def _look_at_certificate(self, tls: ServerTls) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            tls.look()

    async def _drain(self, plane: Plane, *, is_final: bool) -> None:
        plane.drain(is_final=is_final)
        if is_final:
            if self._server is not None:
                self._server.close()
            await plane.wait_until_idle()
            plane.flush()
            self._channel.send(Idle())


def report_of(plane: Plane, number: int) -> Report:
    """Everything that a plane has counted."""
    plane.count_endings()
    return Report(
        number=number,
        active=len(plane.flows),
        cells=plane.tally.cells(),
        spendings=plane.tally.spendings(),
        backends=[
            BackendReport(
                pool=live.backend.pool,
                name=live.backend.name,
                url=live.backend.url,
                in_flight=live.own_in_flight,
                is_usable=live.is_usable,
                concurrency=live.concurrency,
                service_time_s=live.service_time_s,
                energy_factor=live.energy_factor,
                **plane.balancer.held_elsewhere(live),
            )
            for live in plane.balancer.all_live()
        ],
    )


def _start_log_writer() -> tuple[Callable[[bytes], None], Callable[[], None]]:
    """A thread that writes access log lines, so that a reader who stands still does not stop requests."""
    batches: queue.Queue[bytes | None] = queue.Queue(_MAX_BATCHES)

    def work() -> None:
        while (batch := batches.get()) is not None:
            write_lines(_LOG_FD, batch)

    def put(batch: bytes) -> None:
        with contextlib.suppress(queue.Full):
            batches.put_nowait(batch)

    thread = threading.Thread(target=work, name="access-log", daemon=True)
    thread.start()

    def finish() -> None:
        with contextlib.suppress(queue.Full):
            batches.put_nowait(None)
        thread.join(timeout=1.0)

    return put, finish


async def _run(listener: socket.socket, page: LoadPage, ledger: Ledger, end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    # The control process decides when to end; Ctrl-C and a signal to the whole group reach it too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, partial(_ignore, number))
    write_log, finish_log = _start_log_writer()
    try:
        await Worker(listener, page, ledger, write_log).run(end)
    finally:
        finish_log()


def _ignore(_: int) -> None:
    """A signal that is not for a worker."""


def main(arguments: list[str]) -> None:
    """Runs a worker."""
    parser = argparse.ArgumentParser(description="A worker of marlin router; started by it, not by people.")
    for name in ("listen-fd", "channel-fd", "page-fd", "ledger-fd", "workers", "row"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    listener = socket.socket(fileno=options.listen_fd)
    end = socket.socket(fileno=options.channel_fd)
    page = LoadPage(options.page_fd, options.workers, options.row)
    ledger = Ledger(options.ledger_fd, is_shared=options.workers > 1)
    try:
        from uvloop import new_event_loop as fast_loop  # noqa: PLC0415
    except ImportError:  # not there on every platform; asyncio's own loop does
        fast_loop = None  # type: ignore[assignment]
    with asyncio.Runner(loop_factory=fast_loop) as runner:
        runner.run(_run(listener, page, ledger, end))


if __name__ == "__main__":
    main(sys.argv[1:])

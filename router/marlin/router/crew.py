"""The workers of a router: started, told what to do, asked what they counted, replaced when they die.

Only the control process imports this. Each worker gets a listening socket of its own that shares the port
(SO_REUSEPORT); the control process keeps it open too, so that clients of a worker that died wait for its successor
instead of being refused. What a dead worker had counted is kept, what it had in flight is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from marlin.api.tracing import Span
from marlin.router.held import Held
from marlin.router.ledger import Ledger
from marlin.router.limits import Tenant
from marlin.router.loads import SCRAP, LoadPage
from marlin.router.messages import (
    Adopt,
    AdoptTenants,
    Ask,
    Begin,
    Channel,
    Drain,
    FromWorker,
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
from marlin.router.settings import BACKLOG, Settings
from marlin.router.tally import Cell, Spending, add_cells, add_spendings
from marlin.router.view import Backend, Table

_LOG = logging.getLogger("marlin.router")

REPORT_TIMEOUT_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_LONG_LIFE_S: Final = 30.0
"""A worker that lived longer than this did not die of its start."""
_STOP_S: Final = 2.0


class Workers(Protocol):
    """What the rest of the control process needs of workers."""

    def adopt(self, table: Table) -> None:
        """Gives them a table."""

    ledger: Ledger
    """What tenants have used."""

    def adopt_tenants(self, tenants: tuple[Tenant, ...]) -> None:
        """Gives them a list of tenants."""

    def held(self, backend: Backend, held: Held | None) -> None:
        """Shows them what a backend holds; None: nobody knows any more."""

    on_suspect: Callable[[str], None]
    """Called with a backend's address when it holds requests and is silent."""

    on_spans: Callable[[list[Span]], None]
    """Called with the spans of requests that have ended."""

    def verdict(self, url: str, *, is_well: bool) -> None:
        """Tells them what a probe found."""

    def unanswered(self, url: str) -> None:
        """Tells them that a backend left two probes in a row unanswered."""

    async def reports(self) -> list[Report]:
        """Everything they counted; what workers counted that are gone comes as a report of its own."""


@dataclass(slots=True)
class _Member:
    """One worker."""

    row: int
    listener: socket.socket
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)
    report: Report | None = None
    has_reported: asyncio.Event = field(default_factory=asyncio.Event)


class Crew:
    """The workers.

    Args:
        settings: what they are started with.
        clock: monotonic seconds.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        listeners = _listeners(settings.host, settings.port, settings.workers)
        self.port = int(listeners[0].getsockname()[1])
        self._page_fd = LoadPage.create(settings.workers)
        self.page = LoadPage(self._page_fd, settings.workers, -1)
        self._ledger_fd = Ledger.create()
        self.ledger = Ledger(self._ledger_fd, is_shared=True)
        self._members = [_Member(row, listener) for row, listener in enumerate(listeners)]
        self._slots: dict[tuple[str, str, str], int] = {}
        self._adopt: Adopt | None = None
        self._tenants: AdoptTenants | None = None
        self._verdicts: dict[str, bool] = {}
        self._lost: dict[tuple[str, str], Cell] = {}
        self._lost_spendings: dict[tuple[str, str, str], Spending] = {}
        self._number = 0
        self._is_stopping = False
        self._stopping = asyncio.Event()
        self.on_suspect: Callable[[str], None] = lambda _: None
        self.on_spans: Callable[[list[Span]], None] = lambda _: None
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the workers; they wait for a table."""
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self._members]

    async def wait_until_ready(self) -> None:
        """Returns when every worker accepts connections."""
        for member in self._members:
            await member.is_ready.wait()

    def adopt(self, table: Table) -> None:
        """Gives all workers, and those to come, a table."""
        backends = table.backends()
        keys = {backend.key for backend in backends}
        for key in [key for key in self._slots if key not in keys]:
            del self._slots[key]
        free = iter(sorted(set(range(SCRAP)) - set(self._slots.values()))[: len(keys)])
        for key in dict.fromkeys(backend.key for backend in backends):
            if key not in self._slots:
                self._slots[key] = next(free)
                self.page.write_held(self._slots[key], 0, 0, 0.0)
        self._adopt = Adopt.of(table, tuple(self._slots[backend.key] for backend in backends))
        self._send(self._adopt)

    def adopt_tenants(self, tenants: tuple[Tenant, ...]) -> None:
        """Gives all workers, and those to come, a list of tenants."""
        self._tenants = AdoptTenants(tenants)
        self._send(self._tenants)

    def held(self, backend: Backend, held: Held | None) -> None:
        """Shows all workers what a backend holds."""
        slot, held = self._slots.get(backend.key), held or Held()
        if slot is not None:
            self.page.write_held(slot, held.in_flight, held.waiting, held.capacity, held.kv_usage)

    def verdict(self, url: str, *, is_well: bool) -> None:
        """Tells all workers, and those to come, what a probe found."""
        self._verdicts[url] = is_well
        self._send(Verdict(url, is_well))

    def unanswered(self, url: str) -> None:
        """Tells all workers that a backend left two probes in a row unanswered."""
        self._send(Unanswered(url))

    async def reports(self) -> list[Report]:
        """What the workers counted; from one that does not answer in time, what it said last."""
        self._number += 1
        for member in self._members:
            member.has_reported.clear()
        self._send(Ask(self._number))
        waiting = [asyncio.ensure_future(m.has_reported.wait()) for m in self._members if m.channel is not None]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=REPORT_TIMEOUT_S)
            for task in late:
                task.cancel()
        lost = Report(0, 0, list(self._lost.values()), [], list(self._lost_spendings.values()))
        return [lost, *(member.report for member in self._members if member.report is not None)]

    def drain(self, *, is_final: bool) -> None:
        """Asks the workers to close connections as their requests end, and finally to accept no more."""
        if is_final:
            self._is_stopping = True
            for member in self._members:
                member.listener.close()
        self._send(Drain(is_final))

    async def wait_until_idle(self) -> None:
        """Returns when no worker has a request any more."""
        for member in self._members:
            if member.channel is not None:
                await member.is_idle.wait()

    async def stop(self) -> None:
        """Ends all workers."""
        self._is_stopping = True
        self._stopping.set()
        self._send(Stop())
        for member in self._members:
            member.listener.close()
        if self._keepers:
            # Never cancelled: a worker that is just being started has to be waited for like any other.
            _, late = await asyncio.wait(self._keepers, timeout=_STOP_S)
            for member in self._members:
                if late and member.process is not None and member.process.returncode is None:
                    member.process.kill()
            await asyncio.gather(*self._keepers, return_exceptions=True)
        self.page.close()
        os.close(self._page_fd)
        self.ledger.close()

    async def _keep(self, member: _Member) -> None:
        """Keeps one worker running until all are to stop."""
        pause_s = _FIRST_PAUSE_S
        while not self._is_stopping:
            began_s = self._clock()
            try:
                await self._run(member)
            except OSError as error:
                _LOG.error("worker %d cannot be started: %s", member.row, error)
            pause_s = _FIRST_PAUSE_S if self._clock() - began_s > _LONG_LIFE_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run(self, member: _Member) -> None:
        """Starts a worker and returns when it has ended."""
        ours, theirs = socket.socketpair()
        fds = (member.listener.fileno(), theirs.fileno(), self._page_fd, self._ledger_fd)
        options = zip(
            ("--listen-fd", "--channel-fd", "--page-fd", "--ledger-fd", "--workers", "--row"),
            (*fds, len(self._members), member.row),
            strict=True,
        )
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "marlin.router.worker"),
                    *(text for option in options for text in (option[0], str(option[1]))),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=fds,
                )
        except OSError:
            ours.close()
            raise
        member.process = process
        channel = Channel(FromWorker, lambda message: self._take(member, message), lambda: self._lose(member))
        await channel.open(ours)
        member.channel = channel
        for message in self._greeting():
            channel.send(message)
        code = await process.wait()
        channel.close()
        self._lose(member)
        if not self._is_stopping:
            _LOG.error("worker %d ended with code %d; another one is started", member.row, code)
        self._bury(member)

    def _greeting(self) -> list[ToWorker]:
        """What a new worker is told."""
        if self._is_stopping:
            return [Stop()]
        verdicts = [Verdict(url, is_well) for url, is_well in self._verdicts.items()]
        known = [message for message in (self._tenants, self._adopt) if message is not None]
        return [Begin(self._settings), *known, *verdicts]

    def _take(self, member: _Member, message: FromWorker) -> None:
        if isinstance(message, Ready):
            member.is_ready.set()
        elif isinstance(message, Idle):
            member.is_idle.set()
        elif isinstance(message, Suspect):
            self.on_suspect(message.url)
        elif isinstance(message, Spans):
            self.on_spans(message.spans)
        else:
            member.report = message
            if message.number == self._number:
                member.has_reported.set()

    def _lose(self, member: _Member) -> None:
        """The worker's channel is closed: nobody waits for it any longer."""
        member.channel = None
        member.is_idle.set()
        member.has_reported.set()

    def _bury(self, member: _Member) -> None:
        """Keeps what a dead worker counted, and forgets what it had in flight."""
        if member.report is not None:
            add_cells(self._lost, member.report.cells)
            add_spendings(self._lost_spendings, member.report.spendings)
            member.report = None
        self.page.clear_row(member.row)

    def _send(self, message: ToWorker) -> None:
        for member in self._members:
            if member.channel is not None:
                member.channel.send(message)


def _listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that listen on one port together.

    Raises:
        OSError: the address cannot be had.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # Without SO_REUSEPORT first: with it, two routers would share a port without anybody noticing.
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        if port == 0:
            address = probe.getsockname()
    listeners = []
    try:
        for _ in range(count):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners

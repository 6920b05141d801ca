"""What backends hold of other people's: member routers are asked for a summary, vLLM servers for their metrics.

The control process asks (``launch``), member routers ten times a second, or oftener where requests are short, engines
once, and writes what it learns on the load page, where workers find it when they choose. Of a member router that is
requests in flight and what it can take at once: so first-hop routers see each other's requests, no older than a second.
Of an engine it is requests running and waiting. An answer that does not come in time is not waited for, and what is
older than ``MAX_AGE_S`` is forgotten: vLLM may answer late when it is busy, and that says nothing about its health
(``probes`` judges that).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import aiohttp

from marlin.router.held import SUMMARY_PATH, Held, SummaryError, held_of_engine, held_of_member
from marlin.router.messages import Report
from marlin.router.upstream import Contexts
from marlin.router.view import Backend, Table

_LOG = logging.getLogger("marlin.router")

MEMBER_INTERVAL_S: Final = 0.1
SHORTEST_INTERVAL_S: Final = 0.02
ASKED_PER_REQUEST: Final = 30.0
"""A member router is asked so often while one request runs there: between two answers only a small part of what it
holds changes, however short requests are. With 15, two to eight routers exceeded a cap together by 5 of 100, with 30 by
3 (simulated; a test holds it)."""

LOOK_S: Final = 0.25
"""The longest pause between two looks at who is due. Without member routers there is no need for more of them: twenty a
second took half of what this process takes at rest."""

MEMBER_TIMEOUT_S: Final = 0.5
"""Interval and time-out together stay below the second that a summary may be old. Usually it is a tenth as old: what
several routers send in that time is how far they may exceed a cap together."""

ENGINE_TIMEOUT_S: Final = 5.0
MAX_AGE_S: Final = 10.0
_MAX_BYTES: Final = 4 * 2**20


class OnHeld(Protocol):
    """Takes what a backend holds."""

    def __call__(self, backend: Backend, held: Held | None) -> None:
        """Takes it; None: it is not known any more."""


@dataclass(slots=True)
class _Asked:
    """When a backend was asked, and when it answered."""

    next_s: float = 0.0
    answered_s: float = 0.0
    is_running: bool = False


class Scrapes:
    """Asks all backends of the table.

    Args:
        table: the table in force.
        on_held: called with each answer.
        engine_interval_s: between two questions to an engine.
        secrets_dir: where certificates are mounted.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        on_held: OnHeld,
        engine_interval_s: float,
        secrets_dir: Path | None,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._on_held = on_held
        self._engine_interval_s = engine_interval_s
        self._contexts = Contexts(secrets_dir)
        self._clock = clock
        self._known: Table | None = None
        self._backends: list[tuple[Backend, _Asked]] = []
        self._asked: dict[tuple[str, str, str], _Asked] = {}
        self._complained: set[tuple[str, str, str]] = set()
        self._member_intervals_s: dict[tuple[str, str, str], float] = {}
        self._shortest_s = MEMBER_INTERVAL_S
        self._has_members = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Opens what questions need."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def forget_certificates(self) -> None:
        """Reads certificates again when they are needed next."""
        self._contexts.forget()

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            self.step()
            await asyncio.sleep(self.pause_s)

    @property
    def pause_s(self) -> float:
        """How long to wait until the next look at who is due."""
        intervals_s = (self._shortest_s, self._engine_interval_s) if self._has_members else (self._engine_interval_s,)
        return min(LOOK_S, min(intervals_s) / 2)

    def look_at_table(self) -> None:
        """Takes a new table's backends over."""
        table = self._table()
        if table is not self._known:
            self._known = table
            now_s = self._clock()
            self._backends = [(b, self._asked.get(b.key) or _Asked(answered_s=now_s)) for b in table.backends()]
            self._asked = {b.key: asked for b, asked in self._backends}
            self._has_members = any(b.is_member_router for b, _ in self._backends)
            self._complained &= self._asked.keys()

    def learn(self, reports: Iterable[Report]) -> None:
        """Takes from workers' reports how long requests last at members: the shorter, the oftener those are asked."""
        members = {b.key for b, _ in self._backends if b.is_member_router}
        found: dict[tuple[str, str, str], float] = {}
        for b in (b for report in reports for b in report.backends):
            key = (b.pool, b.name, b.url)
            if key in members and b.service_time_s is not None:
                interval_s = max(SHORTEST_INTERVAL_S, b.service_time_s / ASKED_PER_REQUEST)
                found[key] = min(MEMBER_INTERVAL_S, interval_s, found.get(key, MEMBER_INTERVAL_S))
        self._member_intervals_s = found
        self._shortest_s = min(found.values(), default=MEMBER_INTERVAL_S)

    def interval_s(self, backend: Backend) -> float:
        """How long after one question to a backend the next one is due."""
        if not backend.is_member_router:
            return self._engine_interval_s
        return self._member_intervals_s.get(backend.key, MEMBER_INTERVAL_S)

    def step(self) -> None:
        """Asks whoever is due, and forgets what is too old."""
        self.look_at_table()
        now_s = self._clock()
        for backend, asked in self._backends:
            if now_s - asked.answered_s > MAX_AGE_S:
                asked.answered_s = now_s
                self._on_held(backend, None)
            if now_s >= asked.next_s and not asked.is_running:
                interval_s = self.interval_s(backend)
                asked.next_s, asked.is_running = now_s + interval_s, True
                task = asyncio.get_running_loop().create_task(self._ask(backend, asked))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _ask(self, backend: Backend, asked: _Asked) -> None:
        is_member = backend.is_member_router
        try:
            async with asyncio.timeout(MEMBER_TIMEOUT_S if is_member else ENGINE_TIMEOUT_S):
                answer = await self._get(backend, SUMMARY_PATH if is_member else "/metrics")
            model = next(pool.model_name for pool in self._table().pools if pool.name == backend.pool)
            if is_member:
                held = held_of_member(answer, model)
            else:
                held = held_of_engine(answer, lambda sample: self._complain(backend, sample))
        except SummaryError as error:
            self._complain(backend, f"{SUMMARY_PATH}: {error}")
            return
        except (aiohttp.ClientError, OSError, TimeoutError, StopIteration):
            return
        finally:
            asked.is_running = False
        if held is not None:
            asked.answered_s = self._clock()
            self._on_held(backend, held)

    def _complain(self, backend: Backend, what: str) -> None:
        """Says once of a backend that what it tells of its load cannot be read."""
        if backend.key not in self._complained:
            self._complained.add(backend.key)
            _LOG.warning(
                "backend %s of pool %s tells its load in a way that cannot be read, and it is left out: %s",
                *(backend.name, backend.pool, what),
            )

    async def _get(self, backend: Backend, path: str) -> bytes:
        headers = {} if backend.authorization is None else {"Authorization": backend.authorization}
        is_secure = backend.url.startswith("https:")
        async with self._session.get(
            backend.url + path,
            headers=headers,
            allow_redirects=False,
            ssl=self._contexts.of(backend.tls) if is_secure else True,
            server_hostname=backend.tls.server_name if is_secure else None,
        ) as reply:
            if reply.status != 200:
                return b""
            answer = bytearray()
            # Until its end: one read gives what has arrived, and a line that is cut may still look whole.
            async for piece in reply.content.iter_any():
                answer += piece
                if len(answer) > _MAX_BYTES:
                    return b""
            return bytes(answer)

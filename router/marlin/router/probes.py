"""Asks every backend for its health, so that a dead one is left alone and a returned one is used again soon.

Only what is certain counts: a refused connection or a 5xx takes a backend out, an answer brings it back. A probe that
goes unanswered says nothing by itself, because an engine under full load answers late (a member router is asked for
/readyz, a vLLM for /health). When workers suspect a backend that holds requests and is silent, it is asked twice at
once, and they are told if both go unanswered. ``launch`` runs it in the control process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol, Self

import aiohttp

from marlin.router.upstream import Contexts
from marlin.router.view import Backend, Table

_LOG = logging.getLogger("marlin.router")

PROBE_TIMEOUT_S: Final = 2.0
DOWN_INTERVAL_S: Final = 0.5
"""Between two probes of a backend that is down: its return is noticed this soon."""


SUSPECT_TIMEOUT_S: Final = 0.5
"""How long a suspect gets for each of two answers."""


class OnVerdict(Protocol):
    """Takes what a probe found."""

    def __call__(self, url: str, *, is_well: bool) -> None:
        """Takes it."""


class Probes:
    """Probes all backends of the table.

    Args:
        table: the table in force.
        on_verdict: called with each verdict, also when nothing has changed: good news ends a back-off.
        on_unanswered: called with the address of a suspect that did not answer.
        interval_s: between two probes of a backend that is up.
        secrets_dir: where certificates are mounted.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        on_verdict: OnVerdict,
        on_unanswered: Callable[[str], None],
        interval_s: float,
        secrets_dir: Path | None,
    ) -> None:
        self._table = table
        self._on_verdict = on_verdict
        self._on_unanswered = on_unanswered
        self._interval_s = interval_s
        self._contexts = Contexts(secrets_dir)
        self._down: set[str] = set()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Opens what probes need."""
        self._session = aiohttp.ClientSession(
            # A connection of its own for each probe: a kept one says nothing about whether new ones can be made.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        for task in list(self._checks.values()):
            task.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)
        await self._session.close()

    def forget_certificates(self) -> None:
        """Reads certificates again at the next probe; they may have been exchanged."""
        self._contexts.forget()

    async def run(self) -> None:
        """Probes until cancelled: everything each interval, and what is down more often."""
        while True:
            await self.round()
            left_s = self._interval_s
            while left_s > 0:
                pause_s = min(DOWN_INTERVAL_S, left_s)
                await asyncio.sleep(pause_s)
                left_s -= pause_s
                if self._down and left_s > 0:
                    await self.round(self._down)

    async def round(self, urls: Collection[str] | None = None) -> None:
        """One probe of every backend, or of those at ``urls``; two pools at one address share one."""
        by_address: dict[str, Backend] = {}
        for backend in self._table().backends():
            by_address.setdefault(backend.url, backend)
        self._down &= set(by_address)
        await asyncio.gather(*(self._probe(b) for url, b in by_address.items() if urls is None or url in urls))

    def suspect(self, url: str) -> None:
        """Asks a backend twice at once, unless that is being done already."""
        backend = next((b for b in self._table().backends() if b.url == url), None)
        if backend is None or url in self._checks:
            return
        task = self._checks[url] = asyncio.get_running_loop().create_task(self._check(backend))
        task.add_done_callback(lambda _: self._checks.pop(url, None))

    async def _check(self, backend: Backend) -> None:
        for _ in range(2):
            try:
                async with asyncio.timeout(SUSPECT_TIMEOUT_S):
                    if await self._is_well(backend) is not None:
                        return
            except TimeoutError:
                continue
        # From now on it is asked as often as one that is down, so that its return is noticed.
        self._down.add(backend.url)
        self._on_unanswered(backend.url)

    async def _probe(self, backend: Backend) -> None:
        is_well = await self._is_well(backend)
        if is_well is None:
            return
        if is_well == (backend.url in self._down):
            _LOG.warning("backend %s of pool %s is %s", backend.name, backend.pool, "up" if is_well else "down")
        (self._down.discard if is_well else self._down.add)(backend.url)
        self._on_verdict(backend.url, is_well=is_well)

    async def _is_well(self, backend: Backend) -> bool | None:
        """Whether the backend is well; None where the probe says nothing."""
        url = backend.url + ("/readyz" if backend.is_member_router else "/health")
        headers = {} if backend.authorization is None else {"Authorization": backend.authorization}
        try:
            is_secure = url.startswith("https:")
            async with self._session.get(
                url,
                headers=headers,
                allow_redirects=False,
                ssl=self._contexts.of(backend.tls) if is_secure else True,
                server_hostname=backend.tls.server_name if is_secure else None,
            ) as reply:
                return reply.status < 500
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError):
            return False
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

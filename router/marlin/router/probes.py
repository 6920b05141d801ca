"""Asks every backend for its health, so that a dead one is left alone and a returned one is used again soon.

Only what is certain counts: a refused connection or a 5xx takes a backend out, an answer brings it back. A probe that
goes unanswered says nothing, because an engine under full load answers late (``is_member_router`` is asked for
/readyz, a vLLM for /health). ``server`` runs it beside the proxy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from marlin.router.balancer import Balancer
from marlin.router.headers import Headers
from marlin.router.upstream import ConnectError, DisconnectError, Upstream
from marlin.router.view import Backend, Table

_LOG = logging.getLogger("marlin.router")

PROBE_TIMEOUT_S: Final = 2.0


class Probes:
    """Probes all backends of the table, each interval, all at once.

    Args:
        table: the table in force.
        upstream: the way to the backends.
        balancer: gets the verdicts.
        interval_s: between two rounds.
    """

    def __init__(self, table: Callable[[], Table], upstream: Upstream, balancer: Balancer, interval_s: float) -> None:
        self._table = table
        self._upstream = upstream
        self._balancer = balancer
        self._interval_s = interval_s

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(self._interval_s)

    async def round(self) -> None:
        """One probe of every backend; two pools at one address share one."""
        by_address: dict[tuple[str, bool], list[Backend]] = {}
        for backend in self._table().backends():
            by_address.setdefault((backend.url, backend.is_member_router), []).append(backend)
        await asyncio.gather(*(self._probe(backends) for backends in by_address.values()))

    async def _probe(self, backends: list[Backend]) -> None:
        is_well = await self._is_well(backends[0])
        if is_well is None:
            return
        for backend in backends:
            if is_well != self._balancer.counters(backend).is_well:
                _LOG.warning("backend %s of pool %s is %s", backend.name, backend.pool, "up" if is_well else "down")
            self._balancer.report_probe(backend, is_well=is_well)

    async def _is_well(self, backend: Backend) -> bool | None:
        path = "/readyz" if backend.is_member_router else "/health"
        headers: Headers = [] if backend.authorization is None else [("Authorization", backend.authorization)]
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                reply = await self._upstream.send(backend, "GET", path, headers, None)
        except ConnectError:
            return False
        except (DisconnectError, TimeoutError):
            return None
        reply.close()
        return reply.status < 500

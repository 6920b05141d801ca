"""Asks for signals beside the rounds, so that a provider that hangs delays no plan.

A round says which sites there are and waits a little for what was never read; what comes later rings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from marlin.api.datacenter import Datacenter
from marlin.operator.signals.reader import Reader
from marlin.operator.signals.values import Feed

WAIT_S: Final = 3.0
"""Most that a round waits: what answers at all answers sooner, and a plan has half a minute."""


class SignalTask:
    """Keeps a reader's feeds fresh while it runs.

    Args:
        reader: what is known.
        ring: called when something new is known.
    """

    def __init__(self, reader: Reader, ring: Callable[[], None]) -> None:
        self._reader = reader
        self._ring = ring
        self._asking: asyncio.Task[int] | None = None

    async def feeds(self, sites: list[Datacenter]) -> Mapping[tuple[str, str], Feed]:
        """What is known of the sites' live signals, after a short wait for what is due."""
        now = datetime.now(UTC).replace(microsecond=0)
        if (self._asking is None or self._asking.done()) and self._reader.due(sites, now):
            self._asking = asyncio.create_task(self._reader.refresh(sites, now))
            self._asking.add_done_callback(self._asked)
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=WAIT_S)
        return self._reader.feeds(sites)

    async def close(self) -> None:
        """Ends what is asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _asked(self, task: asyncio.Task[int]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._ring()

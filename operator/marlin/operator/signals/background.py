"""Asks for signals beside the rounds, so that a provider that hangs delays no plan.

A round says which sites there are and waits a little for what was never read; what comes later rings. Each hour the
last week is kept in a ConfigMap of the operator's namespace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from marlin.api.datacenter import Datacenter
from marlin.operator.core.applies import Apply, apply_record
from marlin.operator.kube.client import ApiError
from marlin.operator.signals.keeping import newest_hour, text_of
from marlin.operator.signals.reader import Reader
from marlin.operator.signals.values import Feed

_log: Final = logging.getLogger(__name__)

RECORD: Final = "signals"
RECORD_NAME: Final = "marlin-operator.signals"
"""Name of the ConfigMap with the last week of live signals; no policy's table has a dot in its name."""

WAIT_S: Final = 3.0
"""Most that a round waits: what answers at all answers sooner, and a plan has half a minute."""


class Hub(Protocol):
    """What is written to."""

    async def apply(self, apply: Apply) -> dict[str, Any]:
        """A server-side apply.

        Raises:
            ApiError: it was refused.
        """


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
        self._kept_hour = newest_hour(reader.histories())

    async def feeds(self, sites: list[Datacenter]) -> Mapping[tuple[str, str], Feed]:
        """What is known of the sites' live signals, after a short wait for what is due."""
        now = datetime.now(UTC).replace(microsecond=0)
        if (self._asking is None or self._asking.done()) and self._reader.due(sites, now):
            self._asking = asyncio.create_task(self._reader.refresh(sites, now))
            self._asking.add_done_callback(self._asked)
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=WAIT_S)
        return self._reader.feeds(sites)

    async def keep(self, hub: Hub, namespace: str) -> None:
        """Writes the last week down, once an hour; what is refused is tried again after the next round."""
        histories = self._reader.histories()
        hour = newest_hour(histories)
        if hour is None or hour == self._kept_hour:
            return
        try:
            await hub.apply(apply_record((namespace, RECORD_NAME), RECORD, {f"{RECORD}.json": text_of(histories)}))
        except ApiError as error:
            _log.warning("the history of signals is not kept: %s", error)
            return
        self._kept_hour = hour

    async def close(self) -> None:
        """Ends what is asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _asked(self, task: asyncio.Task[int]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._ring()

"""Writes what was decided, and remembers what the API server refused.

Each policy's routing tables go before the statuses that say they are published; policies go side by side. A refusal
concerns its object alone and ends nothing: a table that is refused becomes the policy's condition ``Applied`` in the
next round, a status that is refused becomes an Event, because the status cannot tell. An API server that is away or
overloaded ends the round instead: the next one finds out again what is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from marlin.operator.core.applies import Apply, EventNote, event_body
from marlin.operator.core.observed import Key
from marlin.operator.core.reconcile import Actions
from marlin.operator.kube.client import ApiError, Client

_log: Final = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Policies, or objects of no policy, that are written at the same time."""

_MOST_MESSAGE: Final = 300


class Writer:
    """Writes rounds, one after another.

    Args:
        client: the hub.
        instance: which operator says so, in Events.
        wrote: told of each write and of the object's metadata after it. Default: nobody is.
    """

    def __init__(
        self, client: Client, instance: str, wrote: Callable[[Apply, Mapping[str, Any]], None] = lambda _, __: None
    ) -> None:
        self._client = client
        self._instance = instance
        self._wrote = wrote
        self.problems: dict[Key, str] = {}
        """Policy to why a table of it was refused in the last round."""
        self.refused: dict[str, str] = {}
        """Path to why its write was refused in the last round."""
        self.events_refused = 0

    async def write(self, actions: Actions) -> bool:
        """Writes everything; whether something is to be said that was not known before.

        Raises:
            ApiError: the API server is away or has too much to do; what was not written is not lost.
        """
        before, known = self.problems, set(self.refused)
        self.problems, self.refused = {}, {}
        groups: dict[Key | str, list[Apply]] = defaultdict(list)
        for apply in actions.applies:
            groups[apply.policy or apply.path].append(apply)
        gate = asyncio.Semaphore(AT_ONCE)

        async def gated(applies: list[Apply]) -> list[EventNote]:
            async with gate:
                return await self._write_in_order(applies, known)

        told = await _all(gated(applies) for applies in groups.values())
        for note in (*actions.events, *(note for notes in told for note in notes)):
            await self._say(note)
        return self.problems != before

    async def _write_in_order(self, applies: list[Apply], known: set[str]) -> list[EventNote]:
        """One policy's writes; what is to be told about those that were refused."""
        told = []
        for apply in applies:
            is_status = apply.path.endswith("/status")
            if is_status and apply.policy in self.problems:
                continue  # it would say what is not so; the next round says what is
            try:
                self._wrote(apply, (await self._client.apply(apply)).get("metadata") or {})
            except ApiError as error:
                if error.is_passing:
                    raise
                if is_status and error.status == 404:
                    continue  # it was deleted meanwhile
                text = f"{apply.what} cannot be written: {str(error)[:_MOST_MESSAGE]}"
                self.refused[apply.path] = text
                if apply.path not in known:
                    _log.warning("%s%s", text, error.advice)
                if apply.policy is not None and not is_status:
                    self.problems[apply.policy] = text
                elif apply.subject is not None and apply.path not in known:
                    kind, key, uid = apply.subject
                    told.append(EventNote(kind, key, uid, "Warning", "StatusRefused", text))
        return told

    async def _say(self, note: EventNote) -> None:
        body = event_body(note, namespace="default", now=datetime.now(UTC), instance=self._instance)
        try:
            await self._client.create(f"/apis/events.k8s.io/v1/namespaces/{body['metadata']['namespace']}/events", body)
        except ApiError as error:
            if error.is_passing:
                raise
            self.events_refused += 1
            _log.warning("event %s: %s%s", note.reason, error, error.advice)


async def _all(work: Iterable[Coroutine[Any, Any, list[EventNote]]]) -> list[list[EventNote]]:
    """All results; with an error the others are ended before it is raised, so that no write outlives its round."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

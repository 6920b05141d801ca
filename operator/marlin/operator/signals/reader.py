"""Keeps what is known of all live signals: who is to be asked now, and what came of it.

Sites that state the same source share one feed, so that a provider is asked once for both. A source that failed is
asked again sooner than one that answered, then less and less often; a provider that says how long to wait is obeyed.
The clock is passed in; nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from marlin.api.datacenter import Datacenter
from marlin.operator.signals.http import RateLimitedError, SignalError
from marlin.operator.signals.keeping import Histories, digest
from marlin.operator.signals.ladder import FIELDS, AnySignal, live_signal
from marlin.operator.signals.providers import Provider
from marlin.operator.signals.values import Feed, Point, Problem

_log: Final = logging.getLogger(__name__)

FIRST_RETRY_S: Final = 30.0
LONGEST_RETRY_S: Final = 1800.0
AT_ONCE: Final = 8
"""Sources asked at the same time."""

_NOT_OF_THE_SOURCE: Final = frozenset({"fallback_value", "stale_after_seconds", "refresh_period_seconds"})


@dataclass(frozen=True, slots=True)
class Source:
    """A live signal of one or more sites."""

    key: str
    field: str
    signal: AnySignal
    zone: str | None


ProviderMaker = Callable[[AnySignal, str | None], Provider]


class Reader:
    """The feeds of all live signals.

    Args:
        make: makes the provider of a signal; it may raise ``SignalError``.
        kept: the last week of sources, by their digest, as an earlier process kept it. Default: nothing.
    """

    def __init__(self, make: ProviderMaker, kept: Histories | None = None) -> None:
        self._make = make
        self._kept = dict(kept or {})
        self._feeds: dict[str, Feed] = {}
        self._providers: dict[str, Provider] = {}

    def feeds(self, sites: Iterable[Datacenter]) -> dict[tuple[str, str], Feed]:
        """(site, signal) to what is known of it."""
        return {(site.metadata.name, source.field): self._feed(source) for site in sites for source in _sources(site)}

    def histories(self) -> dict[str, tuple[Point, ...]]:
        """The last week of what is asked for, by digest, to be kept."""
        return {digest(key): feed.history for key, feed in self._feeds.items() if feed.history}

    def due(self, sites: Iterable[Datacenter], now: datetime) -> list[Source]:
        """The sources to be asked now, each once."""
        return [source for source in self._known(sites).values() if now >= self._next(source)]

    def next_due(self, sites: Iterable[Datacenter], now: datetime) -> datetime | None:
        """When the next source is due; None where no signal is live."""
        times = [max(now, self._next(source)) for source in self._known(sites).values()]
        return min(times, default=None)

    async def refresh(self, sites: Iterable[Datacenter], now: datetime) -> int:
        """Asks what is due, a few at a time; forgets sources that no site states any more. Returns how many."""
        sites = tuple(sites)
        known = self._known(sites)
        self._feeds = {key: feed for key, feed in self._feeds.items() if key in known}
        self._providers = {key: provider for key, provider in self._providers.items() if key in known}
        due = self.due(sites, now)
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(source: Source) -> None:
            async with gate:
                await self._ask(source, now)

        await asyncio.gather(*(ask(source) for source in due))
        return len(due)

    def _feed(self, source: Source) -> Feed:
        """What is known of a source; of one that was not asked yet, what was kept."""
        feed = self._feeds.get(source.key)
        if feed is None:
            feed = self._feeds[source.key] = Feed(history=self._kept.pop(digest(source.key), ()))
        return feed

    async def _ask(self, source: Source, now: datetime) -> None:
        feed = self._feed(source)
        try:
            provider = self._providers.get(source.key)
            if provider is None:
                provider = self._providers[source.key] = self._make(source.signal, source.zone)
            self._feeds[source.key] = feed.heard(await provider.fetch(now), now)
        except SignalError as error:
            reason = "RateLimited" if isinstance(error, RateLimitedError) else error.reason
            wait_s = error.retry_after_s or min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**feed.failures)
            self._feeds[source.key] = feed.failed(Problem(reason, str(error), now + timedelta(seconds=wait_s)), now)
            _log.warning("%s from %s: %s", source.field, source.signal.provider.value, error)

    def _known(self, sites: Iterable[Datacenter]) -> dict[str, Source]:
        """Source by key; where two sites state one, with the shorter period."""
        known: dict[str, Source] = {}
        for site in sites:
            for source in _sources(site):
                other = known.get(source.key)
                if other is None or source.signal.refresh_period_seconds < other.signal.refresh_period_seconds:
                    known[source.key] = source
        return known

    def _next(self, source: Source) -> datetime:
        feed = self._feeds.get(source.key)
        if feed is None or feed.asked_at is None:
            return datetime.min.replace(tzinfo=UTC)
        if feed.problem is not None:
            return feed.problem.retry_at
        return feed.asked_at + timedelta(seconds=source.signal.refresh_period_seconds)


def _sources(site: Datacenter) -> Iterable[Source]:
    zone = site.spec.location.zone
    for field in FIELDS:
        signal = live_signal(site, field)
        if signal is not None:
            stated = signal.model_dump_json(exclude=set(_NOT_OF_THE_SOURCE), exclude_none=True)
            yield Source(f"{field} {zone} {stated}", field, signal, zone)

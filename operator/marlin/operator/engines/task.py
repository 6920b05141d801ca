"""Reads the engines of the pools that want it, each pool in a task of its own.

What is gone is forgotten. A pool's plan never waits for its engines: until they were read, nothing is known of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from marlin.operator.core.calibrating import EngineSight
from marlin.operator.core.observed import Key
from marlin.operator.engines.counting import NAMES, PREFIX, counts_of
from marlin.operator.engines.fitting import Fit, NoFit
from marlin.operator.engines.wanted import Wanted
from marlin.operator.engines.watching import Engines, Place, Reading
from marlin.operator.scraping.samples import of_page
from marlin.operator.scraping.sources import Scraper
from marlin.operator.signals.http import SignalError

_log: Final = logging.getLogger(__name__)

_NO_SERIES: Final = "prometheus: it has no vllm series of this model: check its scrape configuration and matchers"


class EngineTasks:
    """What is known of all pools' engines.

    Args:
        scraper: reads pages, and asks Prometheus servers.
        look_every_s: between two readings, s.
        ring: called when a pool is found to be as fast as was not known before.
        clock_s: Unix time, s.
    """

    def __init__(
        self,
        scraper: Scraper,
        look_every_s: float,
        ring: Callable[[], None],
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self.scraper = scraper
        self.look_every_s = look_every_s
        self.ring = ring
        self.clock_s = clock_s
        self._watchers: dict[Key, EngineWatcher] = {}

    def follow(self, wanted: Mapping[Key, Wanted]) -> None:
        """Says whose engines are to be read; starts and ends tasks as pools come and go."""
        for key in self._watchers.keys() - wanted.keys():
            self._watchers.pop(key).close()
        for key, one in wanted.items():
            watcher = self._watchers.get(key)
            if watcher is None:
                watcher = self._watchers[key] = EngineWatcher(self, key, one)
                watcher.start()
            watcher.follow(one)

    def sights(self) -> dict[Key, EngineSight]:
        """Pool to what is known of its engines."""
        return {key: watcher.sight() for key, watcher in self._watchers.items()}

    async def close(self) -> None:
        """Ends all tasks."""
        tasks = [watcher.close() for watcher in self._watchers.values()]
        self._watchers.clear()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class EngineWatcher:
    """One pool's task."""

    tasks: EngineTasks
    key: Key
    wanted: Wanted
    engines: Engines = field(default_factory=Engines)
    problem: str = ""
    """What went wrong at the last reading, in one line."""
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._run(), name=f"engines of {self.key[1]}")

    def follow(self, wanted: Wanted) -> None:
        """Says where its engines are now; of another model nothing is known."""
        if wanted.model_name != self.wanted.model_name:
            self.engines = Engines()
        self.wanted = wanted

    def close(self) -> asyncio.Task[None]:
        """Ends the task."""
        assert self._task is not None
        self._task.cancel()
        return self._task

    def sight(self) -> EngineSight:
        """What is known."""
        fitted = self.engines.fitted
        reason, message = ("", "") if isinstance(fitted, Fit) else (fitted.reason, fitted.message)
        if not self.engines.last and (self.problem or self.wanted.out_of_reach) and isinstance(fitted, NoFit):
            reason, message = "EnginesUnreachable", self.problem or _out_of_reach(self.wanted)
        is_whole = bool(self.engines.last) and not self.problem and not self.wanted.out_of_reach
        return EngineSight(
            fit=fitted if isinstance(fitted, Fit) else None,
            reason=reason,
            message=message,
            running=self.engines.running() if is_whole else {},
            waiting=self.engines.waiting() if is_whole else {},
            is_whole=is_whole,
        )

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 it costs one reading of one pool
                _log.exception("reading the engines of InferencePool %s/%s failed", *self.key)
            # Spread, so that a thousand pools are not read in the same moment.
            await asyncio.sleep(self.tasks.look_every_s * random.uniform(0.9, 1.1))

    async def look(self) -> None:
        """Reads all engines once."""
        before = self.sight()
        readings, problem = await (self._asked() if self.wanted.prometheus is not None else self._scraped())
        if problem and not self.problem:
            _log.warning("engines of InferencePool %s/%s: %s", *self.key, problem)
        self.problem = problem
        self.engines = self.engines.read(readings)
        after = self.sight()
        if (after.fit, after.reason) != (before.fit, before.reason):
            self.tasks.ring()

    async def _scraped(self) -> tuple[dict[Place, Reading], str]:
        found: dict[Place, Reading] = {}
        problem = ""
        for address in self.wanted.addresses:
            try:
                pages, failed = await self.tasks.scraper.pages(address.url, address.tls)
                at_s = self.tasks.clock_s()
                for host, page in pages.items():
                    counts = counts_of(of_page(page, PREFIX), self.wanted.model_name)
                    found |= {(address.site, f"{address.url} {host} {e}"): Reading(c, at_s) for e, c in counts.items()}
                if failed is not None:
                    raise failed
            except SignalError as error:
                problem = problem or str(error)
        return found, problem

    async def _asked(self) -> tuple[dict[Place, Reading], str]:
        source = self.wanted.prometheus
        assert source is not None
        try:
            scrapes = await self.tasks.scraper.query(source, NAMES, {"model_name": self.wanted.model_name})
        except SignalError as error:
            return {}, f"prometheus: {error}"
        found: dict[Place, Reading] = {}
        for who, scrape in scrapes.items():
            site = scrape.samples[0].labels.get(source.datacenter_label, "")
            counts = counts_of(scrape.samples, self.wanted.model_name)
            found |= {(site, f"{who} {engine}"): Reading(c, scrape.at_s) for engine, c in counts.items()}
        return found, "" if found else _NO_SERIES


def _out_of_reach(wanted: Wanted) -> str:
    names = ", ".join(wanted.out_of_reach[:3])
    return f"the engines of {names} are in another cluster: name a Prometheus in spec.observation of the MarlinPolicy"

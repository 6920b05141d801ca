"""One task for each policy that says where its routers are: reads their counters, remembers, keeps.

The host of an address may stand for many routers (a headless Service): all its addresses are read. Where none are
named, a Prometheus that scrapes them may be asked instead. What is over by the hour of an epoch is written into a
ConfigMap beside the policy, owned by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from marlin.api.policy import Observation, PrometheusObservation, RouterSource
from marlin.operator.arrivals.counting import NAMES, Counts, RouterPage, increase, page_of, page_of_samples
from marlin.operator.arrivals.expecting import forecasts
from marlin.operator.arrivals.history import Ended, History, history_of
from marlin.operator.core.applies import Apply, apply_record
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.observed import Key, ObservedPolicy
from marlin.operator.epochs import epoch_to_plan
from marlin.operator.kube.client import ApiError
from marlin.operator.members.sighting import Finding
from marlin.operator.scraping.sources import Scraper
from marlin.operator.signals.http import SignalError

_log: Final = logging.getLogger(__name__)

NOT_READ_YET: Final = Finding(None, "NotReadYet")

RECORD: Final = "arrivals"
KEY: Final = "arrivals.json"


def record_name(policy: str) -> str:
    """Name of the ConfigMap. No origin's table has a dot in its name."""
    return f"marlin-{policy}.arrivals"


def counts_arrivals(observation: Observation | None) -> bool:
    """Whether a policy says where its routers can be read."""
    return observation is not None and bool(observation.routers or observation.prometheus)


class Hub(Protocol):
    """What is written to."""

    async def apply(self, apply: Apply) -> dict[str, Any]:
        """A server-side apply.

        Raises:
            ApiError: it was refused.
        """


class Arrivals:
    """What is known of all policies' arrivals.

    Args:
        client: the hub.
        scraper: asks routers, or the Prometheus that scrapes them.
        look_every_s: between two readings, s.
        kept: (namespace, ConfigMap) to its text, as found at the start.
        clock_s: Unix time, s.
    """

    def __init__(
        self,
        client: Hub,
        scraper: Scraper,
        look_every_s: float,
        kept: Mapping[Key, str],
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._scraper = scraper
        self._look_every_s = look_every_s
        self._kept = dict(kept)
        self._clock_s = clock_s
        self._watchers: dict[Key, Watcher] = {}
        self.failures = 0
        """Readings that failed."""

    def forecasts(self, policies: tuple[ObservedPolicy, ...]) -> dict[Key, Forecast]:
        """(namespace, pool) to what is expected of it in the epoch to plan; starts and ends tasks as policies do."""
        found: dict[Key, Forecast] = {}
        wanted = {p.key: p for p in policies if p.model is not None and counts_arrivals(p.model.spec.observation)}
        for key in self._watchers.keys() - wanted.keys():
            self._watchers.pop(key).close()
        for key, policy in wanted.items():
            assert policy.model is not None
            spec = policy.model.spec
            watcher = self._watchers.get(key)
            if watcher is None or watcher.history.epoch_s != float(spec.epoch_seconds):
                if watcher is not None:
                    watcher.close()
                text = self._kept.pop((key[0], record_name(key[1])), "")
                watcher = Watcher(self, policy, history_of(text, float(spec.epoch_seconds)))
                self._watchers[key] = watcher
            watcher.follow(policy)
            epoch = epoch_to_plan(self.now(), float(spec.epoch_seconds)).number
            for pool, forecast in watcher.expected(epoch).items():
                found[key[0], pool] = forecast
        return found

    def ended(self) -> dict[Key, Ended]:
        """Policy to what its routers saw of the newest epoch that is over; policies without one are missing."""
        return {key: watcher.history.ended for key, watcher in self._watchers.items() if watcher.history.ended}

    def in_flight(self) -> dict[Key, Mapping[tuple[str, str], float]]:
        """Policy to requests by (pool, site) at the last reading; those whose routers were not all read are missing."""
        return {key: watcher.in_flight for key, watcher in self._watchers.items() if watcher.in_flight is not None}

    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(self._clock_s(), tz=UTC)

    def findings(self) -> dict[Key, Finding]:
        """Policy to whether its routers can be read; those that name none are missing."""
        return {key: watcher.finding for key, watcher in self._watchers.items()}

    async def read_all(self, observation: Observation) -> tuple[list[tuple[str, str, RouterPage]], list[str]]:
        """All routers of a policy: name, origin (empty: not known) and page of each; and what went wrong."""
        found: list[tuple[str, str, RouterPage]] = []
        problems = []
        for source in observation.routers:
            try:
                found += [(name, source.origin or "", page) for name, page in (await self.read(source)).items()]
            except SignalError as error:
                problems.append(f"{source.name}: {error}")
        if not observation.routers and observation.prometheus is not None:
            try:
                found += await self._asked(observation.prometheus)
            except SignalError as error:
                self.failures += 1
                problems.append(f"prometheus: {error}")
        return found, problems

    async def _asked(self, prometheus: PrometheusObservation) -> list[tuple[str, str, RouterPage]]:
        found = await self._scraper.query(prometheus, NAMES)
        if not found:
            raise SignalError("it has no series of routers: check its scrape configuration and matchers")
        return [
            (who, scrape.samples[0].labels.get(prometheus.origin_label or "", ""), page_of_samples(scrape.samples))
            for who, scrape in sorted(found.items())
        ]

    async def read(self, source: RouterSource) -> dict[str, RouterPage]:
        """The pages of all routers behind an address, by the router's own address.

        Raises:
            SignalError: one of them could not be read.
        """
        pages, problem = await self._scraper.pages(source.metrics_url, source.tls)
        if problem is not None:  # half of a site's routers would look like half of its requests
            self.failures += 1
            raise problem
        return {f"{source.name} {host}": page_of(page) for host, page in pages.items()}

    async def keep(self, policy: ObservedPolicy, history: History) -> None:
        """Writes a history beside its policy."""
        await self._client.apply(
            apply_record((policy.key[0], record_name(policy.name)), RECORD, {KEY: history.to_json()}, policy)
        )

    async def close(self) -> None:
        """Ends all tasks."""
        tasks = [watcher.close() for watcher in self._watchers.values()]
        self._watchers.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def rest(self) -> None:
        """Until the next reading."""
        await asyncio.sleep(self._look_every_s)

    def time_s(self) -> float:
        """Unix time, s."""
        return self._clock_s()


@dataclass(slots=True)
class Watcher:
    """One policy's task."""

    arrivals: Arrivals
    policy: ObservedPolicy
    history: History
    in_flight: Mapping[tuple[str, str], float] | None = None
    """(pool, site) to requests there at the last reading; None: not all routers could be read."""
    finding: Finding = NOT_READ_YET
    """Whether the routers can be read."""
    _counters: dict[str, Counts] = field(default_factory=dict)
    """Router to what its counters said when they were read last."""
    _read_s: float | None = None
    _kept: int | None = None
    _failing: bool = False
    _expected: tuple[tuple[int, int | None, bool], dict[str, Forecast]] | None = None
    _task: asyncio.Task[None] | None = None

    def follow(self, policy: ObservedPolicy) -> None:
        """Says what the policy is like now."""
        self.policy = policy
        if self._task is None:
            self._kept = self.history.last
            self._task = asyncio.create_task(self._run(), name=f"arrivals of {policy.name}")

    def expected(self, epoch: int) -> dict[str, Forecast]:
        """What is expected of an epoch; worked out again only when there is an epoch more to go by."""
        running = self.history.running
        is_next = running is not None and running.epoch < epoch
        known = (epoch, self.history.last, is_next)
        if self._expected is None or self._expected[0] != known:
            self._expected = (known, forecasts(self.history, epoch))
        return self._expected[1]

    def close(self) -> asyncio.Task[None]:
        """Ends the task."""
        assert self._task is not None
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 it costs one reading of one policy
                _log.exception("reading the arrivals of MarlinPolicy %s/%s failed", *self.policy.key)
            await self.arrivals.rest()

    async def look(self) -> None:
        """Reads all routers once, and keeps the history when an epoch is over."""
        assert self.policy.model is not None
        observation = self.policy.model.spec.observation
        pages, problems = ([], []) if observation is None else await self.arrivals.read_all(observation)
        arrived: dict[str, Counts] = {}
        seen = bool(pages)
        counters: dict[str, Counts] = {}
        in_flight: dict[tuple[str, str], float] = {}
        for name, origin, page in pages:
            before = self._counters.get(name)
            counters[name] = page.counts
            for place, requests in page.in_flight.items():
                in_flight[place] = in_flight.get(place, 0.0) + requests
            if before is not None:
                arrived[origin] = arrived.get(origin, Counts()).plus(increase(page.counts, before))
        if problems and not self._failing:
            _log.warning("arrivals of MarlinPolicy %s/%s: %s", *self.policy.key, "; ".join(problems[:3]))
        self._failing = bool(problems)
        said = "; ".join(problems[:3])
        self.finding = Finding(False, "Unreadable", said) if problems else Finding(True, "Observed")
        self.in_flight = None if problems else in_flight
        # Where one could not be read, those that are gone cannot be told from those that are silent.
        self._counters = self._counters | counters if problems else counters
        now_s = self.arrivals.time_s()
        if seen and not problems and self._read_s is not None and self._read_s < now_s:
            self.history = self.history.heard(arrived, self._read_s, now_s)
        # With a router missing the while is not watched: half of the arrivals would look like a quiet epoch.
        self._read_s = now_s if seen and not problems else None
        self.history = self.history.until(now_s)
        if self.history.last is not None and self.history.last != self._kept:
            try:
                await self.arrivals.keep(self.policy, self.history)
                self._kept = self.history.last
            except ApiError as error:
                _log.warning("arrivals of MarlinPolicy %s/%s are not kept: %s", *self.policy.key, error)

"""Hours of everything at once, before a release: ``router_soak.py [--minutes 30]`` (``make soak``).

A router with two workers stands before four backends. Clients send JSON, streams, uploads in chunks and malformed
requests, read fast or slowly or leave; meanwhile backends are killed and stopped, a worker is killed, and the plan
changes every five seconds. In the end every request that was sent has been answered or has failed clearly, all counters
of requests in flight are zero, in the router and at the backends, its own count of requests is that of the clients, and
neither its memory nor its open files have grown. Exit code 1 and the reasons otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
from router_client import table, write
from router_process import RouterProcess, running
from soak_client import ANSWERED, LEFT, LOST, REFUSED, WRONG, Client, Counts
from soak_measures import drained, free_ports, open_files, rss_mb, sum_of, workers_of

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan

BACKENDS: Final = 4
MAX_GROWTH_MB: Final = 5.0
MIN_ANSWERED: Final = 0.9
"""Of the requests that should be answered; the others met a backend that was being killed."""
REPORT_S: Final = 4.0
"""What a worker counted in its last seconds is lost with it."""
_MIN_SAMPLES: Final = 10
"""In a quarter of a worker's life, for a statement on its growth."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how hard."""

    seconds: float = 1800.0
    clients: int = 32
    plan_interval_s: float = 5.0
    kill_interval_s: float = 7.0
    seed: int = 0


@dataclass(slots=True)
class Sizes:
    """What one worker held, sample by sample."""

    rss_mb: list[float] = field(default_factory=list)
    files: int = 0


@dataclass(slots=True)
class Soaked:
    """What came of it."""

    counts: Counts
    plans: int = 0
    backend_kills: int = 0
    backend_stops: int = 0
    worker_kills: int = 0
    uncounted: int = 0
    """At most this many requests may be missing in the router's count: those of killed workers' last seconds."""
    router_count: int = 0
    in_flight: float = 0.0
    at_backends: int = 0
    growth_mb: float = 0.0
    rss_mb: float = 0.0
    more_files: int = 0

    def complaints(self) -> list[str]:
        """What must not be; empty when all is well."""
        counts = self.counts
        outcomes = counts.outcomes
        found = [f"wrong answer: {what}" for what in counts.wrong]
        if (ended := sum(outcomes.values())) != counts.sent:
            found.append(f"{counts.sent} requests were sent, {ended} ended")
        wanted = counts.sent - outcomes[LEFT] - outcomes[REFUSED] - outcomes[LOST]
        if outcomes[ANSWERED] < MIN_ANSWERED * wanted:
            found.append(f"only {outcomes[ANSWERED]} of {wanted} requests were answered")
        if outcomes[LOST] and not self.worker_kills:
            found.append(f"{outcomes[LOST]} requests were lost without a worker being killed")
        least = counts.sent - counts.left_early - self.uncounted
        if not least <= self.router_count <= counts.sent:
            found.append(f"the router counted {self.router_count} requests, not {least} to {counts.sent}")
        if self.in_flight or self.at_backends:
            found.append(f"still in flight: {self.in_flight:g} by the router's count, {self.at_backends} at backends")
        if self.growth_mb > MAX_GROWTH_MB:
            found.append(f"a worker grew by {self.growth_mb:.1f} MB")
        if self.more_files > 0:
            found.append(f"a worker has {self.more_files} more open files than before the load")
        return found

    def lines(self) -> list[str]:
        """The figures, for people."""
        outcomes = ", ".join(f"{n} {what}" for what, n in self.counts.outcomes.most_common())
        return [
            f"sent {self.counts.sent}: {outcomes or 'nothing'}",
            f"counted by the router {self.router_count}; in flight at the end {self.in_flight:g}, "
            f"at backends {self.at_backends}",
            f"plans {self.plans}, backends killed {self.backend_kills} and stopped {self.backend_stops} times, "
            f"workers killed {self.worker_kills} times",
            f"largest worker {self.rss_mb:.1f} MB, growth {self.growth_mb:+.1f} MB, "
            f"open files {self.more_files:+d}, wrong answers {self.counts.outcomes[WRONG]}",
        ]


class Fleet:
    """Backends as processes that are killed, stopped and started again, each at its own port."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self.ports = ports
        self._seed = seed
        self._processes: list[asyncio.subprocess.Process | None] = [None] * len(ports)

    async def start(self, index: int) -> None:
        """Starts one and waits until it listens."""
        self._seed += 1
        backend = Path(__file__).with_name("soak_backend.py")
        self._processes[index] = await asyncio.create_subprocess_exec(
            sys.executable, str(backend), str(self.ports[index]), str(self._seed)
        )
        while not await self._answers(self.ports[index]):  # noqa: ASYNC110 a process that starts has nothing to wait for
            await asyncio.sleep(0.05)

    async def _answers(self, port: int) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    async def kill(self, index: int) -> None:
        """Kills one, as a node does that loses its power."""
        process, self._processes[index] = self._processes[index], None
        if process is not None:
            process.kill()
            await process.wait()

    def signal(self, index: int, number: int) -> None:
        """Stops one or lets it go on."""
        process = self._processes[index]
        if process is not None:
            process.send_signal(number)

    async def revive(self) -> None:
        """Lets all go on that are stopped, and starts those that were killed."""
        for index, process in enumerate(self._processes):
            if process is None:
                await self.start(index)
            else:
                process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Ends all."""
        for index in range(len(self.ports)):
            await self.kill(index)


class Soak:
    """One run."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._random = Random(options.seed)
        self._counts = Counts()
        self._soaked = Soaked(self._counts)
        self._generation = 0
        self._sent_log: list[tuple[float, int]] = []
        self._sizes: dict[int, Sizes] = {}
        self._last_kill_s = 0.0
        self._fleet = Fleet(free_ports(BACKENDS), options.seed * 1000)

    async def run(self) -> Soaked:
        """Runs it."""
        try:
            for index in range(BACKENDS):
                await self._fleet.start(index)
            async with running(self._folder, self._table(), "--workers", "2", "--log-format", "json") as router:
                await self._load(router)
                await self._settle(router)
        finally:
            await self._fleet.end()
        return self._soaked

    async def _load(self, router: RouterProcess) -> None:
        options = self._options
        self._files_before = {pid: open_files(pid) for pid in workers_of(router)}
        stop = asyncio.Event()
        port = int(router.url.rsplit(":", 1)[1])
        tasks = [
            asyncio.create_task(
                Client(port, Random(options.seed * 10_000 + n), self._counts, lambda: self._soaked.worker_kills).run(
                    stop
                )
            )
            for n in range(options.clients)
        ]
        log = asyncio.create_task(drained(router))
        troubles = [asyncio.create_task(work) for work in (self._plans(), self._kills(router), self._measure(router))]
        try:
            done, _ = await asyncio.wait(
                [*tasks, *troubles], timeout=options.seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            for trouble in troubles:
                trouble.cancel()
            await asyncio.gather(*troubles, return_exceptions=True)
            await self._fleet.revive()
            stop.set()
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, *troubles, log):
                task.cancel()
            await asyncio.gather(*tasks, *troubles, log, return_exceptions=True)

    async def _plans(self) -> None:
        while True:
            await asyncio.sleep(self._options.plan_interval_s)
            write(self._folder / "table.json", self._table())
            self._soaked.plans += 1

    async def _kills(self, router: RouterProcess) -> None:
        """Kills or stops a backend, never more than one at a time; and once, early, a worker."""
        began_s = time.monotonic()
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._options.kill_interval_s)
            if not self._soaked.worker_kills and time.monotonic() - began_s > 0.2 * self._options.seconds:
                self._kill_worker(router)
            index = self._random.randrange(BACKENDS)
            if self._random.random() < 0.5:
                self._soaked.backend_kills += 1
                await self._fleet.kill(index)
                await asyncio.sleep(self._random.uniform(0.1, 2.0))
                await self._fleet.start(index)
            else:
                self._soaked.backend_stops += 1
                self._fleet.signal(index, signal.SIGSTOP)
                await asyncio.sleep(self._random.uniform(0.5, 4.0))
                self._fleet.signal(index, signal.SIGCONT)

    def _kill_worker(self, router: RouterProcess) -> None:
        now_s = time.monotonic()
        before = max((sent for at_s, sent in self._sent_log if at_s <= now_s - REPORT_S), default=0)
        self._soaked.uncounted += self._counts.sent - before
        self._soaked.worker_kills += 1
        self._sizes.clear()
        os.kill(self._random.choice(workers_of(router)), signal.SIGKILL)

    async def _measure(self, router: RouterProcess) -> None:
        while True:
            self._sent_log = [*self._sent_log[-600:], (time.monotonic(), self._counts.sent)]
            for pid in workers_of(router):
                with contextlib.suppress(OSError):
                    self._sizes.setdefault(pid, Sizes()).rss_mb.append(rss_mb(pid))
            await asyncio.sleep(1.0)

    async def _settle(self, router: RouterProcess) -> None:
        """Waits until everything is over, and looks at what is left."""
        soaked = self._soaked
        async with aiohttp.ClientSession() as session:
            for _ in range(100):
                soaked.at_backends = 0
                for port in self._fleet.ports:
                    async with session.get(f"http://127.0.0.1:{port}/soak") as reply:
                        soaked.at_backends += (await reply.json())["in_flight"]
                async with session.get(f"{router.admin_url}/metrics") as reply:
                    text = await reply.text()
                soaked.in_flight = sum_of(text, "marlin_router_in_flight")
                soaked.router_count = round(sum_of(text, "marlin_router_requests_total"))
                # Connections to backends are kept for some seconds; afterwards files are what they were.
                most = max(self._files_before.values())
                soaked.more_files = max(open_files(pid) for pid in workers_of(router)) - most
                if not soaked.in_flight and not soaked.at_backends and soaked.more_files <= 0:
                    break
                await asyncio.sleep(0.1)
        soaked.rss_mb = max((max(sizes.rss_mb) for sizes in self._sizes.values()), default=0.0)
        soaked.growth_mb = max((_growth(sizes.rss_mb) for sizes in self._sizes.values()), default=0.0)

    def _table(self) -> dict[str, Any]:
        """The next table: other shares or another order, now and then without one of its backends."""
        random = self._random
        self._generation += 1
        document = table(*(f"http://127.0.0.1:{port}" for port in self._fleet.ports), generation=self._generation)
        for backend in document["pools"][0]["backends"]:
            backend["maxConcurrentRequests"] = 64
        if random.random() < 0.2:
            del document["pools"][0]["backends"][random.randrange(BACKENDS)]
        names = tuple(sorted(f"dc{i}" for i in range(BACKENDS)))
        cuts = sorted(random.randrange(10_001) for _ in range(BACKENDS - 1))
        weights = tuple(b - a for a, b in zip([0, *cuts], [*cuts, 10_000], strict=True))
        pool: dict[str, Any] = {"name": "chat", "dispatch": Dispatch.SHARES, "weights": weights}
        if random.random() < 0.4:
            order = random.sample(range(BACKENDS), BACKENDS)
            caps = tuple(random.randrange(1, 10_001) for _ in range(BACKENDS))
            pool |= {"dispatch": Dispatch.ORDERED, "order": tuple(order), "cap": caps}
        start = datetime.now(UTC) - timedelta(seconds=1)
        plan = RoutingPlan(
            epoch=self._generation,
            decided_time=start,
            valid_from=start,
            valid_until=start + timedelta(minutes=15),
            planner=PlannerKind.MERIT_ORDER,
            datacenters=names,
            pools=(PoolPlan.model_validate(pool),),
        )
        document["plan"] = plan.sealed().to_document()
        return document


async def soak(options: Options, folder: Path) -> Soaked:
    """Runs a soak; ``folder`` is for the router's files."""
    return await Soak(options, folder).run()


def _growth(rss_mb: Sequence[float]) -> float:
    """How much larger a worker is in the last quarter of its samples than in the second one; 0 for a short life."""
    quarter = len(rss_mb) // 4
    if quarter < _MIN_SAMPLES:
        return 0.0  # a process that has just started grows into its work
    return statistics.median(rss_mb[-quarter:]) - statistics.median(rss_mb[quarter : 2 * quarter])


def main(arguments: list[str]) -> int:
    """Runs a soak and prints what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make soak", description="Mixed load, kills and plan changes for a long time."
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load runs (default: 30)")
    parser.add_argument("--clients", type=int, default=32, help="how many clients at once (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="what is sent, killed and planned (default: 0)")
    chosen = parser.parse_args(arguments)
    options = Options(seconds=60 * chosen.minutes, clients=chosen.clients, seed=chosen.seed)
    with tempfile.TemporaryDirectory(prefix="marlin-soak-") as folder:
        soaked = asyncio.run(soak(options, Path(folder)))
    print("\n".join(soaked.lines()))
    complaints = soaked.complaints()
    print("\n".join(complaints[:40]) or "all well", file=sys.stderr if complaints else sys.stdout)
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

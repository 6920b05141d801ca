"""The operator as a process: lead, look, decide, write, look again.

One loop on the main thread does rounds. A round reads what is another than before, takes what is known of the signals,
calls ``reconcile`` and writes what it says. Rounds start when the watch rings, when an epoch is due, and at least once
a minute, when the versions of all objects are looked at; what a watch missed is therefore found within that minute, and
a dead watch delays but loses nothing. Only the leader does rounds.

A write that is refused becomes a condition in the next round. A right that nothing works without, and that stays
missing, ends the process with a line that names it. So does a Lease that is lost: the process is started again and
waits, which is simpler to get right than to stop half of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from marlin.api.errors import MarlinError
from marlin.api.tracing import Traces
from marlin.operator.arrivals.task import Arrivals
from marlin.operator.artifacts import Artifacts
from marlin.operator.core.applies import FIELD_MANAGER, RECORD_LABEL
from marlin.operator.core.memory import Memory
from marlin.operator.core.observed import Key
from marlin.operator.core.published import PublishedTable
from marlin.operator.core.reconcile import LONGEST_REST, Actions, World, reconcile
from marlin.operator.engines.task import EngineTasks
from marlin.operator.kube.access import Access
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.kube.hearing import Heard, Hearing
from marlin.operator.kube.inventory import Inventory
from marlin.operator.kube.lease import PATIENCE_S, Elector
from marlin.operator.kube.namespace import OwnNamespace
from marlin.operator.kube.objects import Hub
from marlin.operator.kube.watch import Watch
from marlin.operator.learning.task import Learning, LearnSettings
from marlin.operator.members.tasks import LOOK_EVERY_S, Members, named_backends
from marlin.operator.recording import Recording
from marlin.operator.scraping.sources import Scraper
from marlin.operator.signals.background import RECORD as SIGNALS
from marlin.operator.signals.background import RECORD_NAME as SIGNALS_NAME
from marlin.operator.signals.background import SignalTask
from marlin.operator.signals.http import WebHttp
from marlin.operator.signals.keeping import histories_of
from marlin.operator.signals.providers import provider_for
from marlin.operator.signals.reader import Reader
from marlin.operator.telemetry.ledger import Ledger
from marlin.operator.telemetry.levels import Levels
from marlin.operator.telemetry.spans import Phases, cycle_spans
from marlin.operator.writing import Writer

_log: Final = logging.getLogger(__name__)

LEASE_NAME: Final = FIELD_MANAGER

LEAST_REST_S: Final = 0.5
"""Pause after a round, in which a burst of changes gathers into one."""

FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 30.0
"""Pauses after a round that failed, or in which a write was refused, grow between these."""

UNHEALTHY_AFTER_S: Final = 300.0
"""A leader without a finished round for this long is to be restarted: an API server's upgrade is shorter."""


class LeadershipLostError(MarlinError):
    """Another operator leads, or may: this one has to end."""


class DeniedError(MarlinError):
    """A right or a kind that nothing works without stayed missing: better to end with a line than to seem to work."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an operator runs."""

    namespace: str
    """Where its Lease, its Secrets and ConfigMaps are."""
    instance: str
    """Its name among several, e.g. the pod's."""
    patience_s: float = PATIENCE_S
    """How long a missing right is put up with before the process ends, s."""
    artifact_volumes: Path | None = None
    """Folder under which PersistentVolumeClaims with artifacts are mounted by name; None: none are."""
    record_to: Path | None = None
    """Folder that epochs are written down in when they are over; None: nowhere."""
    learning: LearnSettings = field(default_factory=LearnSettings)
    """Of policies with ``learning: Adapt``, from what is recorded."""
    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector that takes spans over HTTP; None: no traces."""
    look_every_s: float = LOOK_EVERY_S
    """Between two looks at a site's cluster and routers, s."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is learnt beside the rounds."""

    signals: SignalTask
    members: Members
    arrivals: Arrivals
    engines: EngineTasks
    artifacts: Artifacts
    learning: Learning


class Operator:
    """One operator process.

    Args:
        access: the hub.
        settings: how it runs.
    """

    def __init__(self, access: Access, settings: Settings) -> None:
        self._access = access
        self._settings = settings
        self._bell = asyncio.Event()
        self.is_leader = False
        self.leading_since_s = 0.0
        self.rounds = 0
        self.failed_rounds = 0
        self.last_failure = ""
        """Why the last round failed, in one line; empty when it did not."""
        self.last_round_s: float | None = None
        """Monotonic time of the last round that was read and decided; None before the first."""
        self.watch: Watch | None = None
        self.writer: Writer | None = None
        self._memory = Memory()
        self._traces: Traces | None = None
        self._recording = None if settings.record_to is None else Recording(settings.record_to)
        self.ledger = Ledger()
        self.levels = Levels()
        """What is so since the last round, for metrics."""
        self.tables: Mapping[Key, PublishedTable] = {}
        """The routing tables that were published when the last round began."""

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until told to stop.

        Raises:
            LeadershipLostError: the Lease was lost.
            DeniedError: a right or a kind stayed missing.
            TracingError: traces are asked for and the extra ``otel`` is not installed.
        """
        async with AsyncExitStack() as stack:
            settings = self._settings
            if settings.otlp_endpoint is not None:
                self._traces = Traces(settings.otlp_endpoint, FIELD_MANAGER, settings.instance, version("marlin"))
                stack.push_async_callback(asyncio.to_thread, self._traces.close)
            client = await stack.enter_async_context(Client(self._access))
            elector = Elector(
                client, settings.namespace, LEASE_NAME, settings.instance, time.monotonic, settings.patience_s
            )
            try:
                if not await elector.acquire(stop):
                    return
            except ApiError as error:
                raise DeniedError(f"no Lease: {error}{error.advice if error.status != 404 else ''}") from None
            self.is_leader, self.leading_since_s = True, time.monotonic()
            _log.info("leading as %s", settings.instance)
            self.watch = Watch(self._access, self._ringer())
            self.watch.start()
            holding = asyncio.create_task(elector.hold(stop))
            working = asyncio.create_task(self._work(client, self.watch.hearing, stop))
            try:
                await asyncio.wait({holding, working}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.is_leader = False
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await asyncio.to_thread(self.watch.stop)
                holding.cancel()
                outcome = (await asyncio.gather(holding, return_exceptions=True))[0]
                await elector.release()
            if outcome is False and not stop.is_set():
                why = f"could not be renewed: {elector.last_problem}" if elector.last_problem else "has another holder"
                raise LeadershipLostError(f"the Lease {why}")
            if working.done() and not working.cancelled() and (failed := working.exception()) is not None:
                raise failed

    def _ringer(self) -> Callable[[], None]:
        """What the watch's thread calls."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            with suppress(RuntimeError):  # the loop is closed already: there is nobody to wake
                loop.call_soon_threadsafe(self._bell.set)

        return ring

    def health(self, now_s: float) -> str:
        """What is wrong with this process, in one line; empty when nothing is.

        Args:
            now_s: monotonic time.
        """
        if not self.is_leader:
            return ""
        if self.watch is not None and not self.watch.is_alive:
            return "the watch's thread has ended"
        since_s = now_s - (self.last_round_s if self.last_round_s is not None else self.leading_since_s)
        if since_s > UNHEALTHY_AFTER_S:
            return f"no round was finished for {since_s:.0f} s"
        return ""

    async def _work(self, client: Client, hearing: Hearing, stop: asyncio.Event) -> None:
        http = WebHttp()
        namespace = OwnNamespace(client, self._settings.namespace)
        signals: SignalTask | None = None
        unpacked = TemporaryDirectory(prefix="marlin-artifacts-")
        artifacts = Artifacts(namespace, http, Path(unpacked.name), self._settings.artifact_volumes, self._bell.set)
        arrivals: Arrivals | None = None
        engines = EngineTasks(Scraper(http, namespace), self._settings.look_every_s, self._bell.set)
        members = Members(self._access, namespace, Inventory(client), http, self._bell.set, self._settings.look_every_s)
        learning = Learning(self._settings.record_to, self._settings.learning, self._bell.set)
        hub = Hub(client)
        self.writer = Writer(client, self._settings.instance, hub.wrote)
        pause_s = FIRST_RETRY_S
        denied_since_s: float | None = None
        try:
            while not stop.is_set():
                self._bell.clear()
                try:
                    if arrivals is None:
                        arrivals = Arrivals(
                            client, engines.scraper, self._settings.look_every_s, await _records(client, "arrivals")
                        )
                    if signals is None:
                        signals = SignalTask(await self._reader(client, http, namespace), self._bell.set)
                    known = Sources(signals, members, arrivals, engines, artifacts, learning)
                    actions = await self._round(hub, known, self.writer, hearing.take(time.monotonic()))
                    await signals.keep(client, self._settings.namespace)
                    rest_s = (actions.wake_at - datetime.now(UTC)).total_seconds()
                    rest_s = min(rest_s, hearing.all_due_in_s(time.monotonic()))
                    self.last_failure, denied_since_s = "", None
                    if self.writer.refused:
                        # Nothing rings when a role or a quota is mended.
                        rest_s, pause_s = min(rest_s, pause_s), 2 * pause_s
                    else:
                        pause_s = FIRST_RETRY_S
                except ApiError as error:
                    hearing.missed()
                    self.failed_rounds += 1
                    self.last_failure = f"{error}{error.advice}"
                    _log.warning("round: %s", self.last_failure)
                    rest_s, pause_s = max(pause_s, error.retry_after_s or 0.0), 2 * pause_s
                    denied_since_s = self._denied_since(error, denied_since_s)
                pause_s = min(LONGEST_RETRY_S, pause_s)
                await self._rest(max(LEAST_REST_S, min(rest_s, LONGEST_REST.total_seconds())))
        finally:
            if arrivals is not None:
                await arrivals.close()
            for ending in (engines, learning, artifacts, members):
                await ending.close()
            if signals is not None:
                await signals.close()
            unpacked.cleanup()
            await http.close()

    async def _reader(self, client: Client, http: WebHttp, namespace: OwnNamespace) -> Reader:
        """A reader of signals with what an earlier process kept of them.

        Raises:
            ApiError: that could not be asked for.
        """
        text = (await _records(client, SIGNALS)).get((self._settings.namespace, SIGNALS_NAME), "")
        kept = histories_of(text, datetime.now(UTC))
        return Reader(lambda signal, zone: provider_for(signal, zone, http, namespace), kept)

    def _denied_since(self, error: ApiError, since_s: float | None) -> float | None:
        """Since when rounds have failed for want of a right; None where it is something else.

        Raises:
            DeniedError: for too long.
        """
        if not error.is_denial:
            return None
        now_s = time.monotonic()
        if since_s is None:
            return now_s
        if now_s - since_s >= self._settings.patience_s:
            raise DeniedError(self.last_failure)
        return since_s

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(LEAST_REST_S)
        if seconds <= LEAST_REST_S:
            return
        try:
            await asyncio.wait_for(self._bell.wait(), timeout=seconds - LEAST_REST_S)
        except TimeoutError:
            return

    async def _round(self, hub: Hub, known: Sources, writer: Writer, heard: Heard | None) -> Actions:
        """Looks, decides, writes.

        Args:
            hub: where the objects are.
            known: what was learnt beside the rounds.
            writer: writes.
            heard: objects that are others than in the round before; None: all are looked at.

        Raises:
            ApiError: the objects could not be read, or the API server went away while they were written.
        """
        began_s = time.monotonic()
        objects = await hub.objects(heard)
        sites, pools, policies = objects.sites, objects.pools, objects.policies
        readable = [site.model for site in sites if site.model is not None]
        now = datetime.now(UTC).replace(microsecond=0)
        feeds, sightings, stated = await asyncio.gather(
            known.signals.feeds(readable),
            known.members.sightings(readable, [pool.model for pool in pools if pool.model is not None]),
            known.artifacts.uses(policies),
        )
        uses = await known.learning.follow(policies, stated)
        world = World(
            now=now,
            sites=sites,
            pools=pools,
            policies=policies,
            forecasts=known.arrivals.forecasts(policies),
            feeds=feeds,
            sightings=sightings,
            artifacts=uses,
            adapting=known.learning.sights(),
            in_flight=known.arrivals.in_flight(),
            engines=known.engines.sights(),
            observed=known.arrivals.findings(),
            tables=await hub.tables(),
            write_problems=dict(writer.problems),
        )
        read_s = time.monotonic()
        # In a thread: a large fleet takes longer than a Lease should have to wait for.
        actions = await asyncio.to_thread(reconcile, world, self._memory)
        self.rounds += 1
        self.last_round_s = time.monotonic()
        models = [pool.model for pool in pools if pool.model is not None]
        known.members.scale(actions.scales, {key: b.datacenter_name for m in models for key, b in named_backends(m)})
        known.engines.follow(actions.engines)
        self.ledger.heard(actions.report)
        self.ledger.learnt(known.learning.results())
        self.levels = Levels(actions.report, self.ledger.last, ended := known.arrivals.ended())
        if self._recording is not None:
            await self._recording.heard(actions.report, ended)
        self.tables = world.tables
        if await writer.write(actions):
            self._bell.set()  # what was refused is to be said at once
        ended_s = time.monotonic()
        if self._traces is not None:
            for span in cycle_spans(
                Phases(began_s, read_s, self.last_round_s, ended_s), actions, time.time() - ended_s
            ):
                self._traces.add(span)
        phases = (read_s - began_s, self.last_round_s - read_s, ended_s - self.last_round_s)
        self.ledger.took(*phases)
        _log.debug(
            "round: read in %.3f s, decided in %.3f s, wrote %d in %.3f s", *phases[:2], len(actions.applies), phases[2]
        )
        return actions


async def _records(client: Client, record: str) -> dict[Key, str]:
    """What was remembered of a kind: ConfigMap to its text."""
    listed = await client.get("/api/v1/configmaps", {"labelSelector": f"{RECORD_LABEL}={record}"})
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): str(
            (item.get("data") or {}).get(f"{record}.json", "")
        )
        for item in listed.get("items") or ()
    }

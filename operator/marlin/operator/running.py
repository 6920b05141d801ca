"""The operator as a process: lead, look, decide, write, look again.

One loop on the main thread does rounds. A round reads everything, asks the signals that are due, calls ``reconcile``
and writes what it says. Rounds start when the watch rings, when an epoch is due, and at least once a minute; what a
watch missed is therefore found within that minute, and a dead watch delays but loses nothing. Only the leader does
rounds.

A write that is refused becomes a condition in the next round. A Lease that is lost ends the process: it is started
again and waits, which is simpler to get right than to stop half of it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from marlin.api.errors import MarlinError
from marlin.api.table import CONFIG_MAP_KEY, RoutingTable
from marlin.api.values import API_VERSION
from marlin.operator.core.applies import FIELD_MANAGER, MANAGED_BY, event_body
from marlin.operator.core.observed import PLURALS, Key, read_policy, read_pool, read_site
from marlin.operator.core.reconcile import LONGEST_REST, Actions, World, reconcile
from marlin.operator.kube.access import Access
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.kube.lease import Elector
from marlin.operator.kube.watch import Watch
from marlin.operator.signals.http import SignalError, WebHttp
from marlin.operator.signals.providers import provider_for
from marlin.operator.signals.reader import Reader

_log: Final = logging.getLogger(__name__)

LEASE_NAME: Final = FIELD_MANAGER

LEAST_REST_S: Final = 0.5
"""Pause after a round, in which a burst of changes gathers into one."""

LONGEST_RETRY_S: Final = 30.0
"""Longest pause after a round that failed."""

UNHEALTHY_AFTER_S: Final = 300.0
"""A leader without a finished round for this long is to be restarted: an API server's upgrade is shorter."""


class LeadershipLostError(MarlinError):
    """Another operator leads, or may: this one has to end."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an operator runs."""

    namespace: str
    """Where its Lease, its Secrets and ConfigMaps are."""
    instance: str
    """Its name among several, e.g. the pod's."""


class OwnNamespace:
    """Secrets and ConfigMaps of the operator's namespace, by name."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}"

    async def secret(self, name: str, key: str) -> str:
        """See ``marlin.operator.signals.providers.Namespace``."""
        data = await self._data("secrets", name)
        if key not in data:
            raise SignalError(f"Secret {name} has no key {key}")
        return base64.b64decode(data[key]).decode().strip()

    async def config_map(self, name: str, key: str) -> str:
        """See ``marlin.operator.signals.providers.Namespace``."""
        data = await self._data("configmaps", name)
        if key not in data:
            raise SignalError(f"ConfigMap {name} has no key {key}")
        return data[key]

    async def _data(self, plural: str, name: str) -> dict[str, str]:
        try:
            found = await self._client.get(f"{self._path}/{plural}/{name}")
        except ApiError as error:
            said = "does not exist" if error.status == 404 else f"cannot be read ({error.status})"
            kind = "Secret" if plural == "secrets" else "ConfigMap"
            raise SignalError(f"{kind} {name} {said} in the operator's namespace") from None
        return dict(found.get("data") or {})


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
        self._problems: dict[Key, str] = {}
        self.is_leader = False
        self.leading_since_s = 0.0
        self.rounds = 0
        self.last_round_s: float | None = None
        """Monotonic time of the last round that was read and decided; None before the first."""
        self.watch: Watch | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until told to stop.

        Raises:
            LeadershipLostError: the Lease was lost.
        """
        async with Client(self._access) as client:
            settings = self._settings
            elector = Elector(client, settings.namespace, LEASE_NAME, settings.instance, time.monotonic)
            if not await elector.acquire(stop):
                return
            self.is_leader, self.leading_since_s = True, time.monotonic()
            _log.info("leading as %s", settings.instance)
            self.watch = Watch(self._access, self._ringer())
            self.watch.start()
            holding = asyncio.create_task(elector.hold(stop))
            working = asyncio.create_task(self._work(client, stop))
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
                raise LeadershipLostError("the Lease was lost to another operator, or could not be renewed in time")
            if working.done() and not working.cancelled() and working.exception() is not None:
                raise working.exception() or AssertionError

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

    async def _work(self, client: Client, stop: asyncio.Event) -> None:
        http = WebHttp()
        try:
            namespace = OwnNamespace(client, self._settings.namespace)
            reader = Reader(lambda signal, zone: provider_for(signal, zone, http, namespace))
            retry_s = 1.0
            while not stop.is_set():
                self._bell.clear()
                try:
                    actions = await self._round(client, reader)
                    retry_s = 1.0
                    rest_s = (actions.wake_at - datetime.now(UTC)).total_seconds()
                except ApiError as error:
                    _log.warning("round: %s%s", error, _advice(error))
                    rest_s, retry_s = retry_s, min(LONGEST_RETRY_S, 2 * retry_s)
                await self._rest(max(LEAST_REST_S, min(rest_s, LONGEST_REST.total_seconds())))
        finally:
            await http.close()

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(LEAST_REST_S)
        if seconds <= LEAST_REST_S:
            return
        try:
            await asyncio.wait_for(self._bell.wait(), timeout=seconds - LEAST_REST_S)
        except TimeoutError:
            return

    async def _round(self, client: Client, reader: Reader) -> Actions:
        """Looks, decides, writes.

        Raises:
            ApiError: the objects could not be read.
        """
        raw = dict(zip(PLURALS, await asyncio.gather(*(_listed(client, kind) for kind in PLURALS)), strict=True))
        sites = tuple(read_site(o) for o in raw["Datacenter"])
        readable = [site.model for site in sites if site.model is not None]
        now = datetime.now(UTC).replace(microsecond=0)
        await reader.refresh(readable, now)
        world = World(
            now=now,
            sites=sites,
            pools=tuple(read_pool(o) for o in raw["InferencePool"]),
            policies=tuple(read_policy(o) for o in raw["MarlinPolicy"]),
            feeds=reader.feeds(readable),
            tables=await _tables(client),
            write_problems=dict(self._problems),
        )
        # In a thread: a large fleet takes longer than a Lease should have to wait for.
        actions = await asyncio.to_thread(reconcile, world)
        self.rounds += 1
        self.last_round_s = time.monotonic()
        if await self._write(client, actions, now):
            self._bell.set()  # what was refused is to be said at once
        return actions

    async def _write(self, client: Client, actions: Actions, now: datetime) -> bool:
        """Writes in order; whether something is to be said that was not known before."""
        before, self._problems = self._problems, {}
        for apply in actions.applies:
            if apply.policy is not None and apply.policy in self._problems and apply.path.endswith("/status"):
                continue  # it would say what is not so; the next round says what is
            try:
                await client.apply(apply)
            except ApiError as error:
                if error.status == 404 and apply.path.endswith("/status"):
                    continue  # it was deleted meanwhile
                _log.warning("%s: %s", apply.what, error)
                if apply.policy is not None and not apply.path.endswith("/status"):
                    self._problems[apply.policy] = f"{apply.what} cannot be written: {_short(error)}"
        for note in actions.events:
            body = event_body(note, namespace="default", now=datetime.now(UTC), instance=self._settings.instance)
            try:
                await client.create(f"/apis/events.k8s.io/v1/namespaces/{body['metadata']['namespace']}/events", body)
            except ApiError as error:
                _log.warning("event %s: %s", note.reason, error)
        return self._problems != before


async def _listed(client: Client, kind: str) -> list[dict[str, Any]]:
    """All objects of one of our kinds."""
    return list((await client.get(f"/apis/{API_VERSION}/{PLURALS[kind]}")).get("items") or ())


async def _tables(client: Client) -> dict[Key, RoutingTable]:
    """The routing tables that are published and can be read."""
    selector = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    found: dict[Key, RoutingTable] = {}
    for item in (await client.get("/api/v1/configmaps", {"labelSelector": selector})).get("items") or ():
        text = (item.get("data") or {}).get(CONFIG_MAP_KEY)
        if not isinstance(text, str):
            continue
        metadata = item["metadata"]
        try:
            found[metadata["namespace"], metadata["name"]] = RoutingTable.model_validate_json(text)
        except ValidationError:
            continue  # it is written anew
    return found


def _advice(error: ApiError) -> str:
    if error.status == 404:
        return "; are the CustomResourceDefinitions installed? kubectl apply -f manifests/crds"
    if error.status == 403:
        return "; the operator's role lacks this: kubectl apply -f manifests/rbac"
    return ""


def _short(error: ApiError) -> str:
    return str(error)[:300]

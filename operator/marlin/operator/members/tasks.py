"""A supervised task for each site, so that a dead cluster delays nothing but what is known of itself.

A task looks, keeps what it saw, rings when that is something else than before, and waits: the usual while when all is
well, longer and longer while it is not. A changed spec is looked at once. Whatever a look raises costs that look alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from marlin.api.datacenter import Datacenter
from marlin.api.pool import Backend, InferencePool
from marlin.operator.core.scaling import ScaleOrder
from marlin.operator.kube.access import Access
from marlin.operator.kube.client import Client
from marlin.operator.members.looking import Wanted, look_at_cluster, look_at_router
from marlin.operator.members.reaching import CredentialsError, Inventory, Secrets, access_of
from marlin.operator.members.scaling import carry_out
from marlin.operator.members.sighting import BackendKey, Finding, Sighting
from marlin.operator.signals.http import Http

_log: Final = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 15.0
LONGEST_PAUSE_S: Final = 60.0
"""Between two looks at a cluster that does not answer."""
ROUTER_DOWN_AFTER: Final = 2
"""Looks in a row without an answer after which nothing is planned for a router."""
REQUESTS_PER_S: Final = 10.0
"""To one cluster: a hub is a guest there."""
FIRST_LOOK_S: Final = 3.0
"""Most that a round waits for sites that were never looked at."""


class Members:
    """What is known of all sites.

    Args:
        hub: access of the operator's own cluster.
        secrets: where credentials are.
        inventory: where ClusterProfiles and imports of pools are.
        http: asks routers.
        ring: called when something else is seen than before.
        look_every_s: between two looks, s.
    """

    def __init__(
        self,
        hub: Access,
        secrets: Secrets,
        inventory: Inventory,
        http: Http,
        ring: Callable[[], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._inventory = inventory
        self._hub = hub
        self._secrets = secrets
        self._http = http
        self._ring = ring
        self._look_every_s = look_every_s
        self._members: dict[str, _Member] = {}

    async def sightings(self, sites: Iterable[Datacenter], pools: Iterable[InferencePool]) -> dict[str, Sighting]:
        """What is known of the sites that say how they are reached; starts and ends tasks as sites come and go."""
        wanted = wanted_of(sites, pools)
        for name in self._members.keys() - wanted.keys():
            self._members.pop(name).close()
        for name, one in wanted.items():
            if name not in self._members:
                self._members[name] = _Member(
                    self._hub, self._secrets, self._inventory, self._http, self._ring, self._look_every_s, one
                )
            self._members[name].want(one)
        waiting = [asyncio.ensure_future(m.seen.wait()) for m in self._members.values() if not m.seen.is_set()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=FIRST_LOOK_S)
            for one_late in late:
                one_late.cancel()
        return {name: member.sighting for name, member in self._members.items() if member.seen.is_set()}

    def scale(self, orders: Mapping[BackendKey, ScaleOrder], datacenters: Mapping[BackendKey, str]) -> None:
        """Hands orders to their sites; each carries its own out when it looks, at once where one is new.

        Args:
            orders: backend to its order.
            datacenters: backend to its site.
        """
        for name, member in self._members.items():
            member.obey({key: order for key, order in orders.items() if datacenters.get(key) == name})

    async def close(self) -> None:
        """Ends all tasks."""
        tasks = [member.close() for member in self._members.values()]
        self._members.clear()
        await asyncio.gather(*tasks, return_exceptions=True)


def wanted_of(sites: Iterable[Datacenter], pools: Iterable[InferencePool]) -> dict[str, Wanted]:
    """Site to what is to be looked at there, for sites that say how they are reached."""
    behind: dict[str, dict[BackendKey, Backend]] = {}
    for pool in pools:
        for key, backend in named_backends(pool):
            if backend.url is None:
                behind.setdefault(backend.datacenter_name, {})[key] = backend
    return {
        site.metadata.name: Wanted(site, behind.get(site.metadata.name, {}))
        for site in sites
        if site.spec.cluster is not None or site.spec.router is not None
    }


def named_backends(pool: InferencePool) -> list[tuple[BackendKey, Backend]]:
    """A pool's backends, each with its key."""
    key = (pool.metadata.namespace or "", pool.metadata.name)
    return [((key, backend.name), backend) for backend in pool.spec.backends]


@dataclass(slots=True)
class _Member:
    """One site's task."""

    hub: Access
    secrets: Secrets
    inventory: Inventory
    http: Http
    ring: Callable[[], None]
    look_every_s: float
    wanted: Wanted
    sighting: Sighting = field(default_factory=Sighting)
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    _orders: Mapping[BackendKey, ScaleOrder] = field(default_factory=dict)
    _poke: asyncio.Event = field(default_factory=asyncio.Event)
    _client: Client | None = None
    _access: Access | None = None
    _router_failures: int = 0
    _task: asyncio.Task[None] | None = None

    def want(self, wanted: Wanted) -> None:
        """Says what is to be looked at; what is new is looked at at once."""
        if self._task is None:
            self.wanted = wanted
            self._task = asyncio.create_task(self._run(), name=f"member {wanted.site.metadata.name}")
        elif (wanted.site.spec, wanted.backends) != (self.wanted.site.spec, self.wanted.backends):
            self.wanted = wanted
            self._poke.set()

    def obey(self, orders: Mapping[BackendKey, ScaleOrder]) -> None:
        """Says what workloads are to be scaled to."""
        if orders != self._orders:
            self._orders = orders
            self._poke.set()

    def close(self) -> asyncio.Task[None]:
        """Ends the task."""
        assert self._task is not None
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        pause_s = self.look_every_s
        try:
            while True:
                self._poke.clear()
                before = self.sighting
                try:
                    self.sighting = await self._look()
                except Exception:  # noqa: BLE001
                    # Whatever it is, it is this site's alone; the last sighting stays, and it is looked at again.
                    _log.exception("looking at Datacenter %s failed", self.wanted.site.metadata.name)
                is_away = self.sighting.cluster.reason in {"Timeout", "TLSError"}
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s) if is_away else self.look_every_s
                if not self.seen.is_set() or self.sighting != before:
                    self.seen.set()
                    self.ring()
                try:
                    # Spread, so that a hundred sites are not asked in the same moment for ever.
                    await asyncio.wait_for(self._poke.wait(), pause_s * random.uniform(0.9, 1.1))
                except TimeoutError:
                    continue
        finally:
            if self._client is not None:
                await self._client.close()

    async def _look(self) -> Sighting:
        wanted, seen = self.wanted, self.sighting
        spec = wanted.site.spec
        router = await look_at_router(self.http, self.secrets, spec.router)
        self._router_failures = self._router_failures + 1 if router.holds is False else 0
        seen = replace(seen, router=router, is_router_down=self._router_failures >= ROUTER_DOWN_AFTER)
        if spec.cluster is None:
            return replace(Sighting(), router=seen.router, is_router_down=seen.is_router_down)
        try:
            access = await access_of(spec.cluster, self.secrets, self.hub, self.inventory)
        except CredentialsError as error:
            said = Finding(None, "NotChecked", "there are no credentials to reach it with")
            return replace(seen, credentials=error.finding, cluster=said)
        client = await self._speaking_with(access, float(spec.cluster.request_timeout_seconds))
        seen = await look_at_cluster(client, wanted, seen, self.inventory)
        if not self._orders or seen.cluster.holds is not True:
            return seen
        now = datetime.now(UTC)
        problems = {key: await carry_out(client, order, now) for key, order in self._orders.items()}
        backends = {key: replace(s, scale_problem=problems.get(key, "")) for key, s in seen.backends.items()}
        return replace(seen, backends=backends)

    async def _speaking_with(self, access: Access, timeout_s: float) -> Client:
        """The client of these credentials; another one when they were rotated."""
        if self._client is None or self._access != access:
            if self._client is not None:
                await self._client.close()
            self._client, self._access = Client(access, timeout_s, requests_per_s=REQUESTS_PER_S), access
        return self._client

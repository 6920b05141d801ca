"""The hub's objects from round to round: what did not change is not read again, and stays the same object.

Lists come as bytes. Only an entry's metadata is taken out of them at once; spec and status stay bytes until it is known
whether this version of the object was read before. After an epoch was planned a thousand pools have a new status and
the spec they had: then only statuses are read.

Routing tables are half a megabyte each. Of those the list holds metadata alone; a table is fetched where its version is
neither one that was read nor one that we wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic

import msgspec
from pydantic import ValidationError

from marlin.api.table import CONFIG_MAP_KEY, RoutingTable
from marlin.api.values import API_VERSION
from marlin.operator.core.applies import MANAGED_BY, RECORD_LABEL
from marlin.operator.core.memory import Memory
from marlin.operator.core.observed import (
    PLURALS,
    AnyObserved,
    Key,
    ObservedPolicy,
    ObservedPool,
    ObservedSite,
    read_policy,
    read_pool,
    read_site,
    with_status,
)
from marlin.operator.kube.client import Client

AT_ONCE: Final = 4
"""Tables that are fetched at the same time."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    labels: dict[str, str] = {}

    def document(self) -> dict[str, Any]:
        """As it stands in an object, without what is empty."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if value}


class _Item(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()


class _List(msgspec.Struct, frozen=True):
    items: list[_Item] | None = None


_lists: Final = msgspec.json.Decoder(_List)


@dataclass(frozen=True, slots=True)
class _Known(Generic[AnyObserved]):
    version: str
    """resourceVersion."""
    spec: tuple[int, dict[str, str]]
    """Generation and labels: what the model was read of."""
    read: AnyObserved


class ObjectReader(Generic[AnyObserved]):
    """Objects of one kind.

    Args:
        read: reads one.
    """

    def __init__(self, read: Callable[[Mapping[str, Any]], AnyObserved]) -> None:
        self._read: Callable[[Mapping[str, Any]], AnyObserved] = read
        self._known: dict[str, _Known[AnyObserved]] = {}

    def objects(self, listed: bytes) -> tuple[AnyObserved, ...]:
        """The objects of a list, as it came from the API server."""
        known, self._known = self._known, {}
        found = []
        for item in _lists.decode(listed).items or ():
            metadata = item.metadata
            now = self._now(item, known.get(metadata.uid))
            self._known[metadata.uid] = now
            found.append(now.read)
        return tuple(found)

    def _now(self, item: _Item, before: _Known[AnyObserved] | None) -> _Known[AnyObserved]:
        metadata = item.metadata
        if before is not None and metadata.resource_version and before.version == metadata.resource_version:
            return before
        spec = (metadata.generation, metadata.labels)
        status = _parsed(item.status)
        if before is not None and before.read.model is not None and metadata.generation and before.spec == spec:
            return _Known(metadata.resource_version, spec, with_status(before.read, status))
        document = {"metadata": metadata.document(), "spec": _parsed(item.spec), "status": status}
        return _Known(metadata.resource_version, spec, self._read(document))


@dataclass(frozen=True, slots=True)
class Objects:
    """All objects of our kinds."""

    sites: tuple[ObservedSite, ...]
    pools: tuple[ObservedPool, ...]
    policies: tuple[ObservedPolicy, ...]


class Hub:
    """Reads the hub.

    Args:
        client: the hub.
        memory: knows the tables that we wrote.
    """

    def __init__(self, client: Client, memory: Memory) -> None:
        self._client = client
        self._memory = memory
        self._sites = ObjectReader(read_site)
        self._pools = ObjectReader(read_pool)
        self._policies = ObjectReader(read_policy)
        self._tables: dict[Key, tuple[str, RoutingTable | None]] = {}
        """ConfigMap to its version and its table; None: it cannot be read."""

    async def objects(self) -> Objects:
        """The objects as they are.

        Raises:
            ApiError: they could not be listed.
        """
        sites, pools, policies = await asyncio.gather(
            *(self._client.get_bytes(f"/apis/{API_VERSION}/{plural}") for plural in PLURALS.values())
        )
        # In a thread: after a plan a thousand statuses are read.
        return await asyncio.to_thread(
            lambda: Objects(self._sites.objects(sites), self._pools.objects(pools), self._policies.objects(policies))
        )

    async def tables(self) -> dict[Key, RoutingTable]:
        """The routing tables that are published and can be read.

        Raises:
            ApiError: they could not be listed.
        """
        selector = ",".join([*(f"{key}={value}" for key, value in MANAGED_BY.items()), f"!{RECORD_LABEL}"])
        listed = await self._client.get_bytes("/api/v1/configmaps", {"labelSelector": selector}, is_metadata_only=True)
        versions = {
            (item.metadata.namespace, item.metadata.name): item.metadata.resource_version
            for item in _lists.decode(listed).items or ()
        }
        self._tables = {k: known for k, known in self._tables.items() if versions.get(k) == known[0]}
        await _each(self._fetch, [key for key in versions if key not in self._tables])
        return {key: table for key, (_, table) in self._tables.items() if table is not None}

    def wrote(self, key: Key, version: str) -> None:
        """A table that ``Memory`` knows was written, and has this version now."""
        known = self._memory.texts.get(key)
        if known is not None and version:
            self._tables[key] = (version, known[1])

    async def _fetch(self, key: Key) -> None:
        # A list of one: reading a ConfigMap by name is a right that we have in our own namespace alone.
        path, name = f"/api/v1/namespaces/{key[0]}/configmaps", {"fieldSelector": f"metadata.name={key[1]}"}
        for item in (await self._client.get(path, name)).get("items") or ():
            text = (item.get("data") or {}).get(CONFIG_MAP_KEY)
            self._tables[key] = (item["metadata"]["resourceVersion"], await asyncio.to_thread(self._read, key, text))

    def _read(self, key: Key, text: Any) -> RoutingTable | None:
        if not isinstance(text, str):
            return None
        if (known := self._memory.table_of(key, text)) is not None:
            return known
        try:
            return RoutingTable.model_validate_json(text)
        except ValidationError:
            return None  # it is written anew


async def _each(work: Callable[[Key], Awaitable[None]], keys: Iterable[Key]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(key: Key) -> None:
        async with gate:
            await work(key)

    await asyncio.gather(*(gated(key) for key in keys))


def _parsed(raw: msgspec.Raw) -> dict[str, Any]:
    found = msgspec.json.decode(raw) if bytes(raw) else {}
    return found if isinstance(found, dict) else {}

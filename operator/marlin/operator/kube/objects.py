"""The hub's objects from round to round: what did not change is not read again, and stays the same object.

All of them are listed once, and then their versions alone, once a minute: objects of the versions that are known are as
they were. In between it is enough to ask for those that the watch heard of. What a watch says is never taken for the
object, so one that lags, repeats itself or is dead makes a round no worse than late. A status that we wrote is known
with the version that the API server gave it.

Lists come as bytes. Only an entry's metadata is taken out of them at once; spec and status stay bytes until it is known
whether this version of the object was read before. After an epoch was planned by somebody else a thousand pools have a
new status and the spec they had: then only statuses are read.

Routing tables are a quarter of a megabyte each. Of those the list holds metadata alone; a table is fetched where its
version is neither one that was read nor one that we wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

import msgspec
from pydantic import ValidationError

from marlin.api.table import CONFIG_MAP_KEY, RoutingTable
from marlin.api.values import API_VERSION
from marlin.operator.core.applies import MANAGED_BY, RECORD_LABEL, Apply
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
from marlin.operator.core.published import PublishedTable, TableTooLargeError
from marlin.operator.kube.client import Client
from marlin.operator.kube.hearing import Heard

AT_ONCE: Final = 4
"""Objects that are fetched at the same time."""

MOST_SINGLY: Final = 50
"""Objects of a kind that are fetched one by one; where more are others than before, all are listed."""


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
    uid: str
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
        self._known: dict[Key, _Known[AnyObserved]] = {}

    @property
    def objects(self) -> tuple[AnyObserved, ...]:
        """All that are known, by namespace and name."""
        return tuple(self._known[key].read for key in sorted(self._known))

    def listed(self, listed: bytes) -> None:
        """All objects, as a list of the API server holds them."""
        self._known = {_key(item): self._now(item) for item in _items(listed)}

    def listed_versions(self, listed: bytes) -> dict[Key, str]:
        """All objects, of which a list holds metadata alone; those that are gone are forgotten."""
        versions = {_key(item): item.metadata.resource_version for item in _items(listed)}
        self._known = {key: known for key, known in self._known.items() if key in versions}
        return versions

    def outdated(self, versions: Mapping[Key, str]) -> list[Key]:
        """The objects of which another version is known, or none."""
        return [key for key, version in versions.items() if self._version(key) != version]

    def found(self, key: Key, listed: bytes) -> None:
        """One object, as a list of itself holds it; an empty list means that it is gone."""
        self._known.pop(key, None)
        for item in _items(listed):
            self._known[_key(item)] = self._now(item)

    def wrote(self, key: Key, metadata: Mapping[str, Any], status: Any, document: Mapping[str, Any]) -> None:
        """A status of ours was written; where the spec was changed meanwhile, the object is to be read again.

        Args:
            key: the object.
            metadata: the object's metadata after it.
            status: what was written.
            document: the same, as it stands in JSON.
        """
        before = self._known.get(key)
        if before is None or before.read.model is None:
            return
        spec = (metadata.get("generation", 0), metadata.get("labels") or {})
        version = metadata.get("resourceVersion", "")
        if (before.uid, before.spec) == (metadata.get("uid", ""), spec) and version:
            read = replace(before.read, status=status, raw_status=document)
            self._known[key] = replace(before, version=version, read=read)

    def _version(self, key: Key) -> str:
        known = self._known.get(key)
        return "" if known is None else known.version

    def _now(self, item: _Item) -> _Known[AnyObserved]:
        metadata, before = item.metadata, self._known.get(_key(item))
        version, uid = metadata.resource_version, metadata.uid
        if before is not None and before.uid != uid:
            before = None  # another object of the same name
        if before is not None and version and before.version == version:
            return before
        spec = (metadata.generation, metadata.labels)
        status = _parsed(item.status)
        if before is not None and before.read.model is not None and metadata.generation and before.spec == spec:
            return _Known(uid, version, spec, with_status(before.read, status))
        read = self._read({"metadata": metadata.document(), "spec": _parsed(item.spec), "status": status})
        known = None if before is None or before.read.model is None else before.read.model.spec
        if read.model is not None and read.model.spec == known:
            # A label was changed: whatever goes by the spec alone sees the same object.
            read = replace(read, model=read.model.model_copy(update={"spec": known}))
        return _Known(uid, version, spec, read)


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
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sites = ObjectReader(read_site)
        self._pools = ObjectReader(read_pool)
        self._policies = ObjectReader(read_policy)
        self._readers: dict[str, ObjectReader[Any]] = {
            "Datacenter": self._sites,
            "InferencePool": self._pools,
            "MarlinPolicy": self._policies,
        }
        self._is_read = False
        self._tables: dict[Key, tuple[str, PublishedTable | None]] = {}
        """ConfigMap to its version and its table; None: it cannot be read."""

    async def objects(self, heard: Heard | None = None) -> Objects:
        """The objects as they are.

        Args:
            heard: those that may be others than before. Default: nobody knows, all are looked at.

        Raises:
            ApiError: they could not be listed.
        """
        await asyncio.gather(
            *(self._look(kind, None if heard is None else heard.get(kind, {})) for kind in self._readers)
        )
        self._is_read = True
        return Objects(self._sites.objects, self._pools.objects, self._policies.objects)

    async def tables(self) -> dict[Key, PublishedTable]:
        """The routing tables that are published and can be read.

        Raises:
            ApiError: they could not be listed.
        """
        selector = ",".join([*(f"{key}={value}" for key, value in MANAGED_BY.items()), f"!{RECORD_LABEL}"])
        listed = await self._client.get_bytes("/api/v1/configmaps", {"labelSelector": selector}, is_metadata_only=True)
        versions = {_key(item): item.metadata.resource_version for item in _items(listed)}
        self._tables = {k: known for k, known in self._tables.items() if versions.get(k) == known[0]}
        await _each(self._fetch, [key for key in versions if key not in self._tables])
        return {key: table for key, (_, table) in self._tables.items() if table is not None}

    def wrote(self, apply: Apply, metadata: Mapping[str, Any]) -> None:
        """Something of ours was written.

        Args:
            apply: what.
            metadata: the object's metadata after it.
        """
        version = metadata.get("resourceVersion", "")
        if apply.table is not None and version:
            self._tables[metadata["namespace"], metadata["name"]] = (version, apply.table)
        elif apply.status is not None and apply.subject is not None:
            kind, key, _ = apply.subject
            self._readers[kind].wrote(key, metadata, apply.status, apply.body["status"])

    async def _look(self, kind: str, heard: Mapping[Key, str] | None) -> None:
        reader, path = self._readers[kind], f"/apis/{API_VERSION}/{PLURALS[kind]}"
        if self._is_read:
            if heard is None:
                heard = reader.listed_versions(await self._client.get_bytes(path, is_metadata_only=True))
            outdated = reader.outdated(heard)
            if len(outdated) <= MOST_SINGLY:

                async def one(key: Key) -> None:
                    namespace = f"namespaces/{key[0]}/" if key[0] else ""
                    at = f"/apis/{API_VERSION}/{namespace}{PLURALS[kind]}"
                    reader.found(key, await self._client.get_bytes(at, {"fieldSelector": f"metadata.name={key[1]}"}))

                await _each(one, outdated)
                return
        listed = await self._client.get_bytes(path)
        # In a thread: a thousand objects are read, and a Lease is renewed meanwhile.
        await asyncio.to_thread(reader.listed, listed)

    async def _fetch(self, key: Key) -> None:
        # A list of one: reading a ConfigMap by name is a right that we have in our own namespace alone.
        path, name = f"/api/v1/namespaces/{key[0]}/configmaps", {"fieldSelector": f"metadata.name={key[1]}"}
        for item in (await self._client.get(path, name)).get("items") or ():
            text = (item.get("data") or {}).get(CONFIG_MAP_KEY)
            self._tables[key] = (item["metadata"]["resourceVersion"], await asyncio.to_thread(_table, text))


def _table(text: Any) -> PublishedTable | None:
    if not isinstance(text, str):
        return None
    try:
        return PublishedTable.of(RoutingTable.model_validate_json(text))
    except (ValidationError, TableTooLargeError):
        return None  # it is written anew


async def _each(work: Callable[[Key], Awaitable[None]], keys: Iterable[Key]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(key: Key) -> None:
        async with gate:
            await work(key)

    await asyncio.gather(*(gated(key) for key in keys))


def _items(listed: bytes) -> list[_Item]:
    return _lists.decode(listed).items or []


def _key(item: _Item) -> Key:
    return item.metadata.namespace, item.metadata.name


def _parsed(raw: msgspec.Raw) -> dict[str, Any]:
    found = msgspec.json.decode(raw) if bytes(raw) else {}
    return found if isinstance(found, dict) else {}

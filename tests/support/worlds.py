"""Worlds for the operator's tests: objects as an API server holds them, and what ``reconcile`` makes of them.

``settled`` does what a cluster does: it writes the statuses and tables back into the world.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from marlin.api.table import CONFIG_MAP_KEY, RoutingTable
from marlin.operator.core.applies import Apply
from marlin.operator.core.observed import read_policy, read_pool, read_site
from marlin.operator.core.published import PublishedTable
from marlin.operator.core.reconcile import Actions, World, reconcile

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2026, 5, 4, 12, 3, 7, tzinfo=UTC)

Raw = dict[str, Any]


def sample(name: str = "three-regions") -> list[Raw]:
    """The objects of a shipped sample, as an API server would hold them, planned by a sort that needs no networks."""
    objects = as_shipped(name)
    the(objects, "MarlinPolicy")["spec"]["planner"]["kind"] = "MeritOrder"
    return objects


def as_shipped(name: str = "three-regions") -> list[Raw]:
    """The same with the planner that the sample asks for."""
    text = (ROOT / "manifests" / "samples" / f"{name}.yaml").read_text()
    objects: list[Raw] = [document for document in yaml.safe_load_all(text) if document]
    for i, document in enumerate(objects):
        document["metadata"] |= {"uid": f"uid-{i}", "generation": 1, "creationTimestamp": f"2026-01-0{i + 1}T00:00:00Z"}
    return objects


def the(objects: Iterable[Raw], kind: str, name: str | None = None) -> Raw:
    """The object of a kind, for a test to change."""
    return next(o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def with_second_pool(objects: list[Raw], **spec: Any) -> list[Raw]:
    """The same with another pool like the first, ``second``, which the policy plans as well."""
    first = the(objects, "InferencePool")
    second = copy.deepcopy(first)
    second["metadata"] |= {"name": "second", "uid": "uid-second"}
    second["spec"] |= {"modelName": "second"} | spec
    the(objects, "MarlinPolicy")["spec"]["poolRefs"] = [{"name": first["metadata"]["name"]}, {"name": "second"}]
    return [*objects, second]


def world_of(objects: Iterable[Raw], now: datetime = NOON, **known: Any) -> World:
    """The objects as a world."""
    objects = [copy.deepcopy(o) for o in objects]
    return World(
        now=now,
        sites=tuple(read_site(o) for o in objects if o["kind"] == "Datacenter"),
        pools=tuple(read_pool(o) for o in objects if o["kind"] == "InferencePool"),
        policies=tuple(read_policy(o) for o in objects if o["kind"] == "MarlinPolicy"),
        **known,
    )


def published(tables: Mapping[tuple[str, str], RoutingTable]) -> dict[tuple[str, str], PublishedTable]:
    """Routing tables as the operator holds them."""
    return {key: PublishedTable.of(table) for key, table in tables.items()}


class Cluster:
    """Objects that keep what ``reconcile`` writes about them."""

    def __init__(self, objects: Iterable[Raw], now: datetime = NOON) -> None:
        self.objects = [copy.deepcopy(o) for o in objects]
        self.tables: dict[tuple[str, str], RoutingTable] = {}
        self.now = now
        self.known: dict[str, Any] = {}

    def reconcile(self) -> Actions:
        """One round, written back."""
        return self.decide(reconcile)

    def world(self) -> World:
        """All that is known of it."""
        return replace(world_of(self.objects, self.now, tables=published(self.tables)), **self.known)

    def decide(self, by: Callable[[World], Actions]) -> Actions:
        """One round of another operator, written back."""
        actions = by(self.world())
        for apply in actions.applies:
            self.write(apply)
        return actions

    def write(self, apply: Apply) -> None:
        """What an API server does with an apply."""
        body: Mapping[str, Any] = json.loads(json.dumps(apply.document))
        metadata = body["metadata"]
        if body["kind"] == "ConfigMap":
            table = RoutingTable.model_validate_json(body["data"][CONFIG_MAP_KEY])
            self.tables[metadata["namespace"], metadata["name"]] = table
            return
        the(self.objects, body["kind"], metadata["name"])["status"] = body["status"]

    def change(self, kind: str, name: str | None = None, **spec: Any) -> None:
        """Somebody edits a spec."""
        document = the(self.objects, kind, name)
        document["spec"] |= spec
        document["metadata"]["generation"] += 1

    def status(self, kind: str, name: str | None = None) -> Raw:
        """An object's status."""
        return dict(the(self.objects, kind, name)["status"])

    def condition(self, kind: str, type_: str, name: str | None = None) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = next(c for c in self.status(kind, name)["conditions"] if c["type"] == type_)
        return found["status"], found["reason"]

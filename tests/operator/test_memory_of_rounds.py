"""What is remembered from round to round makes rounds quicker and never different."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import pytest
from worlds import Cluster, Raw, sample, the

from marlin.operator.core.fleet import Forecast
from marlin.operator.core.memory import Kept, Memory
from marlin.operator.core.observed import read_pool, read_site
from marlin.operator.core.reconcile import Actions, reconcile
from marlin.operator.kube.client import Client
from marlin.operator.kube.objects import Hub, ObjectReader
from marlin.operator.members.sighting import BackendSight, Sighting

POOL = ("default", "llama-2-70b")


class Remembering(Cluster):
    """A cluster whose operator goes on."""

    def __init__(self, objects: list[Raw]) -> None:
        super().__init__(objects)
        self.memory = Memory()

    def reconcile(self) -> Actions:
        return self.decide(lambda world: reconcile(world, self.memory))


@pytest.fixture
def objects() -> list[Raw]:
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    return objects


def disturb(cluster: Cluster, dice: random.Random) -> None:
    """Something that happens to a fleet."""
    name = dice.choice(["frankfurt", "oregon", "singapore"])
    match dice.randrange(9):
        case 0:
            cluster.change("Datacenter", name, serviceState=dice.choice(["Active", "Drained"]))
        case 1:
            cluster.change("MarlinPolicy", planner={"kind": dice.choice(["RoundRobin", "MeritOrder"])})
        case 2:
            cluster.change("MarlinPolicy", mode=dice.choice(["Enforce", "DryRun", "Paused"]))
        case 3:
            cluster.now += timedelta(minutes=dice.choice([1, 15, 60]))
        case 4:
            cluster.known["forecasts"] = {POOL: Forecast(900.0, 1200.0, dice.choice([400.0, 700.0]), 100.0)}
        case 5:
            cluster.tables.pop(("default", "marlin-balanced-asia"), None)
        case 6:
            the(cluster.objects, "InferencePool").pop("status", None)
        case 7:
            backend = the(cluster.objects, "InferencePool")["spec"]["backends"][0]["name"]
            sight = BackendSight(dice.randrange(3))
            cluster.known["sightings"] = {name: Sighting(backends={(POOL, backend): sight})}
        case _:
            cluster.known["write_problems"] = dice.choice([{}, {("default", "balanced"): "no right"}])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_a_round_that_remembers_writes_what_one_that_does_not_writes(
    objects: list[Raw], seed: int
) -> None:
    dice, same = random.Random(seed), random.Random(seed)
    fresh, remembering = Cluster(objects), Remembering(objects)
    for step in range(12):
        assert remembering.reconcile().applies == fresh.reconcile().applies, step
        disturb(fresh, dice)
        disturb(remembering, same)


def test_what_was_remembered_of_a_policy_goes_with_it(objects: list[Raw]) -> None:
    cluster = Remembering(objects)
    cluster.reconcile()
    assert cluster.memory.size
    cluster.objects = []
    cluster.reconcile()
    assert cluster.memory.size == 0


def test_a_quiet_round_makes_no_table_and_no_status_of_a_pool(
    objects: list[Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Remembering(objects)
    cluster.reconcile()
    cluster.reconcile()  # statuses are in the objects now
    for name in ("fleet_of", "table_parts", "pool_status", "policy_status"):
        monkeypatch.setattr(
            f"marlin.operator.core.reconcile.{name}", lambda *_, name=name, **__: pytest.fail(f"{name} was asked again")
        )
    cluster.now += timedelta(seconds=30)
    assert cluster.reconcile().applies == ()


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    kept: Kept[str, int] = Kept()
    assert kept.get("a", (1,), lambda: 10) == 10
    assert kept.get("a", (1,), lambda: 11) == 10
    kept.sweep()
    kept.sweep()
    assert kept.get("a", (1,), lambda: 11) == 11


def listed(*objects: Mapping[str, Any]) -> bytes:
    """A list as an API server sends it: the kind is in the list alone."""
    items = [{key: value for key, value in body.items() if key not in {"kind", "apiVersion"}} for body in objects]
    return json.dumps({"kind": "List", "items": items, "metadata": {"resourceVersion": "9"}}).encode()


def read(reader: ObjectReader[Any], body: Mapping[str, Any]) -> Any:
    """The only object of a list."""
    reader.listed(listed(body))
    return reader.objects[0]


@pytest.fixture
def pool(objects: list[Raw]) -> Raw:
    pool = copy.deepcopy(the(objects, "InferencePool"))
    pool["metadata"] |= {"resourceVersion": "1", "managedFields": [{"manager": "somebody"}]}
    return pool


def test_an_object_of_the_same_version_is_the_same_object(pool: Raw) -> None:
    reader = ObjectReader(read_pool)
    assert read(reader, pool) is read(reader, pool)


def test_with_a_new_status_the_spec_stays_and_the_status_is_read(pool: Raw) -> None:
    reader = ObjectReader(read_pool)
    before = read(reader, pool)
    pool["metadata"]["resourceVersion"] = "2"
    pool["status"] = {"readyBackends": 3}
    after = read(reader, pool)
    assert after.model is before.model
    assert after.status is not None
    assert (after.status.ready_backends, after.raw_status) == (3, {"readyBackends": 3})


@pytest.mark.parametrize("change", [{"generation": 2}, {"labels": {"tier": "gold"}}])
def test_with_a_new_spec_or_label_it_is_read_anew(pool: Raw, change: Raw) -> None:
    reader = ObjectReader(read_pool)
    before = read(reader, pool)
    pool["metadata"] |= {"resourceVersion": "2"} | change
    after = read(reader, pool)
    assert after == read_pool(pool)
    assert after.model != before.model


def test_what_cannot_be_read_keeps_its_status_apart_and_is_tried_with_every_version(objects: list[Raw]) -> None:
    site = copy.deepcopy(the(objects, "Datacenter"))
    site["metadata"]["resourceVersion"] = "1"
    site["spec"]["location"] = {}
    reader = ObjectReader(read_site)
    assert read(reader, site).model is None
    site["metadata"]["resourceVersion"] = "2"
    site["status"] = {"message": "it was refused"}
    found = read(reader, site)
    assert found.status is not None
    assert found.status.message == "it was refused"


class Shop:
    """ConfigMaps as a client of the hub sees them; counts what is fetched whole."""

    def __init__(self) -> None:
        self.maps: dict[str, tuple[str, str]] = {}
        self.fetched: list[str] = []

    async def get_bytes(
        self, path: str, params: Mapping[str, str] | None = None, *, is_metadata_only: bool = False
    ) -> bytes:
        assert is_metadata_only
        return listed(*(self._metadata(name) for name in self.maps))

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        assert params is not None
        name = params["fieldSelector"].removeprefix("metadata.name=")
        self.fetched.append(name)
        return {"items": [self._metadata(name) | {"data": {"routing-table.json": self.maps[name][1]}}]}

    def _metadata(self, name: str) -> dict[str, Any]:
        return {"metadata": {"namespace": "default", "name": name, "resourceVersion": self.maps[name][0]}}


async def test_a_table_is_fetched_where_its_version_is_new_and_not_ours(objects: list[Raw]) -> None:
    memory, shop = Memory(), Shop()
    hub = Hub(cast("Client", shop))
    cluster = Cluster(objects)
    for number, apply in enumerate(reconcile(cluster.world(), memory).applies):
        if apply.body["kind"] == "ConfigMap":
            name = apply.body["metadata"]["name"]
            shop.maps[name] = (str(number), apply.document["data"]["routing-table.json"])
            hub.wrote(apply, shop._metadata(name)["metadata"])
    tables = await hub.tables()
    assert tables.keys() == {("default", name) for name in shop.maps}
    assert shop.fetched == []
    name = "marlin-balanced-asia"
    shop.maps[name] = ("99", shop.maps["marlin-balanced"][1])
    assert (await hub.tables())["default", name] == tables["default", "marlin-balanced"]  # parsed, and packed again
    shop.maps[name] = ("100", "not a table")
    assert ("default", name) not in await hub.tables()
    await hub.tables()
    assert shop.fetched == [name, name]

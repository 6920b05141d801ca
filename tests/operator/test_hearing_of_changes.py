"""A round asks for the objects that the watch heard of, and once a minute whether there is any other news."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, cast

import pytest
from worlds import NOON, Raw, sample

from marlin.operator.core.observed import PLURALS
from marlin.operator.core.reconcile import World, reconcile
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.kube.hearing import LOOK_AT_ALL_EVERY_S, Hearing
from marlin.operator.kube.objects import MOST_SINGLY, Hub
from marlin.operator.writing import Writer

KINDS = {plural: kind for kind, plural in PLURALS.items()}


class Server:
    """Objects with versions, as an API server serves them; counts what is asked for, and tells a watch."""

    def __init__(self, objects: list[Raw]) -> None:
        self.objects: dict[tuple[str, str], Raw] = {}
        self.asked: list[str] = []
        self.hearing = Hearing()
        self.deaf = False
        self._version = 0
        for body in objects:
            body["metadata"].setdefault("namespace", "" if body["kind"] == "Datacenter" else "default")
            self.put(body)

    def put(self, body: Raw, event: str = "MODIFIED") -> None:
        """Somebody writes an object."""
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        key = (body["kind"], body["metadata"]["name"])
        if event == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = body
        if not self.deaf:
            self.hearing.event(body["kind"], {"type": event, "object": body})

    async def get_bytes(
        self, path: str, params: Mapping[str, str] | None = None, *, is_metadata_only: bool = False
    ) -> bytes:
        kind = KINDS[path.rsplit("/", 1)[1]]
        name = (params or {}).get("fieldSelector", "").removeprefix("metadata.name=")
        self.asked.append(f"{kind} {name or ('versions' if is_metadata_only else 'all')}")
        found = [body for (of, called), body in self.objects.items() if of == kind and name in {"", called}]
        if is_metadata_only:
            found = [{"metadata": body["metadata"]} for body in found]
        return json.dumps({"items": found}).encode()

    async def apply(self, apply: Any) -> Raw:
        """A status of ours."""
        if apply.body["kind"] not in PLURALS:
            return {}
        body = self.objects[apply.body["kind"], apply.body["metadata"]["name"]]
        self.put(body | {"metadata": dict(body["metadata"]), "status": json.loads(json.dumps(apply.body["status"]))})
        return {"metadata": self.objects[apply.body["kind"], body["metadata"]["name"]]["metadata"]}

    async def create(self, *_: Any) -> Raw:
        return {}


@pytest.fixture
def server() -> Server:
    return Server(sample())


@pytest.fixture
def hub(server: Server) -> Hub:
    return Hub(cast("Client", server))


def metadata_of(server: Server, kind: str, name: str) -> Raw:
    return dict(server.objects[kind, name]["metadata"])


def edit(server: Server, name: str, **spec: Any) -> None:
    """Somebody changes a site's spec."""
    body = json.loads(json.dumps(server.objects["Datacenter", name]))
    body["spec"] |= spec
    body["metadata"]["generation"] += 1
    server.put(body)


async def test_only_what_was_heard_of_is_asked_for(server: Server, hub: Hub) -> None:
    before = await hub.objects(server.hearing.take(0.0))
    assert sorted(server.asked) == [f"{kind} all" for kind in sorted(PLURALS)]
    server.asked.clear()
    assert await hub.objects(server.hearing.take(1.0)) == before
    assert server.asked == []
    edit(server, "oregon", serviceState="Drained")
    after = await hub.objects(server.hearing.take(2.0))
    assert server.asked == ["Datacenter oregon"]
    assert [s.model is b.model for s, b in zip(after.sites, before.sites, strict=True)] == [True, False, True]


async def test_what_was_deleted_goes_and_what_is_new_comes(server: Server, hub: Hub) -> None:
    await hub.objects(server.hearing.take(0.0))
    gone = server.objects["Datacenter", "oregon"]
    server.put(gone, "DELETED")
    assert [site.name for site in (await hub.objects(server.hearing.take(1.0))).sites] == ["frankfurt", "singapore"]
    server.put(gone | {"metadata": gone["metadata"] | {"uid": "another"}}, "ADDED")
    found = await hub.objects(server.hearing.take(2.0))
    assert [(site.name, site.uid) for site in found.sites][1] == ("oregon", "another")


async def test_what_a_deaf_watch_missed_is_found_within_a_minute_by_versions_alone(server: Server, hub: Hub) -> None:
    await hub.objects(server.hearing.take(0.0))
    server.deaf = True
    edit(server, "oregon", serviceState="Drained")
    server.put(server.objects["Datacenter", "singapore"], "DELETED")
    server.asked.clear()
    assert len((await hub.objects(server.hearing.take(LOOK_AT_ALL_EVERY_S - 1))).sites) == 3
    assert server.asked == []
    assert server.hearing.all_due_in_s(LOOK_AT_ALL_EVERY_S - 1) == 1.0
    found = await hub.objects(server.hearing.take(LOOK_AT_ALL_EVERY_S))
    assert [site.name for site in found.sites] == ["frankfurt", "oregon"]
    assert found.sites[1].model is not None
    assert found.sites[1].model.spec.service_state.value == "Drained"
    assert "Datacenter oregon" in server.asked
    assert "Datacenter all" not in server.asked


async def test_where_many_changed_all_are_listed_at_once(server: Server, hub: Hub) -> None:
    await hub.objects(server.hearing.take(0.0))
    site = server.objects["Datacenter", "oregon"]
    for i in range(MOST_SINGLY + 1):
        server.put(site | {"metadata": site["metadata"] | {"name": f"site-{i:02}", "uid": f"u{i}"}}, "ADDED")
    server.asked.clear()
    assert len((await hub.objects(server.hearing.take(1.0))).sites) == MOST_SINGLY + 4
    assert server.asked == ["Datacenter all"]


async def test_what_we_wrote_is_known_without_being_read(server: Server, hub: Hub) -> None:
    writer = Writer(cast("Client", server), "one", hub.wrote)
    for second in range(3):
        objects = await hub.objects(server.hearing.take(float(second)))
        assert second == 0 or server.asked == []
        written = [server.objects["Datacenter", site.name].get("status", {}) for site in objects.sites]
        assert [site.raw_status for site in objects.sites] == written
        actions = reconcile(World(NOON, sites=objects.sites, pools=objects.pools, policies=objects.policies))
        await writer.write(actions)
        server.asked.clear()
    assert await hub.objects(server.hearing.take(9.0)) == await Hub(cast("Client", server)).objects()


async def test_a_spec_that_somebody_changed_while_we_wrote_is_read_again(server: Server, hub: Hub) -> None:
    writer = Writer(cast("Client", server), "one", hub.wrote)
    objects = await hub.objects(server.hearing.take(0.0))
    actions = reconcile(World(NOON, sites=objects.sites, pools=objects.pools, policies=objects.policies))
    edit(server, "oregon", serviceState="Drained")
    await writer.write(actions)
    found = await hub.objects(server.hearing.take(1.0))
    assert found == await Hub(cast("Client", server)).objects()


async def test_after_a_round_that_failed_all_are_looked_at(server: Server, hub: Hub) -> None:
    await hub.objects(server.hearing.take(0.0))
    edit(server, "oregon", serviceState="Drained")
    assert server.hearing.take(1.0) == {"Datacenter": {("", "oregon"): str(server._version)}}
    server.hearing.missed()  # the round with it ended in an error
    assert server.hearing.take(2.0) is None
    assert server.hearing.take(3.0) == {}


async def test_a_watch_that_begins_anew_may_have_missed_something() -> None:
    hearing = Hearing()
    hearing.take(0.0)
    assert hearing.take(1.0) == {}
    hearing.begins_anew()
    assert hearing.take(2.0) is None


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_the_objects_are_those_of_an_operator_that_lists_all(
    server: Server, hub: Hub, seed: int
) -> None:
    dice = random.Random(seed)
    at_s = 0.0
    await hub.objects(server.hearing.take(at_s))
    for _ in range(40):
        name = dice.choice(["frankfurt", "oregon", "singapore"])
        for _ in range(dice.randrange(3)):
            match dice.randrange(5):
                case 0:
                    edit(server, name, serviceState=dice.choice(["Active", "Drained"]))
                case 1:
                    body = json.loads(json.dumps(server.objects["Datacenter", name]))
                    body["metadata"]["labels"] = {"tier": dice.choice(["gold", "iron"])}
                    server.put(body)
                case 2:
                    body = server.objects["Datacenter", name] | {"status": {"message": str(dice.random())}}
                    server.put(body | {"metadata": dict(body["metadata"])})
                case 3:
                    late = metadata_of(server, "Datacenter", name) | {"resourceVersion": "1"}
                    server.hearing.event("Datacenter", {"type": "MODIFIED", "object": {"metadata": late}})
                case _:
                    server.hearing.missed()
        at_s += 1.0
        assert await hub.objects(server.hearing.take(at_s)) == await Hub(cast("Client", server)).objects()


async def test_an_object_that_cannot_be_asked_for_fails_the_round(server: Server, hub: Hub) -> None:
    await hub.objects(server.hearing.take(0.0))
    edit(server, "oregon", serviceState="Drained")

    async def away(*_: Any, **__: Any) -> bytes:
        raise ApiError(503, "away")

    server.get_bytes = away  # type: ignore[method-assign]
    with pytest.raises(ApiError):
        await hub.objects(server.hearing.take(1.0))

"""The whole loop on four API servers: objects on a hub, machines and engines in three members, a router that obeys."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cluster_fleet import Fleet
from control_plane import Cluster, Etcd, Process, eventually
from fake_backend import FakeBackend
from member_cluster import Member, secret
from router_process import running
from table_reading import table_reader
from worlds import the

from marlin.api.plan import RoutingPlan

Start = Callable[[str], Process]

SITES = ("frankfurt", "oregon", "singapore")
EPOCH_S = 60
PATIENCE_S = 2 * EPOCH_S
"""A plan is made in one epoch and followed from the next one on: what is waited for may take a whole one and a bit."""
REQUESTS = 30

pytestmark = pytest.mark.timeout(EPOCH_S + 3 * PATIENCE_S + 60)  # all that it may wait for, and its servers' start


@pytest.fixture(scope="module")
def members(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Member]]:
    """A cluster for each site."""

    def start(site: str) -> Member:
        cluster = Cluster(f"loop-{site}", etcd, tmp_path_factory.mktemp(site))
        started.append(cluster)
        cluster.start()
        return Member(cluster)

    started: list[Cluster] = []
    try:
        with ThreadPoolExecutor(len(SITES)) as threads:
            yield dict(zip(SITES, threads.map(start, SITES), strict=True))
    finally:
        for cluster in started:
            cluster.stop()


async def test_three_members_become_a_plan_within_an_epoch_and_a_router_obeys_it(
    fleet: Fleet, members: dict[str, Member], operator: Start, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        backends = {site: await stack.enter_async_context(FakeBackend()) for site in SITES}
        applied = datetime.now(UTC)
        await asyncio.to_thread(apply, fleet, members, {site: backend.url for site, backend in backends.items()})
        process = operator("one")
        plan = await asyncio.to_thread(eventually, lambda: fleet.table("-europe").plan, EPOCH_S)
        assert plan.valid_from <= applied + timedelta(seconds=EPOCH_S)
        await asyncio.to_thread(eventually, lambda: fleet.condition("Ready") == ("True", "Ready"))
        for site in SITES:
            await asyncio.to_thread(eventually, partial(is_ready, fleet, site))
            assert fleet.site(site)["status"]["readyAccelerators"] == 16
        assert {b["readyEndpoints"] for b in fleet.pool()["status"]["backends"]} == {2}
        assert RoutingPlan.model_validate(fleet.status()["plan"]).datacenters == plan.datacenters

        table = "marlin-balanced-europe"
        watching = await asyncio.to_thread(table_reader, fleet.hub, fleet.namespace, table, tmp_path)
        router = await stack.enter_async_context(running(tmp_path, None, "--origin", "europe", *watching))
        # One request at a time leaves room in the order's first site. Until the plan is valid, capacity is followed.
        published = fleet.table("-europe")  # of a later epoch than the first plan, where looking took long
        assert published.plan is not None
        first = published.plan.datacenters[published.plan.pools[0].order[0]].removeprefix(fleet.prefix)
        await until_all_go_to(first, router.url, backends)

        # Two sites are drained: the next plan has one left, and so has the router once it has the table.
        for site in SITES[1:]:
            the(fleet.objects, "Datacenter", fleet.prefix + site)["spec"]["serviceState"] = "Drained"
        await asyncio.to_thread(fleet.apply)
        only_one = partial(is_only_for, fleet, fleet.prefix + SITES[0], published.generation)
        await asyncio.to_thread(eventually, only_one, PATIENCE_S)
        await until_all_go_to(SITES[0], router.url, backends)
        assert process.process.poll() is None


def apply(fleet: Fleet, members: dict[str, Member], routers: dict[str, str]) -> None:
    """The sample, of which no machine and no capacity is stated: they are to be found in the members."""
    for site, url in routers.items():
        secret(fleet.hub, f"loop-{site}", kubeconfig=members[site].kubeconfig())
        spec = the(fleet.objects, "Datacenter", fleet.prefix + site)["spec"]
        spec.pop("nodeGroups")
        spec["cluster"] = {"kubeconfigSecretRef": {"name": f"loop-{site}"}}
        spec["router"] = {"url": url, "tls": {"verification": "Disabled"}}
    for backend in the(fleet.objects, "InferencePool")["spec"]["backends"]:
        backend.pop("capacity")
    fleet.apply(mode="Enforce", epochSeconds=EPOCH_S)


def is_ready(fleet: Fleet, site: str) -> bool:
    return fleet.site_condition(site, "Ready") == ("True", "Ready")


def is_only_for(fleet: Fleet, site: str, generation: int) -> bool:
    """Whether the table is newer and its plan gives everything to one site."""
    table = fleet.table("-europe")
    if table.generation <= generation or table.plan is None:
        return False
    shares = zip(table.plan.datacenters, table.plan.pools[0].weights, strict=True)
    return all(bool(weight) == (name == site) for name, weight in shares)


async def until_all_go_to(site: str, url: str, backends: dict[str, FakeBackend]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await sent(url, backends) != {site: REQUESTS}:  # noqa: ASYNC110 asking is what waits
            await asyncio.sleep(0.5)


async def sent(url: str, backends: dict[str, FakeBackend]) -> Counter[str]:
    """Sends requests; the sites that got them."""
    for backend in backends.values():
        backend.seen.clear()
    async with aiohttp.ClientSession() as session:
        for _ in range(REQUESTS):
            body = {"model": "llama-2-70b", "messages": []}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
    posts = {site: sum("POST" in s.request_line for s in backend.seen) for site, backend in backends.items()}
    return Counter({site: count for site, count in posts.items() if count})

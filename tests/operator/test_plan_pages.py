"""Plans and tables over HTTP: what the leader decided, and nothing from one that does not lead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from aiohttp.test_utils import TestClient, TestServer
from worlds import Cluster, published, sample, the

from marlin.api.table import RoutingTable
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.kube.access import Access
from marlin.operator.running import Operator, Settings
from marlin.operator.serving import pages
from marlin.operator.telemetry.levels import Levels

KEY = ("default", "balanced")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    small_artifact(tmp_path / "artifact")
    objects = sample()
    the(objects, "MarlinPolicy")["spec"] |= {"mode": "Enforce", "planner": {"kind": "Marlin", "scheme": "Balanced"}}
    cluster = Cluster(objects)
    cluster.known["artifacts"] = {(KEY, "planner"): ArtifactUse(tmp_path / "artifact")}
    return cluster


@pytest.fixture
def operator(cluster: Cluster) -> Operator:
    operator = Operator(Access("https://hub", "a-secret-token"), Settings("marlin-system", "one"))
    report = cluster.reconcile().report
    operator.is_leader, operator.rounds = True, 1
    operator.ledger.heard(report)
    operator.levels = Levels(report, operator.ledger.last)
    operator.tables = published(cluster.tables)
    return operator


@pytest.fixture
async def client(operator: Operator) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(pages(operator))) as client:
        yield client


async def read(client: TestClient[Any, Any], path: str, status: int = 200) -> Any:
    async with client.get(path) as response:
        assert response.status == status, await response.text()
        return await (response.json() if status == 200 else response.text())


async def test_the_index_names_every_policy_with_its_plan(client: TestClient[Any, Any], cluster: Cluster) -> None:
    plan = cluster.status("MarlinPolicy")["plan"]
    (policy,) = (await read(client, "/plans"))["policies"]
    assert (policy["namespace"], policy["name"], policy["mode"]) == (*KEY, "Enforce")
    for name in ("epoch", "validFrom", "validUntil", "planner", "explanation"):
        assert policy[name] == plan[name]


async def test_a_plan_comes_with_its_status_and_how_the_agents_came_to_it(
    client: TestClient[Any, Any], cluster: Cluster
) -> None:
    document = await read(client, "/plans/default/balanced")
    assert document["status"] == cluster.status("MarlinPolicy")
    assert document["negotiation"]["weights"].keys() == {"ttft", "carbon", "water", "cost"}
    assert document["predicted"]["llama-2-70b"]["requests"] > 0


async def test_a_table_is_the_one_that_routers_are_given(client: TestClient[Any, Any], cluster: Cluster) -> None:
    assert cluster.tables
    for (namespace, name), table in cluster.tables.items():
        assert RoutingTable.model_validate(await read(client, f"/tables/{namespace}/{name}")) == table


@pytest.mark.parametrize("path", ["/plans/default/other", "/tables/default/other"])
async def test_what_is_not_there_is_said_by_name(client: TestClient[Any, Any], path: str) -> None:
    assert "default/other" in await read(client, path, 404)


@pytest.mark.parametrize("path", ["/plans", "/plans/default/balanced", "/tables/default/marlin-balanced"])
async def test_a_standby_does_not_tell_what_it_knew_once(
    client: TestClient[Any, Any], operator: Operator, path: str
) -> None:
    operator.is_leader = False
    assert "does not lead" in await read(client, path, 503)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_changed(client: TestClient[Any, Any], method: str) -> None:
    for path in ("/plans", "/plans/default/balanced", "/tables/default/marlin-balanced"):
        async with client.request(method, path, json={}) as response:
            assert response.status == 405


async def test_a_policy_without_a_plan_is_listed_without_one(operator: Operator, client: TestClient[Any, Any]) -> None:
    (policy,) = operator.levels.report.policies
    bare = replace(policy, status=policy.status.model_copy(update={"plan": None}), outcome=None)
    operator.levels = Levels(replace(operator.levels.report, policies=(bare,)))
    assert (await read(client, "/plans"))["policies"] == [
        {"namespace": "default", "name": "balanced", "mode": "Enforce"}
    ]

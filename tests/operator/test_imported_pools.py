"""A pool that is imported into the hub is looked at in the cluster that exports it, and in no other."""

from __future__ import annotations

from typing import Any

import pytest
from worlds import sample, the

from marlin.api.datacenter import Datacenter
from marlin.api.pool import Backend
from marlin.operator.kube.client import ApiError
from marlin.operator.members.looking import Wanted, look_at_cluster
from marlin.operator.members.sighting import Sighting

KEY = (("default", "llama"), "imported")
PODS = [
    {
        "metadata": {"name": f"p{i}"},
        "spec": {"nodeName": "n"},
        "status": {"podIP": f"10.0.0.{i}", "conditions": [{"type": "Ready", "status": "True" if i < 3 else "False"}]},
    }
    for i in (1, 2, 3)
]


class Exporting:
    """A cluster with a pool of two ready engines and one that is not."""

    async def get(self, path: str, params: dict[str, str] | None = None) -> dict[str, Any]:
        if path.endswith("/inference.networking.k8s.io/v1/namespaces/models/inferencepools/llama"):
            return {"spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]}}
        if path.endswith("/namespaces/models/pods"):
            return {"items": PODS}
        if path.endswith("/nodes"):
            return {"items": []}
        if path in {"/version", "/api/v1/namespaces/kube-system"}:
            return {"metadata": {"uid": "u"}}
        raise ApiError(404, f"GET {path}")


class Imports:
    """The hub's import, of a pool that a cluster exports."""

    def __init__(self, cluster: str) -> None:
        self.status = {"controllers": [{"name": "mesh/one", "exportingClusters": [{"name": cluster}]}]}

    async def profile(self, namespace: str, name: str) -> dict[str, Any]:
        return {}

    async def pool_import(self, namespace: str, name: str) -> dict[str, Any]:
        assert (namespace, name) == ("models", "llama")
        return {"status": self.status}


async def look(cluster: str) -> Any:
    document = the(sample(), "Datacenter", "oregon")
    document["spec"]["cluster"] = {"clusterProfileRef": {"namespace": "fleet", "name": "oregon-cluster"}}
    site = Datacenter.model_validate(document)
    pool = {"kind": "InferencePoolImport", "namespace": "models", "name": "llama"}
    backend = Backend.model_validate({"name": "imported", "datacenterName": "oregon", "poolRef": pool})
    seen = await look_at_cluster(Exporting(), Wanted(site, {KEY: backend}), Sighting(), Imports(cluster))  # type: ignore[arg-type]
    return seen.backends[KEY]


async def test_where_it_is_exported_its_ready_engines_are_found() -> None:
    sight = await look("oregon-cluster")
    assert (sight.problem, sight.ready_endpoints) == ("", 2)
    assert sight.addresses == ("10.0.0.1:8000", "10.0.0.2:8000")


@pytest.mark.parametrize("cluster", ["frankfurt-cluster", "oregon"])
async def test_where_it_is_not_the_exporting_clusters_are_named(cluster: str) -> None:
    sight = await look(cluster)
    assert sight.ready_endpoints == 0
    assert "is not exported by cluster oregon-cluster" in sight.problem
    assert cluster in sight.problem

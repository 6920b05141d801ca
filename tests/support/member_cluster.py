"""A member cluster: an API server with what a datacenter's would hold, and the hub's rights in it."""

from __future__ import annotations

import base64
import json
from typing import Any

from control_plane import ROOT, Cluster, eventually
from other_kinds import published

POOL_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "inferencepools.inference.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, the shape of the upstream pool for a test"},
    },
    "spec": {
        "group": "inference.networking.k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "InferencePool", "plural": "inferencepools", "shortNames": ["infpool"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}
"""The upstream extension's kind, same name and plural as ours, another group: its shape, where what upstream publishes
has not been fetched."""


class Member:
    """A cluster with GPU nodes, a Service of two ready engines and one that is not, and an upstream pool of one."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.apply_file(ROOT / "manifests" / "rbac" / "member.yaml")
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
        try:
            cluster.apply_file(published("inference.networking.k8s.io_inferencepools.yaml"))
        except FileNotFoundError:
            cluster.apply(POOL_CRD)
        for name in ("n1", "n2"):
            labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "8"}
            body: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            cluster.call("POST", "/api/v1/nodes", body)
            self.ready(f"/api/v1/nodes/{name}")
        for name in ("e1", "e2", "e3"):
            container = {"name": "vllm", "image": "vllm", "resources": {"limits": {"nvidia.com/gpu": "4"}}}
            cluster.call(
                "POST",
                "/api/v1/namespaces/models/pods",
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "labels": {"app": name}},
                    "spec": {"nodeName": "n1", "containers": [container]},
                },
            )
        self.ready("/api/v1/namespaces/models/pods/e3")
        cluster.call(
            "POST",
            "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "llama-1", "labels": {"kubernetes.io/service-name": "llama-2-70b"}},
                "addressType": "IPv4",
                "ports": [{"port": 8000}],
                "endpoints": [
                    {
                        "addresses": [f"10.1.0.{i}"],
                        "conditions": {"ready": i < 3},
                        "nodeName": "n1",
                        "targetRef": {"kind": "Pod", "namespace": "models", "name": f"e{i}"},
                    }
                    for i in (1, 2, 3)
                ],
            },
        )
        pools = "/apis/inference.networking.k8s.io/v1/namespaces/models/inferencepools"
        pool = {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": "llama", "namespace": "models"},
            "spec": {
                "selector": {"matchLabels": {"app": "e3"}},
                "targetPorts": [{"number": 8000}],
                "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
            },
        }
        eventually(lambda: cluster.call("POST", pools, pool))

    def ready(self, path: str) -> None:
        body = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        self.cluster.call("PATCH", f"{path}/status", body, "application/strategic-merge-patch+json")

    def kubeconfig(self, token: str | None = None, **user: Any) -> str:
        ca = base64.b64encode(self.cluster.ca().encode()).decode()
        known = {"token": token or self.cluster.token_of("marlin-system", "marlin-hub")}
        return json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [
                    {"name": "k", "cluster": {"server": self.cluster.server, "certificate-authority-data": ca}}
                ],
                "users": [{"name": "u", "user": known | user}],
            }
        )


def secret(hub: Cluster, name: str, **data: str) -> None:
    hub.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "marlin-system"},
            "stringData": data,
        }
    )

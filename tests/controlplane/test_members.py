"""A hub and a member cluster, each a real API server, and a site that is dead."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cluster_fleet import Fleet
from control_plane import ROOT, Cluster, Etcd, Process, eventually
from member_cluster import Member, secret
from other_kinds import published
from worlds import the

Start = Callable[[str], Process]

pytestmark = pytest.mark.timeout(300)  # as in test_faults


@pytest.fixture(scope="module")
def member(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    cluster = Cluster("member", etcd, tmp_path_factory.mktemp("member"))
    cluster.start()
    yield Member(cluster)
    cluster.stop()


@pytest.fixture
def router() -> Iterator[str]:
    """A router that is ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dead() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_capacity_is_found_in_the_member_and_a_dead_site_delays_nothing(
    fleet: Fleet, member: Member, router: str, dead: str, operator: Start
) -> None:
    hub = fleet.hub
    secret(hub, "oregon", kubeconfig=member.kubeconfig())
    secret(hub, "singapore", **{"token": "t", "ca.crt": hub.ca()})
    frankfurt, oregon, singapore = (
        the(fleet.objects, "Datacenter", fleet.prefix + name)["spec"] for name in ("frankfurt", "oregon", "singapore")
    )
    for spec in (frankfurt, oregon, singapore):
        spec["router"] = {"url": router, "tls": {"verification": "Disabled"}}
    del oregon["nodeGroups"]
    oregon["cluster"] = {"kubeconfigSecretRef": {"name": "oregon"}}
    singapore["cluster"] = {"server": f"https://{dead}", "tokenSecretRef": {"name": "singapore"}}
    singapore["router"]["url"] = f"http://{dead}"
    pool = the(fleet.objects, "InferencePool")["spec"]
    del pool["backends"][1]["capacity"]
    pool["backends"].append(
        {
            "name": "upstream",
            "datacenterName": f"{fleet.prefix}oregon",
            "poolRef": {"namespace": "models", "name": "llama"},
        }
    )
    fleet.apply(mode="Enforce")
    process = operator("one")
    eventually(process.leads)
    # The dead site's router has ten seconds to answer, its cluster thirty: the plan waits for neither.
    eventually(lambda: fleet.condition("Applied") == ("True", "Applied"), timeout_s=9)
    assert eventually(lambda: fleet.site_condition("oregon", "Ready") == ("True", "Ready"))
    status = fleet.site("oregon")["status"]
    assert status["readyAccelerators"] == 16
    assert status["nodeGroups"] == [{"name": "h100-80gb-x8", "readyNodes": 2}]
    kube_system = member.cluster.call("GET", "/api/v1/namespaces/kube-system")
    assert status["clusterId"] == kube_system["metadata"]["uid"]
    assert status["kubernetesVersion"].startswith("v1.")
    ready = {b["name"]: b.get("readyEndpoints") for b in fleet.pool()["status"]["backends"]}
    assert ready == {"frankfurt": None, "oregon": 2, "singapore": None, "upstream": 1}
    found = {backend.name: backend for backend in fleet.table().pools[0].backends}
    assert found["oregon"].capacity_rps == pytest.approx(2 * found["upstream"].capacity_rps)
    assert eventually(lambda: fleet.site_condition("singapore", "RouterReachable") == ("False", "Timeout"))
    assert fleet.site_condition("frankfurt", "ClusterReachable") == ("Unknown", "NotConfigured")

    # Somebody revokes the credentials and later puts good ones in their place.
    secret(hub, "oregon", kubeconfig=member.kubeconfig(token="wrong"))
    assert eventually(lambda: fleet.site_condition("oregon", "CredentialsValid") == ("False", "Unauthorized"))
    assert eventually(lambda: is_told_of(fleet, "oregon", "Unauthorized"))
    assert fleet.site("oregon")["status"]["readyAccelerators"] == 16  # as last seen
    secret(hub, "oregon", kubeconfig=member.kubeconfig(exec={"command": "sh"}))
    assert eventually(lambda: fleet.site_condition("oregon", "CredentialsValid") == ("False", "KubeconfigRejected"))
    assert "exec would run a command" in fleet.site("oregon")["status"]["message"]
    assert eventually(lambda: is_told_of(fleet, "oregon", "KubeconfigRejected"))
    secret(hub, "oregon", kubeconfig=member.kubeconfig())
    assert eventually(lambda: fleet.site_condition("oregon", "CredentialsValid") == ("True", "Valid"))
    assert member.cluster.token_of("marlin-system", "marlin-hub")[:20] not in process.log.read_text()


def is_told_of(fleet: Fleet, site: str, reason: str) -> bool:
    """Whether there is an Event, of the level Warning, about a Datacenter."""
    events = fleet.events(reason, "default")  # where those about objects without a namespace are
    return any(e["regarding"]["name"] == fleet.prefix + site and e["type"] == "Warning" for e in events)


def _other_kind(group: str, kind: str, plural: str) -> dict[str, Any]:
    """A namespaced kind of another project, with a status of its own."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, the shape of another project's kind for a test"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [version | {"subresources": {"status": {}}}],
        },
    }


def test_a_cluster_is_found_through_its_profile_and_a_pool_through_its_import(
    fleet: Fleet, member: Member, operator: Start
) -> None:
    hub = fleet.hub
    inventory, imports = "multicluster.x-k8s.io", "inference.networking.x-k8s.io"
    hub.apply(
        _other_kind(inventory, "ClusterProfile", "clusterprofiles"),
    )
    try:
        hub.apply_file(published("inference.networking.x-k8s.io_inferencepoolimports.yaml"))
    except FileNotFoundError:
        hub.apply(_other_kind(imports, "InferencePoolImport", "inferencepoolimports"))
    member.cluster.apply_file(ROOT / "manifests" / "rbac" / "member.yaml")
    secret(hub, "oregon-cluster", token=member.cluster.token_of("marlin-system", "marlin-hub"))
    ca = base64.b64encode(member.cluster.ca().encode()).decode()
    provider = {
        "name": "secretreader",
        "cluster": {"server": member.cluster.server, "certificate-authority-data": ca},
    }

    def put(group: str, kind: str, plural: str, name: str, status: dict[str, Any]) -> None:
        path = f"/apis/{group}/v1alpha1/namespaces/{fleet.namespace}/{plural}"
        body = {"apiVersion": f"{group}/v1alpha1", "kind": kind, "metadata": {"name": name}}
        eventually(lambda: hub.call("POST", path, body | {"spec": {"clusterManager": {"name": "m"}}}))
        hub.call("PATCH", f"{path}/{name}/status", {"status": status}, "application/merge-patch+json")

    fleet.apply()
    put(inventory, "ClusterProfile", "clusterprofiles", "oregon-cluster", {"accessProviders": [provider]})
    exported = {"controllers": [{"name": "mesh.example/importer", "exportingClusters": [{"name": "oregon-cluster"}]}]}
    put(imports, "InferencePoolImport", "inferencepoolimports", "llama", exported)
    oregon = the(fleet.objects, "Datacenter", f"{fleet.prefix}oregon")["spec"]
    oregon["cluster"] = {"clusterProfileRef": {"namespace": fleet.namespace, "name": "oregon-cluster"}}
    fleet.apply()
    process = operator("one")
    assert eventually(lambda: fleet.site_condition("oregon", "CredentialsValid") == ("False", "ClusterProfileNotFound"))
    conditions = {c["type"]: c["message"] for c in fleet.site("oregon")["status"]["conditions"]}
    assert "inventory.yaml" in conditions["CredentialsValid"]
    hub.apply_file(ROOT / "manifests" / "rbac" / "inventory.yaml")
    assert eventually(lambda: fleet.site_condition("oregon", "CredentialsValid") == ("False", "Withheld"))
    token = member.cluster.token_of("marlin-system", "marlin-hub")
    secret(hub, "oregon-cluster", **{"token": token, "send-to": member.cluster.server})
    assert eventually(lambda: fleet.site_condition("oregon", "ClusterReachable") == ("True", "Reachable"))
    assert fleet.site("oregon")["status"]["readyAccelerators"] == 16
    assert member.cluster.token_of("marlin-system", "marlin-hub")[:20] not in process.log.read_text()


def test_a_member_that_grants_nothing_is_reached_and_says_what_is_missing(
    fleet: Fleet, member: Member, operator: Start
) -> None:
    member.cluster.call("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/marlin-member")
    secret(fleet.hub, "oregon", kubeconfig=member.kubeconfig())
    the(fleet.objects, "Datacenter", f"{fleet.prefix}oregon")["spec"]["cluster"] = {
        "kubeconfigSecretRef": {"name": "oregon"}
    }
    fleet.apply()
    operator("one")
    assert eventually(lambda: fleet.site_condition("oregon", "ClusterReachable") == ("False", "Forbidden"))
    conditions = {c["type"]: c for c in fleet.site("oregon")["status"]["conditions"]}
    assert "member.yaml" in conditions["ClusterReachable"]["message"]
    member.cluster.apply_file(ROOT / "manifests" / "rbac" / "member.yaml")


def test_a_workload_is_scaled_to_what_the_plan_wants_once_the_right_is_there(
    fleet: Fleet, member: Member, operator: Start
) -> None:
    member.cluster.apply_file(ROOT / "manifests" / "rbac" / "member.yaml")
    labels = {"app": "vllm"}
    container = {"name": "vllm", "image": "vllm"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm", "namespace": "models"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    path = "/apis/apps/v1/namespaces/models/deployments"
    member.cluster.call("POST", path, deployment)
    secret(fleet.hub, "oregon", kubeconfig=member.kubeconfig())
    the(fleet.objects, "Datacenter", f"{fleet.prefix}oregon")["spec"]["cluster"] = {
        "kubeconfigSecretRef": {"name": "oregon"}
    }
    pool = the(fleet.objects, "InferencePool")["spec"]
    pool |= {"powerDown": "Sleep", "scaling": {"mode": "Scale", "minReplicas": 2}}
    pool["backends"][1]["scaleTargetRef"] = {"namespace": "models", "name": "vllm"}
    fleet.apply(mode="Enforce")
    process = operator("one")
    eventually(process.leads)
    assert eventually(lambda: "member-scaling.yaml" in fleet.pool()["status"]["message"])
    assert member.cluster.call("GET", f"{path}/vllm")["spec"]["replicas"] == 0
    member.cluster.apply_file(ROOT / "manifests" / "rbac" / "member-scaling.yaml")
    replicas = eventually(lambda: member.cluster.call("GET", f"{path}/vllm")["spec"]["replicas"])
    assert replicas == fleet.pool()["status"]["backends"][1]["desiredReplicas"] >= 2
    assert eventually(lambda: "not scaled" not in fleet.pool()["status"]["message"])

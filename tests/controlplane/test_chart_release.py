"""The chart on a real API server, by the real Helm: install, upgrade from the chart before, rollback, uninstall."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_values import CHART, RENDERED, ROOT, objects_of, of_kind, profile_name
from control_plane import Cluster, Etcd, RefusedError, eventually, in_namespace, kubeconfig
from other_kinds import published
from worlds import sample

PREVIOUS = ROOT / "tests" / "chart" / "previous" / "marlin-0.1.0.tgz"
KINDS = ("datacenters", "inferencepools", "marlinpolicies")
SINCE = {"marlinpolicies": {"originAware": False}}
"""Fields that came after PREVIOUS and have a default."""

Helm = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One without our kinds: bringing them is the chart's business."""
    server = Cluster("chart", etcd, tmp_path_factory.mktemp("chart"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    name = f"release-{next(_numbers)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


@pytest.fixture
def helm(cluster: Cluster, namespace: str, look: Look, tmp_path: Path) -> Iterator[Helm]:
    """Runs Helm as administrator in the test's namespace; returns what it prints. Leaves no release."""
    found = subprocess.run(["scripts/helm.sh", "--find"], capture_output=True, text=True, check=False, cwd=ROOT)
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    config = tmp_path / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(cluster, tmp_path, cluster.admin)))
    config.chmod(0o600)

    def run(*arguments: str | Path) -> str:
        command = [found.stdout.strip(), "--kubeconfig", config, "--namespace", namespace, *arguments]
        home = {"HELM_CACHE_HOME": str(tmp_path), "HELM_CONFIG_HOME": str(tmp_path), "HELM_DATA_HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | home, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    for one in json.loads(run("list", "--output", "json")):
        run("uninstall", one["name"])


class Look:
    """What is in a namespace, and what of ours in the cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace

    def deployments(self) -> set[str]:
        items = self._cluster.call("GET", f"/apis/apps/v1/namespaces/{self._namespace}/deployments")["items"]
        return {one["metadata"]["name"] for one in items}

    def kinds(self) -> set[str]:
        items = self._cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
        return {one["spec"]["names"]["plural"] for one in items if one["spec"]["group"] == "marlin.dev"}

    def objects(self) -> dict[str, Any]:
        found = {}
        for plural in KINDS:
            for one in self._cluster.call("GET", f"/apis/marlin.dev/v1alpha1/{plural}")["items"]:
                found[f"{plural}/{one['metadata']['name']}"] = (one["metadata"]["uid"], one["spec"])
        return found

    def roles(self) -> set[str]:
        items = self._cluster.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
        return {one["metadata"]["name"] for one in items if one["metadata"]["name"].startswith("marlin")}


@pytest.fixture
def look(cluster: Cluster, namespace: str) -> Iterator[Look]:
    yield Look(cluster, namespace)
    for one in cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{one['metadata']['name']}"
        cluster.call("DELETE", path)
    eventually(lambda: not Look(cluster, namespace).kinds())


def _apply_sample(cluster: Cluster) -> None:
    eventually(lambda: all(cluster.call("GET", f"/apis/marlin.dev/v1alpha1/{plural}") for plural in KINDS))
    cluster.apply(*in_namespace(sample(), "default", prefix=""))


def upgraded(objects: dict[str, Any]) -> dict[str, Any]:
    """The same with the defaults of fields that came after the chart before, which the API server fills in."""
    return {name: (uid, spec | SINCE.get(name.split("/")[0], {})) for name, (uid, spec) in objects.items()}


def test_objects_outlive_upgrade_rollback_and_uninstall(
    cluster: Cluster, namespace: str, helm: Helm, look: Look
) -> None:
    helm("install", "marlin", PREVIOUS)
    _apply_sample(cluster)
    before = look.objects()
    assert len(before) == len(sample())
    assert look.deployments() == {"marlin-router"}

    said = helm("upgrade", "marlin", CHART)
    assert "kubectl apply -f fleet.yaml" in said
    assert look.deployments() == {"marlin-router", "marlin-operator"}
    assert look.objects() == upgraded(before)

    helm("rollback", "marlin", "1")
    assert look.deployments() == {"marlin-router"}
    assert "marlin-operator" not in look.roles()
    assert look.objects() == before

    helm("upgrade", "marlin", CHART)
    said = helm("uninstall", "marlin")
    assert "kept due to the resource policy" in said
    assert look.deployments() == set()
    assert look.roles() == set()
    assert look.kinds() == set(KINDS)
    assert look.objects() == upgraded(before)


def test_a_release_can_be_installed_again_over_kept_kinds(
    cluster: Cluster, namespace: str, helm: Helm, look: Look
) -> None:
    helm("install", "marlin", CHART)
    _apply_sample(cluster)
    before = look.objects()
    helm("uninstall", "marlin")
    helm("install", "marlin", CHART)
    assert look.objects() == before
    assert look.deployments() == {"marlin-router", "marlin-operator"}


def test_kinds_that_are_not_to_be_kept_go_with_the_release(
    cluster: Cluster, namespace: str, helm: Helm, look: Look
) -> None:
    helm("install", "marlin", CHART, "--set", "crds.keep=false,router.enabled=false")
    _apply_sample(cluster)
    helm("uninstall", "marlin")
    assert eventually(lambda: look.kinds() == set())
    assert look.roles() == set()


def test_the_operator_of_the_chart_may_do_its_work(cluster: Cluster, namespace: str, helm: Helm, look: Look) -> None:
    """Asked as its own account, which the chart made and bound."""
    helm("install", "marlin", CHART)
    token = cluster.token_of(namespace, "marlin-operator")
    asked = {
        ("marlin.dev", "marlinpolicies", "", "list"): True,
        ("marlin.dev", "marlinpolicies", "", "delete"): False,
        ("coordination.k8s.io", "leases", namespace, "update"): True,
        ("", "secrets", namespace, "get"): True,
        ("", "secrets", "default", "get"): False,
        ("", "secrets", namespace, "list"): False,
        ("", "pods", "", "list"): False,
    }
    for (group, resource, where, verb), allowed in asked.items():
        attributes = {"group": group, "resource": resource, "verb": verb, "namespace": where}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        said = cluster.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body, token=token)
        assert said["status"]["allowed"] is allowed, attributes


_SPOILS: tuple[Callable[[dict[str, Any]], object], ...] = (
    lambda spec: spec["rules"][0].update(timeout={}),
    lambda spec: spec["rules"][0]["timeouts"].update(request="soon"),
    lambda spec: spec["rules"][0]["backendRefs"][0].pop("port"),
)
"""Slips, each of which has to be refused."""


def _strictly(cluster: Cluster, route: dict[str, Any]) -> Any:
    """What the server makes of a route when a field that it does not know is an error."""
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{route['metadata']['namespace']}/httproutes"
    return cluster.call("POST", f"{path}?dryRun=All&fieldValidation=Strict", route)


def test_the_gateway_api_s_own_kind_takes_the_route(cluster: Cluster, namespace: str, look: Look) -> None:
    """As its CustomResourceDefinition says, with the server's strict reading: no unknown field, every rule holds."""
    try:
        cluster.apply_file(published("gateway.networking.k8s.io_httproutes.yaml"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    routes = [route for rendering in RENDERED for route in of_kind(objects_of(rendering), "HTTPRoute")]
    assert len(routes) == 2
    for route in map(copy.deepcopy, routes):
        route["metadata"]["namespace"] = namespace
        taken = eventually(functools.partial(_strictly, cluster, route))
        assert taken["spec"]["rules"][0]["timeouts"] == {"request": "0s"}
        for spoil in _SPOILS:
            spoilt = copy.deepcopy(route)
            spoil(spoilt["spec"])
            with pytest.raises(RefusedError):
                _strictly(cluster, spoilt)


def _pods_of(rendering: Path) -> list[dict[str, Any]]:
    objects = objects_of(rendering)
    pods = [copy.deepcopy(one) for one in of_kind(objects, "Pod")]
    for one in of_kind(objects, "Deployment"):
        template = copy.deepcopy(one["spec"]["template"])
        template["metadata"]["name"] = one["metadata"]["name"]
        pods.append({"apiVersion": "v1", "kind": "Pod", **template})
    for pod in pods:
        pod["spec"].pop("priorityClassName", None)  # there is no such class here
        pod["spec"].pop("topologySpreadConstraints", None)  # matchLabelKeys are for templates
    return pods


@pytest.mark.parametrize("rendering", [p for p in RENDERED if p.stem != "kinds"], ids=profile_name)
def test_pods_are_admitted_where_pod_security_restricted_is_enforced(
    cluster: Cluster, namespace: str, rendering: Path
) -> None:
    pods = _pods_of(rendering)
    assert pods
    for pod in pods:
        pod["metadata"]["namespace"] = namespace
        path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        admitted = cluster.call("POST", path, pod)
        assert admitted["metadata"]["name"] == pod["metadata"]["name"]
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(RefusedError, match="PodSecurity"):
            cluster.call("POST", path, pod)

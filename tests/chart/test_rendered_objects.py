"""What the chart installs, read from its renderings: true to Kubernetes, to Pod Security and to the router. No Helm."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from chart_values import (
    CHART,
    KUSTOMIZE_BASE,
    PROFILES,
    RENDERED,
    ROOT,
    KubeObject,
    objects_of,
    of_kind,
    profile_name,
)

from marlin.api.crds import crd_yaml
from marlin.router.cli import router
from marlin.router.tables import read_table

VERSIONS = [f"1.{minor}" for minor in range(31, 37)]
RENDERINGS = [*RENDERED, KUSTOMIZE_BASE]
OTHERS_KINDS = {"monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule"}
WITH_ROUTER = [path for path in RENDERINGS if path.stem != "kinds"]

every_rendering = pytest.mark.parametrize("rendering", RENDERINGS, ids=profile_name)
every_router = pytest.mark.parametrize("rendering", WITH_ROUTER, ids=profile_name)


def test_every_profile_is_rendered_from_the_chart_as_it_is() -> None:
    subprocess.run([sys.executable, "scripts/render_chart.py", "--check"], cwd=ROOT, check=True)
    assert [path.stem for path in RENDERED] == [profile_name(path) for path in PROFILES]


def test_the_chart_carries_the_kinds_as_the_models_say() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "files" / "crds").iterdir()}
    assert files == crd_yaml()


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Any:
    """The library reads and parses its schemas, of megabytes, for every object."""
    patch = pytest.MonkeyPatch()
    utils = kubernetes_validate.utils
    patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
    yield
    patch.undo()


@pytest.mark.parametrize("version", VERSIONS)
@every_rendering
def test_kubernetes_knows_every_field(rendering: Path, version: str) -> None:
    for one in objects_of(rendering):
        if f"{one['apiVersion']}/{one['kind']}" not in OTHERS_KINDS:
            kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_seen() -> None:
    service = of_kind(objects_of(KUSTOMIZE_BASE), "Service")[0]
    service["spec"]["portz"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="portz"):
        kubernetes_validate.validate(service, "1.35", strict=True)


@every_rendering
def test_names_are_unique(rendering: Path) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects_of(rendering)]
    assert len(set(names)) == len(names)


def _pods(objects: list[KubeObject]) -> list[dict[str, Any]]:
    templates = [one["spec"]["template"]["spec"] for one in of_kind(objects, "Deployment")]
    return templates + [one["spec"] for one in of_kind(objects, "Pod")]


@every_router
def test_pods_are_restricted_and_hold_no_token(rendering: Path) -> None:
    pods = _pods(objects_of(rendering))
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"].get("runAsUser") != 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "projected"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def _router_container(rendering: Path) -> dict[str, Any]:
    (deployment,) = of_kind(objects_of(rendering), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@every_router
def test_the_router_takes_the_arguments_it_is_given(rendering: Path, tmp_path: Path) -> None:
    container = _router_container(rendering)
    command, *arguments = container["args"]
    assert command == "router"
    table = tmp_path / "table"
    table.touch()
    # Files that exist only in the pod; all else is checked by the router's own command line.
    here = {"--config": table, "--secrets-dir": tmp_path}
    arguments = [
        f"{name}={here[name]}" if (name := argument.partition("=")[0]) in here else argument for argument in arguments
    ]
    options = router.make_context("router", arguments).params
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": options["port"], "admin": options["admin_port"]}
    assert options["host"] == options["admin_host"] != "127.0.0.1"


@every_router
def test_a_pod_may_drain_to_its_end(rendering: Path) -> None:
    (deployment,) = of_kind(objects_of(rendering), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    drain_s = sum(
        float(argument.partition("=")[2])
        for argument in spec["containers"][0]["args"]
        if argument.startswith("--drain-")
    )
    assert spec["terminationGracePeriodSeconds"] >= drain_s + 10


@every_router
def test_what_the_router_reads_is_mounted(rendering: Path) -> None:
    (deployment,) = of_kind(objects_of(rendering), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    (config,) = [a.partition("=")[2] for a in container["args"] if a.startswith("--config=")]
    assert Path(config).parent == Path(mounts["table"])
    for volume in spec["volumes"]:
        if "secret" in volume:
            assert mounts[volume["name"]] == f"/var/run/marlin/secrets/{volume['secret']['secretName']}"


@every_router
def test_selectors_find_the_routers_pods_and_nothing_else(rendering: Path) -> None:
    objects = objects_of(rendering)
    (deployment,) = of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind(objects, "NetworkPolicy")]
    for selector in selectors:
        assert selector.items() <= labels
        assert not any(selector.items() <= pod["metadata"]["labels"].items() for pod in of_kind(objects, "Pod"))
    monitored = [one["spec"]["selector"]["matchLabels"] for one in of_kind(objects, "ServiceMonitor")]
    for selector in monitored:
        found = [one for one in of_kind(objects, "Service") if selector.items() <= one["metadata"]["labels"].items()]
        assert [one["metadata"]["name"] for one in found] == [f"{deployment['metadata']['name']}-metrics"]


@every_router
def test_no_load_balancer_reaches_the_admin_port(rendering: Path) -> None:
    for service in of_kind(objects_of(rendering), "Service"):
        ports = [port["targetPort"] for port in service["spec"]["ports"]]
        assert ports == (["admin"] if service["metadata"]["name"].endswith("-metrics") else ["http"])
        assert ports == ["http"] or service["spec"]["clusterIP"] == "None"


def test_documents_in_the_values_are_a_table() -> None:
    (config_map,) = of_kind(objects_of(ROOT / "tests/chart/rendered/minimal.yaml"), "ConfigMap")
    ((key, text),) = config_map["data"].items()
    table = read_table(text, key)
    assert [pool.model_name for pool in table.pools] == ["chat"]
    config = next(a for a in _router_container(ROOT / "tests/chart/rendered/minimal.yaml")["args"] if "--config" in a)
    assert config.endswith(f"/{key}")


def test_a_digest_takes_the_place_of_the_tag() -> None:
    image = _router_container(ROOT / "tests/chart/rendered/production.yaml")["image"]
    assert re.fullmatch(r"registry\.example\.com/marlin/router@sha256:[0-9a-f]{64}", image)


def test_where_pods_are_scaled_nobody_sets_their_number() -> None:
    objects = objects_of(ROOT / "tests/chart/rendered/production.yaml")
    (deployment,) = of_kind(objects, "Deployment")
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_nobody_but_administrators_may_write_datacenters() -> None:
    roles = of_kind(objects_of(ROOT / "tests/chart/rendered/default.yaml"), "ClusterRole")
    assert len(roles) == 3
    for rule in (rule for role in roles for rule in role["rules"] if "datacenters" in rule["resources"]):
        assert rule["verbs"] == ["get", "list", "watch"]


def test_without_a_router_there_is_nothing_of_it() -> None:
    kinds = {one["kind"] for one in objects_of(ROOT / "tests/chart/rendered/kinds.yaml")}
    assert kinds == {"ClusterRole"}


def test_extra_objects_are_rendered_as_templates() -> None:
    extra = of_kind(objects_of(ROOT / "tests/chart/rendered/everything.yaml"), "ConfigMap")
    by_name = {one["metadata"]["name"]: one["data"] for one in extra}
    assert by_name["marlin-extra"] == {"as": "object"}
    assert by_name["extra-text"] == {"namespace": "marlin"}

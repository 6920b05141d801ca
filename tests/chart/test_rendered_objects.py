"""What the chart installs, read from its renderings: true to Kubernetes, to Pod Security and to the router. No Helm."""

from __future__ import annotations

import functools
import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from chart_values import (
    CHART,
    KUSTOMIZE_OPERATOR,
    KUSTOMIZE_ROUTER,
    PROFILES,
    RENDERED,
    ROOT,
    KubeObject,
    deployments,
    objects_in,
    objects_of,
    of_kind,
    profile_name,
)

from marlin.api.crds import crd_yaml
from marlin.operator.cli import operator
from marlin.router.cli import router
from marlin.router.tables import read_table

VERSIONS = [f"1.{minor}" for minor in range(31, 37)]
RENDERINGS = [*RENDERED, KUSTOMIZE_ROUTER, KUSTOMIZE_OPERATOR]
OTHERS_KINDS = {
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "gateway.networking.k8s.io/v1/HTTPRoute",
}
WITH_ROUTER = [path for path in RENDERINGS if path.stem not in {"kinds", "operator"}]
WITH_OPERATOR = [path for path in RENDERINGS if path.stem in {"default", "production", "everything", "operator"}]
WITH_PODS = [path for path in RENDERINGS if path.stem != "kinds"]

every_rendering = pytest.mark.parametrize("rendering", RENDERINGS, ids=profile_name)
every_router = pytest.mark.parametrize("rendering", WITH_ROUTER, ids=profile_name)
every_operator = pytest.mark.parametrize("rendering", WITH_OPERATOR, ids=profile_name)


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
    service = of_kind(objects_of(KUSTOMIZE_ROUTER), "Service")[0]
    service["spec"]["portz"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="portz"):
        kubernetes_validate.validate(service, "1.35", strict=True)


@pytest.mark.parametrize("rendering", [path for path in RENDERED if path.stem in {"production", "everything"}])
def test_what_publishes_the_router_leads_to_the_port_of_its_service(rendering: Path) -> None:
    objects = objects_of(rendering)
    services = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "Service")}
    ingresses, routes = of_kind(objects, "Ingress"), of_kind(objects, "HTTPRoute")
    paths = [path for one in ingresses for rule in one["spec"]["rules"] for path in rule["http"]["paths"]]
    backends = [(path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"]) for path in paths]
    refs = [ref for one in routes for rule in one["spec"]["rules"] for ref in rule["backendRefs"]]
    backends += [(ref["name"], ref["port"]) for ref in refs]
    assert len(backends) == {"production": 1, "everything": 3}[rendering.stem]
    for name, port in backends:
        assert [one["targetPort"] for one in services[name]["ports"] if one["port"] == port] == ["http"]
    for one in ingresses:
        (tls,) = one["spec"]["tls"]
        assert tls["hosts"] == [rule["host"] for rule in one["spec"]["rules"]]


@every_rendering
def test_names_are_unique(rendering: Path) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects_of(rendering)]
    assert len(set(names)) == len(names)


def _pods(objects: list[KubeObject]) -> list[dict[str, Any]]:
    templates = [one["spec"]["template"]["spec"] for one in of_kind(objects, "Deployment")]
    return templates + [one["spec"] for one in of_kind(objects, "Pod")]


@pytest.mark.parametrize("rendering", WITH_PODS, ids=profile_name)
def test_pods_are_restricted_and_hold_a_token_only_where_they_ask_an_api_server(rendering: Path) -> None:
    pods = _pods(objects_of(rendering))
    assert pods
    for pod in pods:
        arguments = " ".join(pod["containers"][0].get("args", []))
        watches = "--table-config-map" in arguments and "--table-server" not in arguments
        assert pod["automountServiceAccountToken"] is (pod["containers"][0]["name"] == "operator" or watches)
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


def _container(rendering: Path, component: str) -> dict[str, Any]:
    deployment = deployments(objects_of(rendering))[component]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@every_router
def test_the_router_takes_the_arguments_it_is_given(rendering: Path, tmp_path: Path) -> None:
    container = _container(rendering, "router")
    command, *arguments = container["args"]
    assert command == "router"
    table = tmp_path / "table"
    table.touch()
    # Files that exist only in the pod; all else is checked by the router's own command line.
    files = ("--config", "--tenants", "--table-ca-file", "--table-token-file")
    here = {"--secrets-dir": tmp_path} | dict.fromkeys(files, table)
    arguments = [
        f"{name}={here[name]}" if (name := argument.partition("=")[0]) in here else argument for argument in arguments
    ]
    options = router.make_context("router", arguments).params
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": options["port"], "admin": options["admin_port"]}
    assert options["host"] == options["admin_host"] != "127.0.0.1"


@every_router
def test_a_pod_may_drain_to_its_end(rendering: Path) -> None:
    deployment = deployments(objects_of(rendering))["router"]
    spec = deployment["spec"]["template"]["spec"]
    drain_s = sum(
        float(argument.partition("=")[2])
        for argument in spec["containers"][0]["args"]
        if argument.startswith("--drain-")
    )
    assert spec["terminationGracePeriodSeconds"] >= drain_s + 10


@every_router
def test_what_the_router_reads_is_mounted(rendering: Path) -> None:
    deployment = deployments(objects_of(rendering))["router"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    said = dict(a.removeprefix("--").partition("=")[::2] for a in container["args"])
    # Its table is mounted, or watched in another cluster with what is mounted.
    for option, name in (("config", "table"), ("table-token-file", "table-access"), ("table-ca-file", "table-access")):
        assert (option in said) == (name in mounts)
        assert name not in mounts or Path(said[option]).parent == Path(mounts[name])
    assert ("table-cache" in mounts) == ("table-cache" in said) == ("table-config-map" in said)
    tenants = [a.partition("=")[2] for a in container["args"] if a.startswith("--tenants=")]
    assert [str(Path(one).parent) for one in tenants] == [mounts[name] for name in mounts if name == "tenants"]
    for volume in spec["volumes"]:
        if "secret" in volume and volume["name"] not in {"tenants", "table-access"}:
            assert mounts[volume["name"]] == f"/var/run/marlin/secrets/{volume['secret']['secretName']}"


@every_rendering
def test_selectors_find_the_pods_of_their_component_and_nothing_else(rendering: Path) -> None:
    objects = objects_of(rendering)
    by_component = deployments(objects)
    pods = {component: one["spec"]["template"]["metadata"]["labels"] for component, one in by_component.items()}
    pods |= {one["metadata"]["name"]: one["metadata"]["labels"] for one in of_kind(objects, "Pod")}
    selectors = [(one, one["spec"]["selector"]["matchLabels"]) for one in by_component.values()]
    selectors += [(one, one["spec"]["selector"]) for one in of_kind(objects, "Service")]
    selectors += [(one, one["spec"]["selector"]["matchLabels"]) for one in of_kind(objects, "PodDisruptionBudget")]
    selectors += [(one, one["spec"]["podSelector"]["matchLabels"]) for one in of_kind(objects, "NetworkPolicy")]
    for one, selector in selectors:
        found = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert found == [one["metadata"]["labels"]["app.kubernetes.io/component"]]
    for monitor in of_kind(objects, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [s for s in of_kind(objects, "Service") if selector.items() <= s["metadata"]["labels"].items()]
        assert [one["metadata"]["name"] for one in services] == [f"{monitor['metadata']['name']}-metrics"]


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
    config = next(
        a for a in _container(ROOT / "tests/chart/rendered/minimal.yaml", "router")["args"] if "--config" in a
    )
    assert config.endswith(f"/{key}")


def test_a_digest_takes_the_place_of_the_tag() -> None:
    for component in ("router", "operator"):
        image = _container(ROOT / "tests/chart/rendered/production.yaml", component)["image"]
        assert re.fullmatch(rf"registry\.example\.com/marlin/{component}@sha256:[0-9a-f]{{64}}", image)


def test_a_production_release_has_all_that_a_platform_team_asks_for() -> None:
    """One of each for operator and router, and pods that are spread and probed, with their requests stated."""
    objects = objects_of(ROOT / "tests/chart/rendered/production.yaml")
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "ServiceAccount"):
        assert len(of_kind(objects, kind)) == 2, kind
    assert (
        len([one for one in of_kind(objects, "Pod") if one["metadata"]["annotations"]["helm.sh/hook"] == "test"]) == 2
    )
    labels = [one["metadata"]["labels"] for one in of_kind(objects, "ConfigMap")]
    assert len([one for one in labels if one.get("grafana_dashboard") == "1"]) == 5
    aggregated = [one["metadata"]["labels"] for one in of_kind(objects, "ClusterRole")]
    for role in ("view", "edit", "admin"):
        assert [one for one in aggregated if one.get(f"rbac.authorization.k8s.io/aggregate-to-{role}") == "true"], role
    for name, deployment in deployments(objects).items():
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        for spread in pod["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name
        assert pod["spec"]["topologySpreadConstraints"], name


def test_where_pods_are_scaled_nobody_sets_their_number() -> None:
    objects = objects_of(ROOT / "tests/chart/rendered/production.yaml")
    deployment = deployments(objects)["router"]
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


@every_operator
def test_the_operator_takes_the_arguments_it_is_given(rendering: Path) -> None:
    container = _container(rendering, "operator")
    command, *arguments = container["args"]
    assert command == "operator"
    options = operator.make_context("operator", list(arguments)).params
    host, _, port = options["health_address"].rpartition(":")
    assert {"name": "admin", "containerPort": int(port), "protocol": "TCP"} in container["ports"]
    assert host in {"0.0.0.0", "[::]"}
    assert ipaddress.ip_address(host.strip("[]")).is_unspecified
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"


def test_the_operator_may_do_what_the_shipped_roles_say_and_no_more() -> None:
    rendered, shipped = (
        {(one["kind"], one["metadata"]["name"]): one for one in objects_of(path) if "Role" in one["kind"]}
        for path in (KUSTOMIZE_OPERATOR, ROOT / "manifests" / "rbac" / "operator.yaml")
    )
    assert rendered.keys() == shipped.keys()
    for key, one in shipped.items():
        assert rendered[key].get("rules") == one.get("rules"), key
        assert rendered[key].get("subjects") == one.get("subjects"), key
        assert rendered[key].get("roleRef") == one.get("roleRef"), key


def test_what_the_operator_may_read_of_other_inventories_is_the_shipped_role() -> None:
    roles = of_kind(objects_of(ROOT / "tests/chart/rendered/everything.yaml"), "ClusterRole")
    (rendered,) = [one for one in roles if one["metadata"]["name"].endswith("-inventory")]
    (shipped,) = of_kind(objects_of(ROOT / "manifests/rbac/inventory.yaml"), "ClusterRole")
    assert rendered["rules"] == shipped["rules"]


@every_operator
def test_roles_are_bound_to_the_account_that_their_component_runs_as(rendering: Path) -> None:
    objects = objects_of(rendering)
    accounts = {
        component: one["spec"]["template"]["spec"]["serviceAccountName"]
        for component, one in deployments(objects).items()
    }
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    assert {one["kind"] for one in bindings} == {"RoleBinding", "ClusterRoleBinding"}
    for one in bindings:
        (subject,) = one["subjects"]
        assert subject["name"] == accounts[one["metadata"]["labels"]["app.kubernetes.io/component"]]
        assert one["roleRef"]["name"] in {role["metadata"]["name"] for role in of_kind(objects, one["roleRef"]["kind"])}


@every_router
def test_a_router_may_watch_the_table_that_it_mounts_and_nothing_else(rendering: Path) -> None:
    objects = objects_of(rendering)
    spec = deployments(objects)["router"]["spec"]["template"]["spec"]
    component = {"app.kubernetes.io/component": "router"}
    roles = [one for one in objects if "Role" in one["kind"] and component.items() <= one["metadata"]["labels"].items()]
    if not spec["automountServiceAccountToken"]:
        assert roles == []
        return
    (role,) = [one for one in roles if "rules" in one]
    mounted = next(volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "table")
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [mounted], "verbs": ["get", "watch"]}
    assert role["rules"] == [rule]


def test_nobody_but_administrators_may_write_datacenters() -> None:
    roles = of_kind(objects_of(ROOT / "tests/chart/rendered/default.yaml"), "ClusterRole")
    assert len(roles) == 4
    for rule in (rule for role in roles for rule in role["rules"] if "datacenters" in rule["resources"]):
        assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_with_neither_router_nor_operator_there_is_nothing_of_them() -> None:
    objects = objects_of(ROOT / "tests/chart/rendered/kinds.yaml")
    assert {one["kind"] for one in objects} == {"ClusterRole"}
    assert len(objects) == 3


def test_kustomize_puts_everything_of_the_operator_into_its_namespace(kubectl: Path) -> None:
    run = subprocess.run(
        [kubectl, "kustomize", ROOT / "manifests"], capture_output=True, text=True, check=True, timeout=60
    )
    objects = objects_in(run.stdout)
    assert len(of_kind(objects, "CustomResourceDefinition")) == 3
    ours = [
        one for one in objects if one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "operator"
    ]
    assert len(ours) == len(objects_of(KUSTOMIZE_OPERATOR))
    for one in ours:
        inside = None if one["kind"].startswith("ClusterRole") else "marlin-system"
        assert one["metadata"].get("namespace") == inside
    assert "marlin-system" in {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}


def test_extra_objects_are_rendered_as_templates() -> None:
    extra = of_kind(objects_of(ROOT / "tests/chart/rendered/everything.yaml"), "ConfigMap")
    by_name = {one["metadata"]["name"]: one["data"] for one in extra}
    assert by_name["marlin-extra"] == {"as": "object"}
    assert by_name["extra-text"] == {"namespace": "marlin"}

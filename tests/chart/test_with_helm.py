"""The chart, through the real Helm: what it accepts, refuses and says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from chart_values import CHART, PROFILES, KubeObject, objects_in, of_kind, profile_name

from marlin.api.crds import crd_yaml
from marlin.operator.running import LEASE_NAME

Template = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def template(helm: Path) -> Template:
    """``helm template`` with options, for a release called marlin."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [str(helm), "template", "marlin", str(CHART), "--namespace", "marlin", "--kube-version", "1.35.0"]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("profile", PROFILES, ids=profile_name)
def test_helm_finds_nothing_to_complain_about(helm: Path, profile: Path) -> None:
    subprocess.run([helm, "lint", "--strict", CHART, "--values", profile], check=True, capture_output=True)


@pytest.mark.parametrize("keep", ["true", "false"])
def test_the_kinds_are_rendered_as_the_models_say(template: Template, keep: str) -> None:
    rendered = of_kind(objects_in(template("--set", f"crds.keep={keep}").stdout), "CustomResourceDefinition")
    for one in rendered:
        annotations = one["metadata"].pop("annotations", {})
        assert annotations == ({"helm.sh/resource-policy": "keep"} if keep == "true" else {})
        assert one["metadata"].pop("labels")["app.kubernetes.io/managed-by"] == "Helm"
    assert rendered == [yaml.safe_load(text) for text in crd_yaml().values()]


def test_a_member_gets_no_kinds_and_no_roles(template: Template) -> None:
    objects = objects_in(template("--set", "crds.enabled=false,operator.enabled=false").stdout)
    assert objects
    assert not of_kind(objects, "CustomResourceDefinition")
    assert not of_kind(objects, "ClusterRole")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "router.replica=3"], "replica"),
        (["--set", "routers.replicas=3"], "routers"),
        (["--set", "router.image.digest=latest"], "digest"),
        (["--set", "operator.logLevel=loud"], "logLevel"),
        (["--set", "router.service.port=0"], "port"),
        (["--set", "router.table.configMap="], "router.table: give configMap"),
        (["--set", "router.ingress.enabled=true"], "router.ingress.hosts: give at least one host name"),
        (["--set", "router.ingress.enabled=true,router.ingress.hosts={Chat}"], "hosts"),
        (["--set", "router.httpRoute.enabled=true"], "router.httpRoute.parentRefs: give at least one gateway"),
        (["--set", "router.autoscaling.enabled=true,router.autoscaling.minReplicas=11"], "minReplicas is above"),
        (["--kube-version", "1.30.0"], "incompatible with Kubernetes v1.30.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_helm_refuses_and_names_what_is_wrong(template: Template, options: list[str], says: str) -> None:
    run = template(*options)
    assert run.returncode != 0
    assert says in run.stderr


@pytest.mark.parametrize(
    ("section", "kind"), [("serviceMonitor", "ServiceMonitor"), ("prometheusRule", "PrometheusRule")]
)
def test_the_render_mode_decides_where_a_kind_is_missing(template: Template, section: str, kind: str) -> None:
    def with_mode(mode: str, *options: str) -> subprocess.CompletedProcess[str]:
        values = f"crds.enabled=false,metrics.{section}.enabled=true,metrics.{section}.renderMode={mode}"
        return template("--set", values, *options)

    def holds(run: subprocess.CompletedProcess[str]) -> bool:
        assert run.returncode == 0, run.stderr
        return bool(of_kind(objects_in(run.stdout), kind))

    api = f"monitoring.coreos.com/v1/{kind}"
    assert not holds(with_mode("skipIfMissing"))
    assert holds(with_mode("skipIfMissing", "--api-versions", api))
    assert holds(with_mode("alwaysRender"))
    assert holds(with_mode("failIfMissing", "--api-versions", api))
    refused = with_mode("failIfMissing")
    assert refused.returncode != 0
    assert f"metrics.{section}.renderMode is failIfMissing and the cluster has no {api}" in refused.stderr


def _with_notes(helm: Path, folder: Path, *options: str) -> tuple[list[KubeObject], str]:
    """The objects of release lab in namespace serving, and its notes."""
    # Helm shows notes only when it installs into a cluster: here the same text is rendered as a value of an object.
    chart = folder / "marlin"
    shutil.copytree(CHART, chart)
    shutil.copy(CHART / "templates" / "NOTES.txt", chart / "files" / "notes.txt")
    (chart / "templates" / "shown.yaml").write_text(
        'kind: Notes\ntext: {{ tpl (.Files.Get "files/notes.txt") . | toJson }}\n'
    )
    command = [str(helm), "template", "lab", str(chart), "--namespace", "serving", "--kube-version", "1.35.0"]
    objects = objects_in(subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout)
    (notes,) = of_kind(objects, "Notes")
    return objects, notes["text"]


@pytest.mark.parametrize(
    ("values", "by"),
    [
        ("router.service.type=ClusterIP", None),
        ("router.service.type=LoadBalancer", "a load balancer"),
        ("router.service.type=LoadBalancer,router.service.loadBalancerSourceRanges={10.0.0.0/8}", None),
        ("router.service.type=LoadBalancer,router.tenants.existingSecret=tenants", None),
        ("router.ingress.enabled=true,router.ingress.hosts={chat.example}", "an Ingress"),
        ("router.httpRoute.enabled=true,router.httpRoute.parentRefs[0].name=public", "an HTTPRoute"),
        ("router.ingress.enabled=true,router.ingress.hosts={chat.example},router.tenants.existingSecret=tenants", None),
    ],
)
def test_the_notes_warn_where_a_router_without_keys_is_published(
    helm: Path, tmp_path: Path, values: str, by: str | None
) -> None:
    _, notes = _with_notes(helm, tmp_path, "--set", values)
    assert ("Warning" in notes) is (by is not None)
    if by is not None:
        assert f"Warning: {by} publishes the router" in notes


def test_the_notes_name_the_objects_that_were_made(helm: Path, tmp_path: Path) -> None:
    objects, notes = _with_notes(helm, tmp_path)
    for deployment in of_kind(objects, "Deployment"):
        assert f"rollout status deployment/{deployment['metadata']['name']}" in notes
    assert f"get lease {LEASE_NAME}" in notes
    assert "-n serving create configmap marlin-routing-table --from-file=routing-table.json=fleet.yaml" in notes
    assert "helm -n serving test lab" in notes


def test_a_package_holds_the_chart_without_the_tests_profiles(helm: Path, tmp_path: Path) -> None:
    subprocess.run([helm, "package", CHART, "--destination", tmp_path], check=True, capture_output=True)
    (package,) = tmp_path.iterdir()
    names = subprocess.run(["tar", "-tzf", package], capture_output=True, text=True, check=True).stdout.split()
    assert "marlin/values.schema.json" in names
    assert "marlin/files/crds/marlin.dev_datacenters.yaml" in names
    assert not [name for name in names if "/ci/" in name]

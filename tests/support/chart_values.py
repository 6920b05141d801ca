"""Where the chart is, its profiles of values, and its renderings as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "charts" / "marlin"
PROFILES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
RENDERED: Final = sorted((ROOT / "tests" / "chart" / "rendered").glob("*.yaml"))
KUSTOMIZE_ROUTER: Final = ROOT / "manifests" / "router" / "router.yaml"
KUSTOMIZE_OPERATOR: Final = ROOT / "manifests" / "operator" / "operator.yaml"

KubeObject = dict[str, Any]


def objects_in(text: str) -> list[KubeObject]:
    """The objects of a stream of YAML documents, empty ones left out."""
    # libyaml, where PyYAML has it: the kinds are 3,500 lines, which the Python loader takes seconds for.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]


def objects_of(rendering: Path) -> list[KubeObject]:
    """The objects of a rendering."""
    return objects_in(rendering.read_text(encoding="utf-8"))


def of_kind(objects: list[KubeObject], kind: str) -> list[KubeObject]:
    """Those of one kind."""
    return [one for one in objects if one["kind"] == kind]


def deployments(objects: list[KubeObject]) -> dict[str, KubeObject]:
    """Each component's Deployment, by the component's name."""
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in of_kind(objects, "Deployment")}


def profile_name(path: Path) -> str:
    """A profile's or a rendering's name, for the name of a test."""
    return path.stem.removesuffix("-values")

"""Writes what follows from charts/marlin/values.yaml: its README and the closed schema of its values.

scripts/generate_chart.py           write them
scripts/generate_chart.py --check   write nothing; exit with 1 when one differs

A line `# --` above a key describes it, and makes it a leaf: what is below it is its default. The type is that of the
default; `REFINED` says what a default cannot. Every object that holds described keys is closed, so that a misspelt
key is refused and not ignored.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts" / "marlin"

_NAME: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
_HOST: Final = {"type": "string", "maxLength": 253, "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65_535}
_SECONDS: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400}
_SECONDS_OR_0: Final = {"type": "number", "minimum": 0, "maximum": 86_400}
_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_STRINGS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_RENDER_MODE: Final = {"enum": ["skipIfMissing", "failIfMissing", "alwaysRender"]}
_TAG: Final = {"type": "string", "maxLength": 128, "pattern": r"^([A-Za-z0-9_][A-Za-z0-9._-]*)?$"}
_DIGEST: Final = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_PULL_POLICY: Final = {"enum": ["Always", "IfNotPresent", "Never"]}
_AMOUNT: Final = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]}
_DURATION: Final = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}

REFINED: Final[dict[str, dict[str, Any]]] = {
    "nameOverride": {"type": "string", "maxLength": 40, "pattern": _NAME},
    "fullnameOverride": {"type": "string", "maxLength": 40, "pattern": _NAME},
    "commonLabels": _STRINGS,
    "imagePullSecrets": {"type": "array", "items": {"type": "string", "minLength": 1}},
    "operator.replicas": {"type": "integer", "minimum": 0, "maximum": 10},
    "operator.image.repository": {"type": "string", "minLength": 1},
    "operator.image.tag": _TAG,
    "operator.image.digest": _DIGEST,
    "operator.image.pullPolicy": _PULL_POLICY,
    "operator.listenAddress": {"type": "string", "minLength": 1},
    "operator.logLevel": {"enum": ["debug", "info", "warning"]},
    "operator.serviceAccount.name": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "operator.serviceAccount.annotations": _STRINGS,
    "operator.podDisruptionBudget.maxUnavailable": _AMOUNT,
    "operator.networkPolicy.scrapers": _OBJECTS,
    "operator.networkPolicy.egress": _OBJECTS,
    "operator.podLabels": _STRINGS,
    "operator.podAnnotations": _STRINGS,
    "operator.nodeSelector": _STRINGS,
    "operator.tolerations": _OBJECTS,
    "operator.topologySpreadConstraints": _OBJECTS,
    "operator.extraArgs": {"type": "array", "items": {"type": "string"}},
    "operator.extraEnv": _OBJECTS,
    "operator.extraVolumes": _OBJECTS,
    "operator.extraVolumeMounts": _OBJECTS,
    "router.replicas": {"type": "integer", "minimum": 0, "maximum": 1000},
    "router.image.repository": {"type": "string", "minLength": 1},
    "router.image.tag": _TAG,
    "router.image.digest": _DIGEST,
    "router.image.pullPolicy": _PULL_POLICY,
    "router.table.configMap": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "router.table.key": {"type": "string", "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"},
    "router.existingSecrets": {
        "type": "array",
        "uniqueItems": True,
        "items": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": _NAME},
    },
    "router.tenants.existingSecret": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "router.tenants.key": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"},
    "router.workers": {"type": "integer", "minimum": 1, "maximum": 64},
    "router.listenAddress": {"type": "string", "minLength": 1},
    "router.logFormat": {"enum": ["json", "text"]},
    "router.connectTimeoutSeconds": _SECONDS,
    "router.requestTimeoutSeconds": _SECONDS,
    "router.streamIdleTimeoutSeconds": _SECONDS,
    "router.probeIntervalSeconds": _SECONDS_OR_0,
    "router.maxBodyMebibytes": {"type": "number", "minimum": 0.001, "maximum": 65_536},
    "router.drain.graceSeconds": _SECONDS_OR_0,
    "router.drain.timeoutSeconds": _SECONDS_OR_0,
    "router.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "router.service.port": _PORT,
    "router.service.nodePort": _PORT | {"type": ["integer", "null"]},
    "router.ingress.className": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "router.ingress.annotations": _STRINGS,
    "router.ingress.hosts": {"type": "array", "items": _HOST},
    "router.ingress.tlsSecret": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "router.httpRoute.annotations": _STRINGS,
    "router.httpRoute.parentRefs": _OBJECTS,
    "router.httpRoute.hostnames": {"type": "array", "items": _HOST},
    "router.service.annotations": _STRINGS,
    "router.service.trafficDistribution": {"enum": ["", "PreferClose"]},
    "router.service.loadBalancerSourceRanges": {"type": "array", "items": {"type": "string"}},
    "router.serviceAccount.name": {"type": "string", "maxLength": 253, "pattern": _NAME},
    "router.serviceAccount.annotations": _STRINGS,
    "router.autoscaling.minReplicas": {"type": "integer", "minimum": 1, "maximum": 1000},
    "router.autoscaling.maxReplicas": {"type": "integer", "minimum": 1, "maximum": 1000},
    "router.autoscaling.targetCPUUtilizationPercentage": {"type": "integer", "minimum": 1, "maximum": 1000},
    "router.podDisruptionBudget.maxUnavailable": _AMOUNT,
    "router.networkPolicy.clients": _OBJECTS,
    "router.networkPolicy.scrapers": _OBJECTS,
    "router.networkPolicy.egress": _OBJECTS,
    "router.podLabels": _STRINGS,
    "router.podAnnotations": _STRINGS,
    "router.nodeSelector": _STRINGS,
    "router.tolerations": _OBJECTS,
    "router.topologySpreadConstraints": _OBJECTS,
    "router.extraArgs": {"type": "array", "items": {"type": "string"}},
    "router.extraEnv": _OBJECTS,
    "router.extraVolumes": _OBJECTS,
    "router.extraVolumeMounts": _OBJECTS,
    "metrics.serviceMonitor.renderMode": _RENDER_MODE,
    "metrics.serviceMonitor.interval": _DURATION,
    "metrics.serviceMonitor.scrapeTimeout": _DURATION,
    "metrics.serviceMonitor.labels": _STRINGS,
    "metrics.prometheusRule.renderMode": _RENDER_MODE,
    "metrics.prometheusRule.labels": _STRINGS,
    "metrics.dashboards.labels": _STRINGS,
    "metrics.dashboards.annotations": _STRINGS,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}

_TYPES: Final = {bool: "boolean", int: "integer", str: "string", dict: "object", list: "array"}


@dataclass(frozen=True, slots=True)
class Value:
    """A key that people set."""

    path: str
    """With dots."""
    description: str
    default: Any


def main(arguments: list[str]) -> int:
    """Writes or compares; returns the exit code."""
    values = described_values((CHART / "values.yaml").read_text(encoding="utf-8"))
    texts = {"README.md": readme(values), "values.schema.json": schema_text(values)}
    stale = [name for name, text in texts.items() if not _holds(CHART / name, text)]
    if "--check" in arguments:
        for name in stale:
            print(f"charts/marlin/{name} differs from values.yaml; run `make generate`", file=sys.stderr)
        return int(bool(stale))
    for name in stale:
        (CHART / name).write_text(texts[name], encoding="utf-8")
        print(f"wrote charts/marlin/{name}")
    return 0


def described_values(text: str) -> list[Value]:
    """The keys of a values file with the comments above them, in the file's order.

    Raises:
        ValueError: a value has no description, or a refinement no value.
    """
    tree = yaml.safe_load(text)
    values: list[Value] = []
    open_keys: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif found := re.match(r"^( *)([A-Za-z]+):", line):
            depth = len(found[1])
            open_keys = [*((indent, key) for indent, key in open_keys if indent < depth), (depth, found[2])]
            path = ".".join(key for _, key in open_keys)
            if comment:
                values.append(Value(path, " ".join(comment), _at(tree, path)))
                comment = []
    known = [value.path for value in values]
    if nameless := [path for path in _leaves(tree, known) if path not in known]:
        raise ValueError(f"values.yaml: no `# --` line above {', '.join(nameless)}")
    if lost := sorted(set(REFINED) - set(known)):
        raise ValueError(f"REFINED names what values.yaml lacks: {', '.join(lost)}")
    return values


def schema_text(values: list[Value]) -> str:
    """The JSON schema (draft 7, which is what Helm 3 reads) of the values."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart marlin",
        **_closed(),
    }
    # Helm adds it to the values of a chart that is another one's dependency.
    root["properties"]["global"] = {"type": "object", "description": "Read by no template of this chart."}
    for value in values:
        *parents, key = value.path.split(".")
        node = root
        for parent in parents:
            node = node["properties"].setdefault(parent, _closed())
        refined = REFINED.get(value.path) or {"type": _TYPES[type(value.default)]}
        node["properties"][key] = {"description": value.description, **refined}
    return json.dumps(root, indent=2) + "\n"


def readme(values: list[Value]) -> str:
    """The chart's README: what it installs, how, and its values."""
    rows = "".join(
        f"| `{v.path}` | {_cell(v.default)} | {v.description.replace('|', chr(92) + '|')} |\n" for v in values
    )
    head = (CHART / "files" / "readme-head.md").read_text(encoding="utf-8")
    return (
        "<!-- Generated by scripts/generate_chart.py from values.yaml and files/readme-head.md. -->\n\n"
        f"{head}\n## Values\n\n| value | default | meaning |\n|---|---|---|\n{rows}"
    )


def _cell(default: Any) -> str:
    return f"`{json.dumps(default)}`"


def _closed() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _leaves(tree: dict[str, Any], known: list[str], prefix: str = "") -> list[str]:
    leaves: list[str] = []
    for key, below in tree.items():
        path = f"{prefix}{key}"
        if path not in known and isinstance(below, dict) and below:
            leaves += _leaves(below, known, f"{path}.")
        else:
            leaves.append(path)
    return leaves


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

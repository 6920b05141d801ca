"""Objects of a site's cluster, as node groups and replicas: pure.

Node groups come from the labels that GPU feature discovery sets on nodes. Replicas are ready endpoints: vLLM serves one
engine per pod, and a pod that is not ready takes no requests.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from marlin.api.datacenter import NodeGroup
from marlin.operator.members.sighting import Group
from marlin.simulator import tables

PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
COUNT_LABEL: Final = "nvidia.com/gpu.count"
GPU_RESOURCE: Final = "nvidia.com/gpu"


def accelerator_of(product: str) -> str:
    """The accelerator's name in the shipped tables, e.g. A100-80GB; the product's own where it is not in them."""
    parts = set(re.split(r"[-_ ]", product))
    for row in tables.rows("accelerators.csv"):
        if set(row["accelerator"].split("-")) <= parts:
            return str(row["accelerator"])
    return product.removeprefix("NVIDIA-")[:63]


def node_groups(nodes: Iterable[Mapping[str, Any]], stated: Sequence[NodeGroup]) -> tuple[Group, ...]:
    """Nodes with accelerators, by kind.

    Args:
        nodes: as the API server lists them.
        stated: the groups of the spec, whose names are taken where the kind is the same.
    """
    names = {(group.accelerator, group.accelerators_per_node): group.name for group in stated}
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for node in nodes:
        kind = _kind(node)
        if kind is not None:
            counts[kind][0] += 1
            counts[kind][1] += _is_ready(node) and not (node.get("spec") or {}).get("unschedulable")
    return tuple(
        Group(names.get(kind) or group_name(*kind), *kind, nodes=all_, ready_nodes=ready)
        for kind, (all_, ready) in sorted(counts.items())
    )


def group_name(accelerator: str, per_node: int) -> str:
    """A label made of a kind, e.g. a100-80gb-x8."""
    stem = re.sub(r"[^a-z0-9]+", "-", accelerator.lower()).strip("-")[:50] or "gpu"
    return f"{stem}-x{per_node}"


def group_of_node(node: Mapping[str, Any], groups: Sequence[Group]) -> str:
    """Name of the group a node is in; empty where it is in none."""
    kind = _kind(node)
    return next((g.name for g in groups if (g.accelerator, g.accelerators_per_node) == kind), "")


def ready_endpoints(slices: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Endpoints of a Service that take requests, each address once. Ready is what is not said to be otherwise."""
    found: dict[str, Mapping[str, Any]] = {}
    for piece in slices:
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for address in (endpoint.get("addresses") or ())[:1]:
                found.setdefault(address, endpoint)
    return list(found.values())


def endpoint_port(slices: Iterable[Mapping[str, Any]], service_port: int) -> int:
    """The port that endpoints listen on: a slice names it once; of several the one that is the Service's own number."""
    ports = {int(p["port"]) for piece in slices for p in piece.get("ports") or () if p.get("port")}
    if len(ports) == 1:
        return next(iter(ports))
    return service_port if service_port in ports else 0


def ready_pods(pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pods that take requests."""
    return [pod for pod in pods if _is_ready(pod) and not (pod.get("metadata") or {}).get("deletionTimestamp")]


def accelerators_of_pod(pod: Mapping[str, Any]) -> int:
    """Accelerators that a pod's containers ask for together; 1 where they ask for none."""
    total = 0
    for container in (pod.get("spec") or {}).get("containers") or ():
        wanted = ((container.get("resources") or {}).get("limits") or {}).get(GPU_RESOURCE, 0)
        total += int(wanted) if str(wanted).isdigit() else 0
    return max(1, total)


def _kind(node: Mapping[str, Any]) -> tuple[str, int] | None:
    labels = (node.get("metadata") or {}).get("labels") or {}
    product = labels.get(PRODUCT_LABEL)
    stated = ((node.get("status") or {}).get("capacity") or {}).get(GPU_RESOURCE)
    count = str(labels.get(COUNT_LABEL) or stated or "")
    if not product or not count.isdigit() or int(count) < 1:
        return None
    return accelerator_of(product), int(count)


def _is_ready(thing: Mapping[str, Any]) -> bool:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)

"""Built-in fleets by name, as the same documents that people write.

``paper-8`` is the paper's: 1,000 nodes a site, a sixth of them of each of the six types, both models. The small ones
have 12 or 120 nodes a site, or one node per site for a first look. Which zones a preset has, and in which order, is
part of its name's meaning: ``paper-4`` to ``paper-12`` take the first so many of one list, ``held-out-4`` the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from marlin.api.datacenter import Datacenter
from marlin.api.documents import Documents
from marlin.api.errors import InputError
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import InferencePool
from marlin.simulator import tables
from marlin.simulator.profiles import available_profiles
from marlin.simulator.signals import available_zones
from marlin.simulator.workload.facts import fact

ZONES: Final = (
    "DE-LU",
    "US-CAL-CISO",
    "SG",
    "AU-NSW",
    "BR-SP",
    "GB",
    "JP-TK",
    "US-MIDA-PJM",
    "CA-ON",
    "US-NY-NYIS",
    "IN-WE",
    "AU-VIC",
)
"""The first eight are the paper's fleet as this project reads it (marlin-model, section 1)."""

HELD_OUT: Final = ("KR", "ZA", "CL-SIC", "US-TEX-ERCO")
"""Zones of no preset but ``held-out-4``, and of no fleet that is trained on: they show what a trained policy does on
places it has never seen."""

NODE_TYPES: Final = (
    ("A100-80GB", 2),
    ("A100-80GB", 4),
    ("A100-80GB", 8),
    ("H100-80GB", 2),
    ("H100-80GB", 4),
    ("H100-80GB", 8),
)

LARGE_MODEL_SHARE: Final = fact("large_model_node_share")
"""Share of each node group that hosts the larger model: its share of node-seconds on the training days."""

MIN_NODES_TO_SPLIT: Final = 2


@dataclass(frozen=True, slots=True)
class Preset:
    """A fleet by numbers."""

    sites: int
    nodes_per_site: int
    zones: tuple[str, ...] = ZONES
    """Whose first so many have a site each."""


PRESETS: Final[dict[str, Preset]] = {
    **{f"paper-{n}": Preset(n, 1000) for n in (4, 6, 8, 10, 12)},
    "8x12": Preset(8, 12),
    "8x120": Preset(8, 120),
    "demo-3": Preset(3, 6),
    "held-out-4": Preset(4, 1000, HELD_OUT),
}


@cache
def scenario_documents(name: str) -> Documents:
    """The fleet called ``name``.

    Raises:
        InputError: there is none of that name; the message lists what there is.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise InputError(f"scenario {name!r} is not known; there are {', '.join(PRESETS)}")
    zones = preset.zones[: preset.sites]
    groups = [
        {
            "name": f"{accelerator.split('-')[0].lower()}x{gpus}",
            "accelerator": accelerator,
            "accelerators_per_node": gpus,
            "nodes": nodes,
        }
        for (accelerator, gpus), nodes in zip(NODE_TYPES, _spread(preset.nodes_per_site), strict=True)
    ]
    return Documents(
        datacenters=tuple(Datacenter.model_validate(_site(zone, groups)) for zone in zones),
        pools=tuple(
            InferencePool.model_validate(_pool(model, share, zones, groups))
            for model, share in (("Llama-2-7b", 1.0 - LARGE_MODEL_SHARE), ("Llama-2-70b", LARGE_MODEL_SHARE))
        ),
        policies=(MarlinPolicy.model_validate(_policy(name)),),
    )


def _spread(nodes: int) -> list[int]:
    """Nodes of each type: a sixth each, the first types taking what is left over."""
    base, rest = divmod(nodes, len(NODE_TYPES))
    return [base + (i < rest) for i in range(len(NODE_TYPES))]


def _site(zone: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "metadata": {"name": zone.lower()},
        "spec": {
            "location": {"region": zone.lower(), "zone": zone},
            "facility": {"coolingPerformance": _cooling_performance()[zone]},
            "nodeGroups": groups,
        },
    }


@cache
def _cooling_performance() -> dict[str, str]:
    """COP of each zone's cooling, from its climate (data/README.md)."""
    return {row["zone"]: row["cooling_cop"] for row in tables.rows("zones.csv")}


def _policy(name: str) -> dict[str, Any]:
    """Both pools, and users in every zone there is, however few of them have a site (marlin-model, section 1)."""
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "poolRefs": [{"name": "llama-2-7b"}, {"name": "llama-2-70b"}],
            "planner": {"kind": "MeritOrder"},
            "origins": [{"name": zone.lower(), "zone": zone} for zone in available_zones()],
        },
    }


def _pool(model: str, share: float, zones: tuple[str, ...], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """A model on its share of the nodes of every group. Backends' addresses stand for nothing: nobody calls them."""
    return {
        "metadata": {"name": model.lower(), "namespace": "default"},
        "spec": {
            "modelName": model,
            "profile": {"builtIn": model},
            "serviceLevel": {"timeToFirstTokenMilliseconds": 2000 if model.endswith("7b") else 5000},
            "backends": [
                {
                    "name": f"{zone.lower()}-{group['name']}",
                    "datacenterName": zone.lower(),
                    "url": f"https://{zone.lower()}.example",
                    "capacity": _capacity(model, share, group),
                }
                for zone in zones
                for group in groups
            ],
        },
    }


def _nodes_of(model: str, share: float, group: dict[str, Any]) -> int:
    """Nodes of a group that host the model.

    A group too small to be split goes whole to one of the two: the smallest nodes to the smaller model.
    """
    nodes: int = group["nodes"]
    if nodes >= MIN_NODES_TO_SPLIT:
        large = round(nodes * LARGE_MODEL_SHARE)
        return large if share == LARGE_MODEL_SHARE else nodes - large
    is_small_node = group["accelerators_per_node"] == min(gpus for _, gpus in NODE_TYPES)
    return nodes if is_small_node == model.endswith("7b") else 0


def _capacity(model: str, share: float, group: dict[str, Any]) -> dict[str, Any]:
    """Replicas at the smallest tensor parallelism that fits the model with room for its cache."""
    tensor_parallel = min(
        gpus
        for name, accelerator, gpus in available_profiles()
        if name == model and accelerator == group["accelerator"] and gpus <= group["accelerators_per_node"]
    )
    nodes = _nodes_of(model, share, group)
    return {
        "nodeGroup": group["name"],
        "replicas": nodes * (group["accelerators_per_node"] // tensor_parallel),
        "tensorParallel": tensor_parallel,
    }

"""What GPUs and nodes draw: the shipped fractions and datasheets as lookups.

``power_fraction.csv`` holds fractions of the GPU's TDP, never of the node's (marlin-model, section 4); the rest of a
node, the host, draws a share of what its datasheet leaves beside the GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.constants import DEFAULT_SETTINGS, Settings
from marlin.simulator.profiles import DEFAULT_MAX_BATCH, own_figures


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU type, and the part of its node that belongs to one of them."""

    tdp_w: float
    node_w: float
    """Power of a node at full load, divided by its GPUs, W."""
    memory_gb: float = 80.0
    """Memory of one GPU, GB. That of the shipped types, where a type is not known (assumption)."""
    host_to_gpu_gb_per_s: float = 32.0
    """PCIe of one GPU, one way, GB/s. That of the slower shipped type, where a type is not known (assumption)."""


def accelerator(name: str, node_w_per_gpu: float | None = None, settings: Settings = DEFAULT_SETTINGS) -> Accelerator:
    """A GPU type from its datasheet, or from what the node group states.

    Args:
        name: GPU type, e.g. ``A100-80GB``.
        node_w_per_gpu: power of the node at full load over its GPUs, W; needed for types that are not shipped.
        settings: hold the GPU's share of a node that is not known.

    Raises:
        InputError: the type is not shipped and the node group states no power.
    """
    shipped = _accelerators().get(name)
    if node_w_per_gpu is None:
        if shipped is None:
            known = ", ".join(_accelerators())
            raise InputError(f"accelerator {name} has no built-in power ({known} have): set nodePowerWatts")
        return shipped
    # The GPU's share of an unknown node is that of the known ones (assumption).
    tdp_w = shipped.tdp_w if shipped else node_w_per_gpu * settings.gpu_share_of_node_power
    if shipped is None:
        return Accelerator(min(tdp_w, node_w_per_gpu), node_w_per_gpu)
    return replace(shipped, tdp_w=min(tdp_w, node_w_per_gpu), node_w=node_w_per_gpu)


@cache
def _accelerators() -> dict[str, Accelerator]:
    return {
        row["accelerator"]: Accelerator(
            tdp_w=float(row["tdp_w"]),
            node_w=float(row["node_w_per_gpu"]),
            memory_gb=float(row["memory_gb"]),
            host_to_gpu_gb_per_s=float(row["host_to_gpu_gb_per_s"]),
        )
        for row in tables.rows("accelerators.csv")
    }


def decode_fractions(
    profile: str,
    gpu: str,
    tensor_parallel: int,
    tdp_w: float,
    batches: tuple[float, ...],
    settings: Settings = DEFAULT_SETTINGS,
) -> list[float]:
    """Power over TDP of one GPU while decoding, at each of ``batches``; level outside the measured ones."""
    if figures := own_figures(profile):
        full_w = figures.get("watts", settings.own_figures_full_power * tdp_w * tensor_parallel)
        full = full_w / (tdp_w * tensor_parallel)
        lone = full * (settings.own_figures_single_power if figures["batch"] > 1 else 1.0)
        points = {1.0: lone, max(2.0, figures["batch"]): full}
    else:
        points = _fractions(profile, gpu, tensor_parallel, "decode")
    return [float(np.interp(b, list(points), list(points.values()))) for b in batches]


def prefill_fraction(
    profile: str, gpu: str, tensor_parallel: int, tdp_w: float, settings: Settings = DEFAULT_SETTINGS
) -> float:
    """Power over TDP of one GPU while it reads prompts."""
    if own_figures(profile):
        at = (float(max(DEFAULT_MAX_BATCH, 4096)),)
        return decode_fractions(profile, gpu, tensor_parallel, tdp_w, at, settings)[0]
    return _fractions(profile, gpu, tensor_parallel, "prefill")[1.0]


@cache
def _fractions(profile: str, gpu: str, tensor_parallel: int, phase: str) -> dict[float, float]:
    key = (profile, gpu, str(tensor_parallel), phase)
    return {
        float(row["batch"]): float(row["fraction_of_gpu_tdp"])
        for row in tables.rows("power_fraction.csv")
        if (row["model"], row["accelerator"], row["tensor_parallel"], row["phase"]) == key
    }

"""What a GPU can do at most and what a model asks for: the constants that a prediction for something else replaces.

Peaks are datasheet values; model sizes are those of the shipped ``models.csv`` and, for the width, of the model cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from marlin.api.errors import InputError
from marlin.simulator import tables

MEMORY_SHARE: Final = 0.9
"""Part of a GPU's memory an engine uses: vLLM's default. Activations are not counted."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Peaks of one GPU, from NVIDIA's datasheets of the SXM parts."""

    memory_bytes: float
    memory_bytes_per_s: float
    flop_per_s: float
    """Dense, 16 bit."""
    link_bytes_per_s: float
    """NVLink, one way."""
    tdp_w: float


ACCELERATORS: Final = MappingProxyType(
    {
        "A100-40GB": Accelerator(40e9, 1555e9, 312e12, 300e9, 400.0),
        "A100-80GB": Accelerator(80e9, 2039e9, 312e12, 300e9, 400.0),
        "H100-80GB": Accelerator(80e9, 3350e9, 989e12, 450e9, 700.0),
    }
)

_WIDTH: Final = MappingProxyType({"Llama-2-7b": 4096, "Llama-2-70b": 8192, "Llama-3-8B": 4096, "Llama-3-70B": 8192})
"""Values per token that one layer hands to the next (model cards)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What one token costs in a model: the constants that grouped-query attention and depth change."""

    parameters: float
    layers: int
    weights_bytes: float
    kv_bytes_per_token: float
    """Keys and values of one token in all layers; an eighth as large where eight query heads share one."""
    width: int

    @property
    def flop_per_token(self) -> float:
        """Two per parameter; attention's own share is below a tenth at these context lengths and is not counted."""
        return 2.0 * self.parameters


@cache
def model_shape(model: str) -> ModelShape:
    """The sizes of ``model``.

    Raises:
        InputError: the shipped ``models.csv`` has no such model.
    """
    for row in tables.rows("models.csv"):
        if row["model"] == model and model in _WIDTH:
            return ModelShape(
                parameters=float(row["params"]),
                layers=int(row["layers"]),
                weights_bytes=float(row["weights_bytes"]),
                kv_bytes_per_token=float(row["kv_bytes_per_token"]),
                width=_WIDTH[model],
            )
    raise InputError(f"no sizes of model {model!r} are known; there are {', '.join(_WIDTH)}")


def accelerator(name: str) -> Accelerator:
    """The peaks of a GPU type.

    Raises:
        InputError: it is not known.
    """
    if name not in ACCELERATORS:
        raise InputError(f"no datasheet of accelerator {name!r} is known; there are {', '.join(ACCELERATORS)}")
    return ACCELERATORS[name]


def cache_fits(shape: ModelShape, gpu: Accelerator, gpus: int, tokens: float) -> bool:
    """Whether weights and the cache of ``tokens`` tokens fit on ``gpus`` GPUs: equation (1) of the paper."""
    return shape.weights_bytes + shape.kv_bytes_per_token * tokens <= MEMORY_SHARE * gpu.memory_bytes * gpus

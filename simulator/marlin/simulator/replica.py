"""One replica: all that both engines know of it, whatever its load.

A deployment's profile, GPU and power-down capability become a ``ReplicaModel``: the time of a decode step and the
power drawn at each batch, the time a prompt takes to read, what fits in memory, what is drawn when there is nothing to
do or when it is asleep, and how long it takes to wake. The request-level engine steps through these tables; the fluid
engine works with what they amount to at a given load (``load_curves``).

A model is equal to itself only: ``replica_model`` gives the same one for the same input, and whatever is derived from
it can be kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from marlin.api.pool import PowerDown
from marlin.simulator import tables
from marlin.simulator.constants import Reading, Settings
from marlin.simulator.physics import FloatArray, weight_loading_s
from marlin.simulator.power import Accelerator, accelerator, decode_fractions, prefill_fraction
from marlin.simulator.profiles import load_profile

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaModel:
    """One replica: a model on ``tensor_parallel`` GPUs of one type, with its part of the node around them."""

    tensor_parallel: int
    kv_capacity_tokens: int
    """Tokens, prompt and output, whose keys and values fit beside the weights: what equation (1) leaves free."""
    max_batch: int
    """Requests decoded together at most, whatever memory allows."""
    step_s: tuple[float, ...]
    """(max_batch + 1,) time of one decode step of each whole batch, s; of batch 0 it is 0."""
    decode_w: tuple[float, ...]
    """(max_batch + 1,) power of replica and host while decoding each whole batch, W; of batch 0 that of idling."""
    prefill_points: tuple[tuple[float, float], ...]
    """(prompt tokens, s) ascending from 0 tokens; proportional to the length beyond the last."""
    prefill_w: float
    """Power of replica and host while reading prompts, W."""
    idle_w: float
    """Power of replica and host with the model in memory and nothing to do, W."""
    asleep_w: float
    """Power of replica and host when asleep, W; that of idling where it cannot sleep."""
    wake_s: float
    """Time from asleep to ready, s: weight loading, engine start, and the node's boot where it was given back."""

    def prefill_s(self, prompt_tokens: FloatArray | float) -> FloatArray:
        """Time to read each prompt, s; any shape."""
        tokens = np.asarray(prompt_tokens, dtype=np.float64)
        xs, ys = (np.array(column) for column in zip(*self.prefill_points, strict=True))
        return np.asarray(np.where(tokens >= xs[-1], ys[-1] * tokens / xs[-1], np.interp(tokens, xs, ys)))


@cache
def replica_model(
    profile_name: str,
    accelerator_name: str,
    tensor_parallel: int,
    *,
    settings: Settings,
    power_down: PowerDown = PowerDown.NONE,
    node_w_per_accelerator: float | None = None,
    idle_accelerator_w: float | None = None,
    weights_bytes: float | None = None,
) -> ReplicaModel:
    """The replica of a profile on a GPU type.

    Args:
        profile_name: a shipped profile, or the user's own figures as a name.
        accelerator_name: GPU type.
        tensor_parallel: GPUs the replica spans.
        settings: readings of the paper, and constants.
        power_down: what it can do when it has no work.
        node_w_per_accelerator: power of the node at full load over its GPUs, W. Default: the datasheet's.
        idle_accelerator_w: power of an idle GPU with the model in memory, W. Default: that of the settings.
        weights_bytes: size of the weights. Default: that of the shipped model, else what half of the GPUs hold.

    Raises:
        UnknownProfileError: no measurements for that model on that hardware.
        InputError: the GPU type's power is not known.
    """
    profile = load_profile(profile_name, accelerator_name, tensor_parallel)
    gpu = accelerator(accelerator_name, node_w_per_accelerator, settings)
    batches = tuple(float(b) for b in range(1, profile.max_batch + 1))
    decode = decode_fractions(profile_name, accelerator_name, tensor_parallel, gpu.tdp_w, batches, settings)
    prefill = prefill_fraction(profile_name, accelerator_name, tensor_parallel, gpu.tdp_w, settings)
    idle_gpu_w = settings.idle_accelerator_w if idle_accelerator_w is None else idle_accelerator_w
    # Equation (4) as printed takes the fractions, which are of the GPUs, as fractions of the node's whole power.
    is_paper = settings.gpu_power is Reading.PAPER
    full_w = tensor_parallel * (gpu.node_w if is_paper else gpu.tdp_w)
    host_w = 0.0 if is_paper else tensor_parallel * host_w_per_accelerator(gpu.node_w, gpu.tdp_w, settings)
    idle_w = host_w + (full_w * idle_gpu_w / gpu.tdp_w if is_paper else tensor_parallel * idle_gpu_w)
    weights = weights_bytes or _weights_bytes().get(profile_name) or tensor_parallel * gpu.memory_gb * BYTES_PER_GB / 2
    asleep_w, wake_s = _asleep(
        power_down,
        tensor_parallel,
        host_w,
        idle_w,
        idle_gpu_w,
        _load_s(weights, tensor_parallel, gpu, settings),
        settings,
    )
    return ReplicaModel(
        tensor_parallel=tensor_parallel,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        max_batch=profile.max_batch,
        step_s=(0.0, *(profile.step_s(b) for b in batches)),
        decode_w=(idle_w, *(host_w + full_w * fraction for fraction in decode)),
        prefill_points=profile.prefill_points,
        prefill_w=host_w + full_w * prefill,
        idle_w=idle_w,
        asleep_w=asleep_w,
        wake_s=wake_s,
    )


def host_w_per_accelerator(node_w: float, tdp_w: float, settings: Settings) -> float:
    """A GPU's part of what its node draws beside the GPUs, W (marlin-model, section 4)."""
    return (node_w - tdp_w) * settings.host_power_fraction


def _load_s(weights_bytes: float, gpus: int, gpu: Accelerator, settings: Settings) -> float:
    return float(
        weight_loading_s(
            weights_bytes,
            settings.storage_gb_per_s * BYTES_PER_GB,
            gpus * gpu.host_to_gpu_gb_per_s * BYTES_PER_GB,
        )
    )


def _asleep(
    power_down: PowerDown,
    gpus: int,
    host_w: float,
    idle_w: float,
    idle_gpu_w: float,
    load_s: float,
    settings: Settings,
) -> tuple[float, float]:
    """Power of a sleeping replica (W) and the time it takes to wake (s).

    Clocking down keeps the model in memory and costs no time that matters here. Sleep means that the process is gone,
    because a sleeping engine frees memory, not power; only giving the node back saves the host's share.
    """
    start_s = load_s + settings.engine_start_s
    if power_down is PowerDown.IDLE_P_STATE:
        return host_w + gpus * min(idle_gpu_w, settings.low_pstate_accelerator_w), 0.0
    if power_down is PowerDown.SLEEP:
        return host_w + gpus * min(idle_gpu_w, settings.unloaded_accelerator_w), start_s
    if power_down is PowerDown.SCALE_TO_ZERO:
        return gpus * settings.off_node_w_per_accelerator, start_s + settings.node_boot_s
    return idle_w, 0.0


@cache
def _weights_bytes() -> dict[str, float]:
    return {row["model"]: float(row["weights_bytes"]) for row in tables.rows("models.csv")}

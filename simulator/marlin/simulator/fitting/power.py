"""How much a GPU draws, from how busy its memory and its arithmetic are, and the fit of it.

    fraction of TDP = floor + memory x (bytes moved / peak bytes) + arithmetic x (flop done / peak flop)

Bytes and flop follow from a model's sizes, so a fit transfers to another model as the times do. The three constants
are shared by all GPU types: they are fractions of each one's TDP, the few rows of H100 cannot carry a fit of their own,
and only A100 rows show how power falls when a model is spread over more GPUs. ``energy`` calls this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import lsq_linear  # type: ignore[import-untyped]  # SciPy ships no types

from marlin.api.errors import InputError
from marlin.simulator.fitting.hardware import accelerator, model_shape
from marlin.simulator.fitting.observations import PowerObservation, Setup
from marlin.simulator.fitting.roofline import decode_peak_s

_HIGHEST: Final = (1.0, 3.0, 3.0)


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The constants of the formula above."""

    floor: float
    memory: float
    arithmetic: float

    def fraction_of_tdp(self, memory_use: float, arithmetic_use: float) -> float:
        """Power of one GPU over its TDP, at most 1: the limiter holds it there."""
        return min(1.0, self.floor + self.memory * memory_use + self.arithmetic * arithmetic_use)


def utilisation(setup: Setup, run_s: float) -> tuple[float, float]:
    """Shares of peak bandwidth and peak arithmetic that a whole run of ``run_s`` seconds uses.

    Prompts count as arithmetic only: reading them moves the weights once, which is nothing beside the decoding.
    """
    shape, gpu = model_shape(setup.model), accelerator(setup.accelerator)
    step = decode_peak_s(shape, gpu, setup)
    memory_s = setup.output_tokens * (step.weights_s + step.cache_s)
    prompt_flop = setup.batch * setup.prompt_tokens * shape.flop_per_token
    arithmetic_s = setup.output_tokens * step.flop_s + prompt_flop / setup.gpus / gpu.flop_per_s
    return memory_s / run_s, arithmetic_s / run_s


def fit_power(observations: Sequence[PowerObservation]) -> PowerModel:
    """The constants with the least squared relative error, none negative.

    Raises:
        InputError: fewer rows than constants.
    """
    if len(observations) < len(_HIGHEST):
        raise InputError(f"a fit of power needs {len(_HIGHEST)} rows, and has {len(observations)}")
    measured = np.array([o.fraction_of_tdp for o in observations])  # (N,)
    uses = np.array([(1.0, *utilisation(o.setup, o.run_s)) for o in observations])  # (N, 3)
    solution = lsq_linear(uses / measured[:, None], np.ones(len(measured)), (0.0, _HIGHEST))
    return PowerModel(*(float(x) for x in solution.x))


def power_error(model: PowerModel, observation: PowerObservation) -> float:
    """Predicted over measured, minus 1, with the measured duration: the error of power alone."""
    uses = utilisation(observation.setup, observation.run_s)
    return model.fraction_of_tdp(*uses) / observation.fraction_of_tdp - 1.0

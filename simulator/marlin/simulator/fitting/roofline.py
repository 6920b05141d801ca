"""How long an engine takes, from eight constants: a roofline with a floor, and its fit.

A decode step reads all weights and every cached token, computes, and adds up over GPUs; meanwhile the host launches
kernels layer by layer, and whichever of the two is slower sets the pace. Per request the engine also spends time
that no GPU shortens. A setup and a GPU's peaks go in, seconds come out; ``held_out`` and ``energy`` call it.

The constants say how far from the datasheet an engine is: "x 1.4" of memory means 1.4 times the bytes over peak
bandwidth. They are bounded below by 1, because nothing beats the datasheet. One fit belongs to one GPU type and one
engine, and transfers to another model by that model's sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from scipy.optimize import least_squares  # type: ignore[import-untyped]  # SciPy ships no types

from marlin.api.errors import InputError
from marlin.simulator.fitting.hardware import Accelerator, ModelShape, accelerator, model_shape
from marlin.simulator.fitting.observations import Observation, Quantity, Setup
from marlin.simulator.physics import FloatArray

_SHARPNESS: Final = 4.0
"""Of the maximum of launching and computing: at equality 19 % above either. Fixed, not fitted."""

_BYTES_PER_VALUE: Final = 2.0
_ALL_REDUCES_PER_LAYER: Final = 2.0
_OUTLIER: Final = 0.1
"""Relative error beyond which a row pulls on the fit linearly instead of quadratically."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The constants of one engine on one GPU type."""

    launch_s_per_layer: float
    """Host time to launch one layer's kernels."""
    weights_over_peak: float
    """Time to read the weights over bytes / peak bandwidth."""
    cache_over_peak: float
    """The same for keys and values."""
    decode_flop_over_peak: float
    """Time of a decode step's arithmetic over flop / peak."""
    request_s: float
    """Per step and request: scheduling and sampling."""
    reduce_s_per_layer: float
    """Latency of adding up over GPUs; 0 on one."""
    prefill_flop_over_peak: float
    """Time of a prefill's arithmetic over flop / peak."""
    prefill_link_over_peak: float
    """Time of a prefill's exchange between GPUs over bytes / peak."""

    def step_s(self, setup: Setup) -> float:
        """Time of one decode step for the whole batch at the mean context, s."""
        shape, gpu = model_shape(setup.model), accelerator(setup.accelerator)
        work = decode_peak_s(shape, gpu, setup)
        kernels_s = (
            self.weights_over_peak * work.weights_s
            + self.cache_over_peak * work.cache_s
            + self.decode_flop_over_peak * work.flop_s
            + self._reduce_s(shape, setup.gpus)
        )
        return _softly_larger(self.launch_s_per_layer * shape.layers, kernels_s) + self.request_s * setup.batch

    def prefill_s(self, setup: Setup) -> float:
        """Time to read the prompts of the whole batch, s."""
        shape, gpu = model_shape(setup.model), accelerator(setup.accelerator)
        tokens = setup.batch * setup.prompt_tokens
        flop_s = tokens * shape.flop_per_token / (setup.gpus * gpu.flop_per_s)
        # A ring all-reduce sends 2 (n - 1) / n of what it adds up over each link.
        exchanged = _ALL_REDUCES_PER_LAYER * shape.layers * tokens * shape.width * _BYTES_PER_VALUE
        link_s = 2.0 * (setup.gpus - 1) / setup.gpus * exchanged / gpu.link_bytes_per_s
        kernels_s = (
            self.prefill_flop_over_peak * flop_s
            + self.prefill_link_over_peak * link_s
            + self._reduce_s(shape, setup.gpus)
        )
        return _softly_larger(self.launch_s_per_layer * shape.layers, kernels_s)

    def run_s(self, setup: Setup) -> float:
        """Time of a whole run, s: every prompt read, whose prefill gives the first token, then step by step."""
        return self.prefill_s(setup) + max(setup.output_tokens - 1.0, 0.0) * self.step_s(setup)

    def predict_s(self, setup: Setup, quantity: Quantity) -> float:
        """Whichever of the three was timed, s."""
        if quantity is Quantity.STEP:
            return self.step_s(setup)
        return self.prefill_s(setup) if quantity is Quantity.PREFILL else self.run_s(setup)

    def _reduce_s(self, shape: ModelShape, gpus: int) -> float:
        return self.reduce_s_per_layer * shape.layers if gpus > 1 else 0.0


@dataclass(frozen=True, slots=True)
class PeakTimes:
    """What one decode step would take on one GPU if each part ran at the datasheet's peak, s."""

    weights_s: float
    cache_s: float
    flop_s: float


def decode_peak_s(shape: ModelShape, gpu: Accelerator, setup: Setup) -> PeakTimes:
    """The parts of one decode step at peak, each split evenly over the GPUs."""
    cached_bytes = setup.batch * setup.context_tokens * shape.kv_bytes_per_token
    return PeakTimes(
        weights_s=shape.weights_bytes / setup.gpus / gpu.memory_bytes_per_s,
        cache_s=cached_bytes / setup.gpus / gpu.memory_bytes_per_s,
        flop_s=setup.batch * shape.flop_per_token / setup.gpus / gpu.flop_per_s,
    )


# In the order of Roofline's fields.
_START: Final = (2e-4, 1.3, 1.5, 2.0, 3e-5, 2e-5, 2.0, 2.0)
_LOWEST: Final = (1e-6, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0)
_HIGHEST: Final = (2e-3, 4.0, 8.0, 20.0, 5e-4, 5e-4, 20.0, 40.0)


def fit_roofline(observations: Sequence[Observation]) -> Roofline:
    """The constants with the least squared relative error, outliers weighing less.

    Args:
        observations: of one GPU type and one engine.

    Raises:
        InputError: fewer rows than constants, or rows of several GPU types.
    """
    gpus = sorted({o.setup.accelerator for o in observations})
    if len(observations) < len(_START) or len(gpus) != 1:
        kinds = ", ".join(gpus) or "no type"
        raise InputError(f"a fit needs {len(_START)} rows of one GPU type, and has {len(observations)} of {kinds}")

    def relative_errors(constants: FloatArray) -> list[float]:
        return [relative_error(_from(constants), o) for o in observations]

    solution = least_squares(
        relative_errors, _START, bounds=(_LOWEST, _HIGHEST), x_scale=_START, loss="soft_l1", f_scale=_OUTLIER
    )
    return _from(solution.x)


def relative_error(model: Roofline, observation: Observation) -> float:
    """Predicted over measured, minus 1."""
    return model.predict_s(observation.setup, observation.quantity) / observation.seconds - 1.0


def _from(constants: FloatArray) -> Roofline:
    return Roofline(*(float(x) for x in constants))


def _softly_larger(a: float, b: float) -> float:
    return float((a**_SHARPNESS + b**_SHARPNESS) ** (1.0 / _SHARPNESS))


assert len(fields(Roofline)) == len(_START) == len(_LOWEST) == len(_HIGHEST)
assert np.all(np.less(_LOWEST, _START))
assert np.all(np.less(_START, _HIGHEST))

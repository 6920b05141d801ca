"""Energy per output token of models and an engine that no fitted row came from.

A roofline and a power model, both fitted on Llama-2, are given the sizes of another model; out comes what a saturated
engine would draw and write. The only thing beside them is the length of prompts and answers, which ML.ENERGY does not
publish per row: it is assumed, and swept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from marlin.simulator.fitting.hardware import accelerator
from marlin.simulator.fitting.observations import EnergyObservation, Setup
from marlin.simulator.fitting.power import PowerModel, utilisation
from marlin.simulator.fitting.roofline import Roofline

BATCH_RANGE: Final = (7.5, 128.5)
"""Batches that are judged: 8 to 128, as means of a steady state."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths of the requests, tokens."""

    prompt: float
    output: float


ASSUMED_LENGTHS: Final = Lengths(250.0, 500.0)
"""Chat. ML.ENERGY v2 publishes 450 to 490 output tokens for the same models; prompts are a guess."""

SWEPT_LENGTHS: Final = (Lengths(100.0, 300.0), Lengths(250.0, 500.0), Lengths(250.0, 700.0), Lengths(500.0, 700.0))


@dataclass(frozen=True, slots=True)
class EnergyPrediction:
    """What was predicted beside what was measured."""

    observation: EnergyObservation
    tokens_per_s: float
    """Output tokens of the whole batch."""
    fraction_of_tdp: float
    energy_j_per_token: float

    @property
    def error(self) -> float:
        """Energy per token, predicted over measured, minus 1."""
        return self.energy_j_per_token / self.observation.energy_j_per_token - 1.0

    @property
    def rate_error(self) -> float:
        """Tokens per second, predicted over measured, minus 1."""
        return self.tokens_per_s / self.observation.tokens_per_s - 1.0

    @property
    def power_error(self) -> float:
        """Power, predicted over measured, minus 1."""
        return self.fraction_of_tdp / self.observation.fraction_of_tdp - 1.0


def predict_energy(
    roofline: Roofline, power: PowerModel, observation: EnergyObservation, lengths: Lengths = ASSUMED_LENGTHS
) -> EnergyPrediction:
    """Energy per output token of a saturated engine.

    In the steady state a finished request is replaced at once: while each of the batch writes ``lengths.output``
    tokens, as many prompts are read as the batch has requests, one at a time.

    Args:
        roofline: of the GPU type.
        power: of any GPU type.
        observation: what ran; its measured figures are not used but for the comparison.
        lengths: of prompts and answers.
    """
    o = observation
    setup = Setup(o.model, o.accelerator, o.gpus, o.batch, lengths.prompt, lengths.output)
    lone = Setup(o.model, o.accelerator, o.gpus, 1.0, lengths.prompt, lengths.output)
    generation_s = lengths.output * roofline.step_s(setup) + o.batch * roofline.prefill_s(lone)
    tokens_per_s = o.batch * lengths.output / generation_s
    fraction = power.fraction_of_tdp(*utilisation(setup, generation_s))
    watts = o.gpus * accelerator(o.accelerator).tdp_w * fraction
    return EnergyPrediction(o, tokens_per_s, fraction, watts / tokens_per_s)


def judged(observations: Iterable[EnergyObservation], generation: str) -> tuple[EnergyObservation, ...]:
    """The rows of one generation at batch 8 to 128."""
    low, high = BATCH_RANGE
    return tuple(o for o in observations if o.generation == generation and low <= o.batch <= high)

"""Measured rows in, one value type out: an ``Observation`` of a time, a ``PowerObservation``, an ``EnergyObservation``.

The shipped tables hold decode steps and prefills; the full data also hold whole runs, times to first token, power and
energy. This is the only module of the package that knows files and their columns. Rows are taken as they are; which of
them a fit may not use is said in ``is_steady`` and nowhere else.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.derive.files import read
from marlin.simulator.fitting.hardware import accelerator, cache_fits, model_shape

Row = dict[str, str]
T = TypeVar("T")

TABLE_CONTEXT_TOKENS: Final = 576.0
"""Mean context of the decode columns of ``serving_profiles.csv``: prompts of 512, half of 128 output tokens."""

LONGEST_PROMPT_TOKENS: Final = 4096
"""Llama-2's context. Splitwise also ran prompts beyond it, whose power readings (0.18 of TDP) are of another regime."""

_BENCH_MODELS: Final = {
    "Llama-2-7b-hf": "Llama-2-7b",
    "Llama-2-70b-hf": "Llama-2-70b",
    "Meta-Llama-3-8B": "Llama-3-8B",
    "Meta-Llama-3-70B": "Llama-3-70B",
}
_ENERGY_MODELS: Final = {
    "Llama-3.1-8B-Instruct": "Llama-3-8B",
    "Llama-3.1-70B-Instruct": "Llama-3-70B",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "Llama-3-8B",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "Llama-3-70B",
}
"""Llama 3 and 3.1 have the same sizes; they differ in training and in the longest context."""

_BENCH_GPUS: Final = {"A100": "A100-40GB", "H100": "H100-80GB"}
"""LLM-Inference-Bench's A100 is the 40 GB part: its 70B runs at batch 64 do not fit on four."""


class Quantity(StrEnum):
    """What was timed."""

    STEP = "decode step"
    PREFILL = "prefill"
    RUN = "whole run"


@dataclass(frozen=True, slots=True)
class Setup:
    """What ran on what: everything a prediction is made from."""

    model: str
    accelerator: str
    gpus: int
    """Tensor parallel."""
    batch: float
    """Requests together."""
    prompt_tokens: float
    output_tokens: float

    @property
    def context_tokens(self) -> float:
        """Mean tokens of a request in the cache while it decodes."""
        return self.prompt_tokens + self.output_tokens / 2.0

    @property
    def is_steady(self) -> bool:
        """Whether the whole batch can run at once: otherwise an engine serves it in waves, which no step describes."""
        tokens = self.batch * (self.prompt_tokens + self.output_tokens)
        return cache_fits(model_shape(self.model), accelerator(self.accelerator), self.gpus, tokens)


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured time."""

    setup: Setup
    quantity: Quantity
    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class PowerObservation:
    """Mean power of one GPU over a whole run, and how long the run took."""

    setup: Setup
    run_s: float
    fraction_of_tdp: float
    source: str


@dataclass(frozen=True, slots=True)
class EnergyObservation:
    """Energy of a saturated engine in the steady state."""

    model: str
    accelerator: str
    gpus: int
    batch: float
    """Mean over the steady state."""
    energy_j_per_token: float
    """All GPUs, per output token."""
    tokens_per_s: float
    fraction_of_tdp: float
    generation: str
    """Of the benchmark, and with it of the engine."""


def shipped_times() -> tuple[Observation, ...]:
    """Decode steps and prefills of ``serving_profiles.csv``: measured for the 70B model, kernel sums for the 7B one."""
    found = []
    for row in tables.rows("serving_profiles.csv"):
        model, gpu, gpus = row["model"], row["accelerator"], int(row["tensor_parallel"])
        for column, text in row.items():
            if column.startswith("decode_ms_b") and text:
                batch = float(column.removeprefix("decode_ms_b"))
                setup = Setup(model, gpu, gpus, batch, TABLE_CONTEXT_TOKENS, 0.0)
                found.append(Observation(setup, Quantity.STEP, float(text) / 1e3, row["source"]))
            elif column.startswith("prefill_ms_"):
                setup = Setup(model, gpu, gpus, 1.0, float(column.removeprefix("prefill_ms_")), 0.0)
                found.append(Observation(setup, Quantity.PREFILL, float(text) / 1e3, row["source"]))
    return tuple(found)


def bench_times(data: Path, framework: str) -> tuple[Observation, ...]:
    """Whole runs and times to first token of LLM-Inference-Bench that fit into memory.

    Args:
        data: folder of full data.
        framework: ``vLLM`` or ``TensorRT-LLM``.

    Raises:
        InputError: a file is missing, or a row cannot be read.
    """

    def run(row: Row) -> Observation:
        tokens = float(row["input_output_length"])
        return Observation(_bench_setup(row, tokens, tokens), Quantity.RUN, float(row["latency_s"]), framework)

    def first_token(row: Row) -> Observation:
        setup = _bench_setup(row, float(row["input_length"]), 0.0)
        return Observation(setup, Quantity.PREFILL, float(row["ttft_s"]), framework)

    found = [
        *_each(data, "perf/llm_inference_bench_llama.csv", _is_bench_row(framework), run),
        *_each(data, "perf/llm_inference_bench_ttft.csv", _is_bench_row(framework), first_token),
    ]
    return tuple(o for o in found if o.setup.is_steady)


def power_fractions(data: Path) -> tuple[PowerObservation, ...]:
    """Power of LLM-Inference-Bench (vLLM) and Splitwise runs that fit into memory; no row of ML.ENERGY.

    Splitwise repeated each run; the median counts, so that no setting weighs more than another.

    Raises:
        InputError: a file is missing, or a row cannot be read.
    """

    def bench(row: Row) -> PowerObservation:
        tokens = float(row["input_output_length"])
        setup = _bench_setup(row, tokens, tokens)
        return PowerObservation(setup, float(row["latency_s"]), float(row["frac_tdp"]), "LLM-Inference-Bench")

    def splitwise(row: Row) -> PowerObservation:
        sizes = (float(row[c]) for c in ("batch_size", "prompt_size", "token_size"))
        setup = Setup("Llama-2-70b", "A100-80GB", int(row["tensor_parallel"]), *sizes)
        run_s, fraction = float(row["e2e_time_ms"]) / 1e3, float(row["average_power_frac_tdp"])
        return PowerObservation(setup, run_s, fraction, "Splitwise")

    def has_power(row: Row) -> bool:
        is_a100 = row["hardware"] == "a100-80gb" and bool(row["average_power_frac_tdp"])
        return is_a100 and int(row["prompt_size"]) <= LONGEST_PROMPT_TOKENS

    repeated: dict[Setup, list[PowerObservation]] = defaultdict(list)
    for o in _each(data, "perf/splitwise_llama2_70b.csv", has_power, splitwise):
        repeated[o.setup].append(o)
    found = [
        *_each(data, "perf/llm_inference_bench_power.csv", _is_bench_row("vLLM"), bench),
        *(_middle(alike) for alike in repeated.values()),
    ]
    return tuple(o for o in found if o.setup.is_steady)


def energies(data: Path) -> tuple[EnergyObservation, ...]:
    """Energy per output token of Llama 3.1 8B and 70B on H100: ML.ENERGY v3, and v2 beside it.

    Raises:
        InputError: a file is missing, or a row cannot be read.
    """

    def known(row: Row) -> bool:
        return row["model"] in _ENERGY_MODELS and "A100" not in row.get("gpu", "")

    return (
        *_each(data, "perf/mlenergy_v3_h100_llama31.csv", known, lambda row: _energy(row, "num_gpus", "v3")),
        *_each(data, "perf/mlenergy_v2_llama.csv", known, lambda row: _energy(row, "tp", "v2")),
    )


def _energy(row: Row, gpus_column: str, generation: str) -> EnergyObservation:
    return EnergyObservation(
        model=_ENERGY_MODELS[row["model"]],
        accelerator="H100-80GB",
        gpus=int(row[gpus_column]),
        batch=float(row["avg_batch"]),
        energy_j_per_token=float(row["energy_j_per_output_token"]),
        tokens_per_s=float(row["output_tok_s"]),
        fraction_of_tdp=float(row["power_per_gpu_w"]) / accelerator("H100-80GB").tdp_w,
        generation=generation,
    )


def _bench_setup(row: Row, prompt_tokens: float, output_tokens: float) -> Setup:
    return Setup(
        model=_BENCH_MODELS[row["model"]],
        accelerator=_BENCH_GPUS[row["hardware"]],
        gpus=int(row["num_gpus"]),
        batch=float(row["batch_size"]),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


def _is_bench_row(framework: str) -> Callable[[Row], bool]:
    """Whether a row of LLM-Inference-Bench is of the framework and of a model whose sizes are known."""
    return lambda row: row["framework"] == framework and row["model"] in _BENCH_MODELS


def _middle(alike: Sequence[PowerObservation]) -> PowerObservation:
    """Medians of repeated runs of one setup."""
    return PowerObservation(
        setup=alike[0].setup,
        run_s=statistics.median(o.run_s for o in alike),
        fraction_of_tdp=statistics.median(o.fraction_of_tdp for o in alike),
        source=alike[0].source,
    )


def _each(data: Path, name: str, is_wanted: Callable[[Row], bool], build: Callable[[Row], T]) -> list[T]:
    """What ``build`` makes of the wanted rows of a file.

    Raises:
        InputError: the file is missing, has no such row, or one cannot be read; the message names file and line.
    """
    found = []
    for line, row in enumerate(read(data, name), start=2):
        try:
            if is_wanted(row):
                found.append(build(row))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{data / name}:{line}: {type(error).__name__}: {error}") from None
    if not found:
        raise InputError(f"{data / name} has no row that this comparison uses: is it the file docs describe?")
    return found

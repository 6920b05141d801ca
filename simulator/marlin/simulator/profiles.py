"""How fast one replica is: prefill and decode times from measurements.

A model name, a GPU type and a number of GPUs come in; a ``ServingProfile`` comes out, which answers two questions:
how long a prompt takes to read, and how long one decode step takes for a batch. The twin's capacity, the emulator's
timing and the routers' shares all rest on these two. The table is ``data/serving_profiles.csv``.

Where the measurements end, this module assumes, and says so at the line: beyond batch 64 and below 512 prompt tokens.
Pure Python, because the emulator runs it per token and needs no NumPy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from marlin.api.errors import InputError
from marlin.simulator import tables

TABLE: Final = "serving_profiles.csv"
PROMPT_POINTS: Final = (512, 1024, 2048)
BATCH_POINTS: Final = (1, 8, 16, 32, 64)
DEFAULT_MAX_BATCH: Final = 64
OWN_FIGURES_PREFIX: Final = "figures:"
"""Start of a profile name that carries a user's own figures instead of naming a row of the table."""

Point = tuple[float, float]


class UnknownProfileError(InputError):
    """No measurements are shipped for that model on that hardware."""


@dataclass(frozen=True, slots=True)
class ServingProfile:
    """One replica: a model on ``tensor_parallel`` GPUs of one type."""

    model: str
    accelerator: str
    tensor_parallel: int
    """GPUs the replica spans."""
    kv_capacity_tokens: int
    """Tokens, prompt and output, whose keys and values fit beside the weights: what equation (1) leaves free."""
    max_batch: int
    """Requests decoded at once at most, whatever memory allows."""
    prefill_points: tuple[Point, ...]
    """(prompt tokens, s), ascending; the first is at 0 tokens."""
    step_points: tuple[Point, ...]
    """(batch, s of one decode step for the whole batch), ascending."""
    step_growth_per_request: float = 0.0
    """Beyond the last point a step grows by this fraction of it for each further request (assumption)."""
    basis: str = ""
    """How the figures came about: measured, or a calibrated sum of kernel times."""

    def prefill_s(self, prompt_tokens: float) -> float:
        """Time to read one prompt, s.

        Linear between the measured points; proportional to the length beyond the last. Below the first point it falls
        to one decode step of a lone request at 0 tokens, because both read all weights once (assumption).

        Args:
            prompt_tokens: length of the prompt, tokens, at least 0.
        """
        last_tokens, last_s = self.prefill_points[-1]
        if prompt_tokens >= last_tokens:
            return last_s * prompt_tokens / last_tokens
        return _interpolate(self.prefill_points, prompt_tokens)

    def step_s(self, batch: float) -> float:
        """Time of one decode step for the whole batch, s; each request of the batch gets one token.

        Linear between the measured points, level below batch 1. Beyond the last point the measurements end: the step
        grows with the relative slope of the ML.ENERGY v3 rows from batch 64 to 256 (assumption; they are Llama 3.1,
        whose grouped-query cache is smaller than that of Llama-2-7b, so for that model it is a lower bound).

        Args:
            batch: mean number of requests decoded together; need not be whole.
        """
        last_batch, last_s = self.step_points[-1]
        if batch >= last_batch:
            return last_s * (1.0 + self.step_growth_per_request * (batch - last_batch))
        return _interpolate(self.step_points, batch)

    def batch_limit(self, tokens_per_request: float) -> float:
        """Largest mean batch: ``max_batch``, or what the memory of equation (1) holds if that is less.

        Args:
            tokens_per_request: mean tokens a request holds in the cache while it decodes.
        """
        return max(1.0, min(float(self.max_batch), self.kv_capacity_tokens / max(tokens_per_request, 1.0)))


def available_profiles() -> tuple[tuple[str, str, int], ...]:
    """(model, accelerator, tensor_parallel) of every shipped profile, in the order of the table."""
    return tuple(_shipped())


def load_profile(model: str, accelerator: str, tensor_parallel: int) -> ServingProfile:
    """The profile of a model on ``tensor_parallel`` GPUs of a type.

    Args:
        model: e.g. ``Llama-2-70b``, or a name made by ``own_figures_name``.
        accelerator: e.g. ``A100-80GB``.
        tensor_parallel: GPUs one replica spans.

    Raises:
        UnknownProfileError: there is none; the message lists what there is.
    """
    if model.startswith(OWN_FIGURES_PREFIX):
        return _from_own_figures(model, accelerator, tensor_parallel)
    profile = _shipped().get((model, accelerator, tensor_parallel))
    if profile is None:
        known = ", ".join(f"{m} on {n} x {a}" for m, a, n in available_profiles())
        raise UnknownProfileError(f"no profile of {model} on {tensor_parallel} x {accelerator}; there are: {known}")
    return profile


def own_figures_name(
    prefill_tokens_per_s: float,
    decode_tokens_per_s: float,
    *,
    single_stream_tokens_per_s: float | None = None,
    max_batch: int = DEFAULT_MAX_BATCH,
    kv_capacity_tokens: int | None = None,
    watts: float | None = None,
) -> str:
    """A profile name that carries a user's own figures, so that a ``FleetState`` stays one self-contained value.

    Args:
        prefill_tokens_per_s: prompt tokens one replica reads per second.
        decode_tokens_per_s: output tokens one replica writes per second at ``max_batch``.
        single_stream_tokens_per_s: output tokens per second of a lone request. Default: that of the full batch,
            divided by a quarter of ``max_batch`` (the contract's default).
        max_batch: requests one replica runs at once.
        kv_capacity_tokens: tokens that fit. Default: no limit but the batch.
        watts: power of one replica's GPUs at ``max_batch``, W. Default: from the accelerator.
    """
    single = single_stream_tokens_per_s or decode_tokens_per_s / max(max_batch / 4, 1.0)
    figures: dict[str, float | int | None] = {
        "prefill": prefill_tokens_per_s,
        "decode": decode_tokens_per_s,
        "single": single,
        "batch": max_batch,
        "kv": kv_capacity_tokens,
        "watts": watts,
    }
    return OWN_FIGURES_PREFIX + ",".join(f"{key}={value:g}" for key, value in figures.items() if value is not None)


def own_figures(name: str) -> Mapping[str, float]:
    """The figures in a name that ``own_figures_name`` made; empty for the name of a shipped profile.

    Raises:
        UnknownProfileError: the name starts like one, but cannot be read.
    """
    if not name.startswith(OWN_FIGURES_PREFIX):
        return {}
    try:
        return {k: float(v) for k, v in (part.split("=") for part in name[len(OWN_FIGURES_PREFIX) :].split(","))}
    except ValueError:
        raise UnknownProfileError(f"profile {name!r} is not a list of key=number") from None


def _from_own_figures(name: str, accelerator: str, tensor_parallel: int) -> ServingProfile:
    figures = own_figures(name)
    try:
        batch = int(figures["batch"])
        one, full = 1.0 / figures["single"], batch / figures["decode"]
        per_token = 1.0 / figures["prefill"]
    except (KeyError, ZeroDivisionError):
        raise UnknownProfileError(f"profile {name!r} needs prefill, decode, single and batch above 0") from None
    steps = ((1.0, one), (float(batch), max(full, one))) if batch > 1 else ((1.0, full),)
    return ServingProfile(
        model=name,
        accelerator=accelerator,
        tensor_parallel=tensor_parallel,
        kv_capacity_tokens=int(figures.get("kv", 10**9)),
        max_batch=batch,
        prefill_points=((0.0, 0.0), (1.0, per_token)),
        step_points=steps,
        basis="the user's own figures",
    )


@cache
def _shipped() -> dict[tuple[str, str, int], ServingProfile]:
    profiles = (_from_row(row) for row in tables.rows(TABLE))
    return {(p.model, p.accelerator, p.tensor_parallel): p for p in profiles}


def _from_row(row: dict[str, str]) -> ServingProfile:
    """A row of the table; a blank step is a batch whose cache did not fit when it was measured."""
    steps = tuple((float(b), float(ms) / 1e3) for b in BATCH_POINTS if (ms := row[f"decode_ms_b{b}"]))
    prefill = tuple((float(n), float(row[f"prefill_ms_{n}"]) / 1e3) for n in PROMPT_POINTS)
    return ServingProfile(
        model=row["model"],
        accelerator=row["accelerator"],
        tensor_parallel=int(row["tensor_parallel"]),
        kv_capacity_tokens=int(row["kv_capacity_tokens"]),
        max_batch=DEFAULT_MAX_BATCH,
        prefill_points=((0.0, min(steps[0][1], prefill[0][1])), *prefill),
        step_points=steps,
        step_growth_per_request=float(row["step_growth_per_request"]),
        basis=row["basis"],
    )


def _interpolate(points: tuple[Point, ...], x: float) -> float:
    """Piecewise linear through ``points``, level outside them."""
    i = bisect_right(points, x, key=lambda point: point[0])
    if i == 0:
        return points[0][1]
    if i == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)

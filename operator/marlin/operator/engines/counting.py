"""A vLLM's metrics, and what an engine did between two readings of them: pure.

Counters are taken and not averages, so that whatever lies between two readings is in them. vLLM renamed some of its
metrics and added others over time; where a newer one is missing the older one is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from marlin.operator.scraping.samples import Sample

PREFIX: Final = "vllm:"

_COUNTERS: Final = {
    "inter_token_latency_seconds_sum": "gaps_s",
    "inter_token_latency_seconds_count": "gaps",
    "iteration_tokens_total_count": "iterations",
    "prompt_tokens_total": "prompt_tokens",
    "request_prompt_tokens_sum": "asked_tokens",
    "request_prefill_kv_computed_tokens_sum": "read_tokens",
    "request_prefill_time_seconds_sum": "prefill_s",
    "request_prefill_time_seconds_count": "requests",
    "time_to_first_token_seconds_sum": "first_tokens_s",
    "time_to_first_token_seconds_count": "first_tokens",
}
_OLDER: Final = {
    "time_per_output_token_seconds_sum": "inter_token_latency_seconds_sum",
    "time_per_output_token_seconds_count": "inter_token_latency_seconds_count",
}
_GAUGES: Final = {"num_requests_running": "running", "num_requests_waiting": "waiting"}
_CACHE: Final = "cache_config_info"

NAMES: Final = tuple(f"{PREFIX}{name}" for name in (*_COUNTERS, *_OLDER, *_GAUGES, _CACHE))
"""All that is read."""


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """One engine's counters since its start, and its gauges."""

    gaps_s: float = 0.0
    """Seconds between a token and the next of the same request, all of them together."""
    gaps: float = 0.0
    iterations: float = 0.0
    """Forward passes."""
    prompt_tokens: float = 0.0
    """Of prompts that were read or found in the cache."""
    asked_tokens: float = 0.0
    """Of prompts of requests that are over."""
    read_tokens: float | None = None
    """Those of them that were not in the prefix cache; None: this vLLM does not say."""
    prefill_s: float = 0.0
    """Seconds from a request's admission to its first token, all of them together."""
    requests: float = 0.0
    """Requests that are over, of which that time is known."""
    first_tokens_s: float = 0.0
    """Seconds from a request's arrival to its first token, all of them together."""
    first_tokens: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    kv_capacity_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What an engine did between two readings."""

    length_s: float
    gaps: float
    gap_s: float
    """Mean time between a token and the next, s."""
    batch: float
    """Mean requests that were written for in one iteration, by token."""
    decoding: float
    """Mean requests that were written for, by time, pauses included."""
    prompt_tokens_per_s: float
    """Prompt tokens read per second, those found in the prefix cache left out."""
    requests: float
    prefill_s: float
    """Mean time from admission to first token, s; 0 without requests."""
    prompt_tokens: float
    """Mean prompt tokens that had to be read for one of them."""


def counts_of(samples: Iterable[Sample], model_name: str | None = None) -> dict[str, EngineCounts]:
    """The engines of a page: engine label to its counts.

    Args:
        samples: of one server.
        model_name: whose requests count. Default: all.
    """
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    cache: dict[str, int] = {}
    for sample in samples:
        if not sample.name.startswith(PREFIX):
            continue
        engine = sample.labels.get("engine", "")
        name = sample.name.removeprefix(PREFIX)
        if name == _CACHE:
            if (tokens := _kv_capacity(sample)) is not None:
                cache[engine] = tokens
            continue
        if model_name is not None and sample.labels.get("model_name", model_name) != model_name:
            continue
        field = _COUNTERS.get(name) or _GAUGES.get(name)
        if field is None and name in _OLDER:
            field = _COUNTERS[_OLDER[name]]
            if field in found[engine]:
                continue  # both are there: the newer one counts
        if field is not None:
            found[engine][field] = sample.value
    return {
        engine: EngineCounts(**values, kv_capacity_tokens=cache.get(engine))
        for engine, values in found.items()
        if values
    }


def _kv_capacity(sample: Sample) -> int | None:
    stated = sample.labels.get("kv_cache_size_tokens", "")
    blocks, size = sample.labels.get("num_gpu_blocks", ""), sample.labels.get("block_size", "")
    if stated.isdigit() and int(stated) > 0:
        return int(stated)
    return int(blocks) * int(size) or None if blocks.isdigit() and size.isdigit() else None


def between(now: EngineCounts, before: EngineCounts, length_s: float) -> Window | None:
    """What was done between two readings; None where the engine was started anew meanwhile, or wrote nothing."""
    gaps, iterations = now.gaps - before.gaps, now.iterations - before.iterations
    if length_s <= 0 or gaps <= 0 or iterations <= 0 or now.prompt_tokens < before.prompt_tokens:
        return None
    asked, requests = now.asked_tokens - before.asked_tokens, now.requests - before.requests
    if asked < 0 or requests < 0:
        return None
    read = asked
    if now.read_tokens is not None and before.read_tokens is not None:
        read = max(0.0, now.read_tokens - before.read_tokens)
    to_read = read / asked if asked > 0 else 1.0
    return Window(
        length_s=length_s,
        gaps=gaps,
        gap_s=(now.gaps_s - before.gaps_s) / gaps,
        batch=max(1.0, gaps / iterations),
        decoding=(now.gaps_s - before.gaps_s) / length_s,
        prompt_tokens_per_s=to_read * (now.prompt_tokens - before.prompt_tokens) / length_s,
        requests=requests,
        prefill_s=(now.prefill_s - before.prefill_s) / requests if requests else 0.0,
        prompt_tokens=read / requests if requests else 0.0,
    )

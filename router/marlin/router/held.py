"""What a backend holds, and the two texts in which that is told: a member router's summary and a vLLM's metrics.

``plane`` answers with a summary, ``scrapes`` reads both, ``balancer`` uses what they say. Values in, values out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

SUMMARY_PATH: Final = "/marlin/load"
"""Where a member router tells what it holds."""

MAX_HELD: Final = 10**9
"""More than this no backend holds: larger figures are taken for it, so that nobody's mistake reaches our arithmetic."""

_KV_SAMPLE = re.compile(rb"^vllm:kv_cache_usage_perc(?:\{[^}\n]*\})?[ \t]+([^ \t\r\n]+)", re.MULTILINE)
_SAMPLE = re.compile(rb"^vllm:num_requests_(running|waiting)(?:\{[^}\n]*\})?[ \t]+([^ \t\r\n]+)", re.MULTILINE)


class Held(msgspec.Struct, frozen=True):
    """What a backend holds, whoever sent it."""

    in_flight: int = 0
    waiting: int = 0
    """Of those, how many no engine works on yet."""
    capacity: float = 0.0
    """Requests in flight at full capacity; 0: it does not say."""
    kv_usage: float = 0.0
    """Part of an engine's KV cache that running requests hold, 0 to 1; of several engines the fullest."""


class Summary(msgspec.Struct, frozen=True):
    """A member router's answer."""

    models: dict[str, Held]


class SummaryError(Exception):
    """A member router's answer that is no summary."""


def held_of_engine(exposition: bytes, on_unreadable: Callable[[str], None] = lambda _: None) -> Held | None:
    """What a vLLM's metrics say, all its engines together; None where they do not say it.

    Args:
        exposition: its answer.
        on_unreadable: called with each sample whose value is no number of requests; the others count.
    """
    sums: dict[bytes, float] = {}
    for name, text in _SAMPLE.findall(exposition):
        value = _number(text)
        if value is None:
            on_unreadable(f"vllm:num_requests_{name.decode()} {text[:40].decode('ascii', 'replace')}")
        else:
            sums[name] = sums.get(name, 0.0) + value
    if b"running" not in sums:
        return None
    waiting = round(sums.get(b"waiting", 0.0))
    usages = [usage for text in _KV_SAMPLE.findall(exposition) if (usage := _number(text)) is not None]
    return _bounded(
        Held(in_flight=round(sums[b"running"]) + waiting, waiting=waiting, kv_usage=max(usages, default=0.0))
    )


def held_of_member(answer: bytes, model: str) -> Held | None:
    """What a member router's summary says of a model.

    Raises:
        SummaryError: it is no summary.
    """
    try:
        held = msgspec.json.decode(answer, type=Summary).models.get(model) if answer else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SummaryError(str(error)) from None
    return None if held is None else _bounded(held)


def _number(text: bytes) -> float | None:
    """A number of requests; None for anything else, infinity and NaN too."""
    try:
        value = float(text)
    except ValueError:
        return None
    return min(value, MAX_HELD) if math.isfinite(value) and value >= 0 else None


def _bounded(held: Held) -> Held:
    """The same within what can be."""
    return Held(
        in_flight=max(0, min(held.in_flight, MAX_HELD)),
        waiting=max(0, min(held.waiting, MAX_HELD)),
        capacity=max(0.0, min(held.capacity, float(MAX_HELD))),
        kv_usage=max(0.0, min(held.kv_usage, 1.0)),
    )


def summary_of(models: Mapping[str, Held]) -> bytes:
    """A summary as it is sent."""
    return msgspec.json.encode(Summary(dict(models)))

"""What a backend holds, and the two texts in which that is told: a member router's summary and a vLLM's metrics.

``plane`` answers with a summary, ``scrapes`` reads both, ``balancer`` uses what they say. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

SUMMARY_PATH: Final = "/marlin/load"
"""Where a member router tells what it holds."""

_SAMPLE = re.compile(rb"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? ([0-9.eE+]+)$", re.MULTILINE)


class Held(msgspec.Struct, frozen=True):
    """What a backend holds, whoever sent it."""

    in_flight: int = 0
    waiting: int = 0
    """Of those, how many no engine works on yet."""
    capacity: float = 0.0
    """Requests in flight at full capacity; 0: it does not say."""


class Summary(msgspec.Struct, frozen=True):
    """A member router's answer."""

    models: dict[str, Held]


def held_of_engine(exposition: bytes) -> Held | None:
    """What a vLLM's metrics say, all its engines together; None where they do not say it."""
    sums: dict[bytes, float] = {}
    for name, value in _SAMPLE.findall(exposition):
        sums[name] = sums.get(name, 0.0) + float(value)
    if b"running" not in sums:
        return None
    waiting = round(sums.get(b"waiting", 0.0))
    return Held(in_flight=round(sums[b"running"]) + waiting, waiting=waiting)


def held_of_member(answer: bytes, model: str) -> Held | None:
    """What a member router's summary says of a model.

    Raises:
        msgspec.DecodeError: it is no summary.
    """
    return msgspec.json.decode(answer, type=Summary).models.get(model) if answer else None


def summary_of(models: Mapping[str, Held]) -> bytes:
    """A summary as it is sent."""
    return msgspec.json.encode(Summary(dict(models)))

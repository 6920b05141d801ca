"""The token counts of a reply, out of a bounded copy of its last bytes; the reply itself is passed on untouched.

A JSON reply and the last event of a stream both end with a ``usage`` object when they carry one. In valid JSON the
characters ``"usage":`` cannot occur inside a string, where a quote is always escaped, so searching the tail backwards
finds the object itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

TAIL_BYTES: Final = 16 * 1024
"""Enough for what follows ``usage`` in any reply without log probabilities."""

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Tail:
    """The last ``TAIL_BYTES`` of what passed by, give or take one chunk."""

    _chunks: list[bytes] = field(default_factory=list)
    _size: int = 0

    def feed(self, chunk: bytes) -> None:
        """Takes note of a chunk; costs a list append, and now and then one join."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > 4 * TAIL_BYTES:
            self._chunks = [self.content()]
            self._size = len(self._chunks[0])

    def content(self) -> bytes:
        """The last bytes."""
        return b"".join(self._chunks)[-TAIL_BYTES:]


def find_usage(tail: bytes) -> Usage | None:
    """The last usage object in ``tail``; None when there is none with token counts."""
    for match in reversed(list(_USAGE.finditer(tail))):
        text = tail[match.end() :].decode("utf-8", "replace")
        try:
            found, _ = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        prompt = _count(found, "prompt_tokens", "input_tokens")
        output = _count(found, "completion_tokens", "output_tokens")
        if prompt is not None:
            return Usage(prompt, output or 0)
    return None


def _count(found: dict[str, object], *names: str) -> int | None:
    for name in names:
        value = found.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None

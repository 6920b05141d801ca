"""The token counts of a reply, out of the bytes that passed by; the reply itself is passed on untouched.

A JSON reply and the last event of a stream both end with a ``usage`` object when they carry one. In valid JSON the
characters ``"usage":`` cannot occur inside a string, where a quote is always escaped, so searching backwards finds the
object itself.
"""

from __future__ import annotations

import re
from typing import Final

KEY: Final = b'"usage"'

TAIL_BYTES: Final = 16 * 1024
"""Enough for what follows ``usage`` in any reply without log probabilities."""

_OPENS = re.compile(rb'"usage"\s*:\s*\{')
_AS_VLLM = re.compile(
    rb'"usage":\{"prompt_tokens":([0-9]{1,15}),"total_tokens":[0-9]+,"completion_tokens":([0-9]{1,15})[,}]'
)
"""How vLLM writes it: one match instead of three."""
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*([0-9]{1,15})\s*[,}]')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*([0-9]{1,15})\s*[,}]')


def find_usage(tail: bytes) -> tuple[int, int] | None:
    """Prompt tokens and output tokens of the last usage object in ``tail``; None where there is none.

    Args:
        tail: the end of a JSON reply, or a stream's last events.
    """
    end = len(tail)
    while (at := tail.rfind(KEY, 0, end)) >= 0:
        usual = _AS_VLLM.match(tail, at)
        if usual is not None:
            return int(usual[1]), int(usual[2])
        opens = _OPENS.match(tail, at)
        if opens is not None:
            prompt = _PROMPT.search(tail, opens.end())
            if prompt is not None:
                output = _OUTPUT.search(tail, opens.end())
                return int(prompt[1]), 0 if output is None else int(output[1])
        end = at
    return None

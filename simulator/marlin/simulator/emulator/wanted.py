"""A request for text, read: what the four protocols have in common after their differences are gone.

``protocols`` make a ``Wanted`` of a body; ``generate`` serves it. The checks on lengths, with vLLM's messages, are here
because they are the same for all.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

from marlin.simulator.emulator.errors import ValidationError, bad_request, integer
from marlin.simulator.emulator.text import TextRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text, as far as it matters, and its length."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for."""

    prompts: tuple[Prompt, ...]
    """Several for a completion of a list; one otherwise."""
    text: TextRequest
    n: int = 1
    """Sequences for each prompt."""
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    echo: bool = False
    seed: int | None = None
    greedy: bool = False
    """Temperature 0: the same prompt gets the same text."""

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(prompt.tokens for prompt in self.prompts)

    def generator(self, choice: int, fresh: random.Random) -> random.Random:
        """The source of the words of one choice.

        A seed, or temperature 0, makes the text a function of prompt and seed on every server; otherwise the server's
        own generator ``fresh`` goes on.
        """
        if self.seed is None and not self.greedy:
            return random.Random(fresh.getrandbits(64))
        number = 0 if self.greedy else choice % self.n
        prompt = self.prompts[choice // self.n].text.encode("utf-8", "surrogatepass")
        return random.Random(f"{self.seed} {number} {zlib.crc32(prompt)}")


def lengths(
    document: dict[str, Any], prompts: tuple[Prompt, ...], field: str, default: int | None, max_model_len: int
) -> int:
    """How many tokens a request may write.

    Args:
        document: the body.
        prompts: what was asked.
        field: the name of the limit in this protocol; used in messages.
        default: when the field is absent; None: whatever fits.
        max_model_len: tokens a request may have.

    Raises:
        RequestError: too many, too few, or the prompt alone is too long.
    """
    asked = integer(document, field)
    if asked is not None and asked > max_model_len:
        raise bad_request(
            f"{field}={asked} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            field,
            asked,
        )
    longest = max(prompt.tokens for prompt in prompts)
    context = f"This model's maximum context length is {max_model_len} tokens. However, "
    if longest >= max_model_len:
        tokens = max_model_len + 1
        raise bad_request(
            f"{context}your prompt contains at least {tokens} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
            tokens,
        )
    if asked is not None and asked < 1:
        raise bad_request(f"{field} must be at least 1, got {asked}.", field, asked)
    limit = asked if asked is not None else default
    room = max_model_len - longest
    if limit is None:
        return room
    if asked is not None and asked > room:
        raise bad_request(
            f"{context}you requested {asked} output tokens and your prompt contains at least {longest} input tokens, "
            f"for a total of at least {longest + asked} tokens. Please reduce the length of the input prompt or the "
            "number of requested output tokens.",
            "input_tokens",
            longest,
        )
    return min(limit, room)


def text_request(document: dict[str, Any], max_tokens: int, stop_field: str = "stop") -> TextRequest:
    """Limits and stop strings of a body.

    Raises:
        RequestError: ``min_tokens`` beyond ``max_tokens``, or stop strings that are none.
    """
    min_tokens = integer(document, "min_tokens") or 0
    if min_tokens > max_tokens:
        raise bad_request(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
    stop = document.get(stop_field) or ()
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, list | tuple) or not all(isinstance(part, str) for part in stop):
        raise ValidationError(
            {
                "type": "list_type",
                "loc": f"body.{stop_field}",
                "msg": "Input should be a valid list",
                "input": str(stop),
            }
        )
    return TextRequest(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(document.get("ignore_eos")),
        stop=tuple(part for part in stop if part),
        include_stop=bool(document.get("include_stop_str_in_output")),
    )


def choices(document: dict[str, Any]) -> int:
    """``n``.

    Raises:
        RequestError: below 1.
    """
    n = integer(document, "n")
    if n is not None and n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    return n or 1


def usage_options(document: dict[str, Any]) -> tuple[bool, bool]:
    """(usage at the end, usage in every chunk).

    Raises:
        RequestError: stream options without a stream.
    """
    options = document.get("stream_options")
    if options is None:
        return False, False
    if not document.get("stream"):
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
    if not isinstance(options, dict):
        raise ValidationError(
            {
                "type": "model_attributes_type",
                "loc": "body.stream_options",
                "msg": "Input should be a valid dictionary or object to extract fields from",
                "input": str(options),
            }
        )
    include = bool(options.get("include_usage"))
    return include, include and bool(options.get("continuous_usage_stats"))


def content_text(content: object) -> str:
    """The text of a message's content: a string, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ""

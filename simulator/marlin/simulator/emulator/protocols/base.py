"""What ``generate`` asks of a protocol, and the few pieces they share."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from marlin.simulator.emulator.errors import RequestError
from marlin.simulator.emulator.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Context:
    """What a reply says about its server and request."""

    model: str
    fingerprint: str
    created_s: int
    """Unix time."""
    request_id: str
    """From X-Request-Id, the body's ``request_id``, or random."""
    prompt_details: bool
    """As vLLM's --enable-prompt-tokens-details."""


@dataclass(frozen=True, slots=True)
class Result:
    """One finished sequence."""

    text: str
    tokens: int
    finish_reason: str
    """``length``, ``stop`` or ``abort``."""
    stop_reason: str | None


class Writer(ABC):
    """Writes one streamed reply; each method gives the bytes to send."""

    def begin(self) -> bytes:
        """At once, before anything is generated."""
        return b""

    @abstractmethod
    def piece(self, choice: int, text: str, tokens: int) -> bytes:
        """More text of a choice, which has ``tokens`` tokens now."""

    @abstractmethod
    def last(self, choice: int, text: str, result: Result) -> bytes:
        """The rest of a choice, ``text``, and its end; ``result`` holds all of it."""

    @abstractmethod
    def end(self, tokens: int) -> bytes:
        """After the last choice; ``tokens`` were written in total."""

    @abstractmethod
    def broken(self, error: RequestError) -> bytes:
        """When the engine dies in the middle; nothing follows."""


class Protocol(ABC):
    """One endpoint that generates text."""

    anthropic_errors = False
    """Whether errors take Anthropic's shape."""

    @abstractmethod
    def read(self, document: dict[str, Any], max_model_len: int) -> Wanted:
        """What a body asks for.

        Raises:
            RequestError: it cannot be served.
        """

    @abstractmethod
    def reply(self, context: Context, wanted: Wanted, results: list[Result]) -> dict[str, Any]:
        """The whole reply."""

    @abstractmethod
    def writer(self, context: Context, wanted: Wanted) -> Writer:
        """For a streamed reply."""


def compact(document: object) -> str:
    """JSON as vLLM writes it: no spaces, characters as they are."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def data(document: object) -> bytes:
    """A server-sent event without a name."""
    return f"data: {compact(document)}\n\n".encode("utf-8", "replace")


def event(name: str, document: object) -> bytes:
    """A server-sent event with a name."""
    return f"event: {name}\ndata: {compact(document)}\n\n".encode("utf-8", "replace")


def random_id() -> str:
    """16 hexadecimal digits."""
    return secrets.token_hex(8)


DONE = b"data: [DONE]\n\n"


def openai_error(error: RequestError) -> bytes:
    """An error in the middle of an OpenAI-style stream; vLLM writes this one with spaces."""
    return f"data: {json.dumps(error.document())}\n\n".encode() + DONE


def usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """The three counts that every OpenAI-style usage begins with."""
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + tokens, "completion_tokens": tokens}

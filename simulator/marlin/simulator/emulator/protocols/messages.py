"""``/v1/messages``: Anthropic's protocol, as far as text in and text out."""

from __future__ import annotations

from typing import Any

from marlin.simulator.emulator.errors import RequestError, missing
from marlin.simulator.emulator.protocols.base import Context, Protocol, Result, Writer, event
from marlin.simulator.emulator.protocols.chat import conversation
from marlin.simulator.emulator.wanted import Prompt, Wanted, content_text, lengths, text_request


def messages_prompt(document: dict[str, Any]) -> Prompt:
    """The prompt of a body with ``messages`` and perhaps ``system``.

    Raises:
        RequestError: no messages.
    """
    messages = document["messages"]
    if document.get("system") and isinstance(messages, list):
        messages = [{"role": "system", "content": content_text(document["system"])}, *messages]
    return conversation(messages)


class Messages(Protocol):
    """Reads and writes messages."""

    anthropic_errors = True

    def read(self, document: dict[str, Any], max_model_len: int) -> Wanted:
        """What a body asks for."""
        missing(document, "model", "messages", "max_tokens")
        prompts = (messages_prompt(document),)
        # vLLM turns the request into a chat completion first, and its messages name that one's field.
        translated = {**document, "max_completion_tokens": document["max_tokens"]}
        max_tokens = lengths(translated, prompts, "max_completion_tokens", None, max_model_len)
        text = text_request(document, max_tokens, "stop_sequences")
        return Wanted(
            prompts=prompts,
            text=text,
            stream=bool(document.get("stream")),
            greedy=document.get("temperature") == 0,
        )

    def reply(self, context: Context, wanted: Wanted, results: list[Result]) -> dict[str, Any]:
        """The whole reply; ``stop_sequence`` is there when one was met."""
        result = results[0]
        reason = _stop_reason(result)
        return {
            "id": f"chatcmpl-{context.request_id}",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": result.text}],
            "model": context.model,
            "stop_reason": reason,
            **({"stop_sequence": result.stop_reason} if reason == "stop_sequence" else {}),
            "usage": _usage(context, wanted, result.tokens),
        }

    def writer(self, context: Context, wanted: Wanted) -> Writer:
        """For a streamed reply."""
        return _Writer(context, wanted)


class _Writer(Writer):
    def __init__(self, context: Context, wanted: Wanted) -> None:
        self._context = context
        self._wanted = wanted
        self._started = False
        self._result: Result | None = None

    def piece(self, choice: int, text: str, tokens: int) -> bytes:
        """More text; a block is opened before the first."""
        return self._open() + _delta(text)

    def last(self, choice: int, text: str, result: Result) -> bytes:
        """The rest of the text, and the end of its block."""
        self._result = result
        closed = event("content_block_stop", {"type": "content_block_stop", "index": 0})
        return self._open() + (_delta(text) if text else b"") + closed

    def end(self, tokens: int) -> bytes:
        """Why it ended, the usage, and the mark of the end."""
        assert self._result is not None
        delta = {"stop_reason": _stop_reason(self._result), "stop_sequence": None}
        if delta["stop_reason"] == "stop_sequence":
            delta["stop_sequence"] = self._result.stop_reason
        usage = _usage(self._context, self._wanted, tokens)
        return event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}) + event(
            "message_stop", {"type": "message_stop"}
        )

    def broken(self, error: RequestError) -> bytes:
        """An error event."""
        document = {"type": "error", "error": {"type": "internal_error", "message": error.message}}
        return event("error", document)

    def _open(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": f"chatcmpl-{self._context.request_id}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._context.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._wanted.prompt_tokens, "output_tokens": 0},
        }
        block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
        return event("message_start", {"type": "message_start", "message": message}) + event(
            "content_block_start", block
        )


def _delta(text: str) -> bytes:
    document = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}, "index": 0}
    return event("content_block_delta", document)


def _stop_reason(result: Result) -> str:
    if result.finish_reason == "length":
        return "max_tokens"
    return "stop_sequence" if result.stop_reason is not None else "end_turn"


def _usage(context: Context, wanted: Wanted, tokens: int) -> dict[str, int]:
    usage = {"input_tokens": wanted.prompt_tokens, "output_tokens": tokens}
    if context.prompt_details:
        usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return usage

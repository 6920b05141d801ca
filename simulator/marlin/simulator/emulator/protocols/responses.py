"""``/v1/responses``: OpenAI's newer protocol, as far as text in and text out."""

from __future__ import annotations

from typing import Any

from marlin.simulator.emulator.errors import RequestError, missing
from marlin.simulator.emulator.protocols.base import Context, Protocol, Result, Writer, event, random_id
from marlin.simulator.emulator.protocols.chat import conversation
from marlin.simulator.emulator.wanted import Wanted, lengths, text_request


class Responses(Protocol):
    """Reads and writes responses."""

    def read(self, document: dict[str, Any], max_model_len: int) -> Wanted:
        """What a body asks for."""
        missing(document, "input", extra=1)
        given = document["input"]
        messages = given if isinstance(given, list) else [{"role": "user", "content": str(given)}]
        if document.get("instructions"):
            messages = [{"role": "system", "content": str(document["instructions"])}, *messages]
        prompts = (conversation(messages),)
        max_tokens = lengths(document, prompts, "max_output_tokens", None, max_model_len)
        return Wanted(
            prompts=prompts,
            text=text_request(document, max_tokens),
            stream=bool(document.get("stream")),
            seed=document.get("seed"),
            greedy=document.get("temperature") == 0,
        )

    def reply(self, context: Context, wanted: Wanted, results: list[Result]) -> dict[str, Any]:
        """The whole reply."""
        result = results[0]
        message = _message(f"msg_{random_id()}", result.text)
        return _response(context, wanted, f"resp_{random_id()}", result=result, output=[message])

    def writer(self, context: Context, wanted: Wanted) -> Writer:
        """For a streamed reply."""
        return _Writer(context, wanted)


class _Writer(Writer):
    def __init__(self, context: Context, wanted: Wanted) -> None:
        self._context = context
        self._wanted = wanted
        self._id = f"resp_{random_id()}"
        self._message_id = f"msg_{random_id()}"
        self._number = 0
        self._started = False
        self._result: Result | None = None

    def begin(self) -> bytes:
        """Two events before anything is generated."""
        created = _response(self._context, self._wanted, self._id)
        return self._event("response.created", response=created) + self._event("response.in_progress", response=created)

    def piece(self, choice: int, text: str, tokens: int) -> bytes:
        """More text."""
        return self._open() + self._delta(text)

    def last(self, choice: int, text: str, result: Result) -> bytes:
        """The rest of the text, and the ends of its part and its message."""
        self._result = result
        place = {"item_id": self._message_id, "output_index": 0}
        part: dict[str, Any] = {"annotations": [], "text": result.text, "type": "output_text", "logprobs": None}
        return (
            self._open()
            + (self._delta(text) if text else b"")
            + self._event(
                "response.output_text.done",
                content_index=0,
                item_id=self._message_id,
                logprobs=[],
                output_index=0,
                text=result.text,
            )
            + self._event("response.content_part.done", content_index=0, **place, part=part)
            + self._event("response.output_item.done", item=_message(self._message_id, result.text), output_index=0)
        )

    def end(self, tokens: int) -> bytes:
        """The response as a whole."""
        assert self._result is not None
        output = [_message(self._message_id, self._result.text)]
        whole = _response(self._context, self._wanted, self._id, result=self._result, output=output)
        return self._event("response.completed", response=whole)

    def broken(self, error: RequestError) -> bytes:
        """Nothing: vLLM's stream just ends."""
        return b""

    def _open(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        item: dict[str, Any] = {
            "id": self._message_id,
            "content": [],
            "role": "assistant",
            "status": "in_progress",
            "type": "message",
            "phase": None,
        }
        part: dict[str, Any] = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return self._event("response.output_item.added", item=item, output_index=0) + self._event(
            "response.content_part.added", content_index=0, item_id=self._message_id, output_index=0, part=part
        )

    def _delta(self, text: str) -> bytes:
        return self._event(
            "response.output_text.delta",
            content_index=0,
            delta=text,
            item_id=self._message_id,
            logprobs=[],
            output_index=0,
        )

    def _event(self, name: str, **fields: Any) -> bytes:
        """An event, its fields in vLLM's order: by name, but for ``text``, which follows the sequence number."""
        text = {"text": fields.pop("text")} if "text" in fields else {}
        document = {**fields, "sequence_number": self._number, **text, "type": name}
        self._number += 1
        return event(name, document)


def _message(message_id: str, text: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "content": [{"annotations": [], "text": text, "type": "output_text", "logprobs": None}],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }


def _response(
    context: Context,
    wanted: Wanted,
    response_id: str,
    *,
    result: Result | None = None,
    output: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The response object, in progress while there is no result."""
    cut = result is not None and result.finish_reason == "length"
    status = "in_progress" if result is None else "incomplete" if cut else "completed"
    return {
        "id": response_id,
        "created_at": context.created_s,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": None,
        "model": context.model,
        "object": "response",
        "output": output or [],
        "parallel_tool_calls": True,
        "temperature": 0.0 if wanted.greedy else 1.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": wanted.text.max_tokens,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": None if result is None else _usage(wanted.prompt_tokens, result.tokens),
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": tokens,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": prompt_tokens + tokens,
    }

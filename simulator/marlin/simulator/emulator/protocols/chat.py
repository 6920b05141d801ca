"""``/v1/chat/completions``: OpenAI's chat protocol."""

from __future__ import annotations

from typing import Any

from marlin.simulator.emulator.errors import RequestError, ValidationError, bad_request, missing
from marlin.simulator.emulator.protocols.base import (
    DONE,
    Context,
    Protocol,
    Result,
    Writer,
    compact,
    openai_error,
    usage,
)
from marlin.simulator.emulator.text import count_tokens
from marlin.simulator.emulator.wanted import (
    Prompt,
    Wanted,
    choices,
    content_text,
    lengths,
    text_request,
    usage_options,
)

MESSAGE_TOKENS = 1
"""What the chat template adds for each message."""

CONVERSATION_TOKENS = 2
"""What it adds once: the start, and the assistant's turn."""


def conversation(messages: object) -> Prompt:
    """The prompt that a list of messages becomes; also used by the other chat protocols.

    Raises:
        RequestError: no list, or an empty one.
    """
    if not isinstance(messages, list):
        raise ValidationError(
            {
                "type": "list_type",
                "loc": "body.messages",
                "msg": "Input should be a valid list",
                "input": str(messages),
            }
        )
    if not messages:
        raise bad_request("Cannot apply chat template to an empty conversation. Provide at least one message.")
    texts = [content_text(message.get("content")) for message in messages if isinstance(message, dict)]
    tokens = sum(MESSAGE_TOKENS + count_tokens(text) for text in texts)
    return Prompt("".join(texts), CONVERSATION_TOKENS + tokens)


class Chat(Protocol):
    """Reads and writes chat completions."""

    def read(self, document: dict[str, Any], max_model_len: int) -> Wanted:
        """What a body asks for; ``max_completion_tokens`` wins over ``max_tokens``."""
        missing(document, "messages")
        include, continuous = usage_options(document)
        prompts = (conversation(document["messages"]),)
        newer = document.get("max_completion_tokens") is not None
        limit = "max_completion_tokens" if newer else "max_tokens"
        max_tokens = lengths(document, prompts, limit, None, max_model_len)
        return Wanted(
            prompts=prompts,
            text=text_request(document, max_tokens),
            n=choices(document),
            stream=bool(document.get("stream")),
            include_usage=include,
            continuous_usage=continuous,
            seed=document.get("seed"),
            greedy=document.get("temperature") == 0,
        )

    def reply(self, context: Context, wanted: Wanted, results: list[Result]) -> dict[str, Any]:
        """The whole reply."""
        tokens = sum(result.tokens for result in results)
        details = {"cached_tokens": 0, "created_cache_tokens": 0, "multimodal_tokens": None}
        return {
            "id": f"chatcmpl-{context.request_id}",
            "object": "chat.completion",
            "created": context.created_s,
            "model": context.model,
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": result.text,
                        "refusal": None,
                        "annotations": None,
                        "audio": None,
                        "function_call": None,
                        "reasoning": None,
                    },
                    "logprobs": None,
                    "finish_reason": result.finish_reason,
                    "stop_reason": result.stop_reason,
                    "token_ids": None,
                    "routed_experts": None,
                }
                for index, result in enumerate(results)
            ],
            "service_tier": None,
            "system_fingerprint": context.fingerprint,
            "usage": usage(wanted.prompt_tokens, tokens)
            | {
                "prompt_tokens_details": details if context.prompt_details else None,
                "completion_tokens_details": None,
            },
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def writer(self, context: Context, wanted: Wanted) -> Writer:
        """For a streamed reply."""
        return _Writer(context, wanted)


class _Writer(Writer):
    def __init__(self, context: Context, wanted: Wanted) -> None:
        self._context = context
        self._wanted = wanted
        self._started = False
        self._head = compact(
            {
                "id": f"chatcmpl-{context.request_id}",
                "object": "chat.completion.chunk",
                "created": context.created_s,
                "model": context.model,
            }
        )[:-1]

    def piece(self, choice: int, text: str, tokens: int) -> bytes:
        """More text of a choice."""
        return self._roles() + self._chunk(choice, text, tokens, '"finish_reason":null', "")

    def last(self, choice: int, text: str, result: Result) -> bytes:
        """The end of a choice; without a usage chunk to come, it has the fingerprint."""
        fingerprint = "" if self._wanted.include_usage else f',"system_fingerprint":"{self._context.fingerprint}"'
        finish = f'"finish_reason":{compact(result.finish_reason)},"stop_reason":{compact(result.stop_reason)}'
        return self._roles() + self._chunk(choice, text, result.tokens, finish, fingerprint)

    def end(self, tokens: int) -> bytes:
        """Usage, when asked for, and the mark of the end."""
        if not self._wanted.include_usage:
            return DONE
        counts = usage(self._wanted.prompt_tokens, tokens)
        if self._context.prompt_details:
            counts["prompt_tokens_details"] = {"cached_tokens": 0, "created_cache_tokens": 0}
        tail = {"choices": [], "usage": counts, "system_fingerprint": self._context.fingerprint}
        return f"data: {self._head},{compact(tail)[1:]}\n\n".encode() + DONE

    def broken(self, error: RequestError) -> bytes:
        """The error, and the mark of the end."""
        return openai_error(error)

    def _roles(self) -> bytes:
        """The opening chunk of every choice, once, with the first token of any."""
        if self._started:
            return b""
        self._started = True
        return b"".join(
            (
                f'data: {self._head},"choices":[{{"index":{choice},"delta":{{"role":"assistant","content":""}},'
                f'"logprobs":null,"finish_reason":null}}]{self._usage(0)},'
                '"prompt_token_ids":null,"prompt_text":null}\n\n'
            ).encode()
            for choice in range(self._wanted.n)
        )

    def _chunk(self, choice: int, text: str, tokens: int, finish: str, tail: str) -> bytes:
        return (
            f'data: {self._head},"choices":[{{"index":{choice},"delta":{{"content":{compact(text)}}},"logprobs":null,'
            f'{finish},"token_ids":null}}]{self._usage(tokens)}{tail}}}\n\n'
        ).encode("utf-8", "replace")

    def _usage(self, tokens: int) -> str:
        if not self._wanted.continuous_usage:
            return ""
        counts = usage(self._wanted.prompt_tokens, tokens) | {"completion_tokens_details": None}
        return f',"usage":{compact(counts)}'

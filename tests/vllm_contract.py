"""What vLLM 0.32.0 answers, as a table: the same cases for the emulator and for a real vLLM.

A case is a request and what must come back: status, headers, and the shape of the JSON or of the events. Derived from
recordings of a real vLLM. Two test modules run it: tests/simulator/test_emulator_contract.py in every run, and
tests/e2e/test_vllm_contract.py against servers whose addresses are given (``make e2e-vllm``). Both servers are started
with SERVER_OPTIONS.

Shapes: a type means any value of it, a pattern any string it matches in full, a dict exactly these keys in this order,
a one-element list any number of such values, a tuple one of several shapes, anything else the value itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp

MODEL = "tiny-llama"
MAX_MODEL_LEN = 256
API_KEY = "contract-key"
MAX_QUEUED = 20
SERVER_OPTIONS = (
    *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "8"),
    *("--api-key", API_KEY, "--max-num-queued-reqs", str(MAX_QUEUED)),
)

NUMBER = (int, float)
TEXT = (str, None)


def either(*shapes: Any) -> tuple[Any, ...]:
    """One of several shapes."""
    return shapes


@dataclass(frozen=True)
class Part:
    """A stretch of a stream: events of one shape."""

    data: Any
    event: str | None = None
    least: int = 1
    most: int = 1


def some(data: Any, event: str | None = None) -> Part:
    """Any number of events of one shape."""
    return Part(data, event, 0, 1000)


@dataclass(frozen=True)
class Case:
    """One request and what must come back."""

    name: str
    path: str
    body: Any = None
    """None: GET. A string is sent as it is."""
    status: int = 200
    reply: Any = None
    """Shape of the JSON body; None: no body."""
    events: tuple[Part, ...] = ()
    method: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    runner: str = "generate"
    authorized: bool = True
    vary: bool = True
    allow: str | None = None


USAGE = {"prompt_tokens": int, "total_tokens": int, "completion_tokens": int}
CHAT_CHUNK_USAGE = {**USAGE, "completion_tokens_details": None}
USAGE_WHOLE = {**USAGE, "prompt_tokens_details": either(None, dict), "completion_tokens_details": None}


def completion_reply(choices: Any, request_id: str = "[0-9a-f]{16}") -> dict[str, Any]:
    return {
        "id": re.compile(f"cmpl-{request_id}"),
        "object": "text_completion",
        "created": int,
        "model": MODEL,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": re.compile(r"vllm-0\.32\.0-[0-9a-f]{8}"),
        "usage": USAGE_WHOLE,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def completion_choice(finish: Any = "length", stop: Any = None, index: Any = int) -> dict[str, Any]:
    return {
        "index": index,
        "text": str,
        "logprobs": None,
        "finish_reason": finish,
        "stop_reason": stop,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }


FINGERPRINT = {"system_fingerprint": re.compile(r"vllm-0\.32\.0-[0-9a-f]{8}")}


def completion_chunk(finish: Any = None, **tail: Any) -> dict[str, Any]:
    choice = {
        "index": int,
        "text": str,
        "logprobs": None,
        "finish_reason": finish,
        "stop_reason": None,
        "prompt_token_ids": None,
        "token_ids": None,
    }
    head = {"id": re.compile("cmpl-[0-9a-f]{16}"), "object": "text_completion", "created": int, "model": MODEL}
    return {**head, "choices": [choice], **tail}


COMPLETION_USAGE_CHUNK = {
    **{k: v for k, v in completion_chunk().items() if k != "choices"},
    "choices": "EMPTY",
    "usage": USAGE,
    **FINGERPRINT,
}

CHAT_HEAD = {
    "id": re.compile("chatcmpl-[0-9a-f]{16}"),
    "object": "chat.completion.chunk",
    "created": int,
    "model": MODEL,
}


def chat_role(**usage: Any) -> dict[str, Any]:
    delta = {"role": "assistant", "content": ""}
    choice = {"index": int, "delta": delta, "logprobs": None, "finish_reason": None}
    return {**CHAT_HEAD, "choices": [choice], **usage, "prompt_token_ids": None, "prompt_text": None}


def chat_delta(**usage: Any) -> dict[str, Any]:
    choice = {"index": int, "delta": {"content": str}, "logprobs": None, "finish_reason": None, "token_ids": None}
    return {**CHAT_HEAD, "choices": [choice], **usage}


def chat_last(**tail: Any) -> dict[str, Any]:
    choice = {
        "index": int,
        "delta": {"content": str},
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": None,
    }
    return {**CHAT_HEAD, "choices": [choice], **tail}


CHAT_USAGE_CHUNK = {**CHAT_HEAD, "choices": "EMPTY", "usage": USAGE, **FINGERPRINT}


def chat_reply(request_id: str = "[0-9a-f]{16}") -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": str,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    return {
        "id": re.compile(f"chatcmpl-{request_id}"),
        "object": "chat.completion",
        "created": int,
        "model": MODEL,
        "choices": [
            {
                "index": int,
                "message": message,
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        **FINGERPRINT,
        "usage": USAGE_WHOLE,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


MESSAGE_ID = re.compile("msg_[0-9a-f]{16}")
OUTPUT_TEXT = {"annotations": "EMPTY", "text": str, "type": "output_text", "logprobs": None}
OUTPUT_MESSAGE = {
    "id": MESSAGE_ID,
    "content": [OUTPUT_TEXT],
    "role": "assistant",
    "status": "completed",
    "type": "message",
    "phase": None,
}
RESPONSE_USAGE = {
    "input_tokens": int,
    "input_tokens_details": {
        "cached_tokens": int,
        "cache_write_tokens": int,
        "input_tokens_per_turn": "EMPTY",
        "cached_tokens_per_turn": "EMPTY",
    },
    "output_tokens": int,
    "output_tokens_details": {
        "reasoning_tokens": int,
        "tool_output_tokens": int,
        "output_tokens_per_turn": "EMPTY",
        "tool_output_tokens_per_turn": "EMPTY",
    },
    "total_tokens": int,
}


def response(status: str, incomplete: Any, output: Any, usage: Any) -> dict[str, Any]:
    return {
        "id": re.compile("resp_[0-9a-f]{16}"),
        "created_at": int,
        "incomplete_details": incomplete,
        "instructions": None,
        "metadata": None,
        "model": MODEL,
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": NUMBER,
        "tool_choice": "none",
        "tools": "EMPTY",
        "top_p": NUMBER,
        "background": False,
        "max_output_tokens": int,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


RESPONSE_CUT = response("incomplete", {"reason": "max_output_tokens"}, [OUTPUT_MESSAGE], RESPONSE_USAGE)
RESPONSE_OPEN = response("in_progress", None, "EMPTY", None)


def response_event(name: str, **fields: Any) -> Part:
    text = {"text": fields.pop("text")} if "text" in fields else {}
    return Part({**fields, "sequence_number": int, **text, "type": name}, name)


RESPONSE_DELTA = response_event(
    "response.output_text.delta",
    content_index=0,
    delta=str,
    item_id=MESSAGE_ID,
    logprobs="EMPTY",
    output_index=0,
)

MESSAGES_USAGE = either(
    {"input_tokens": int, "output_tokens": int},
    {
        "input_tokens": int,
        "output_tokens": int,
        "cache_creation_input_tokens": int,
        "cache_read_input_tokens": int,
    },
)


def messages_reply(request_id: str = "[0-9a-f]{16}") -> dict[str, Any]:
    return {
        "id": re.compile(f"chatcmpl-{request_id}"),
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": str}],
        "model": MODEL,
        "stop_reason": "max_tokens",
        "usage": MESSAGES_USAGE,
    }


def error(code: int, kind: str, message: str, param: Any = None) -> dict[str, Any]:
    return {"error": {"message": re.compile(message, re.DOTALL), "type": kind, "param": param, "code": code}}


def anthropic_error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": re.compile(message)}}


def scores(ident: str) -> dict[str, Any]:
    usage = {**USAGE, "prompt_tokens_details": None, "completion_tokens_details": None}
    data = {
        "embd": {"index": int, "object": "embedding", "embedding": either([float], str)},
        "pooling": {"index": int, "object": "pooling", "data": [float]},
        "score": {"index": int, "object": "score", "score": float},
    }[ident]
    return {
        "id": re.compile(f"{ident}-[0-9a-f]{{16}}"),
        "object": "list",
        "created": int,
        "model": MODEL,
        "data": [data],
        "usage": usage,
    }


RANKS = {
    "id": re.compile("score-[0-9a-f]{16}"),
    "model": MODEL,
    "usage": {"prompt_tokens": int, "total_tokens": int},
    "results": [{"index": int, "document": {"text": str, "multi_modal": None}, "relevance_score": float}],
}

DONE = Part("[DONE]")
COMPLETIONS, CHAT, RESPONSES, MESSAGES = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = "word " * 300


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "Hello", "max_tokens": 4, "ignore_eos": True, "temperature": 0, **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, "max_tokens": 4, "ignore_eos": True, "temperature": 0, **fields}


def messages(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, "max_tokens": 4, **fields}


WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
WITH_ALL_USAGE = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
NOT_FOUND, NOT_ALLOWED = {"detail": "Not Found"}, {"detail": "Method Not Allowed"}
UNKNOWN = r"The model `nope` does not exist\. Valid aliases: tiny-llama\."
TOO_LONG = r"This model's maximum context length is 256 tokens\. However, your prompt contains at least 257 input .*"
BUSY = "The engine is currently busy and cannot accept new requests.*"


def too_many(name: str, value: int) -> str:
    return rf"{name}={value} cannot be greater than max_model_len=256\. Please request fewer output tokens\..*"


CASES: tuple[Case, ...] = (
    # what is there, and how it is
    Case("health", "/health"),
    Case("ping", "/ping"),
    Case("ping-post", "/ping", ""),
    Case("version", "/version", reply={"version": "0.32.0"}),
    Case("load", "/load", reply={"server_load": int}),
    Case(
        "models",
        "/v1/models",
        reply={
            "object": "list",
            "data": [
                {
                    "id": MODEL,
                    "object": "model",
                    "created": int,
                    "owned_by": "vllm",
                    "root": str,
                    "parent": None,
                    "max_model_len": MAX_MODEL_LEN,
                    "permission": [
                        {
                            "id": re.compile("modelperm-[0-9a-f]{16}"),
                            "object": "model_permission",
                            "created": int,
                            "allow_create_engine": False,
                            "allow_sampling": True,
                            "allow_logprobs": True,
                            "allow_search_indices": False,
                            "allow_view": True,
                            "allow_fine_tuning": False,
                            "organization": "*",
                            "group": None,
                            "is_blocking": False,
                        }
                    ],
                }
            ],
        },
    ),
    # completions
    Case("completion", COMPLETIONS, completion(), reply=completion_reply([completion_choice()])),
    Case(
        "completion-request-id",
        COMPLETIONS,
        completion(),
        headers={"X-Request-Id": "abc-1"},
        reply=completion_reply([completion_choice()], "abc-1"),
    ),
    Case("completion-n", COMPLETIONS, completion(n=3, temperature=1), reply=completion_reply([completion_choice()])),
    Case("completion-list", COMPLETIONS, completion(prompt=["a", "b"]), reply=completion_reply([completion_choice()])),
    Case("completion-ids", COMPLETIONS, completion(prompt=[9, 8, 7]), reply=completion_reply([completion_choice()])),
    Case(
        "completion-default-model",
        COMPLETIONS,
        {"prompt": "Hello", "max_tokens": 1, "ignore_eos": True},
        reply=completion_reply([completion_choice()]),
    ),
    Case(
        "completion-stop",
        COMPLETIONS,
        completion(max_tokens=200, temperature=1, seed=1, stop=["a", "e", "o", "t"]),
        reply=completion_reply([completion_choice("stop", re.compile("[aeot]"))]),
    ),
    Case(
        "completion-stream",
        COMPLETIONS,
        completion(stream=True),
        events=(some(completion_chunk()), Part(completion_chunk("length", **FINGERPRINT)), DONE),
    ),
    Case(
        "completion-stream-usage",
        COMPLETIONS,
        completion(**WITH_USAGE),
        events=(some(completion_chunk()), Part(completion_chunk("length")), Part(COMPLETION_USAGE_CHUNK), DONE),
    ),
    Case(
        "completion-stream-all-usage",
        COMPLETIONS,
        completion(**WITH_ALL_USAGE),
        events=(
            some(completion_chunk(usage=USAGE)),
            Part(completion_chunk("length", usage=USAGE)),
            Part(COMPLETION_USAGE_CHUNK),
            DONE,
        ),
    ),
    # chat
    Case("chat", CHAT, chat(), reply=chat_reply()),
    Case("chat-request-id", CHAT, chat(), headers={"X-Request-Id": "abc-1"}, reply=chat_reply("abc-1")),
    Case("chat-n", CHAT, chat(n=2, temperature=1), reply=chat_reply()),
    Case("chat-newer-limit", CHAT, chat(max_tokens=9, max_completion_tokens=2), reply=chat_reply()),
    Case(
        "chat-stream",
        CHAT,
        chat(stream=True),
        events=(Part(chat_role()), some(chat_delta()), Part(chat_last(**FINGERPRINT)), DONE),
    ),
    Case(
        "chat-stream-usage",
        CHAT,
        chat(**WITH_USAGE),
        events=(Part(chat_role()), some(chat_delta()), Part(chat_last()), Part(CHAT_USAGE_CHUNK), DONE),
    ),
    Case(
        "chat-stream-all-usage",
        CHAT,
        chat(**WITH_ALL_USAGE),
        events=(
            Part(chat_role(usage=CHAT_CHUNK_USAGE)),
            some(chat_delta(usage=CHAT_CHUNK_USAGE)),
            Part(chat_last(usage=CHAT_CHUNK_USAGE)),
            Part(CHAT_USAGE_CHUNK),
            DONE,
        ),
    ),
    Case(
        "chat-stream-n",
        CHAT,
        chat(n=2, temperature=1, **WITH_USAGE),
        events=(
            Part(chat_role(), None, 2, 2),
            Part(either(chat_delta(), chat_last()), None, 2, 8),
            Part(CHAT_USAGE_CHUNK),
            DONE,
        ),
    ),
    # responses
    Case("responses", RESPONSES, {"model": MODEL, "input": "Hello", "max_output_tokens": 4}, reply=RESPONSE_CUT),
    Case("responses-messages", RESPONSES, {"model": MODEL, "input": HELLO, "max_output_tokens": 4}, reply=RESPONSE_CUT),
    Case(
        "responses-stream",
        RESPONSES,
        {"model": MODEL, "input": "Hello", "max_output_tokens": 4, "stream": True, "ignore_eos": True},
        events=(
            response_event("response.created", response=RESPONSE_OPEN),
            response_event("response.in_progress", response=RESPONSE_OPEN),
            response_event(
                "response.output_item.added",
                item={
                    "id": MESSAGE_ID,
                    "content": "EMPTY",
                    "role": "assistant",
                    "status": "in_progress",
                    "type": "message",
                    "phase": None,
                },
                output_index=0,
            ),
            response_event(
                "response.content_part.added",
                content_index=0,
                item_id=MESSAGE_ID,
                output_index=0,
                part={"annotations": "EMPTY", "text": "", "type": "output_text", "logprobs": "EMPTY"},
            ),
            some(RESPONSE_DELTA.data, RESPONSE_DELTA.event),
            response_event(
                "response.output_text.done",
                content_index=0,
                item_id=MESSAGE_ID,
                logprobs="EMPTY",
                output_index=0,
                text=str,
            ),
            response_event(
                "response.content_part.done", content_index=0, item_id=MESSAGE_ID, output_index=0, part=OUTPUT_TEXT
            ),
            response_event("response.output_item.done", item=OUTPUT_MESSAGE, output_index=0),
            response_event("response.completed", response=RESPONSE_CUT),
        ),
    ),
    # messages
    Case("messages", MESSAGES, messages(), reply=messages_reply()),
    Case("messages-request-id", MESSAGES, messages(), headers={"X-Request-Id": "abc"}, reply=messages_reply("abc")),
    Case(
        "messages-stream",
        MESSAGES,
        messages(stream=True),
        events=(
            Part(
                {
                    "type": "message_start",
                    "message": {
                        "id": re.compile("chatcmpl-[0-9a-f]{16}"),
                        "type": "message",
                        "role": "assistant",
                        "content": "EMPTY",
                        "model": MODEL,
                        "stop_reason": None,
                        "stop_sequence": None,
                        "usage": {"input_tokens": int, "output_tokens": 0},
                    },
                },
                "message_start",
            ),
            Part(
                {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0},
                "content_block_start",
            ),
            some(
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str}, "index": 0},
                "content_block_delta",
            ),
            Part({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            Part(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
                    "usage": MESSAGES_USAGE,
                },
                "message_delta",
            ),
            Part({"type": "message_stop"}, "message_stop"),
        ),
    ),
    Case(
        "count-tokens",
        "/v1/messages/count_tokens",
        {"model": MODEL, "messages": HELLO},
        reply={"input_tokens": int, "context_management": {"original_input_tokens": int}},
    ),
    # tokens
    Case(
        "tokenize",
        "/tokenize",
        {"model": MODEL, "prompt": "Hello world"},
        reply={"count": int, "max_model_len": MAX_MODEL_LEN, "tokens": [int], "token_strs": None},
    ),
    Case(
        "tokenize-strings",
        "/tokenize",
        {"model": MODEL, "messages": HELLO, "return_token_strs": True},
        reply={"count": int, "max_model_len": MAX_MODEL_LEN, "tokens": [int], "token_strs": [str]},
    ),
    Case("detokenize", "/detokenize", {"model": MODEL, "tokens": [72, 73]}, reply={"prompt": str}),
    # what goes wrong
    Case(
        "not-json",
        COMPLETIONS,
        '{"model":',
        400,
        error(400, "Bad Request", r"1 validation error:\n  \{'type': 'json_invalid', 'loc': 'body\.9'.*", "body.9"),
    ),
    Case("empty-body", COMPLETIONS, "", 400, error(400, "Bad Request", ".*'loc': 'body', 'msg': 'Field re.*", "body")),
    Case("no-object", COMPLETIONS, "[]", 400, error(400, "Bad Request", ".*'input': '<list of 0 items>'.*", "body")),
    Case(
        "not-declared-json",
        COMPLETIONS,
        "{}",
        400,
        error(400, "Bad Request", ".*Unsupported Media Type.*"),
        headers={"content-type": "text/plain"},
    ),
    Case("no-prompt", COMPLETIONS, {"model": MODEL}, 400, error(400, "BadRequestError", "Either prompt.*", "prompt")),
    Case(
        "no-messages",
        CHAT,
        {"model": MODEL},
        400,
        error(
            400, "Bad Request", r".*'body\.messages', 'msg': 'Field required', 'input': '<dict of 1 .*", "body.messages"
        ),
    ),
    Case("empty-messages", CHAT, chat(messages=[]), 400, error(400, "BadRequestError", "Cannot apply chat template.*")),
    Case(
        "no-input", RESPONSES, {"model": MODEL}, 400, error(400, "Bad Request", ".*<dict of 2 items>.*", "body.input")
    ),
    Case(
        "no-max-tokens",
        MESSAGES,
        {"model": MODEL, "messages": HELLO},
        400,
        error(400, "Bad Request", ".*'Field required'.*", "body.max_tokens"),
    ),
    Case(
        "max-tokens-no-number",
        COMPLETIONS,
        completion(max_tokens="x"),
        400,
        error(400, "Bad Request", ".*'int_parsing'.*", "body.max_tokens"),
    ),
    Case(
        "max-tokens-too-many",
        COMPLETIONS,
        completion(max_tokens=9999),
        400,
        error(400, "BadRequestError", too_many("max_tokens", 9999), "max_tokens"),
    ),
    Case(
        "max-completion-tokens-too-many",
        CHAT,
        chat(max_completion_tokens=300),
        400,
        error(400, "BadRequestError", too_many("max_completion_tokens", 300), "max_completion_tokens"),
    ),
    Case(
        "max-output-tokens-too-many",
        RESPONSES,
        {"model": MODEL, "input": "Hello", "max_output_tokens": 300},
        400,
        error(400, "BadRequestError", too_many("max_output_tokens", 300), "max_output_tokens"),
    ),
    Case(
        "messages-too-many",
        MESSAGES,
        messages(max_tokens=300),
        400,
        anthropic_error("BadRequestError", too_many("max_completion_tokens", 300)),
    ),
    Case(
        "max-tokens-none",
        COMPLETIONS,
        completion(max_tokens=0),
        400,
        error(400, "BadRequestError", r"max_tokens must be at least 1, got 0\..*", "max_tokens"),
    ),
    Case("n-none", COMPLETIONS, completion(n=0), 400, error(400, "BadRequestError", r"n must be at least 1, got 0\.")),
    Case(
        "min-beyond-max",
        COMPLETIONS,
        completion(min_tokens=5),
        400,
        error(400, "BadRequestError", "min_tokens must be less than or equal to max_tokens=4, got 5."),
    ),
    Case(
        "usage-without-stream",
        COMPLETIONS,
        completion(stream_options={"include_usage": True}),
        400,
        error(400, "BadRequestError", "Stream options can only be defined when .*", "stream_options"),
    ),
    Case(
        "prompt-too-long",
        COMPLETIONS,
        completion(prompt=LONG),
        400,
        error(400, "BadRequestError", TOO_LONG, "input_tokens"),
    ),
    Case(
        "chat-too-long-streamed",
        CHAT,
        chat(messages=[{"role": "user", "content": LONG}], stream=True),
        400,
        error(400, "BadRequestError", TOO_LONG, "input_tokens"),
    ),
    Case("unknown-model", COMPLETIONS, completion(model="nope"), 404, error(404, "NotFoundError", UNKNOWN, "model")),
    Case("unknown-model-chat", CHAT, chat(model="nope"), 404, error(404, "NotFoundError", UNKNOWN, "model")),
    Case("unknown-model-messages", MESSAGES, messages(model="nope"), 404, anthropic_error("NotFoundError", UNKNOWN)),
    Case("unknown-path", "/nope", status=404, reply=NOT_FOUND),
    Case("unknown-path-v1", "/v1/nope", status=404, reply=NOT_FOUND),
    Case("embeddings-when-generating", "/v1/embeddings", {"input": "a"}, 404, NOT_FOUND),
    Case("wrong-method", COMPLETIONS, status=405, reply=NOT_ALLOWED, allow="POST"),
    Case("wrong-method-get", "/health", {}, 405, NOT_ALLOWED, allow="GET"),
    Case(
        "no-key",
        COMPLETIONS,
        completion(),
        401,
        {"error": "Unauthorized"},
        authorized=False,
        vary=False,
    ),
    Case("no-key-models", "/v1/models", status=401, reply={"error": "Unauthorized"}, authorized=False, vary=False),
    Case("no-key-health", "/health", authorized=False),
    Case("no-key-tokenize", "/tokenize", {"prompt": "a"}, reply=dict, authorized=False),
    Case("queue-full", COMPLETIONS, completion(n=MAX_QUEUED + 1), 503, error(503, "Service Unavailable", BUSY)),
    Case(
        "queue-full-streamed",
        CHAT,
        chat(n=MAX_QUEUED + 1, temperature=1, stream=True),
        503,
        error(503, "Service Unavailable", BUSY),
    ),
    # the pooling runner
    Case("pooling-health", "/health", runner="pooling"),
    Case("embeddings", "/v1/embeddings", {"model": MODEL, "input": ["Hello"]}, reply=scores("embd"), runner="pooling"),
    Case(
        "embeddings-base64",
        "/v1/embeddings",
        {"model": MODEL, "input": "Hello", "encoding_format": "base64"},
        reply=scores("embd"),
        runner="pooling",
    ),
    Case("pooling", "/pooling", {"model": MODEL, "input": ["a", "b"]}, reply=scores("pooling"), runner="pooling"),
    *(
        Case(f"score-{i}", path, {"model": MODEL, **texts}, reply=scores("score"), runner="pooling")
        for i, (path, texts) in enumerate(
            (
                ("/score", {"text_1": "Hello", "text_2": ["a", "b"]}),
                ("/v1/score", {"queries": "Hello", "documents": ["a", "b"]}),
            )
        )
    ),
    *(
        Case(
            f"rerank-{i}",
            path,
            {"model": MODEL, "query": "Hello", "documents": ["a", "b", "c"], "top_n": 2},
            reply=RANKS,
            runner="pooling",
        )
        for i, path in enumerate(("/rerank", "/v1/rerank", "/v2/rerank"))
    ),
    Case(
        "pooling-unknown-model",
        "/v1/embeddings",
        {"model": "nope", "input": "a"},
        404,
        error(404, "NotFoundError", "The model `nope` does not exist."),
        runner="pooling",
    ),
    Case(
        "embeddings-too-long",
        "/v1/embeddings",
        {"model": MODEL, "input": LONG},
        400,
        error(400, "BadRequestError", TOO_LONG, "input_tokens"),
        runner="pooling",
    ),
    Case("no-chat-when-pooling", CHAT, chat(), 404, NOT_FOUND, runner="pooling"),
    Case("no-responses-when-pooling", RESPONSES, {"input": "a"}, 404, NOT_FOUND, runner="pooling"),
)


def matches(shape: Any, value: Any) -> bool:
    """Whether a value has a shape."""
    return not difference(shape, value)


def difference(shape: Any, value: Any, where: str = "$") -> str:  # noqa: PLR0911  one for each kind of shape
    """The first place where a value has not the shape; empty when it has."""
    if shape == "EMPTY":
        return "" if value == [] else f"{where}: {value!r} is not an empty list"
    if isinstance(shape, tuple):
        return "" if any(matches(one, value) for one in shape) else f"{where}: {value!r} is none of {shape}"
    if isinstance(shape, type):
        fits = isinstance(value, shape) and not (shape is int and isinstance(value, bool))
        return "" if fits else f"{where}: {value!r} is no {shape.__name__}"
    if isinstance(shape, re.Pattern):
        fits = isinstance(value, str) and shape.fullmatch(value) is not None
        return "" if fits else f"{where}: {value!r} does not match {shape.pattern!r}"
    if isinstance(shape, dict):
        if not isinstance(value, dict) or list(value) != list(shape):
            return f"{where}: keys {list(value) if isinstance(value, dict) else value!r}, not {list(shape)}"
        return next((d for key in shape if (d := difference(shape[key], value[key], f"{where}.{key}"))), "")
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return f"{where}: {value!r} is no list with something in it"
        return next((d for i, v in enumerate(value) if (d := difference(shape[0], v, f"{where}[{i}]"))), "")
    return "" if value == shape and type(value) is type(shape) else f"{where}: {value!r} is not {shape!r}"


def parse_events(body: str) -> list[tuple[str | None, Any]]:
    """(event name, data) of a stream, framed exactly as vLLM frames it."""
    assert body.endswith("\n\n"), body[-80:]
    events: list[tuple[str | None, Any]] = []
    for block in body[:-2].split("\n\n"):
        lines = block.split("\n")
        name = None
        if lines[0].startswith("event: "):
            name = lines.pop(0).removeprefix("event: ")
        assert len(lines) == 1, block
        assert lines[0].startswith("data: "), block
        text = lines[0].removeprefix("data: ")
        events.append((name, text if text == "[DONE]" else json.loads(text)))
    return events


def check_events(parts: tuple[Part, ...], events: list[tuple[str | None, Any]]) -> None:
    """Each part takes as many events as have its shape; none may be left."""
    at = 0
    for number, part in enumerate(parts):
        taken = 0
        while at < len(events) and taken < part.most:
            name, data = events[at]
            if name != part.event or not matches(part.data, data):
                break
            at, taken = at + 1, taken + 1
        if taken < part.least:
            found = events[at] if at < len(events) else "the end"
            why = difference(part.data, events[at][1]) if at < len(events) else ""
            raise AssertionError(f"part {number} ({part.event}): {why}\nfound {found}")
    assert at == len(events), f"events left: {events[at:]}"


async def run_case(session: aiohttp.ClientSession, url: str, case: Case) -> None:
    """Sends a case's request and compares what comes back."""
    headers = {"content-type": "application/json"} if case.body is not None else {}
    if case.authorized:
        headers["authorization"] = f"Bearer {API_KEY}"
    headers.update(case.headers)
    body = case.body if isinstance(case.body, str | None) else json.dumps(case.body)
    method = case.method or ("GET" if case.body is None else "POST")
    async with session.request(method, url + case.path, data=body, headers=headers) as reply:
        content = await reply.text()
        assert reply.status == case.status, content
        assert reply.headers.get("server") == "uvicorn"
        assert "date" in reply.headers
        assert reply.headers.get("vary") == ("Origin" if case.vary else None)
        assert reply.headers.get("allow") == case.allow
        assert "x-request-id" not in reply.headers
        if case.events:
            assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert reply.headers["transfer-encoding"] == "chunked"
            check_events(case.events, parse_events(content))
        elif case.reply is None:
            assert content == ""
            assert reply.headers["content-length"] == "0"
            assert "content-type" not in reply.headers
        else:
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["content-length"] == str(len(content.encode()))
            assert difference(case.reply, json.loads(content)) == ""
            assert content == json.dumps(json.loads(content), ensure_ascii=False, separators=(",", ":"))


def metric_families(text: str) -> dict[str, dict[str, Any]]:
    """Type, labels, values of small labels and buckets of each ``vllm:`` family of an exposition text."""
    families: dict[str, dict[str, Any]] = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            families[current] = {"type": kind, "labels": set(), "buckets": []}
        elif line and not line.startswith("#"):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line))
            family = families[current]
            if "le" in labels:
                bound = labels.pop("le")
                if bound not in family["buckets"]:
                    family["buckets"].append(bound)
            family["labels"] |= set(labels)
    return {
        name: {"type": f["type"], "labels": sorted(f["labels"]), "buckets": f["buckets"]}
        for name, f in families.items()
        if name.startswith("vllm:") and not name.endswith("_created")
    }

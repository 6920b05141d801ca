"""The endpoints that generate nothing: tokens, and, with ``--runner pooling``, embeddings, scores and ranks.

A vector is made up from the text it stands for, so the same text has the same vector on every server, and a score is
the cosine of two of them. Reading the texts takes a replica's prefill time; ``/tokenize`` and its like take none.
"""

from __future__ import annotations

import base64
import math
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from marlin.simulator.emulator.engine import Engine, QueueFullError
from marlin.simulator.emulator.errors import (
    RequestError,
    ValidationError,
    bad_request,
    busy,
    dead,
    missing,
    unknown_model,
)
from marlin.simulator.emulator.protocols.base import Context
from marlin.simulator.emulator.protocols.chat import conversation
from marlin.simulator.emulator.protocols.messages import messages_prompt
from marlin.simulator.emulator.settings import Settings
from marlin.simulator.emulator.text import count_tokens, detokenize, tokenize
from marlin.simulator.emulator.wanted import Prompt, lengths

DIMENSIONS: Final = 64

TEMPLATE_TOKEN: Final = 0
"""Id of what a chat template adds; no text has it."""

NO_COMPLETION: Final = {"completion_tokens": 0, "prompt_tokens_details": None, "completion_tokens_details": None}


def tokenize_reply(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """``/tokenize`` of a prompt or of messages.

    Raises:
        RequestError: neither is given.
    """
    if "prompt" not in document and "messages" not in document:
        missing(document, "prompt", "messages")
    _check_model(document, settings)
    if "prompt" in document:
        ids, pieces = tokenize(str(document["prompt"]))
    else:
        prompt = conversation(document["messages"])
        ids, pieces = tokenize(prompt.text)
        template = max(0, prompt.tokens - len(ids))
        ids, pieces = [TEMPLATE_TOKEN] * template + ids, [""] * template + pieces
    shown = pieces if document.get("return_token_strs") else None
    return {"count": len(ids), "max_model_len": settings.max_model_len, "tokens": ids, "token_strs": shown}


def detokenize_reply(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """``/detokenize`` of token ids.

    Raises:
        RequestError: there are none, or they are no list of numbers.
    """
    missing(document, "tokens")
    _check_model(document, settings)
    tokens = document["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, int) and token >= 0 for token in tokens):
        problem = {"type": "list_type", "loc": "body.tokens", "msg": "Input should be a valid list"}
        raise ValidationError(problem | {"input": str(tokens)})
    return {"prompt": detokenize(tokens)}


def count_tokens_reply(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """``/v1/messages/count_tokens``.

    Raises:
        RequestError: no model or no messages.
    """
    missing(document, "model", "messages")
    _check_model(document, settings)
    tokens = messages_prompt(document).tokens
    return {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}


@dataclass(frozen=True, slots=True)
class Pooler:
    """Serves embeddings, scores and ranks on one engine."""

    settings: Settings
    engine: Engine

    async def embeddings(self, document: dict[str, Any], context: Context) -> dict[str, Any]:
        """``/v1/embeddings``."""
        self._check(document, "input")
        if document.get("dimensions") is not None:
            raise bad_request(
                f"Model '{context.model}' does not support Matryoshka embeddings; dimensions must be unset "
                f"(received dimensions={document['dimensions']})."
            )
        texts = _texts(document["input"])
        tokens = await self._read(texts)
        encode = _base64 if document.get("encoding_format") == "base64" else list
        data = [
            {"index": i, "object": "embedding", "embedding": encode(vector(text))} for i, (text, _) in enumerate(texts)
        ]
        return _list("embd", context, data, tokens)

    async def pooling(self, document: dict[str, Any], context: Context) -> dict[str, Any]:
        """``/pooling``."""
        self._check(document, "input")
        texts = _texts(document["input"])
        tokens = await self._read(texts)
        data = [{"index": i, "object": "pooling", "data": vector(text)} for i, (text, _) in enumerate(texts)]
        return _list("pooling", context, data, tokens)

    async def score(self, document: dict[str, Any], context: Context) -> dict[str, Any]:
        """``/score``: ``text_1`` with ``text_2``, or ``queries`` with ``documents``; one query or as many as texts."""
        names = ("queries", "documents") if "queries" in document else ("text_1", "text_2")
        self._check(document, *names)
        queries, others = (_texts(document[name]) for name in names)
        if len(queries) not in {1, len(others)}:
            raise bad_request("Input lengths must be either 1:1, 1:N or N:N")
        tokens = await self._read([*queries, *others])
        data = [
            {"index": i, "object": "score", "score": similarity(queries[i % len(queries)][0], text)}
            for i, (text, _) in enumerate(others)
        ]
        return _list("score", context, data, tokens)

    async def rerank(self, document: dict[str, Any], context: Context) -> dict[str, Any]:
        """``/rerank``: the documents by score, the ``top_n`` best of them."""
        self._check(document, "query", "documents")
        query, *_ = _texts(document["query"])
        documents = _texts(document["documents"])
        tokens = await self._read([query, *documents])
        results = [
            {
                "index": i,
                "document": {"text": text, "multi_modal": None},
                "relevance_score": similarity(query[0], text),
            }
            for i, (text, _) in enumerate(documents)
        ]
        results.sort(key=lambda result: -float(str(result["relevance_score"])))
        return {
            "id": f"score-{context.request_id}",
            "model": context.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results[: document.get("top_n") or None],
        }

    def _check(self, document: dict[str, Any], *names: str) -> None:
        missing(document, *names)
        _check_model(document, self.settings, aliases=False)

    async def _read(self, texts: list[tuple[str, int]]) -> int:
        """Lets a replica read the texts; their tokens.

        Raises:
            RequestError: one is too long, or the queue is full.
        """
        prompts = tuple(Prompt(text, tokens) for text, tokens in texts)
        lengths({}, prompts, "max_tokens", 1, self.settings.max_model_len)
        streams = []
        try:
            for _, tokens in texts:
                streams += self.engine.submit(tokens, [1], streamed=False, max_tokens=1)
            for stream in streams:
                while stream.ended is None:
                    await stream.signal.wait()
                if stream.ended == "dead":
                    raise dead()
        except QueueFullError:
            raise busy() from None
        finally:
            for stream in streams:
                self.engine.abort(stream)
        return sum(tokens for _, tokens in texts)


def vector(text: str) -> list[float]:
    """A vector of length 1, the same for the same text."""
    generator = random.Random(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    numbers = [generator.gauss() for _ in range(DIMENSIONS)]
    norm = math.sqrt(sum(x * x for x in numbers))
    return [x / norm for x in numbers]


def similarity(one: str, other: str) -> float:
    """The cosine of two texts' vectors."""
    return sum(a * b for a, b in zip(vector(one), vector(other), strict=True))


def _base64(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _texts(given: object) -> list[tuple[str, int]]:
    """(text, tokens) of each input: a string, token ids, or a list of either.

    Raises:
        RequestError: it is none of these.
    """
    if isinstance(given, str):
        return [(given, max(1, count_tokens(given)))]
    if isinstance(given, list) and given:
        if all(isinstance(token, int) for token in given):
            return [(detokenize(given), len(given))]
        return [text for part in given for text in _texts(part)]
    raise bad_request("Input should be a string, a list of token ids, or a list of these.")


def _list(prefix: str, context: Context, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{context.request_id}",
        "object": "list",
        "created": context.created_s,
        "model": context.model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, **NO_COMPLETION},
    }


def _check_model(document: dict[str, Any], settings: Settings, *, aliases: bool = True) -> None:
    asked = document.get("model")
    if asked is not None and asked != settings.model:
        error = unknown_model(str(asked), settings.model)
        if not aliases:
            raise RequestError(404, f"The model `{asked}` does not exist.", error.kind)
        raise error

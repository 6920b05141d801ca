"""The few fields of a request's body that decide where it goes. The body is read, never rewritten.

``flow`` asks for them. Everything else in a body is skipped without being built, at about 1 us for 1 KB; what the
backend would refuse is left for it to refuse, as long as the body is JSON and names a model.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from marlin.router.errors import BadRequestError


class BodyFields(msgspec.Struct, gc=False):
    """What is read of a body; None where it is not said."""

    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    prompt_cache_key: str | None = None


class _Loose(msgspec.Struct, gc=False):
    """The same for a body in which one of them has another type than it should."""

    model: Any = None
    stream: Any = None
    user: Any = None
    prompt_cache_key: Any = None


class _Wanted(msgspec.Struct, gc=False):
    """How many tokens a request asks for, under the names that the endpoints have for it."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None


class _Prompt(msgspec.Struct, gc=False):
    """A request's prompt as it stands there, under the names that the endpoints have for it."""

    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_MAX_BOUNDARY_BYTES: Final = 128
_MAX_PART_HEAD_BYTES: Final = 8192
_MAX_PARTS: Final = 64
_NAMED_MODEL = re.compile(
    rb"(?i:content-disposition:[ \t]*form-data;)(?:[^\r\n]*[; \t])?name=(?:\"model\"|model(?=[; \t\r]|$))"
)

NO_FIELDS: Final = BodyFields()
_DECODER = msgspec.json.Decoder(BodyFields)
_LOOSE_DECODER = msgspec.json.Decoder(_Loose)
_PROMPT_DECODER = msgspec.json.Decoder(_Prompt)
_WANTED_DECODER = msgspec.json.Decoder(_Wanted)
_MOST_TOKENS: Final = 10_000_000


def read_fields(body: bytes) -> BodyFields:
    """The fields of a JSON body.

    Raises:
        BadRequestError: it is not a JSON object, or its ``model`` is not a string.
    """
    if not body:
        return NO_FIELDS
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError:
        return _read_loosely(body)
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise BadRequestError("the body is not valid UTF-8") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None


def model_in_form(body: bytes) -> str | None:
    """The ``model`` field of a multipart body, as audio is uploaded with; None where it has none.

    The first line is the boundary (RFC 2046, 5.1.1), so that no header has to be looked at; parts before the field are
    skipped by searching for it, whatever is in them.
    """
    end = body.find(b"\r\n", 0, _MAX_BOUNDARY_BYTES)
    if end < 0 or not body.startswith(b"--"):
        return None
    boundary = b"\r\n" + body[:end]
    at = end + 2
    for _ in range(_MAX_PARTS):
        head_end = body.find(b"\r\n\r\n", at, at + _MAX_PART_HEAD_BYTES)
        part_end = body.find(boundary, head_end)
        if head_end < 0 or part_end < 0:
            return None
        if _NAMED_MODEL.search(body, at, head_end) is not None:
            try:
                return body[head_end + 4 : part_end][:_MAX_PART_HEAD_BYTES].decode()
            except UnicodeDecodeError:
                return None
        at = part_end + len(boundary) + 2
    return None


def model_in_query(target: bytes) -> str | None:
    """The ``model`` of a target's query, as a WebSocket names it, which has no body; None where it has none."""
    query = target.partition(b"?")[2].decode("ascii", "replace")
    return parse_qs(query).get("model", [None])[0]


def _read_loosely(body: bytes) -> BodyFields:
    try:
        loose = _LOOSE_DECODER.decode(body)
    except msgspec.ValidationError:
        raise BadRequestError("the body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    if loose.model is not None and not isinstance(loose.model, str):
        raise BadRequestError("model must be a string", reason="model_missing", param="model")
    return BodyFields(
        model=loose.model,
        stream=loose.stream is True,
        user=_text(loose.user),
        prompt_cache_key=_text(loose.prompt_cache_key),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def prompt_beginning(body: bytes, size: int) -> bytes:
    """The first ``size`` bytes of a prompt as it stands in a body; empty where there is none, or a shorter one.

    A shorter one says nothing: the next turn of the same conversation begins with more of it, and would be another key.
    """
    try:
        found = _PROMPT_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    for raw in (found.messages, found.prompt, found.input):
        if len(beginning := memoryview(raw)) >= size:
            return bytes(beginning[:size])
    return b""


def wanted_tokens(body: bytes) -> int | None:
    """Output tokens that a request asks for at most, all choices together; None where it does not say."""
    try:
        wanted = _WANTED_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for value in (wanted.max_completion_tokens, wanted.max_tokens, wanted.max_output_tokens):
        if type(value) is int and value >= 0:
            choices = wanted.n if type(wanted.n) is int and wanted.n > 0 else 1
            return min(value * choices, _MOST_TOKENS)
    return None

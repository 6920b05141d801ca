"""The errors an emulated vLLM answers with, as values, and the JSON vLLM writes for each.

RequestError          raised while a request is read or admitted; carries status, message, type and parameter
└── ValidationError   the body is no JSON, or lacks a field: the same shape in every protocol

vLLM's Anthropic-style endpoint writes all but validation errors in Anthropic's shape.
"""

from __future__ import annotations

import json
from typing import Any

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUTTING_DOWN = "cannot schedule new futures after shutdown"


class RequestError(Exception):
    """A request that gets no answer but an error."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None, *, vary: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.vary = vary
        """Whether the reply has ``vary: Origin``: vLLM's does, unless the error passed its CORS layer by."""

    def document(self, *, anthropic: bool = False) -> dict[str, Any]:
        """The JSON body."""
        if anthropic:
            return {"type": "error", "error": {"type": self.kind, "message": self.message}}
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return {"error": error}


class ValidationError(RequestError):
    """One or more fields are missing or of the wrong type."""

    def __init__(self, *problems: dict[str, Any]) -> None:
        lines = "".join(f"\n  {problem}" for problem in problems)
        many = "s" if len(problems) > 1 else ""
        super().__init__(400, f"{len(problems)} validation error{many}:{lines}", "Bad Request", problems[0].get("loc"))

    def document(self, *, anthropic: bool = False) -> dict[str, Any]:
        """The JSON body."""
        return super().document()


def bad_request(message: str, param: str | None = None, value: object = None) -> RequestError:
    """400 for a value that cannot be served."""
    if param is not None:
        message += f" (parameter={param})" if value is None else f" (parameter={param}, value={value})"
    return RequestError(400, message, "BadRequestError", param)


def unknown_model(asked: str, served: str) -> RequestError:
    """404 for a model that is not served here."""
    return RequestError(404, f"The model `{asked}` does not exist. Valid aliases: {served}.", "NotFoundError", "model")


def busy() -> RequestError:
    """503: the queue is full."""
    return RequestError(503, BUSY, "Service Unavailable")


def dead() -> RequestError:
    """500: the engine is gone."""
    return RequestError(500, DEAD, "InternalServerError")


def shutting_down(*, vary: bool) -> RequestError:
    """500: SIGTERM came, and running requests are still being finished."""
    return RequestError(500, SHUTTING_DOWN, "InternalServerError", vary=vary)


def read_json(body: bytes, content_type: str) -> dict[str, Any]:
    """The body as an object.

    Raises:
        RequestError: it is not declared as JSON, is empty, is no JSON, or is not an object.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise RequestError(400, message, "Bad Request")
    if not body:
        raise ValidationError({"type": "missing", "loc": "body", "msg": "Field required", "input": "None"})
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise ValidationError(
            {
                "type": "json_invalid",
                "loc": f"body.{error.pos}",
                "msg": "JSON decode error",
                "input": "<dict of 0 items>",
                "ctx": {"error": error.msg},
            }
        ) from None
    except UnicodeDecodeError:
        raise RequestError(400, "There was an error parsing the body", "Bad Request") from None
    if not isinstance(document, dict):
        shown = f"<list of {len(document)} items>" if isinstance(document, list) else str(document)
        raise ValidationError(
            {
                "type": "model_attributes_type",
                "loc": "body",
                "msg": "Input should be a valid dictionary or object to extract fields from",
                "input": shown,
            }
        )
    return document


def missing(document: dict[str, Any], *names: str, extra: int = 0) -> None:
    """Checks that fields are there.

    Args:
        document: the body.
        names: the fields.
        extra: items vLLM adds to a body before it validates it; only the message shows them.

    Raises:
        ValidationError: some are not.
    """
    shown = f"<dict of {len(document) + extra} items>"
    problems = [
        {"type": "missing", "loc": f"body.{name}", "msg": "Field required", "input": shown}
        for name in names
        if name not in document
    ]
    if problems:
        raise ValidationError(*problems)


def integer(document: dict[str, Any], name: str) -> int | None:
    """An integer field, None when absent.

    Raises:
        ValidationError: it is something else.
    """
    value = document.get(name)
    if value is None or isinstance(value, int):
        return value
    try:
        if float(value) == int(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    kind, msg = ("int_type", "Input should be a valid integer")
    if isinstance(value, str):
        kind, msg = "int_parsing", msg + ", unable to parse string as an integer"
    elif isinstance(value, float):
        kind, msg = "int_from_float", msg + ", got a number with a fractional part"
    raise ValidationError({"type": kind, "loc": f"body.{name}", "msg": msg, "input": str(value)})

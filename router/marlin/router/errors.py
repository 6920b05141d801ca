"""Our own answers, in the shape that OpenAI's clients expect, with a header that names the reason.

RouterError
  BadRequestError        400   bad_json, model_missing, model_unreadable, bad_head, bad_body
  InvalidKeyError        401   missing_api_key, invalid_api_key
  UnknownModelError      404   unknown_model
  UnknownPathError       404   unknown_path
  RequestTimeoutError    408   client_timeout
  BodyTooLargeError      413   body_too_large
  HeadTooLargeError      414   target_too_long
                         431   head_too_large        (these three are in ``heads``)
  LimitError             429   rate_limit_exceeded, insufficient_quota
  InternalError          500   internal
  TransferCodingError    501   transfer_coding
  VersionError           505   http_version
  UpstreamFailedError    502   upstream_connect, upstream_disconnected
  NoBackendError         503   no_backend, priority
  UpstreamTimeoutError   504   request_timeout, stream_idle
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import ClassVar, Final

CLIENT_CLOSED: Final = 499
"""Stands for a status where the client left before it got one, as nginx counts it."""

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    404: "not_found_error",
    413: "request_too_large",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Types that Anthropic's clients know, by status."""


class RouterError(Exception):
    """A request that the router answers itself.

    Args:
        message: for a person: what is wrong and what to do.
        reason: one word for programs; the ``x-marlin-error`` header.
        param: the request's field that is wrong.
        retry_after_s: when to try again.
    """

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "server_error"
    default_reason: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, reason: str | None = None, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.param = param
        self.retry_after_s = retry_after_s
        self.kind = self.error_type

    @property
    def phrase(self) -> str:
        """The reason phrase of its status."""
        return HTTPStatus(self.status).phrase

    def body(self, *, is_anthropic: bool = False) -> bytes:
        """The JSON body, in OpenAI's shape or in Anthropic's."""
        error: dict[str, str | None]
        if is_anthropic:
            error = {"type": _ANTHROPIC_TYPES.get(self.status, "api_error"), "message": self.message}
            shaped: dict[str, object] = {"type": "error", "error": error}
        else:
            error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.reason}
            shaped = {"error": error}
        return json.dumps(shaped, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def event(self, *, is_anthropic: bool = False) -> bytes:
        """The same as a server-sent event, for a stream that has begun."""
        name = b"event: error\n" if is_anthropic else b""
        return name + b"data: " + self.body(is_anthropic=is_anthropic) + b"\n\n"


class BadRequestError(RouterError):
    """The request cannot be read."""

    status = 400
    error_type = "invalid_request_error"
    default_reason = "bad_json"


class InvalidKeyError(RouterError):
    """Nobody is known by the request's key."""

    status = 401
    error_type = "invalid_request_error"
    default_reason = "invalid_api_key"


class LimitError(RouterError):
    """A tenant has used what it is granted.

    Args:
        message: for a person.
        reason: one word for programs.
        retry_after_s: when to try again.
        kind: what is used up, as OpenAI's errors have it in ``type``.
    """

    status = 429

    def __init__(self, message: str, *, reason: str, retry_after_s: int, kind: str) -> None:
        super().__init__(message, reason=reason, retry_after_s=retry_after_s)
        self.kind = kind


class UnknownModelError(RouterError):
    """No pool serves the model."""

    status = 404
    error_type = "invalid_request_error"
    default_reason = "unknown_model"


class UnknownPathError(RouterError):
    """The path is not passed on."""

    status = 404
    error_type = "invalid_request_error"
    default_reason = "unknown_path"


class RequestTimeoutError(RouterError):
    """The client did not send its request in time."""

    status = 408
    error_type = "invalid_request_error"
    default_reason = "client_timeout"


class BodyTooLargeError(RouterError):
    """The body exceeds the limit."""

    status = 413
    error_type = "invalid_request_error"
    default_reason = "body_too_large"


class InternalError(RouterError):
    """Our own mistake."""


class UpstreamFailedError(RouterError):
    """The backend could not be reached, or hung up."""

    status = 502
    default_reason = "upstream_disconnected"


class NoBackendError(RouterError):
    """No backend is up, or all are at their limit."""

    status = 503
    default_reason = "no_backend"


class UpstreamTimeoutError(RouterError):
    """The backend took longer than allowed."""

    status = 504
    default_reason = "request_timeout"

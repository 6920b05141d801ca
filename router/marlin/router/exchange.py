"""What is known of one request and its answer, for metrics and the access log. Filled in by ``proxy`` as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from marlin.router.usage import Usage

CLIENT_CLOSED: Final = 499
"""Stands for a status where the client left before it got one, as nginx counts it."""


@dataclass(slots=True)
class Exchange:
    """One request. Times are monotonic seconds."""

    method: str
    path: str
    """Without the query, which may hold anything."""
    began_s: float
    request_id: str = ""
    """The client's x-request-id."""
    status: int = 0
    error: str = ""
    """Reason, as in ``x-marlin-error``; empty when all went well."""
    pool: str = ""
    datacenter: str = ""
    backend: str = ""
    attempts: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_s: float | None = None
    ended_s: float | None = None
    is_complete: bool = False
    """Whether the backend's reply was passed on to its end."""
    usage: Usage | None = None

    @property
    def duration_s(self) -> float:
        """From the request's head to its end."""
        return (self.began_s if self.ended_s is None else self.ended_s) - self.began_s

    @property
    def ttft_s(self) -> float | None:
        """From the request's head to the first byte of the reply's body."""
        return None if self.first_byte_s is None else self.first_byte_s - self.began_s

    def fields(self) -> dict[str, Any]:
        """What the access log shows; empty fields are left out."""
        ttft_s = self.ttft_s
        fields = {
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1000, 1),
            "ttft_ms": None if ttft_s is None else round(ttft_s * 1000, 1),
            "pool": self.pool or None,
            "datacenter": self.datacenter or None,
            "backend": self.backend or None,
            "attempts": self.attempts or None,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "prompt_tokens": None if self.usage is None else self.usage.prompt_tokens,
            "output_tokens": None if self.usage is None else self.usage.output_tokens,
            "error": self.error or None,
            "request_id": self.request_id or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

"""Which headers go through, both ways: all but those that belong to one connection, and ours.

Names keep their case and order, repeated headers stay repeated (RFC 9110, 7.6.1 says what an intermediary removes).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

PREFIX: Final = "x-marlin-"
DATACENTER: Final = "x-marlin-datacenter"
BACKEND: Final = "x-marlin-backend"
PLAN_EPOCH: Final = "x-marlin-plan-epoch"
ERROR: Final = "x-marlin-error"
HOP: Final = "x-marlin-hop"
ORIGIN: Final = "x-marlin-origin"
"""Tells a backend, or the next router, which origin the request came from."""

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SET_BY_SENDER: Final = frozenset({"host", "content-length", "expect"})
"""The client library writes these itself: the body it gets is complete, so nothing is left to be expected."""

_OURS_IN_REPLIES: Final = frozenset({DATACENTER, BACKEND, PLAN_EPOCH})

RawHeaders = Iterable[tuple[bytes, bytes]]
Headers = list[tuple[str, str]]


def request_headers(raw: RawHeaders, authorization: str | None, *, to_member_router: bool) -> Headers:
    """The headers a backend gets.

    Args:
        raw: the client's headers as they came.
        authorization: what replaces the client's Authorization; None passes the client's on.
        to_member_router: whether the backend is a router, which must not forward again.
    """
    headers = _without(raw, _HOP_BY_HOP | _SET_BY_SENDER)
    headers = [(name, value) for name, value in headers if not name.lower().startswith(PREFIX)]
    if authorization is not None:
        headers = [(name, value) for name, value in headers if name.lower() != "authorization"]
        headers.append(("Authorization", authorization))
    if to_member_router:
        headers.append((HOP, "1"))
    return headers


def response_headers(raw: RawHeaders, datacenter: str, backend: str, plan_epoch: int | None) -> Headers:
    """The headers a client gets: the backend's, and where the request ran."""
    headers = _without(raw, _HOP_BY_HOP | _OURS_IN_REPLIES)
    headers += [(DATACENTER, datacenter), (BACKEND, backend)]
    if plan_epoch is not None:
        headers.append((PLAN_EPOCH, str(plan_epoch)))
    return headers


def _without(raw: RawHeaders, dropped: frozenset[str]) -> Headers:
    headers = [(_text(name), _text(value)) for name, value in raw]
    named = {
        option.strip().lower() for name, value in headers if name.lower() == "connection" for option in value.split(",")
    }
    # A client must not be able to have a header removed that the router or the backend relies on.
    gone = dropped | (named - {"authorization", "content-type", "content-length", "content-encoding", "host"})
    return [(name, value) for name, value in headers if name.lower() not in gone]


def _text(raw: bytes) -> str:
    """Header bytes as text that is written back as the same bytes; what is not UTF-8 is kept as Latin-1 letters."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")

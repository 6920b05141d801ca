"""Replies as uvicorn and vLLM send them: header names, their order, and what each kind of reply carries.

The order is that of the recordings. No client may rely on it, but a router's test that compares raw bytes then sees
the same with either.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from marlin.simulator.emulator.errors import RequestError
from marlin.simulator.emulator.protocols.base import compact

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream; charset=utf-8"
DATACENTER_HEADER: Final = "x-marlin-emulated-datacenter"

_ORDER: Final = ("date", "server", "allow", "content-length", "content-type", "vary", DATACENTER_HEADER)


def json_reply(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON body."""
    body = compact(document).encode("utf-8", "replace")
    return web.Response(body=body, status=status, headers={"content-type": JSON, "vary": "Origin", **(headers or {})})


def empty_reply(status: int = 200) -> web.Response:
    """No body and no content type: /health and /ping."""
    return web.Response(status=status, headers={"vary": "Origin"})


def text_reply(body: bytes, content_type: str) -> web.Response:
    """A body of another type."""
    return web.Response(body=body, headers={"content-type": content_type, "vary": "Origin"})


def error_reply(error: RequestError, *, anthropic: bool = False) -> web.Response:
    """What vLLM says of an error."""
    reply = json_reply(error.document(anthropic=anthropic), error.status)
    if not (error.vary or anthropic):
        del reply.headers["vary"]
    return reply


def unauthorized() -> web.Response:
    """401, whose error is a string, and which has no ``vary``."""
    return web.Response(body=b'{"error":"Unauthorized"}', status=401, headers={"content-type": JSON})


def stream_reply() -> web.StreamResponse:
    """An event stream, not yet begun."""
    return web.StreamResponse(headers={"content-type": EVENTS, "vary": "Origin"})


def dress(reply: web.StreamResponse, datacenter: str | None) -> None:
    """Gives a reply, on its way out, uvicorn's headers in uvicorn's order."""
    headers: dict[str, Any] = {name.lower(): value for name, value in reply.headers.items()}
    headers["server"] = "uvicorn"
    if headers.get("content-length") == "0":
        headers.pop("content-type", None)
    if datacenter is not None:
        headers[DATACENTER_HEADER] = datacenter
    reply.headers.clear()
    for name in (*_ORDER, *(name for name in headers if name not in _ORDER)):
        if name in headers:
            reply.headers[name] = headers[name]


def reset(request: web.Request) -> None:
    """Breaks the connection with a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def hang_up(request: web.Request) -> None:
    """Ends the connection after what was written, without saying that the reply is complete."""
    if request.transport is not None:
        request.transport.close()

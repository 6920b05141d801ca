"""A client's connection: requests are taken off it one after another, and answered in that order.

Bytes come in, a ``Flow`` comes out for each request; what is pipelined behind a running request waits, and when much
waits, reading stops. A client is never trusted: heads and bodies are bounded in size and in time, and a request that is
not exactly HTTP gets an error and loses its connection, because nobody can say where the next one would begin.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Final, cast

from marlin.router.errors import BadRequestError, BodyTooLargeError, InternalError, RequestTimeoutError, RouterError
from marlin.router.flow import Flow
from marlin.router.framing import ChunkReader, FramingError
from marlin.router.heads import (
    CHUNKED,
    ERROR,
    MAX_HEAD_BYTES,
    HeadTooLargeError,
    RequestHead,
    read_request,
)
from marlin.router.paths import PASSED_ON

if TYPE_CHECKING:
    from marlin.router.plane import Plane

_LOG = logging.getLogger("marlin.router")

IDLE_TIMEOUT_S: Final = 75.0
"""How long a connection without a request is kept."""

HEAD_TIMEOUT_S: Final = 15.0
"""How long a request's head may take from its first byte."""

BODY_IDLE_TIMEOUT_S: Final = 30.0
"""How long a body may stand still."""

LINGER_S: Final = 2.0
"""After an error, how long what the client still sends is thrown away, so that it gets to read the answer."""

MAX_WAITING_BYTES: Final = 128 * 1024
"""Pipelined bytes after which a connection is not read until its request is answered."""

UNAUTHORIZED: Final = 401

_GOING_AWAY: Final = b"\x88\x02\x03\xe9"
"""A closing frame with code 1001 (RFC 6455, 5.5.1 and 7.4.1)."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# What the connection is doing.
_READING_HEAD: Final = 0
_READING_BODY: Final = 1
_ANSWERING: Final = 2
_LINGERING: Final = 3
_TUNNELLING: Final = 4
"""The connection has become a WebSocket: bytes go both ways until one side ends it."""


class Downstream(asyncio.Protocol):
    """One client's connection.

    Attributes:
        write: sends bytes to the client.
        keeps_alive: whether the connection is used again after the answer.
        is_plain: whether the request is HTTP/1.1 and its connection is kept: then a reply needs no changes.
        is_writable: whether the client reads as fast as it is written to.
        is_torn: whether the connection must end without a clean end of the answer.
    """

    __slots__ = (
        "_flow",
        "_head",
        "_is_paused",
        "_is_taking",
        "_parts",
        "_plane",
        "_reader",
        "_since_s",
        "_size",
        "_state",
        "_waiting",
        "is_plain",
        "is_torn",
        "is_writable",
        "keeps_alive",
        "transport",
        "write",
    )

    transport: asyncio.Transport
    write: Callable[[bytes], None]

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._state = _READING_HEAD
        self._flow: Flow | None = None
        self._head: RequestHead | None = None
        self._waiting = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._reader: ChunkReader | None = None
        self._since_s = plane.clock()
        self._is_taking = False
        self._is_paused = False
        self.keeps_alive = True
        self.is_plain = True
        self.is_writable = True
        self.is_torn = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write
        self._plane.clients[self] = None

    def data_received(self, data: bytes) -> None:
        """The next bytes of the client."""
        state = self._state
        if state == _READING_HEAD:
            if self._waiting:
                data = self._waiting + data
                self._waiting = b""
            else:
                self._since_s = self._plane.clock()
            self._take(data)
        elif state == _READING_BODY:
            self._since_s = self._plane.clock()
            self._take_body(data)
        elif state == _ANSWERING:
            self._waiting += data
            if len(self._waiting) > MAX_WAITING_BYTES and not self._is_paused:
                self._is_paused = True
                self.transport.pause_reading()
        elif state == _TUNNELLING and self._flow is not None:
            self._flow.send_on(data)

    def begin_tunnel(self, flow: Flow) -> None:
        """From now on every byte of the client is for the backend."""
        self._state = _TUNNELLING
        self.keeps_alive = False
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        waiting, self._waiting = self._waiting, b""
        if waiting:
            flow.send_on(waiting)

    def _take(self, data: bytes) -> None:
        """Takes requests off ``data`` until it is used up, or one has to be waited for."""
        self._is_taking = True
        try:
            while data:
                end = data.find(b"\r\n\r\n")
                if end < 0 or end > MAX_HEAD_BYTES:
                    self._check_beginning(data)
                    self._waiting = data
                    return
                try:
                    head = read_request(data[:end])
                except RouterError as error:
                    if data.startswith(b"\r\n"):
                        data = data[2:]  # RFC 9112, 2.2: an empty line before a request is ignored
                        continue
                    self._refuse(error, None)
                    return
                size = len(data) - end - 4
                length = head.length
                if length == size:
                    self._start(head, data[end + 4 :])
                elif 0 <= length < size:
                    self._waiting = data[end + 4 + length :]
                    self._start(head, data[end + 4 : end + 4 + length])
                else:
                    self._begin_body(head, data[end + 4 :])
                if self._state != _READING_HEAD:
                    return
                data, self._waiting = self._waiting, b""
        except Exception:  # noqa: BLE001 - a mistake of ours must be answered too
            _LOG.exception("request failed")
            self._refuse(InternalError("the router made a mistake; its log has the details"), None)
        finally:
            self._is_taking = False

    def _check_beginning(self, data: bytes) -> None:
        """Refuses what can never become a request, before more of it is waited for."""
        if len(data) > MAX_HEAD_BYTES:
            self._refuse(HeadTooLargeError(f"the head is larger than {MAX_HEAD_BYTES} bytes"), None)
        elif b"\n" in data.replace(b"\r\n", b""):
            self._refuse(BadRequestError("lines end with CR LF", reason="bad_head"), None)
        elif b"\0" in data[:16]:
            self._refuse(BadRequestError("this is not HTTP", reason="bad_head"), None)

    def _start(self, head: RequestHead, body: bytes) -> None:
        """Hands a complete request on."""
        plane = self._plane
        self._state = _ANSWERING
        self.keeps_alive = head.keeps_alive
        self.is_plain = head.keeps_alive and not head.line.is_http10
        flow = self._flow = Flow(plane, self, head, body, plane.clock())
        plane.flows[flow] = None
        flow.start()

    def _begin_body(self, head: RequestHead, beginning: bytes) -> None:
        """Makes ready for a body that is not here yet."""
        plane = self._plane
        try:
            if plane.gate is not None and head.line.route == PASSED_ON:
                plane.gate.tenant_of(head)  # nobody sends megabytes who may not send anything
            if head.length > plane.max_body_bytes:
                raise self._too_large()
        except RouterError as error:
            self._refuse(error, head)
            return
        self._head = head
        self._size = 0
        self._reader = ChunkReader() if head.length == CHUNKED else None
        self._state = _READING_BODY
        if head.expects and not beginning:
            self.write(_CONTINUE)
        if beginning:
            self._take_body(beginning)

    def _take_body(self, data: bytes) -> None:
        """The next bytes of a body."""
        head = self._head
        assert head is not None
        if self._reader is not None:
            self._take_chunks(head, self._reader, data)
            return
        missing = head.length - self._size
        if len(data) > missing:
            self._waiting = data[missing:]
            data = data[:missing]
        self._parts.append(data)
        self._size += len(data)
        if self._size == head.length:
            self._complete(head, b"".join(self._parts))

    def _take_chunks(self, head: RequestHead, reader: ChunkReader, data: bytes) -> None:
        try:
            rest = reader.feed(data)
        except FramingError as error:
            self._refuse(BadRequestError(f"the body cannot be read: {error}", reason="bad_body"), head)
            return
        if reader.size > self._plane.max_body_bytes:
            self._refuse(self._too_large(), head)
        elif reader.is_done:
            self._waiting = rest
            body = reader.take()
            head.lines.append(b"Content-Length: %d" % len(body))
            self._complete(head, body)

    def _complete(self, head: RequestHead, body: bytes) -> None:
        self._parts.clear()
        self._reader = self._head = None
        is_taking, self._is_taking = self._is_taking, True
        try:
            self._start(head, body)
        except Exception:  # noqa: BLE001 - a mistake of ours must be answered too
            _LOG.exception("request failed")
            self._refuse(InternalError("the router made a mistake; its log has the details"), None)
        finally:
            self._is_taking = is_taking
        if not is_taking and self._state == _READING_HEAD and self._waiting:
            waiting, self._waiting = self._waiting, b""
            self._take(waiting)

    def _too_large(self) -> RouterError:
        limit = self._plane.max_body_bytes
        return BodyTooLargeError(f"the body is larger than {limit} bytes; the router's --max-body-mb says how much")

    def _refuse(self, error: RouterError, head: RequestHead | None) -> None:
        """Answers a request that cannot be read to its end, and then hears nothing more of this client."""
        if self._flow is not None:
            # It has begun already; whatever happens now, it must not stay counted.
            flow, self._flow = self._flow, None
            flow.client_left()
        self._parts.clear()
        self._waiting = b""
        self._reader = self._head = None
        self.keeps_alive = False
        self._plane.refused(error, head, self._since_s)
        if not self.transport.is_closing():
            self.answer_error(error, head)
            self._linger()

    def answer_error(self, error: RouterError, head: RequestHead | None) -> None:
        """Sends an error of our own."""
        extra = f"{ERROR}: {error.reason}\r\n"
        if error.status == UNAUTHORIZED:
            extra += "WWW-Authenticate: Bearer\r\n"
        if error.retry_after_s is not None:
            extra += f"Retry-After: {error.retry_after_s}\r\n"
        is_anthropic = False
        if head is not None:
            is_anthropic = head.line.is_anthropic
            # Something to name to whoever reads the log.
            head.request_id = head.request_id or token_hex(16).encode()
        self._answer(error.status, error.phrase, error.body(is_anthropic=is_anthropic), head, extra)

    def answer(self, status: int, body: bytes, head: RequestHead) -> None:
        """Sends an answer of our own."""
        self._answer(status, "OK", body, head, "")

    def _answer(self, status: int, phrase: str, body: bytes, head: RequestHead | None, extra: str) -> None:
        if self._plane.is_draining:
            self.keeps_alive = False
        if not self.keeps_alive:
            extra += "Connection: close\r\n"
        elif not self.is_plain:
            extra += "Connection: keep-alive\r\n"
        request_id = b"" if head is None or not head.request_id else b"x-request-id: %b\r\n" % head.request_id
        first = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}"
        )
        is_bodyless = head is not None and head.line.method == b"HEAD"
        self.write(first.encode("ascii") + request_id + b"\r\n" + (b"" if is_bodyless else body))

    def finished(self, flow: Flow) -> None:
        """A request has been answered: the next one may follow."""
        if flow is not self._flow:
            return
        self._flow = None
        if self.is_torn or not self.keeps_alive:
            self.transport.close()
            return
        self._state = _READING_HEAD
        self._since_s = self._plane.clock()
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        if self._waiting and not self._is_taking:
            waiting, self._waiting = self._waiting, b""
            self._take(waiting)

    def _linger(self) -> None:
        """Waits for a client that may still be sending: closing at once would destroy the answer on its way."""
        self._state = _LINGERING
        self._since_s = self._plane.clock()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def look_at_clock(self, now_s: float) -> None:
        """Closes a connection on which nothing happens."""
        waited_s = now_s - self._since_s
        if self._state == _READING_HEAD:
            if self._waiting and waited_s >= HEAD_TIMEOUT_S:
                self._refuse(RequestTimeoutError("the request's head did not arrive in time"), None)
            elif waited_s >= IDLE_TIMEOUT_S:
                self.transport.close()
        elif self._state == _READING_BODY:
            if waited_s >= BODY_IDLE_TIMEOUT_S:
                self._refuse(RequestTimeoutError("the body did not arrive in time"), self._head)
        elif self._state == _LINGERING and waited_s >= LINGER_S:
            self.transport.abort()

    def say_goodbye(self) -> None:
        """Tells a WebSocket that it is ended here rather than by its backend."""
        if self._state == _TUNNELLING and not self.transport.is_closing():
            self.write(_GOING_AWAY)

    def end(self) -> None:
        """Ends the connection, whatever is on it."""
        if self._state == _TUNNELLING:
            self.say_goodbye()
            self.transport.close()
        else:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Closes the connection unless a request is on it."""
        if self._state == _READING_HEAD and not self._waiting:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads slowly: so do we."""
        self.is_writable = False
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.is_writable = True
        if self._flow is not None:
            self._flow.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._plane.clients.pop(self, None)
        self._waiting = b""
        self._parts.clear()
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.client_left()

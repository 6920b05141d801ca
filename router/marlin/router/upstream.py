"""Connections to backends: kept open, used again, and read only as far as to know where a reply ends.

A ``Peer`` is a backend's address and its idle connections; a ``Link`` is one connection, with at most one request on
it. A link reads a reply's head, then hands on bytes as they come, and tells its ``flow`` when the reply is complete or
will never be. Nothing is decoded, no cookie kept, no redirect followed, no proxy setting of the environment read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from httptools import HttpParserError

from marlin.router.framing import EVENT_END, ChunkScanner, FramingError, invalid
from marlin.router.heads import CHUNKED, MAX_HEAD_BYTES, HeadError, ReplyHead, read_reply
from marlin.router.view import Backend, BackendTls

if TYPE_CHECKING:
    from marlin.router.flow import Flow
    from marlin.router.tally import Cell

KEEP_ALIVE_S: Final = 4.0
"""How long an idle connection is kept: less than the 5 s after which vLLM closes it, so that none is reused that is
about to be closed."""

EVENT_BYTES: Final = 8192
"""How much of a read is kept in case it holds a stream's usage."""

DELTA_END: Final = b"}]}\n\n\r\n"
"""How an event ends whose last field is its choices: a token, and no usage, which comes after them. Not to keep such
reads is to let the next read have their memory while it is in the cache: 3 % of what an event costs."""

# What a link is waiting for.
_HEAD: Final = 0
_COUNTED: Final = 1
_CHUNKS: Final = 2
_END: Final = 3


class Peer:
    """A backend's address, its idle connections, and the bytes that are the same for all its requests.

    Attributes:
        prefix: path of its base address.
        host_line: the Host header it gets.
        request_tail: our headers for it and the end of a head; begins with a line end.
        reply_tail: our headers for clients and the end of a head; begins with a line end.
        authorization_line: what replaces the client's Authorization; None passes the client's on.
        cell: where its requests are counted.
        epoch: of the plan that its pool follows; None: of none.
        log: how the access log names it.
        is_heard: set whenever it sends something; taken back by whoever looks.
        is_retired: whether it has left the table: its connections are closed as their replies end.
        idle: connections without a request, the one used last at the end.
    """

    __slots__ = (
        "_clock",
        "_connect_timeout_s",
        "_host",
        "_port",
        "_server_name",
        "_ssl",
        "authorization_line",
        "cell",
        "epoch",
        "host_line",
        "idle",
        "is_heard",
        "is_retired",
        "log",
        "prefix",
        "reply_tail",
        "request_tail",
    )

    cell: Cell
    log: bytes

    def __init__(self, clock: Callable[[], float], connect_timeout_s: float) -> None:
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self.idle: dict[Link, None] = {}
        self.is_heard = False
        self.is_retired = False

    def describe(
        self, backend: Backend, ssl_of: Callable[[BackendTls], ssl.SSLContext], origin: str | None, epoch: int | None
    ) -> None:
        """Takes what the table says of it.

        Args:
            backend: the backend.
            ssl_of: makes contexts for encrypted connections.
            origin: name of this router's origin.
            epoch: epoch of the plan that its pool follows; None: of none.
        """
        self.is_retired = False
        self.epoch = epoch
        url = urlsplit(backend.url)
        is_secure = url.scheme == "https"
        self._host = url.hostname or ""
        self._port = url.port or (443 if is_secure else 80)
        self._ssl = ssl_of(backend.tls) if is_secure else None
        self._server_name = (backend.tls.server_name or self._host) if is_secure else None
        self.prefix = url.path.encode("ascii")
        self.host_line = b"Host: " + url.netloc.encode("ascii")
        token = backend.authorization
        self.authorization_line = None if token is None else b"Authorization: " + token.encode("ascii")
        ours = b""
        if origin is not None:
            ours += b"\r\nx-marlin-origin: " + origin.encode("ascii")
        if backend.is_member_router:
            ours += b"\r\nx-marlin-hop: 1"
        self.request_tail = ours + b"\r\n\r\n"
        told = f"\r\nx-marlin-datacenter: {backend.datacenter}\r\nx-marlin-backend: {backend.name}"
        if epoch is not None:
            told += f"\r\nx-marlin-plan-epoch: {epoch}"
        self.reply_tail = told.encode("ascii") + b"\r\n\r\n"

    def take_idle(self, now_s: float) -> Link | None:
        """A connection to use again; None when there is none that is fresh enough."""
        idle = self.idle
        oldest_s = now_s - KEEP_ALIVE_S
        while idle:
            link = idle.popitem()[0]
            if link.idle_since_s > oldest_s:
                return link
            link.transport.abort()
        return None

    def drop_stale(self, now_s: float) -> None:
        """Closes connections that were idle for too long."""
        for link in [link for link in self.idle if link.idle_since_s <= now_s - KEEP_ALIVE_S]:
            del self.idle[link]
            link.transport.close()

    async def dial(self, flow: Flow) -> None:
        """Makes a connection and hands it to ``flow``, or tells it why there is none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, link = await loop.create_connection(
                    lambda: Link(self), self._host, self._port, ssl=self._ssl, server_hostname=self._server_name
                )
        except (OSError, TimeoutError, ssl.CertificateError) as error:
            flow.was_unreachable(str(error) or type(error).__name__)
            return
        flow.was_connected(link)

    def keep(self, link: Link, now_s: float) -> None:
        """Takes a connection that has no request, to use it again."""
        if self.is_retired:
            link.transport.close()
            return
        link.idle_since_s = now_s
        self.idle[link] = None

    def retire(self) -> None:
        """Closes all idle connections now, and the others when their replies end."""
        self.is_retired = True
        for link in list(self.idle):
            link.transport.close()
        self.idle.clear()


class Link(asyncio.Protocol):
    """One connection to a backend.

    Attributes:
        flow: the request that is on it; None while it is idle.
        is_reused: whether a reply came over it before.
        idle_since_s: when its last reply ended.
    """

    __slots__ = (
        "_before",
        "_keeps_alive",
        "_latest",
        "_left",
        "_read",
        "_received",
        "_size",
        "_waits_for",
        "_write",
        "flow",
        "idle_since_s",
        "is_reused",
        "peer",
        "scanner",
        "transport",
    )

    transport: asyncio.Transport
    _write: Callable[[bytes], None]

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._read: Callable[[bytes], object] | None = None
        self._size = 0
        self._before = self._latest = b""
        self.flow: Flow | None = None
        self.is_reused = False
        self.idle_since_s = 0.0
        self.scanner: ChunkScanner | None = None
        self._waits_for = _HEAD
        self._received = b""
        self._left = 0
        self._keeps_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)

    def send(self, flow: Flow, head: bytes, body: bytes) -> None:
        """Sends a request."""
        self.flow = flow
        if len(body) <= _JOIN_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def data_received(self, data: bytes) -> None:
        """The next bytes of a reply.

        A token's event takes the shortest way once the stream flows: the same as ``_take_chunks``, in one go, because
        each call and each object that is touched here is one more that is not in a cache any more. What the flow and
        the peer have to know of it is noted here, and told when somebody asks (``tell``). Whether this was the last
        chunk need not be asked: nothing that ends so, and that llhttp takes, ends with one.
        """
        read, size = self._read, len(data)
        if read is None or data[-7:] != DELTA_END or size > EVENT_BYTES:
            self._take_other(data)
            return
        try:
            read(data)
        except HttpParserError as error:
            assert self.flow is not None
            self._fail(self.flow, str(invalid(error)))
            return
        self._size += size
        write = self._write
        write(data)

    def _take_other(self, data: bytes) -> None:
        """The next bytes, but for a token's event of a stream that flows."""
        flow, read = self.flow, self._read
        if flow is None:
            # Nobody asked: a goodbye like uvicorn's 408, or a backend out of step.
            self._retire()
            return
        self.peer.is_heard = True
        if read is None or len(data) > EVENT_BYTES or not data.endswith(EVENT_END):
            self._take(flow, data)
            return
        try:
            read(data)
        except HttpParserError as error:
            self._fail(flow, str(invalid(error)))
            return
        if self.scanner.is_done:  # type: ignore[union-attr] # it is there while a stream flows
            self._take_last(flow, data)
            return
        self._size += len(data)
        self._before = self._latest
        self._latest = data
        write = self._write
        write(data)

    def _take(self, flow: Flow, data: bytes) -> None:
        """The next bytes, whatever they are."""
        waits_for = self._waits_for
        if waits_for == _CHUNKS:
            self._take_chunks(flow, data)
        elif waits_for == _HEAD:
            self._read_head(flow, data)
        elif waits_for == _COUNTED:
            left = self._left - len(data)
            if left > 0:
                self._left = left
                flow.pass_on(data)
            else:
                if left < 0:
                    self._keeps_alive = False
                    data = data[:left]
                flow.pass_on(data)
                self._end(flow)
        else:
            flow.pass_on(data)

    def _flow(self, flow: Flow) -> None:
        """From now on events take the short way."""
        assert self.scanner is not None
        self._read, self._write = self.scanner.read, flow.write
        self._size = 0
        self._before, self._latest = flow.second_last, flow.last

    def tell(self) -> None:
        """Tells the flow and the peer what has flowed by since they were told last."""
        flow = self.flow
        if flow is not None and self._size:
            self.peer.is_heard = True
            flow.bytes_out += self._size
            flow.second_last, flow.last = self._before, self._latest
            self._size = 0

    def _take_chunks(self, flow: Flow, data: bytes) -> None:
        scanner = self.scanner
        assert scanner is not None
        try:
            ready = scanner.feed(data)
        except FramingError as error:
            self._fail(flow, str(error))
            return
        self.tell()
        if ready:
            flow.pass_on(ready)
        if scanner.is_done:
            self._end(flow)
        elif flow.flows and not scanner.is_holding_back:
            self._flow(flow)
        else:
            self._read = None

    def _take_last(self, flow: Flow, data: bytes) -> None:
        """The bytes in which llhttp has found the end."""
        assert self.scanner is not None
        try:
            self.scanner.check_end(data)
        except FramingError as error:
            self._fail(flow, str(error))
            return
        self.tell()
        flow.pass_on(data)
        self._end(flow)

    def _read_head(self, flow: Flow, data: bytes) -> None:
        if self._received:
            data = self._received + data
            self._received = b""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                self._fail(flow, "its head is too large")
            else:
                self._received = data
            return
        try:
            reply = read_reply(data[:end])
        except HeadError as error:
            self._fail(flow, str(error))
            return
        body = data[end + 4 :]
        if reply.status < 200:
            if reply.status == 101:
                self._begin_tunnel(flow, reply, body)
            elif body:
                self._read_head(flow, body)  # 100 Continue, 103 Early Hints: the reply itself is still to come
            return
        self._keeps_alive = reply.keeps_alive
        length = 0 if flow.head.line.method == b"HEAD" else reply.length
        missing = length - len(body)
        if length < 0:
            self._begin_unknown(flow, reply, body)
        elif missing > 0:
            self._waits_for = _COUNTED
            self._left = missing
            flow.begin(reply, body, is_whole=False)
        else:
            if missing:
                self._keeps_alive = False
                body = body[:length]
            if flow.begin(reply, body, is_whole=True):
                self._end(flow)

    def _begin_tunnel(self, flow: Flow, reply: ReplyHead, body: bytes) -> None:
        """Both sides have agreed on another protocol: this connection is the client's until one of them ends it."""
        if not flow.is_tunnel:
            self._fail(flow, "it switched to another protocol")
            return
        self._waits_for = _END
        self._keeps_alive = False
        flow.begin_tunnel(reply)
        if body:
            flow.pass_on(body)

    def _begin_unknown(self, flow: Flow, reply: ReplyHead, body: bytes) -> None:
        """Begins a reply whose length is only known at its end."""
        if reply.length == CHUNKED:
            self._waits_for = _CHUNKS
            if self.scanner is None:
                self.scanner = ChunkScanner()
            else:
                self.scanner.begin()
        else:
            self._waits_for = _END
            self._keeps_alive = False
        if not flow.begin(reply, b"", is_whole=False) or not body:
            return
        if self._waits_for == _CHUNKS:
            self._take_chunks(flow, body)
        else:
            flow.pass_on(body)

    def _end(self, flow: Flow) -> None:
        """The reply is complete: the link is free, then the flow may go on to its next request."""
        self.flow = self._read = None
        self._before = self._latest = b""
        now_s = self.peer._clock()  # noqa: SLF001 a link is a part of its peer
        if self._keeps_alive and not self.transport.is_closing():
            self._waits_for = _HEAD
            self.is_reused = True
            self.peer.keep(self, now_s)
        else:
            self.transport.close()
        flow.end(now_s)

    @property
    def is_untouched(self) -> bool:
        """Whether nothing has come since the last reply: a backend that closed it then has not seen the request."""
        return self.is_reused and self._waits_for == _HEAD and not self._received

    def is_between_chunks(self) -> bool:
        """Whether the reply is in chunks, and the last one that was passed on is complete."""
        return self._waits_for == _CHUNKS and self.scanner is not None and self.scanner.is_between_chunks()

    def _fail(self, flow: Flow, why: str) -> None:
        """The reply makes no sense: nothing more is read from this connection."""
        self.tell()
        self.flow = self._read = None
        self.transport.abort()
        flow.was_cut_off(self, why)

    def give_up(self) -> None:
        """Nobody waits for the reply any more: closing the connection is what tells the backend to stop."""
        self.tell()
        self.flow = self._read = None
        self._retire()

    def _retire(self) -> None:
        self.peer.idle.pop(self, None)
        self.transport.abort()

    def pause_writing(self) -> None:
        """The backend reads slowly; what is to be sent of a request was read from the client already."""
        if self.flow is not None and self.flow.is_tunnel:
            self.flow.hold_client()

    def resume_writing(self) -> None:
        """The backend reads again."""
        if self.flow is not None and self.flow.is_tunnel:
            self.flow.release_client()

    def eof_received(self) -> None:
        """The backend sends nothing more; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.peer.idle.pop(self, None)
        self.tell()
        flow, self.flow = self.flow, None
        if flow is not None and self._waits_for == _END and exc is None:
            flow.end(self.peer._clock())  # noqa: SLF001 a link is a part of its peer
        elif flow is not None:
            flow.was_cut_off(self, "it closed the connection" if exc is None else str(exc) or type(exc).__name__)
        self._read = None
        if self.scanner is not None:
            self.scanner.close()


class Contexts:
    """Contexts for encrypted connections, one for each set of certificates; read again when a new table comes.

    Args:
        secrets_dir: where certificates are mounted.
    """

    def __init__(self, secrets_dir: Path | None) -> None:
        self._secrets_dir = secrets_dir
        self._made: dict[BackendTls, ssl.SSLContext] = {}

    def forget(self) -> None:
        """Reads certificates again when they are needed next; they may have been exchanged."""
        self._made.clear()

    def of(self, tls: BackendTls) -> ssl.SSLContext:
        """The context for connections secured as ``tls`` says.

        Raises:
            OSError: a certificate cannot be read.
        """
        found = self._made.get(tls)
        if found is None:
            found = self._made[tls] = self._make(tls)
        return found

    def _make(self, tls: BackendTls) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._path(tls.ca_file))
        if not tls.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate_file is not None:
            context.load_cert_chain(self._path(tls.certificate_file) or "", self._path(tls.key_file))
        return context

    def _path(self, name: str | None) -> str | None:
        return None if name is None else str((self._secrets_dir or Path()) / name)


_JOIN_BYTES: Final = 64 * 1024
"""Up to this size, head and body go out as one write; copying is cheaper than a second call into the kernel."""

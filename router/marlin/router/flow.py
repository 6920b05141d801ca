"""One request: read, sent to a backend, sent to another where that is safe, and its reply passed on.

``downstream`` makes a flow of each request; ``upstream`` tells it what becomes of it. Whatever happens, the client gets
the backend's reply or a clear error, once; a client that leaves takes its request at the backend with it; and the
backend's count of requests in flight goes back down, in one place (``_let_go``).

A request is sent again only while no byte of a reply has reached the client: when no connection could be made, when a
kept connection turned out to be closed, and, within the retry budget, when a backend said 429 or 503, hung up, is hung,
or is late with the beginning of an event stream, or a member router reached none of its engines. Engines send the head
of a stream at once and its first event when there is a token: the head waits here for the event.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from marlin.api.footprint import JOULES_PER_KWH, Intensity
from marlin.router.balancer import LiveBackend, LivePool
from marlin.router.body_fields import BodyFields, model_in_form, model_in_query, prompt_beginning, read_fields
from marlin.router.errors import (
    CLIENT_CLOSED,
    BadRequestError,
    NoBackendError,
    RouterError,
    UnknownModelError,
    UnknownPathError,
    UpstreamFailedError,
    UpstreamTimeoutError,
)
from marlin.router.framing import ChunkReader
from marlin.router.heads import CHUNKED, UNTIL_CLOSE, ReplyHead, RequestHead
from marlin.router.paths import OWN, PASSED_ON, REALTIME
from marlin.router.realtime import UsageReader
from marlin.router.responses import MAX_ASKED, asked_for
from marlin.router.tally import estimated_kwh
from marlin.router.upstream import EVENT_BYTES, Link
from marlin.router.usage import TAIL_BYTES, find_usage

if TYPE_CHECKING:
    from marlin.router.downstream import Downstream
    from marlin.router.gate import Ticket
    from marlin.router.plane import Plane
    from marlin.router.tracer import Trace

_LOG = logging.getLogger("marlin.router")

MAX_ATTEMPTS: Final = 4
"""Backends tried for one request, those included that could not be connected to."""

MAX_RESENDS: Final = 1
"""How often a request is sent again that a backend may have begun to work on."""

_RETRY_AFTER_S: Final = 1
_UPGRADED: Final = (b"Connection: Upgrade", b"Upgrade: websocket")
_UNKNOWN: Final = 404
_BUSY: Final = frozenset({429, 503})

_UNREACHED: Final = "upstream_connect"
"""Of a member router: it could connect to none of its engines, so that none has seen the request."""

# How a reply's bytes become the client's.
_AS_IS: Final = 0
_INTO_CHUNKS: Final = 1
_OUT_OF_CHUNKS: Final = 2
_BEFORE_ESTIMATE: Final = 3
"""As they are, but for the last chunk: a comment is to come before it."""

_LAST_CHUNK: Final = b"0\r\n\r\n"

_FIGURES: Final = (
    b"x-marlin-energy-joules: %.6g",
    b"x-marlin-carbon-grams: %.6g",
    b"x-marlin-water-liters: %.6g",
    b"x-marlin-cost-usd: %.6g",
)
_AS_HEADERS: Final = b"\r\n".join((*_FIGURES, b"", b""))
_AS_COMMENT: Final = b"".join(b": %b\n" % figure for figure in _FIGURES) + b"\n"


class Flow:
    """One request. Times are monotonic seconds.

    Attributes:
        head, body: what the client sent.
        began_s: when its head was complete.
        asked_s: when the backend it is at was chosen.
        deadline_s: when it is given up.
        live: the backend it is at; None before and after.
        last_live: the backend it was at last.
        attempts: backends it was sent to, or that could not be connected to.
        status: the status the client got; 0: none yet.
        error: one word for what went wrong; empty when all went well.
        ttft_s: from ``began_s`` to the first byte of the reply's body.
        bytes_out: bytes of body passed on.
        last, second_last, third_last: the last reads of an event stream, as far as they are kept: usage is in the event
            before [DONE], and that, and the last chunk, may each come by themselves. Of any other reply, its end.
        usage: prompt and output tokens, as the reply reported them, where that had to be known at once.
        has_usage: whether it is to be counted what it used; ``tail``: where that is to be looked for.
        is_stream: whether the reply is an event stream.
        is_over: whether nothing will happen any more.
        is_tunnel: whether it asks for a WebSocket, or has become one.
        frames: reads what a WebSocket's backend says of tokens; None: it is none.
        ticket: what the gate gave; None where there is no gate.
        trace: its span; there only where traces are made, None where it has none.
    """

    trace: Trace | None

    __slots__ = (
        "_asked_for",
        "_beginning",
        "_bytes_seen",
        "_client",
        "_held",
        "_link",
        "_mode",
        "_needs_fresh",
        "_plane",
        "_pool",
        "_reader",
        "_reply",
        "_resends",
        "_session",
        "_tried",
        "_wants_stream",
        "asked_s",
        "attempts",
        "began_s",
        "body",
        "bytes_out",
        "deadline_s",
        "error",
        "frames",
        "has_usage",
        "head",
        "is_over",
        "is_stream",
        "is_tunnel",
        "last",
        "last_live",
        "live",
        "second_last",
        "silent_since_s",
        "status",
        "tail",
        "third_last",
        "ticket",
        "trace",
        "ttft_s",
        "usage",
    )

    def __init__(self, plane: Plane, client: Downstream, head: RequestHead, body: bytes, began_s: float) -> None:
        self._plane = plane
        self._client = client
        self._link: Link | None = None
        self._pool: LivePool | None = None
        self._reply: ReplyHead | None = None
        self._reader: ChunkReader | None = None
        self._mode = _AS_IS
        self._needs_fresh = False
        self._resends = 0
        self._session = self._held = self._beginning = b""
        self._wants_stream = False
        self._asked_for: str | None = None
        self.last = self.second_last = self.third_last = b""
        self._tried: tuple[LiveBackend, ...] = ()
        self.head = head
        self.body = body
        self.began_s = self.asked_s = began_s
        self.deadline_s = began_s + plane.request_timeout_s
        self.silent_since_s = began_s
        self.live: LiveBackend | None = None
        self.last_live: LiveBackend | None = None
        self.attempts = 0
        self.status = 0
        self.error = ""
        self.ttft_s: float | None = None
        self.bytes_out = self._bytes_seen = 0
        self.usage: tuple[int, int] | None = None
        self.has_usage = False
        self.frames: UsageReader | None = None
        self.tail = b""
        self.ticket: Ticket | None = None
        self.is_stream = False
        self.is_over = False
        self.is_tunnel = False

    # --- towards the backend -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Finds out where the request goes and sends it there, or answers it here."""
        head = self.head
        plane = self._plane
        gate = plane.gate
        try:
            if head.line.route != PASSED_ON:
                if head.line.route != OWN:
                    raise UnknownPathError(f"{head.line.path[:200]} is not a path that is passed on to backends")
                self._answer(200, plane.own_answer(head))
                return
            if plane.tracer is not None:
                self.trace = plane.tracer.begin(head)
            tenant = None if gate is None else gate.tenant_of(head)
            if head.upgrade and self._asks_for_tunnel():
                fields = BodyFields(model=model_in_query(head.line.target))
            elif head.is_opaque:
                fields = BodyFields(model_in_form(self.body))
            else:
                fields = read_fields(self.body)
            if head.line.is_responses:
                self._asked_for = asked_for(head.line.path, self.body)
            self._pool = self._find_pool(fields)
            self._wants_stream = fields.stream is True
            if gate is not None and tenant is not None:
                self.ticket = gate.admit(tenant, self.body, self._pool, self.began_s, plane.wall_clock())
            self._session = head.session or (fields.prompt_cache_key or fields.user or "").encode("utf-8", "replace")
            if not self._session and plane.session_prompt_bytes and not head.is_opaque:
                self._session = prompt_beginning(self.body, plane.session_prompt_bytes)
            plane.budget.pay_in()
            self._try_next(self.began_s)
        except RouterError as error:
            self._refuse(error)

    def _asks_for_tunnel(self) -> bool:
        """Whether this is the beginning of a WebSocket; then it goes on as one (RFC 6455, 4.1)."""
        head = self.head
        if head.upgrade != b"websocket" or head.line.path != REALTIME or head.line.method != b"GET" or self.body:
            return False
        self.is_tunnel = not head.line.is_http10
        if self.is_tunnel:
            head.lines += _UPGRADED
        return self.is_tunnel

    def _find_pool(self, fields: BodyFields) -> LivePool:
        """The pool that serves the request; one that names no model goes to the only pool, as with a lone vLLM."""
        by_model = self._plane.balancer.by_model
        model = fields.model
        if model is not None:
            pool = by_model.get(model)
            if pool is None:
                served = ", ".join(list(by_model)[:10])
                raise UnknownModelError(
                    f"The model `{model[:200]}` does not exist. Models served here: {served}.", param="model"
                )
            return pool
        if len(by_model) == 1:
            return next(iter(by_model.values()))
        if self._asked_for is not None and (pool := self._pool_that_keeps(self._asked_for)) is not None:
            return pool
        if self.head.is_opaque:
            raise BadRequestError(
                "the model can only be read from a JSON or multipart body, and several models are served here",
                reason="model_unreadable",
                param="model",
            )
        raise BadRequestError(
            "model is required: several models are served here", reason="model_missing", param="model"
        )

    def _pool_that_keeps(self, response_id: str) -> LivePool | None:
        """The pool of a response's backend; where that is unknown, the first one: looking begins there."""
        keeper = self._plane.responses.keeper(response_id)
        pools = self._plane.balancer.pools
        return next((p for p in pools if keeper is None or p.pool.name == keeper[0]), pools[0] if pools else None)

    def _keeper(self) -> LiveBackend | None:
        """The backend that has the response that is asked for, where that is known and it may be asked."""
        if self._asked_for is None or self._tried:
            return None
        keeper = self._plane.responses.keeper(self._asked_for)
        return None if keeper is None else self._plane.balancer.usable(keeper)

    def _looks_further(self, live: LiveBackend) -> bool:
        """Asks the next backend for a response that this one does not know; says whether there is one."""
        plane, tried = self._plane, (*self._tried, live)
        if self.attempts >= MAX_ASKED:
            return False
        now_s = plane.clock()
        pools = [self._pool, *(p for p in plane.balancer.pools if p is not self._pool)]
        if self.head.line.method == b"POST" and self.body:
            pools = pools[:1]  # it names its model
        for pool in pools:
            if pool is not None and plane.balancer.choose(pool, now_s, tried, is_forwarded=self.head.is_forwarded):
                self._pool = pool
                self._try_another(live)
                return True
        return False

    def _try_next(self, now_s: float) -> None:
        """Chooses a backend and sends the request to it, at once or when there is a connection."""
        plane = self._plane
        assert self._pool is not None
        live = self._next_backend(self._pool, now_s)
        while live is not None and not plane.balancer.open(live):
            live = self._next_backend(self._pool, now_s)  # another worker took the last place: now it is seen as full
        if live is None:
            raise self._nothing_left()
        self.attempts += 1
        self.live = self.last_live = live
        self.asked_s = now_s
        if plane.tracer is not None and self.trace is not None:
            # Without this one, which is counted already.
            self.trace.in_flight, self.trace.concurrency = live.site.in_flight - 1, live.site.concurrency
        link = None if self._needs_fresh else live.peer.take_idle(now_s)
        if link is not None:
            self._send(link, live)
        else:
            plane.spawn(live.peer.dial(self))

    def _next_backend(self, pool: LivePool, now_s: float) -> LiveBackend | None:
        """Where the request may go now; None: nowhere."""
        live = self._keeper()
        if live is None and self.attempts < (MAX_ATTEMPTS if self._asked_for is None else MAX_ASKED):
            live = self._plane.balancer.choose(
                pool, now_s, self._tried, is_forwarded=self.head.is_forwarded, session=self._session
            )
        return live

    def _nothing_left(self) -> RouterError:
        assert self._pool is not None
        if self._tried:
            return UpstreamFailedError(
                f"none of {len(self._tried)} backends tried could serve this",
                reason=self.error or _UNREACHED,
                retry_after_s=_RETRY_AFTER_S,
            )
        return NoBackendError(
            f"no backend of model {self._pool.pool.model_name} is up and below its limit; try again soon",
            retry_after_s=_RETRY_AFTER_S,
        )

    def _send(self, link: Link, live: LiveBackend) -> None:
        self._link = link
        head, peer = self.head, live.peer
        lines = head.lines
        if head.host_at:
            lines[head.host_at] = peer.host_line
        else:
            lines.append(peer.host_line)
            head.host_at = len(lines) - 1
        if peer.prefix or self.attempts > 1:
            lines[0] = b"%b %b%b HTTP/1.1" % (head.line.method, peer.prefix, head.line.target)
        if peer.authorization_line is not None or self.ticket is not None:
            lines = self._with_credential(lines, peer.authorization_line)
        link.send(self, b"\r\n".join(lines) + peer.request_tail, self.body)

    def _with_credential(self, lines: list[bytes], ours: bytes | None) -> list[bytes]:
        """The lines with our credential for the backend, or with none: the client's is for us, and never goes on."""
        ours_at, is_for_us = self.head.authorization_at, self.ticket is not None
        kept = []
        for at, line in enumerate(lines):
            if at and at == ours_at and ours is not None:
                kept.append(ours)
            elif line[:14].lower() != b"authorization:" and not (is_for_us and line[:10].lower() == b"x-api-key:"):
                kept.append(line)
        if not ours_at and ours is not None:
            kept.append(ours)
        return kept

    def was_connected(self, link: Link) -> None:
        """There is a connection to the backend; the client may have left meanwhile."""
        if self.is_over or self.live is None or self.live.peer is not link.peer:
            link.peer.keep(link, self._plane.clock())
            return
        self._send(link, self.live)

    def was_unreachable(self, why: str) -> None:
        """There is no connection to the backend: another one is tried."""
        live = self.live
        if self.is_over or live is None:
            return
        backend = live.backend
        _LOG.warning("backend %s of pool %s cannot be reached: %s", backend.name, backend.pool, why)
        live.peer.cell.count_upstream_error("connect")
        self._plane.balancer.report_unreachable(live)
        self._try_another(live)

    def was_cut_off(self, link: Link, why: str) -> None:
        """The connection broke before the reply was complete."""
        self._link = None
        live = self.live
        if self.is_over or live is None:
            return
        if self.has_begun:
            live.peer.cell.count_upstream_error("died_mid_reply")
            self._plane.balancer.report_failed(live)
            error = UpstreamFailedError(f"the backend broke off its reply: {why}", reason="died_mid_reply")
            self._break_off(error, link)
            return
        if link.is_untouched and not self._needs_fresh:
            # It was closed while it was idle, as every server does sooner or later: nothing was received.
            self._needs_fresh = True
            self._let_go()
            self.attempts -= 1
            self._retry_or_refuse()
            return
        live.peer.cell.count_upstream_error("upstream_disconnected")
        self._plane.balancer.report_failed(live)
        self.error = "upstream_disconnected"
        if self._resends < MAX_RESENDS and self._plane.budget.take(self._plane.clock()):
            self._resends += 1
            live.peer.cell.count_retry("upstream_disconnected")
            self._try_another(live)
        else:
            self._let_go()
            self._refuse(UpstreamFailedError(f"the backend closed the connection: {why}"))

    @property
    def first_token_s(self) -> float | None:
        """Until the first token, s. The first byte of a JSON reply comes when generation ends: only streams show it."""
        return self.ttft_s if self.is_stream and not self.is_tunnel else None

    @property
    def has_session(self) -> bool:
        """Whether it goes where its session went before."""
        return bool(self._session)

    @property
    def tried(self) -> tuple[LiveBackend, ...]:
        """Backends that could not serve it."""
        return self._tried

    @property
    def has_begun(self) -> bool:
        """Whether something of its reply has reached the client."""
        return self._reply is not None and not self._beginning

    @property
    def was_moved(self) -> bool:
        """Whether it was sent again that a backend may have begun to work on it."""
        return self._resends > 0

    def move_on(self, why: str) -> bool:
        """Leaves its backend for another one, once, where there is one and the retry budget allows it; says whether."""
        live = self.live
        if live is None or self._resends >= MAX_RESENDS or not self._may_move(live):
            return False
        self._resends += 1
        live.peer.cell.count_retry(why)
        self._try_another(live)
        return True

    def _may_move(self, live: LiveBackend) -> bool:
        """Whether there is another backend, and a retry left in the budget, which is taken."""
        plane = self._plane
        if self._pool is None:
            return False
        now_s, tried = plane.clock(), (*self._tried, live)
        if plane.balancer.choose(self._pool, now_s, tried, is_forwarded=self.head.is_forwarded) is None:
            return False
        return plane.budget.take(now_s)

    def _try_another(self, live: LiveBackend) -> None:
        """Leaves a backend, which is told so where it still works on the request, and tries the next."""
        link, self._link = self._link, None
        if link is not None:
            link.give_up()
        self._tried += (live,)
        if self._beginning:
            # The head of a stream that never began.
            self._reply = self._reader = None
            self._beginning = b""
            self._mode = _AS_IS
            self.status, self.error, self.is_stream = 0, "", False
        self._let_go()
        self._retry_or_refuse()

    def _retry_or_refuse(self) -> None:
        try:
            self._try_next(self._plane.clock())
        except RouterError as error:
            self._refuse(error)

    # --- towards the client ------------------------------------------------------------------------------------------

    def begin(self, reply: ReplyHead, body: bytes, *, is_whole: bool) -> bool:
        """The reply's head is here, and perhaps all of it.

        Args:
            reply: the head.
            body: what came with it of a body whose length is known.
            is_whole: whether that is all of it.

        Returns:
            Whether it is passed on; otherwise the request was sent elsewhere, and the link is not ours any more.
        """
        live = self.live
        assert live is not None
        status = reply.status
        if status >= 429 and (status in _BUSY or status >= 500) and self._goes_elsewhere(live, reply):
            return False
        if status == _UNKNOWN and self._asked_for is not None and self._looks_further(live):
            return False
        if status < 500:
            live.failures = 0
        self._reply = reply
        self.status = status
        head = self.head
        lines = reply.lines
        tail = live.peer.reply_tail
        if self._client.is_plain and not self._plane.is_draining and reply.length != UNTIL_CLOSE:
            if reply.is_stream:
                self.is_stream = True
                if self._plane.has_stream_estimates and reply.length == CHUNKED and not reply.is_opaque:
                    self._mode = _BEFORE_ESTIMATE
            data = b"\r\n".join(lines) + tail
        else:
            data = self._unusual_head(reply, tail)
        self.error = reply.error or self.error
        if body:
            self.ttft_s = self._plane.clock() - self.began_s
            self.bytes_out = len(body)
            if head.line.method == b"POST":
                if head.line.is_responses:
                    self._plane.responses.note(body, live.backend.key)
                self.last = body
                if is_whole and status < 300 and live.has_energy and (kwh := self._estimate_kwh(live)) is not None:
                    data = data[:-2] + _told(_AS_HEADERS, kwh, live.site.site.datacenter.intensity)
            data += body
        elif self.is_stream and not is_whole:
            self._beginning = data
            return True
        self._client.write(data)
        return True

    def begin_tunnel(self, reply: ReplyHead) -> None:
        """The backend has agreed to a WebSocket: from now on bytes go both ways, and only what it used is read.

        It lasts as long as both want it to: not the request's deadline ends it, but silence on both sides.
        """
        live = self.live
        assert live is not None
        live.failures = 0
        self._reply, self.status = reply, reply.status
        self.is_stream = True
        self.frames = UsageReader()
        self.deadline_s = math.inf
        self._client.write(b"\r\n".join((*reply.lines, *_UPGRADED)) + live.peer.reply_tail)
        self._client.begin_tunnel(self)

    def send_on(self, data: bytes) -> None:
        """The next bytes of a client whose request has become a WebSocket."""
        if self._link is not None:
            self.silent_since_s = self._plane.clock()
            self._link.transport.write(data)

    def hold_client(self) -> None:
        """The backend reads more slowly than the client sends."""
        self._client.transport.pause_reading()

    def release_client(self) -> None:
        """The backend can take more."""
        self._client.transport.resume_reading()

    def _estimate_kwh(self, live: LiveBackend) -> float | None:
        """What the reply took, by the usage it reports; None where nobody knows. Counted later (``endings``)."""
        self._read_usage()
        if self.usage is None:
            return None
        kwh = estimated_kwh(live, live.site.site.datacenter, *self.usage, self._plane.wall_clock())
        return None if isinstance(kwh, str) else kwh

    def _read_usage(self) -> None:
        """Finds the usage in what is kept of the reply's end; done here where it cannot wait."""
        if self.usage is None and self._reply is not None and not self._reply.is_opaque:
            self.usage = find_usage(self.third_last + self.second_last + self.last)

    def _unusual_head(self, reply: ReplyHead, tail: bytes) -> bytes:
        """The head for a client of HTTP/1.0, a connection that is to be closed, or a reply without a length."""
        client, lines = self._client, list(reply.lines)
        self.is_stream = reply.is_stream
        if self.head.line.is_http10:
            if reply.length == CHUNKED:
                del lines[reply.length_at]
                self._mode = _OUT_OF_CHUNKS
                self._reader = ChunkReader()
            if reply.length < 0:
                client.keeps_alive = False
            elif client.keeps_alive:
                lines.append(b"Connection: keep-alive")
        elif reply.length == UNTIL_CLOSE and self.head.line.method != b"HEAD":
            # In chunks, the client can tell the end from a broken connection.
            lines.append(b"Transfer-Encoding: chunked")
            self._mode = _INTO_CHUNKS
        if self._plane.is_draining:
            client.keeps_alive = False
        if not client.keeps_alive:
            lines.append(b"Connection: close")
        return b"\r\n".join(lines) + tail

    def _goes_elsewhere(self, live: LiveBackend, reply: ReplyHead) -> bool:
        """Notes that a backend is in trouble, and sends the request to another one where there is one."""
        plane = self._plane
        why = "busy"
        if reply.status in _BUSY:
            plane.balancer.report_overloaded(live, _seconds(reply.retry_after))
        else:
            plane.balancer.report_failed(live)
            if reply.error != _UNREACHED or not live.backend.is_member_router:
                return False
            why = "member_unreached"
        live.peer.cell.count_upstream_error(why)
        if self.attempts >= MAX_ATTEMPTS or not self._may_move(live):
            return False
        live.peer.cell.count_retry(why)
        self._try_another(live)
        return True

    @property
    def flows(self) -> bool:
        """Whether it is a stream of which the next bytes are passed on as they are, whatever they are."""
        return self.is_stream and self._mode == _AS_IS and self.ttft_s is not None

    @property
    def write(self) -> Callable[[bytes], None]:
        """Sends bytes to the client."""
        return self._client.write

    def pass_on(self, data: bytes) -> None:
        """The next bytes of the reply's body, chunks included where it is chunked."""
        if self.ttft_s is None:
            self._note_beginning(data)
        size = len(data)
        self.bytes_out += size
        if self.frames is not None:
            self.frames.feed(data)
        elif self.is_stream:
            self.third_last = self.second_last
            self.second_last = self.last
            self.last = data if size <= EVENT_BYTES else data[-EVENT_BYTES:]
        elif self.head.line.method == b"POST":
            self.last = data if size >= TAIL_BYTES else (self.last + data)[-TAIL_BYTES:]
        if self._mode != _AS_IS:
            data = self._reframed(data)
        if self._beginning:
            # In one call into the kernel: at the beginning of a stream each is a tenth of what it costs.
            data = self._beginning + data
            self._beginning = b""
        self._client.write(data)

    def _note_beginning(self, data: bytes) -> None:
        """The first bytes of the body are here."""
        now_s, live = self._plane.clock(), self.live
        self.ttft_s = now_s - self.began_s
        if live is not None:
            if self.is_stream:
                live.patience.note(now_s - self.asked_s)
            if self.head.line.is_responses:
                self._plane.responses.note(data, live.backend.key)

    def _reframed(self, data: bytes) -> bytes:
        if self._mode == _INTO_CHUNKS:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._mode == _BEFORE_ESTIMATE:
            data = self._held + data
            self._held = _LAST_CHUNK if data.endswith(_LAST_CHUNK) else b""
            return data[: -len(_LAST_CHUNK)] if self._held else data
        assert self._reader is not None
        self._reader.feed(data)
        return self._reader.take()

    def end(self, now_s: float) -> None:
        """The reply is complete."""
        self._link = None
        live, reply = self.live, self._reply
        assert live is not None
        assert reply is not None
        kwh = None
        if reply.status < 300:
            if self.head.line.method == b"POST":
                self.has_usage = True
                if not reply.is_opaque:
                    self.tail = self.third_last + self.second_last + self.last
                if self._plane.has_to_know_usage:
                    kwh = self._estimate_kwh(live)
            # How long a WebSocket stays open says nothing about how fast its backend is.
            self._let_go(None if self.is_tunnel else now_s - self.began_s)
        else:
            self._let_go()
        if self._beginning:
            self._client.write(self._beginning)
            self._beginning = b""
        if self._mode == _INTO_CHUNKS:
            self._held = _LAST_CHUNK
        if self._held:
            if kwh is not None and self.is_stream and self._plane.has_stream_estimates:
                comment = _told(_AS_COMMENT, kwh, live.site.site.datacenter.intensity)
                self._client.write(b"%x\r\n%b\r\n" % (len(comment), comment))
            self._client.write(self._held)
        self._close(now_s)

    def client_left(self) -> None:
        """The client hung up: the backend is told to stop by closing its connection."""
        if self.is_over:
            return
        self.status, self.error = self.status or CLIENT_CLOSED, "client_disconnected"
        if self._reply is not None:
            self.status = CLIENT_CLOSED
        self._abandon()
        self._close(self._plane.clock())

    def look_at_clock(self, now_s: float, stream_idle_timeout_s: float) -> bool:
        """Gives up a request that takes too long, and a stream that has fallen silent.

        Returns:
            Whether it waits for a stream that should have begun by now.
        """
        self.tell()
        if now_s >= self.deadline_s:
            self._time_out(UpstreamTimeoutError("the request took longer than the router allows"))
        elif self.bytes_out != self._bytes_seen:
            self._bytes_seen = self.bytes_out
            self.silent_since_s = now_s
        elif self.is_stream and self._client.is_writable and now_s - self.silent_since_s >= stream_idle_timeout_s:
            self._time_out(
                UpstreamTimeoutError(f"the stream was silent for {stream_idle_timeout_s:g} s", reason="stream_idle")
            )
        elif self._wants_stream and self.ttft_s is None and self.live is not None and not self._resends:
            return now_s - self.asked_s >= self.live.patience.longest_s(len(self.body))
        return False

    def tell(self) -> None:
        """Takes note of what has flowed by."""
        if self._link is not None:
            self._link.tell()

    def _time_out(self, error: RouterError) -> None:
        live, link = self.live, self._link
        if live is not None:
            live.peer.cell.count_upstream_error(error.reason)
        has_begun = self.has_begun
        self._abandon()
        if not has_begun:
            self._refuse(error)
            return
        self._break_off(error, link)

    def _break_off(self, error: RouterError, link: Link | None) -> None:
        """Ends a reply that has begun: an error event where there can be one, else a torn connection."""
        self._let_go()
        self.error = error.reason
        reply = self._reply
        assert reply is not None
        client = self._client
        client.keeps_alive = False
        if isinstance(error, UpstreamTimeoutError):
            # Not where the backend broke off: in the middle of a frame a closing one would pass for its rest.
            client.say_goodbye()
        ending = b""
        if reply.is_stream and not reply.is_opaque:
            event = error.event(is_anthropic=self.head.line.is_anthropic)
            if self._mode == _INTO_CHUNKS:
                # An event that was cut in two is ended by an empty line, so that ours stands alone.
                event = b"\n\n" + event
                ending = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
            elif self._mode in {_AS_IS, _BEFORE_ESTIMATE} and link is not None and link.is_between_chunks():
                ending = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
        if ending:
            client.write(ending)
        # Without that, no clean end: a cut reply must not look complete.
        client.is_torn = not ending
        self._close(self._plane.clock())

    def _refuse(self, error: RouterError) -> None:
        """Answers with an error of our own."""
        self.error = error.reason
        self.status = error.status
        self._client.answer_error(error, self.head)
        self._close(self._plane.clock())

    def _answer(self, status: int, body: bytes) -> None:
        self.status = status
        self.bytes_out = len(body)
        self._client.answer(status, body, self.head)
        self._close(self._plane.clock())

    def _abandon(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.give_up()
        self._let_go()

    def _let_go(self, duration_s: float | None = None) -> None:
        """Counts the request out at its backend: the one place where that happens."""
        live, self.live = self.live, None
        if live is not None:
            self._plane.balancer.close(live, duration_s)

    def _close(self, now_s: float) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self.frames is not None and self.frames.usage is not None:
            self.usage, self.has_usage = self.frames.usage, True
        if self.ticket is not None:
            self._plane.settle(self, self.ticket, now_s)
        self._plane.ended(self, now_s)
        self._client.finished(self)

    def pause(self) -> None:
        """The client reads more slowly than the backend sends."""
        if self._link is not None:
            self._link.transport.pause_reading()

    def resume(self) -> None:
        """The client can take more."""
        if self._link is not None:
            self._link.transport.resume_reading()


def _told(form: bytes, kwh: float, intensity: Intensity) -> bytes:
    """An estimate: headers and the end of a head, or a comment of an event stream; who reads events ignores that."""
    return form % (
        kwh * JOULES_PER_KWH,
        kwh * intensity.carbon_gco2_per_kwh,
        kwh * intensity.water_l_per_kwh,
        kwh * intensity.price_usd_per_kwh,
    )


def _seconds(retry_after: bytes) -> float | None:
    """A Retry-After in seconds; one that is a date says nothing here."""
    return float(retry_after) if retry_after.isdigit() and len(retry_after) < 10 else None

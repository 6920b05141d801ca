"""Heads of requests and replies, read line by line: what is passed on, what belongs to one connection, what we need.

``downstream`` reads requests with ``read_request``, ``upstream`` reads replies with ``read_reply``. Lines that go
through keep their bytes, case and order (RFC 9110, 7.6.1 says what an intermediary removes). Reading is strict where
two servers could disagree on where a message ends: a request that is not exactly of the grammar is refused.

Most header lines are the same from one request to the next, so what a line means is remembered by its bytes: a look-up
in a dictionary costs a third of taking the line apart. The memory is bounded, and lines whose values rarely repeat are
kept out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from marlin.router.errors import BadRequestError, RouterError
from marlin.router.paths import route_of
from marlin.router.responses import PATH as RESPONSES

PREFIX: Final = b"x-marlin-"
ERROR: Final = "x-marlin-error"

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_TARGET_BYTES: Final = 8 * 1024
MAX_HEADERS: Final = 200

_MAX_REMEMBERED: Final = 4096
_MAX_REMEMBERED_BYTES: Final = 256

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""Instead of a body's length."""

# What a header line is to us.
KEEP: Final = 0
DROP: Final = 1
LENGTH: Final = 2
CODING: Final = 3
CONNECTION: Final = 4
HOST: Final = 5
AUTHORIZATION: Final = 6
REQUEST_ID: Final = 7
OPAQUE: Final = 8
"""Kept, and says that the body is not plain JSON: its type or its encoding."""
EXPECT: Final = 9
HOP: Final = 10
UPGRADE: Final = 11
EVENTS: Final = 12
"""Content-Type: text/event-stream."""
RETRY_AFTER: Final = 13
OUR_ERROR: Final = 14
SESSION: Final = 15
API_KEY: Final = 16
LENGTH_IS: Final = 100
"""A kind of this or more is a Content-Length, and says it: kind - LENGTH_IS."""

_HOP_BY_HOP: Final = {
    b"keep-alive": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"upgrade": UPGRADE,
    b"connection": CONNECTION,
    b"transfer-encoding": CODING,
    b"content-length": LENGTH,
    b"content-encoding": OPAQUE,
}
_IN_REQUESTS: Final = _HOP_BY_HOP | {
    b"host": HOST,
    b"authorization": AUTHORIZATION,
    b"x-request-id": REQUEST_ID,
    b"x-session-id": SESSION,
    b"x-api-key": API_KEY,
    b"content-type": OPAQUE,
    b"expect": EXPECT,
    b"x-marlin-hop": HOP,
}
_IN_REPLIES: Final = _HOP_BY_HOP | {
    b"content-type": EVENTS,
    b"retry-after": RETRY_AFTER,
    b"x-marlin-error": OUR_ERROR,
    b"x-marlin-datacenter": DROP,
    b"x-marlin-backend": DROP,
    b"x-marlin-plan-epoch": DROP,
    b"x-marlin-energy-joules": DROP,
    b"x-marlin-carbon-grams": DROP,
    b"x-marlin-water-liters": DROP,
    b"x-marlin-cost-usd": DROP,
}
_NOT_REMEMBERED: Final = frozenset({REQUEST_ID, RETRY_AFTER, SESSION})

_PROTECTED: Final = frozenset({HOST, LENGTH, AUTHORIZATION, API_KEY, OPAQUE, EVENTS, CODING})
"""Not to be removed by being named in Connection: somebody relies on them."""

_NOT_JSON: Final = (b"multipart/", b"application/x-www-form-urlencoded", b"application/octet-stream")

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t -~\x80-\xff]*+)")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*+)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*+)(?::[0-9]{0,5})?"  # RFC 3986, 3.2
)


_NOTHING: Final[frozenset[bytes]] = frozenset()
_EXTENSIONS: Final = frozenset({b"sec-websocket-extensions"})


class HeadError(Exception):
    """A backend's reply that is not HTTP as it should be."""


class HeadTooLargeError(RouterError):
    """A request's head beyond the limit."""

    status = 431
    error_type = "invalid_request_error"
    default_reason = "head_too_large"


class TargetTooLongError(RouterError):
    """A request's target beyond the limit."""

    status = 414
    error_type = "invalid_request_error"
    default_reason = "target_too_long"


class VersionError(RouterError):
    """Neither HTTP/1.0 nor HTTP/1.1."""

    status = 505
    error_type = "invalid_request_error"
    default_reason = "http_version"


class TransferCodingError(RouterError):
    """A transfer coding that is not ``chunked``."""

    status = 501
    error_type = "invalid_request_error"
    default_reason = "transfer_coding"


class RequestLine:
    """A request's first line. Remembered, because there are few of them; so it is never changed.

    Attributes:
        method: as it stands there.
        target: path and query as they came; printable ASCII.
        path: the path, without the query, which may hold anything.
        route: what is done with such a request (``paths``).
        is_http10: whether the client speaks HTTP/1.0: it does not know chunks.
        is_anthropic: whether it expects errors in Anthropic's shape.
        is_responses: whether it is about responses that backends keep.
        log: how the access log writes it; empty until it has.
    """

    __slots__ = ("is_anthropic", "is_http10", "is_responses", "log", "method", "path", "route", "target")

    def __init__(self, method: bytes, target: bytes, *, is_http10: bool) -> None:
        self.method = method
        self.target = target
        self.path = target.partition(b"?")[0].decode("ascii")
        self.route = route_of(method, target)
        self.is_anthropic = self.path.startswith("/v1/messages")
        self.is_responses = self.path == RESPONSES or self.path.startswith(f"{RESPONSES}/")
        self.is_http10 = is_http10
        self.log = b""


class RequestHead:
    """A request's head.

    Attributes:
        line: its first line.
        lines: request line and header lines that go on, without line ends.
        length: bytes of the body; -1 when it is chunked.
        host_at, authorization_at, api_key_at: positions in ``lines``; 0 where there is none.
        request_id: the client's x-request-id.
        session: the client's x-session-id.
        is_opaque: whether the body is something else than plain JSON.
        is_forwarded: whether another router sent it.
        keeps_alive: whether the client wants to use its connection again.
        has_length: whether the length of the body is stated.
        removed: headers that Connection names.
        expects: whether it waits for ``100 Continue``.
        upgrade: the protocol it asks for, in lower case.
    """

    __slots__ = (
        "api_key_at",
        "authorization_at",
        "expects",
        "has_length",
        "host_at",
        "is_forwarded",
        "is_opaque",
        "keeps_alive",
        "length",
        "line",
        "lines",
        "removed",
        "request_id",
        "session",
        "upgrade",
    )

    def __init__(self, line: RequestLine, lines: list[bytes]) -> None:
        self.line = line
        self.lines = lines
        self.length = 0
        self.has_length = False
        self.removed = _NOTHING
        self.host_at = 0
        self.authorization_at = 0
        self.api_key_at = 0
        self.request_id = b""
        self.session = b""
        self.is_opaque = False
        self.is_forwarded = False
        self.keeps_alive = True
        self.expects = False
        self.upgrade = b""


class ReplyHead:
    """A reply's head.

    Attributes:
        status: its code.
        lines: status line and header lines that go on, without line ends.
        length: bytes of the body; -1 where it is chunked, -2 where it ends with the connection.
        length_at: position of Content-Length or Transfer-Encoding in ``lines``; 0 where there is none.
        keeps_alive: whether the backend's connection can be used again.
        is_stream: whether it is an event stream.
        is_opaque: whether the body is encoded.
        retry_after: value of Retry-After.
        error: the reason another router gave.
        removed: headers that Connection names.
    """

    __slots__ = (
        "error",
        "is_opaque",
        "is_stream",
        "keeps_alive",
        "length",
        "length_at",
        "lines",
        "removed",
        "retry_after",
        "status",
    )

    def __init__(self, status: int, lines: list[bytes]) -> None:
        self.status = status
        self.lines = lines
        self.length = UNTIL_CLOSE
        self.length_at = 0
        self.keeps_alive = True
        self.is_stream = False
        self.is_opaque = False
        self.retry_after = b""
        self.error = ""
        self.removed = _NOTHING


_first_lines: dict[bytes, RequestLine] = {}
_request_lines: dict[bytes, int] = {}
_reply_lines: dict[bytes, int] = {}
_statuses: dict[bytes, int] = {}


def read_request(head: bytes) -> RequestHead:
    """Reads a request's head.

    Args:
        head: all of it, without the empty line at its end.

    Raises:
        RouterError: it is not HTTP/1, or not safe to pass on; the connection cannot be used any further.
    """
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise HeadTooLargeError(f"more than {MAX_HEADERS} headers")
    first = _first_lines.get(lines[0]) or _read_first(lines[0])
    request = RequestHead(first, lines)
    # The loop below runs over what lines are, not over lines: dictionary look-ups in C, and little to do for most.
    kinds: list[Any] = [*map(_request_lines.get, lines)]
    kinds[0] = KEEP
    if None in kinds:
        _learn(kinds, lines, _kind_in_request)
    at = 0
    for kind in kinds:
        if kind == KEEP:
            at += 1
        elif kind == HOST and not request.host_at:
            request.host_at = at
            at += 1
        elif kind >= LENGTH_IS and not request.has_length:
            request.has_length = True
            request.length = kind - LENGTH_IS
            at += 1
        elif kind == AUTHORIZATION:
            request.authorization_at = request.authorization_at or at
            at += 1
        elif kind != DROP and _READ_REQUEST[kind if kind < LENGTH_IS else LENGTH](request, lines[at]):
            at += 1
        else:
            del lines[at]
    if first.is_http10:
        _is_http10(request, head)
    elif not request.host_at:
        raise BadRequestError("the Host header is missing", reason="bad_head")
    if request.removed:
        _remove(lines, request.removed, _IN_REQUESTS)
        _find_again(request)
    return request


def _read_first(line: bytes) -> RequestLine:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _bad_first_line(line)
    method, target, minor = match.groups()
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLongError(f"the target has {len(target)} bytes, {MAX_TARGET_BYTES} are allowed")
    first = RequestLine(method, target, is_http10=minor == b"0")
    if len(line) <= _MAX_REMEMBERED_BYTES:
        if len(_first_lines) >= _MAX_REMEMBERED:
            _first_lines.clear()
        _first_lines[line] = first
    return first


def _learn(kinds: list[Any], lines: list[bytes], kind_of: Callable[[bytes], int]) -> None:
    """Fills in what lines are that are not remembered."""
    for at, kind in enumerate(kinds):
        if kind is None:
            kinds[at] = kind_of(lines[at])


# What is done about the lines that few requests have. Each says whether its line goes on.


def _read_second_host(_: RequestHead, __: bytes) -> bool:
    raise BadRequestError("there is more than one Host header", reason="bad_head")


def _read_second_length(_: RequestHead, __: bytes) -> bool:
    # RFC 9112, 6.3: of two statements one is a lie, and whoever reads on may read somebody else's request.
    raise BadRequestError("the length of the body is stated twice", reason="bad_head")


def _read_coding(request: RequestHead, line: bytes) -> bool:
    if request.has_length:
        raise BadRequestError("the length of the body is stated twice", reason="bad_head")
    if _value(line).lower() != b"chunked":
        raise TransferCodingError("the only Transfer-Encoding understood is chunked")
    request.has_length = True
    request.length = CHUNKED
    return False


def _read_opaque(request: RequestHead, _: bytes) -> bool:
    request.is_opaque = True
    return True


def _read_request_id(request: RequestHead, line: bytes) -> bool:
    request.request_id = request.request_id or _value(line)
    return True


def _read_session(request: RequestHead, line: bytes) -> bool:
    request.session = request.session or _value(line)
    return True


def _read_api_key(request: RequestHead, line: bytes) -> bool:
    request.api_key_at = request.api_key_at or request.lines.index(line)
    return True


def _read_hop(request: RequestHead, _: bytes) -> bool:
    request.is_forwarded = True
    return False


def _read_expect(request: RequestHead, line: bytes) -> bool:
    if _value(line).lower() != b"100-continue":
        raise BadRequestError("only 'Expect: 100-continue' is understood", reason="bad_head")
    request.expects = True
    return False


def _read_upgrade(request: RequestHead, line: bytes) -> bool:
    request.upgrade = _value(line).lower()
    # No offer to compress frames goes on: tokens are counted by what they say (``realtime``).
    request.removed |= _EXTENSIONS
    return False


def _read_connection(request: RequestHead, line: bytes) -> bool:
    request.removed |= _options(_value(line))
    if b"close" in request.removed:
        request.keeps_alive = False
    return False


_READ_REQUEST: Final[dict[int, Callable[[RequestHead, bytes], bool]]] = {
    HOST: _read_second_host,
    LENGTH: _read_second_length,
    CODING: _read_coding,
    OPAQUE: _read_opaque,
    REQUEST_ID: _read_request_id,
    SESSION: _read_session,
    API_KEY: _read_api_key,
    HOP: _read_hop,
    EXPECT: _read_expect,
    UPGRADE: _read_upgrade,
    CONNECTION: _read_connection,
}


def _is_http10(request: RequestHead, head: bytes) -> None:
    """What is different for a client of HTTP/1.0; the backend gets HTTP/1.1 all the same."""
    if request.length == CHUNKED:
        raise BadRequestError("HTTP/1.0 has no Transfer-Encoding", reason="bad_head")
    request.expects = False
    request.keeps_alive = _says_keep_alive(head)
    request.lines[0] = request.lines[0][:-1] + b"1"


def _find_again(request: RequestHead) -> None:
    """Positions after lines were taken out."""
    request.host_at = request.authorization_at = request.api_key_at = 0
    for at, line in enumerate(request.lines):
        name = line.partition(b":")[0].lower() if at else b""
        if name == b"host":
            request.host_at = at
        elif name == b"authorization" and not request.authorization_at:
            request.authorization_at = at
        elif name == b"x-api-key" and not request.api_key_at:
            request.api_key_at = at


def read_reply(head: bytes) -> ReplyHead:
    """Reads a reply's head.

    Args:
        head: all of it, without the empty line at its end.

    Raises:
        HeadError: it is not HTTP/1, or it does not say clearly where it ends.
    """
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise HeadError(f"it has more than {MAX_HEADERS} headers")
    first = lines[0]
    status = _statuses.get(first) or _read_status(first)
    reply = ReplyHead(status, lines)
    kinds: list[Any] = [*map(_reply_lines.get, lines)]
    kinds[0] = KEEP
    if None in kinds:
        _learn(kinds, lines, _kind_in_reply)
    at = 0
    for kind in kinds:
        if kind == KEEP:
            at += 1
        elif kind >= LENGTH_IS and not reply.length_at:
            reply.length_at = at
            reply.length = kind - LENGTH_IS
            at += 1
        elif kind == EVENTS:
            reply.is_stream = True
            at += 1
        elif kind == CODING and not reply.length_at and _value(lines[at]).lower() == b"chunked":
            reply.length_at = at
            reply.length = CHUNKED
            at += 1
        elif kind != DROP and _READ_REPLY[kind if kind < LENGTH_IS else LENGTH](reply, lines[at]):
            at += 1
        else:
            del lines[at]
    if first[7:8] == b"0":
        _is_http10_reply(reply, head)
    if reply.removed:
        _remove(lines, reply.removed, _IN_REPLIES)
        reply.length_at = next((at for at, line in enumerate(lines) if at and _says_length(line)), 0)
    if status < 200 or status in {204, 304}:
        reply.length = 0
    return reply


def _read_bad_length(_: ReplyHead, __: bytes) -> bool:
    raise HeadError("its length is stated twice, or as something that is not understood")


def _read_reply_opaque(reply: ReplyHead, _: bytes) -> bool:
    reply.is_opaque = True
    return True


def _read_retry_after(reply: ReplyHead, line: bytes) -> bool:
    reply.retry_after = _value(line)
    return True


def _read_error(reply: ReplyHead, line: bytes) -> bool:
    reply.error = _value(line).decode("latin-1")
    return True


def _read_reply_connection(reply: ReplyHead, line: bytes) -> bool:
    reply.removed |= _options(_value(line))
    if b"close" in reply.removed:
        reply.keeps_alive = False
    return False


_READ_REPLY: Final[dict[int, Callable[[ReplyHead, bytes], bool]]] = {
    LENGTH: _read_bad_length,
    CODING: _read_bad_length,
    OPAQUE: _read_reply_opaque,
    RETRY_AFTER: _read_retry_after,
    OUR_ERROR: _read_error,
    CONNECTION: _read_reply_connection,
}


def _is_http10_reply(reply: ReplyHead, head: bytes) -> None:
    if reply.length == CHUNKED:
        raise HeadError("HTTP/1.0 has no Transfer-Encoding")
    reply.lines[0] = b"HTTP/1.1" + reply.lines[0][8:]
    reply.keeps_alive = _says_keep_alive(head)


def _says_keep_alive(head: bytes) -> bool:
    return b"\r\nconnection:keep-alive\r\n" in head.lower().replace(b" ", b"") + b"\r\n"


def _says_length(line: bytes) -> bool:
    return line.partition(b":")[0].lower() in {b"content-length", b"transfer-encoding"}


def _kind_in_request(line: bytes) -> int:
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadRequestError("a header line is not valid", reason="bad_head")
    name = match[1].lower()
    kind = _IN_REQUESTS.get(name, KEEP)
    if kind == KEEP and name.startswith(PREFIX):
        kind = DROP
    elif kind == OPAQUE:
        value = match[2].strip().lower()
        is_plain = not value.startswith(_NOT_JSON) if name == b"content-type" else value in {b"", b"identity"}
        kind = KEEP if is_plain else OPAQUE
    elif kind == CONNECTION and match[2].strip().lower() == b"keep-alive":
        kind = DROP  # what most clients say, and what HTTP/1.1 means without it
    elif kind == LENGTH:
        digits = match[2].rstrip()
        if _DIGITS.fullmatch(digits) is None:
            raise BadRequestError("Content-Length is not a number of bytes", reason="bad_head")
        kind = LENGTH_IS + int(digits)
    elif kind == HOST and _HOST.fullmatch(match[2].rstrip()) is None:
        raise BadRequestError("the Host header is not valid", reason="bad_head")  # RFC 9112, 3.2 asks for that
    _remember(_request_lines, line, kind)
    return kind


def _kind_in_reply(line: bytes) -> int:
    match = _LINE.fullmatch(line)
    if match is None:
        raise HeadError("a header line is not valid")
    name = match[1].lower()
    kind = _IN_REPLIES.get(name, KEEP)
    if kind == EVENTS and not match[2].lower().startswith(b"text/event-stream"):
        kind = KEEP
    elif kind == UPGRADE:
        kind = DROP
    elif kind == LENGTH:
        digits = match[2].rstrip()
        kind = LENGTH_IS + int(digits) if _DIGITS.fullmatch(digits) else LENGTH
    elif kind == OPAQUE and match[2].strip().lower() in {b"", b"identity"}:
        kind = KEEP
    _remember(_reply_lines, line, kind)
    return kind


def _remember(memory: dict[bytes, int], line: bytes, kind: int) -> None:
    if kind in _NOT_REMEMBERED or len(line) > _MAX_REMEMBERED_BYTES:
        return
    if len(memory) >= _MAX_REMEMBERED:
        memory.clear()
    memory[line] = kind


def _read_status(first: bytes) -> int:
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise HeadError("it does not begin with an HTTP/1 status line")
    status = int(match[2])
    if len(first) <= _MAX_REMEMBERED_BYTES and len(_statuses) < _MAX_REMEMBERED:
        _statuses[first] = status
    return status


def _remove(lines: list[bytes], named: frozenset[bytes], kinds: dict[bytes, int]) -> None:
    """Takes out the headers that Connection names, but for those that somebody relies on."""
    for at in range(len(lines) - 1, 0, -1):
        name = lines[at].partition(b":")[0].lower()
        if name in named and kinds.get(name) not in _PROTECTED:
            del lines[at]


def _options(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip().lower() for option in value.split(b","))


def _value(line: bytes) -> bytes:
    return line[line.index(b":") + 1 :].strip(b" \t")


def _bad_first_line(first: bytes) -> RouterError:
    if re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [!-~]+ HTTP/[0-9.]{1,8}", first):
        return VersionError("only HTTP/1.0 and HTTP/1.1 are spoken here")
    return BadRequestError("the request line is not valid", reason="bad_head")

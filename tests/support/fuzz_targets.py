"""What a fuzzer throws bytes at, and what must hold whatever they are: ``TARGETS``, one function for each reader.

Each returns a short text that says how the input was read or refused, so that a mutational fuzzer can tell a new
behaviour from one it knows (``router_fuzz``). An exception that is not meant for bad input, or a broken law, is a find.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from marlin.router.body_fields import model_in_form, read_fields, wanted_tokens
from marlin.router.errors import RouterError
from marlin.router.framing import ChunkReader, ChunkScanner, FramingError
from marlin.router.heads import HeadError, read_reply, read_request
from marlin.router.held import MAX_HELD, SummaryError, held_of_engine, held_of_member
from marlin.router.paths import OWN, PASSED_ON
from marlin.router.realtime import MAX_MESSAGE_BYTES, UsageReader
from marlin.router.responses import asked_for
from marlin.router.usage import find_usage

_HEADER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_FIRST: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [!-~]+ HTTP/1\.1")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}( [\t -~\x80-\xff]*)?")
_NEVER_SENT: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer", b"upgrade"}
)
_NUMBER: Final = re.compile(r"[0-9]+")


def request_head(data: bytes) -> str:
    """A request that is accepted is one that no other server can read differently."""
    try:
        request = read_request(data)
    except RouterError as error:
        return f"{error.status} {_shape(error.message)}"
    first, *lines = request.lines
    assert _FIRST.fullmatch(first), first
    names = _names(lines)
    assert not _NEVER_SENT & set(names), names
    assert not any(name.startswith(b"x-marlin-") for name in names), names
    assert names.count(b"host") == (1 if request.host_at else 0)
    assert request.host_at or request.line.is_http10
    lengths = [line for line, name in zip(lines, names, strict=True) if name == b"content-length"]
    assert lengths if request.length > 0 else len(lengths) <= 1
    assert len(lengths) <= 1
    if request.line.route == PASSED_ON:
        assert not {".", ".."} & set(request.line.path.split("/")), request.line.path
    return f"read {request.line.route == OWN} {request.is_opaque} {request.keeps_alive} {min(request.length, 1)}"


def reply_head(data: bytes) -> str:
    """A reply that is accepted states its length at most once."""
    try:
        reply = read_reply(data)
    except (HeadError, RouterError) as error:
        return _shape(str(error))
    first, *lines = reply.lines
    assert _STATUS.fullmatch(first), first
    names = _names(lines)
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1, names
    assert not {b"connection", b"keep-alive", b"upgrade"} & set(names), names
    assert reply.length >= -2
    return f"read {reply.status // 100} {reply.is_stream} {reply.keeps_alive} {min(reply.length, 1)}"


def chunks(data: bytes) -> str:
    """However the reads cut it, a chunked body is the same; and the two readers agree on where it ends."""
    whole = _read_chunks([data])
    for cut in {1, 2, 3, len(data) // 2, len(data) - 1}:
        if 0 < cut < len(data):
            assert _read_chunks([data[:cut], data[cut:]]) == whole, cut
    error, body, rest = whole
    if rest is not None:
        end = data[: len(data) - len(rest)]
        scanner = ChunkScanner()
        try:
            passed = scanner.feed(end)
        except FramingError as refused:
            return f"refused by the scanner alone: {_shape(str(refused))}"
        assert scanner.is_done
        assert passed == end
        scanner.close()
    return error or f"{bool(body)} {rest is None} {bool(rest)}"


def scanned(data: bytes) -> str:
    """A backend's chunks go through as they are, none lost and none changed."""
    scanner, passed, fed = ChunkScanner(), b"", 0
    try:
        for at in range(0, len(data), 7):
            if not scanner.is_done:  # what comes later ends the connection (``Link``)
                fed = at + 7
                passed += scanner.feed(data[at:fed])
    except FramingError as error:
        return _shape(str(error))
    finally:
        is_done = scanner.is_done
        scanner.close()
    assert data.startswith(passed)
    if is_done:
        assert passed == data[:fed]
        assert passed.endswith(b"\n\r\n")
        assert not passed.endswith(b"\r\n\r\n\r\n")
    return f"{is_done} {len(passed) == len(data)}"


def body(data: bytes) -> str:
    """A body names a model, names none, or is refused."""
    seen = [str(type(found).__name__) for found in (model_in_form(data), wanted_tokens(data), find_usage(data))]
    seen.append(type(asked_for("/v1/responses", data)).__name__)
    try:
        fields = read_fields(data)
    except RouterError as error:
        return f"{seen} {_shape(error.message)}"
    assert fields.model is None or isinstance(fields.model, str)
    return f"{seen} {fields.model is None} {fields.user is None}"


def load(data: bytes) -> str:
    """What backends say of their load is numbers that can be counted with, or nothing."""
    held = held_of_engine(data)
    try:
        told = held_of_member(data, "m")
    except SummaryError as error:
        return f"{held is None} {_shape(str(error))}"
    for found in (held, told):
        if found is not None:
            assert 0 <= found.waiting <= MAX_HELD
            assert 0 <= found.in_flight <= MAX_HELD
            assert 0 <= found.capacity <= MAX_HELD
    return f"{held is None} {told is None}"


def frames(data: bytes) -> str:
    """However the reads cut them, a WebSocket's frames say the same of tokens; and little of them is held."""
    usage, shape = _read_frames([data])
    for cut in {1, 2, 3, len(data) // 3, len(data) // 2, len(data) - 1}:
        if 0 < cut < len(data):
            assert _read_frames([data[:cut], data[cut:]]) == (usage, shape), cut
    assert _read_frames([data[at : at + 5] for at in range(0, len(data), 5)]) == (usage, shape)
    return f"{usage is None} {shape}"


TARGETS: Final[dict[str, Callable[[bytes], str]]] = {
    "request": request_head,
    "reply": reply_head,
    "chunks": chunks,
    "scanned": scanned,
    "body": body,
    "load": load,
    "frames": frames,
}


def _names(lines: list[bytes]) -> list[bytes]:
    for line in lines:
        assert _HEADER.fullmatch(line), line
    return [line.partition(b":")[0].lower() for line in lines]


def _read_chunks(pieces: list[bytes]) -> tuple[str, bytes, bytes | None]:
    """The error, else the body and, when its end was found, what follows it."""
    reader, rest = ChunkReader(), None
    try:
        for piece in pieces:
            if rest is not None:
                rest += piece
                continue
            left = reader.feed(piece)
            if reader.is_done:
                rest = left
    except FramingError as error:
        return _shape(str(error)), b"", None
    return "", reader.take(), rest


def _read_frames(pieces: list[bytes]) -> tuple[tuple[int, int] | None, str]:
    """The usage, and in what state the reader is left."""
    reader = UsageReader()
    for piece in pieces:
        reader.feed(piece)
        # A message so far, and a frame's head and payload of which the last byte is still to come.
        assert len(reader._held) + len(reader._message or b"") <= MAX_MESSAGE_BYTES + 14
    assert reader.usage is None or min(reader.usage) >= 0
    return reader.usage, f"{reader._is_lost} {bool(reader._skip)} {bool(reader._held)} {reader._message is None}"


def _shape(message: str) -> str:
    """An error's text without what differs from one input to the next."""
    return _NUMBER.sub("#", message)[:40]

"""The access log: a line for each request, written in batches so that a request pays for a format and a list append.

``plane`` adds a line when a request has ended and writes out several times a second. A line never holds a body, a
query or a credential, and stays one line whatever a client wrote into its path. Lines of several workers do not mix,
because no single write to a pipe is longer than what the kernel keeps together.

A line is bytes from the beginning: one ``%`` over bytes takes 0.6 of the time of the same as an f-string, and the text
need not be encoded afterwards.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from marlin.router.view import Backend

if TYPE_CHECKING:
    from marlin.router.flow import Flow

MAX_HELD: Final = 512
"""Lines after which a batch is written at once."""

MAX_TEXT: Final = 512
_ATOMIC_BYTES: Final = 4096
"""PIPE_BUF on Linux."""

_PLAIN = re.compile(rb"[!#-\[\]-~]{1,512}")
"""What can stand in either format without being quoted or escaped."""

_TEXT_LINE: Final = (
    b"%b.%03d+00:00 info request %b status=%d duration_ms=%.1f ttft_ms=%.1f%b attempts=%d bytes_in=%d bytes_out=%d"
)
_JSON_LINE: Final = (
    b'{"time":"%b.%03d+00:00","level":"info","logger":"marlin.router.access","message":"request",%b,"status":%d'
    b',"duration_ms":%.1f,"ttft_ms":%.1f%b,"attempts":%d,"bytes_in":%d,"bytes_out":%d'
)


class AccessLog:
    """Formats and collects lines.

    Args:
        log_format: ``text`` or ``json``.
        write: takes a batch of whole lines.
        clock: Unix time, s.
    """

    def __init__(self, log_format: str, write: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        self._lines: list[bytes] = []
        self._write = write
        self._clock = clock
        self._is_json = log_format == "json"
        self._second = -1
        self._stamp = b""

    def add(self, flow: Flow, duration_s: float) -> None:
        """Adds the line of a request that has ended."""
        now_s = self._clock()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        ms = int((now_s - second) * 1000)
        self._lines.append((_json_line if self._is_json else _text_line)(self._stamp, ms, flow, duration_s))
        if len(self._lines) >= MAX_HELD:
            self.flush()

    def describe(self, backend: Backend) -> bytes:
        """The part of a line that is the same for all requests of a backend."""
        if self._is_json:
            said = f',"pool":"{backend.pool}","datacenter":"{backend.datacenter}","backend":"{backend.name}"'
        else:
            said = f" pool={backend.pool} datacenter={backend.datacenter} backend={backend.name}"
        return said.encode("ascii")

    def flush(self) -> None:
        """Writes what was collected."""
        if self._lines:
            batch = b"\n".join((*self._lines, b""))
            self._lines.clear()
            self._write(batch)


def write_lines(fd: int, batch: bytes) -> None:
    """Writes whole lines to a file or pipe, in pieces that stay together. What nobody reads any more is dropped."""
    at, size = 0, len(batch)
    while at < size:
        end = size if size - at <= _ATOMIC_BYTES else batch.rfind(b"\n", at, at + _ATOMIC_BYTES) + 1
        if end <= at:
            end = batch.find(b"\n", at) + 1
        try:
            at += os.write(fd, batch[at:end])
        except OSError:
            return


def _text_line(stamp: bytes, ms: int, flow: Flow, duration_s: float) -> bytes:
    first, live, usage = flow.head.line, flow.last_live, flow.usage
    if not first.log:
        first.log = b"method=%b path=%b" % (first.method, _word(first.path.encode()))
    line = _TEXT_LINE % (
        stamp,
        ms,
        first.log,
        flow.status,
        duration_s * 1000,
        (duration_s if flow.ttft_s is None else flow.ttft_s) * 1000,
        b"" if live is None else live.peer.log,
        flow.attempts,
        len(flow.body),
        flow.bytes_out,
    )
    if flow.ticket is not None:
        line += b" tenant=%b" % flow.ticket.tenant.name.encode()
    if usage is not None:
        line += b" prompt_tokens=%d output_tokens=%d" % usage
    if flow.error:
        line += b" error=%b" % _word(flow.error.encode())
    if flow.head.request_id:
        line += b" request_id=%b" % _word(flow.head.request_id)
    return line


def _json_line(stamp: bytes, ms: int, flow: Flow, duration_s: float) -> bytes:
    first, live, usage = flow.head.line, flow.last_live, flow.usage
    if not first.log:
        first.log = b'"method":"%b","path":%b' % (first.method, _quoted(first.path.encode()))
    line = _JSON_LINE % (
        stamp,
        ms,
        first.log,
        flow.status,
        duration_s * 1000,
        (duration_s if flow.ttft_s is None else flow.ttft_s) * 1000,
        b"" if live is None else live.peer.log,
        flow.attempts,
        len(flow.body),
        flow.bytes_out,
    )
    if flow.ticket is not None:
        line += b',"tenant":"%b"' % flow.ticket.tenant.name.encode()
    if usage is not None:
        line += b',"prompt_tokens":%d,"output_tokens":%d' % usage
    if flow.error:
        line += b',"error":%b' % _quoted(flow.error.encode())
    if flow.head.request_id:
        line += b',"request_id":%b' % _quoted(flow.head.request_id)
    return line + b"}"


def _word(text: bytes) -> bytes:
    """Bytes as one word of a line: quoted where they have to be."""
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: bytes) -> bytes:
    """Bytes as a JSON string; each is taken for the character of its number, so that any can be told."""
    return json.dumps(text.decode("latin-1")[:MAX_TEXT]).encode()

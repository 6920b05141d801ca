"""The access log: a line for each request, written in batches.

``endings`` adds the lines of requests that have ended, and ``plane`` writes out several times a second. A line never
holds a body, a query or a credential, and stays one line whatever a client wrote into its path. Lines of several
workers do not mix, because no single write to a pipe is longer than what the kernel keeps together.

A line is bytes from the beginning: one ``%`` over bytes takes 0.6 of the time of the same as an f-string, and the text
need not be encoded afterwards.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from marlin.router.view import Backend

if TYPE_CHECKING:
    from marlin.router.endings import Ending

MAX_HELD: Final = 512
"""Lines after which a batch is written at once."""

MAX_TEXT: Final = 512
_ATOMIC_BYTES: Final = 4096
"""PIPE_BUF on Linux."""

_PLAIN = re.compile(rb"[!#-\[\]-~]{1,512}")
"""What can stand in either format without being quoted or escaped."""


class _Form(NamedTuple):
    """How a line is written; each part but the last is a ``%`` format over bytes."""

    line: bytes
    first: bytes
    """Method and path."""
    tenant: bytes
    usage: bytes
    error: bytes
    request_id: bytes
    end: bytes
    word: Callable[[bytes], bytes]
    """What a client or backend wrote, made safe."""


class AccessLog:
    """Formats and collects lines.

    Args:
        log_format: ``text`` or ``json``.
        write: takes a batch of whole lines.
    """

    def __init__(self, log_format: str, write: Callable[[bytes], None]) -> None:
        self._lines: list[bytes] = []
        self._write = write
        self._form = _JSON if log_format == "json" else _TEXT
        self._second = -1
        self._stamp = b""

    def add(self, ending: Ending) -> None:
        """Adds the line of a request that has ended."""
        second = int(ending.ended_s)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        self._lines.append(_line(self._form, self._stamp, int((ending.ended_s - second) * 1000), ending))
        if len(self._lines) >= MAX_HELD:
            self.flush()

    def describe(self, backend: Backend) -> bytes:
        """The part of a line that is the same for all requests of a backend."""
        if self._form is _JSON:
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


def _line(form: _Form, stamp: bytes, ms: int, ending: Ending) -> bytes:
    first, live, usage, ttft_s = ending.line, ending.live, ending.usage, ending.ttft_s
    if not first.log:
        first.log = form.first % (first.method, form.word(first.path.encode()))
    line = form.line % (
        stamp,
        ms,
        first.log,
        ending.status,
        ending.duration_s * 1000,
        (ending.duration_s if ttft_s is None else ttft_s) * 1000,
        b"" if live is None else live.peer.log,
        ending.attempts,
        ending.bytes_in,
        ending.bytes_out,
    )
    if ending.tenant:
        line += form.tenant % ending.tenant.encode()
    if usage is not None:
        line += form.usage % usage
    if ending.error:
        line += form.error % form.word(ending.error.encode())
    if ending.request_id:
        line += form.request_id % form.word(ending.request_id)
    return line + form.end


def _word(text: bytes) -> bytes:
    """Bytes as one word of a line: quoted where they have to be."""
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: bytes) -> bytes:
    """Bytes as a JSON string; each is taken for the character of its number, so that any can be told."""
    return json.dumps(text.decode("latin-1")[:MAX_TEXT]).encode()


_TEXT: Final = _Form(
    line=b"%b.%03d+00:00 info request %b status=%d duration_ms=%.1f ttft_ms=%.1f%b attempts=%d bytes_in=%d"
    b" bytes_out=%d",
    first=b"method=%b path=%b",
    tenant=b" tenant=%b",
    usage=b" prompt_tokens=%d output_tokens=%d",
    error=b" error=%b",
    request_id=b" request_id=%b",
    end=b"",
    word=_word,
)
_JSON: Final = _Form(
    line=b'{"time":"%b.%03d+00:00","level":"info","logger":"marlin.router.access","message":"request",%b,"status":%d'
    b',"duration_ms":%.1f,"ttft_ms":%.1f%b,"attempts":%d,"bytes_in":%d,"bytes_out":%d',
    first=b'"method":"%b","path":%b',
    tenant=b',"tenant":"%b"',
    usage=b',"prompt_tokens":%d,"output_tokens":%d',
    error=b',"error":%b',
    request_id=b',"request_id":%b',
    end=b"}",
    word=_quoted,
)

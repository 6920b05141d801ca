"""The access log: one line for each request, written in batches so that a request pays for a string and a list append.

``plane`` adds a line when a request has ended and writes out several times a second. A line never holds a body, a
query or a credential, and stays one line whatever a client wrote into its path. Lines of several workers do not mix,
because no single write to a pipe is longer than what the kernel keeps together.
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

_PLAIN = re.compile(r"[!#-\[\]-~]{1,512}")
"""What can stand in either format without being quoted or escaped."""


class AccessLog:
    """Formats and collects lines.

    Args:
        log_format: ``text`` or ``json``.
        write: takes a batch of whole lines.
        clock: Unix time, s.
    """

    def __init__(self, log_format: str, write: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        self._lines: list[str] = []
        self._write = write
        self._clock = clock
        self._is_json = log_format == "json"
        self._second = -1
        self._stamp = ""

    def add(self, flow: Flow, duration_s: float) -> None:
        """Adds the line of a request that has ended."""
        now_s = self._clock()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        ms = int((now_s - second) * 1000)
        self._lines.append((_json_line if self._is_json else _text_line)(self._stamp, ms, flow, duration_s))
        if len(self._lines) >= MAX_HELD:
            self.flush()

    def describe(self, backend: Backend) -> str:
        """The part of a line that is the same for all requests of a backend."""
        if self._is_json:
            return f',"pool":"{backend.pool}","datacenter":"{backend.datacenter}","backend":"{backend.name}"'
        return f" pool={backend.pool} datacenter={backend.datacenter} backend={backend.name}"

    def flush(self) -> None:
        """Writes what was collected."""
        if self._lines:
            batch = "\n".join(self._lines) + "\n"
            self._lines.clear()
            self._write(batch.encode("ascii"))


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


def _text_line(stamp: str, ms: int, flow: Flow, duration_s: float) -> str:
    first, live, usage = flow.head.line, flow.last_live, flow.usage
    if not first.log:
        first.log = f"method={first.method.decode('ascii')} path={_word(first.path)}"
    ttft_s = duration_s if flow.ttft_s is None else flow.ttft_s
    line = (
        f"{stamp}.{ms:03d}+00:00 info request {first.log} status={flow.status} duration_ms={duration_s * 1000:.1f}"
        f" ttft_ms={ttft_s * 1000:.1f}{'' if live is None else live.peer.log} attempts={flow.attempts}"
        f" bytes_in={len(flow.body)} bytes_out={flow.bytes_out}"
    )
    if flow.ticket is not None:
        line += f" tenant={flow.ticket.tenant.name}"
    if usage is not None:
        line += f" prompt_tokens={usage[0]} output_tokens={usage[1]}"
    if flow.error:
        line += f" error={_word(flow.error)}"
    if flow.head.request_id:
        line += f" request_id={_word(flow.head.request_id.decode('latin-1'))}"
    return line


def _json_line(stamp: str, ms: int, flow: Flow, duration_s: float) -> str:
    first, live, usage = flow.head.line, flow.last_live, flow.usage
    if not first.log:
        first.log = f'"method":"{first.method.decode("ascii")}","path":{json.dumps(first.path[:MAX_TEXT])}'
    ttft_s = duration_s if flow.ttft_s is None else flow.ttft_s
    line = (
        f'{{"time":"{stamp}.{ms:03d}+00:00","level":"info","logger":"marlin.router.access","message":"request",{first.log}'
        f',"status":{flow.status},"duration_ms":{duration_s * 1000:.1f},"ttft_ms":{ttft_s * 1000:.1f}'
        f'{"" if live is None else live.peer.log},"attempts":{flow.attempts}'
        f',"bytes_in":{len(flow.body)},"bytes_out":{flow.bytes_out}'
    )
    if flow.ticket is not None:
        line += f',"tenant":"{flow.ticket.tenant.name}"'
    if usage is not None:
        line += f',"prompt_tokens":{usage[0]},"output_tokens":{usage[1]}'
    if flow.error:
        line += f',"error":{json.dumps(flow.error[:MAX_TEXT])}'
    if flow.head.request_id:
        line += f',"request_id":{json.dumps(flow.head.request_id.decode("latin-1")[:MAX_TEXT])}'
    return line + "}"


def _word(text: str) -> str:
    """Text as one word of a line: quoted where it has to be."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:MAX_TEXT])

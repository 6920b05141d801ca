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

if TYPE_CHECKING:
    from marlin.router.flow import Flow

MAX_HELD: Final = 512
"""Lines after which a batch is written at once."""

MAX_PATH: Final = 512
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
        self._format = _json_line if log_format == "json" else _text_line
        self._second = -1
        self._stamp = ""

    def add(self, flow: Flow, duration_s: float) -> None:
        """Adds the line of a request that has ended."""
        now_s = self._clock()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self._lines.append(self._format(f"{self._stamp}.{int((now_s - second) * 1000):03d}+00:00", flow, duration_s))
        if len(self._lines) >= MAX_HELD:
            self.flush()

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


def _text_line(time: str, flow: Flow, duration_s: float) -> str:
    path, request_id = flow.path, flow.request_id
    if _PLAIN.fullmatch(path) is None:
        path = json.dumps(path[:MAX_PATH])
    line = (
        f"{time} info request method={flow.method} path={path} status={flow.status} duration_ms={duration_s * 1000:.1f}"
    )
    if flow.ttft_s is not None:
        line += f" ttft_ms={flow.ttft_s * 1000:.1f}"
    live = flow.last_live
    if live is not None:
        backend = live.backend
        line += f" pool={backend.pool} datacenter={backend.datacenter} backend={backend.name} attempts={flow.attempts}"
    line += f" bytes_in={len(flow.body)} bytes_out={flow.bytes_out}"
    if flow.usage is not None:
        line += f" prompt_tokens={flow.usage[0]} output_tokens={flow.usage[1]}"
    if flow.error:
        line += f" error={flow.error}"
    if request_id:
        line += f" request_id={request_id if _PLAIN.fullmatch(request_id) else json.dumps(request_id[:MAX_PATH])}"
    return line


def _json_line(time: str, flow: Flow, duration_s: float) -> str:
    path, request_id = flow.path, flow.request_id
    path = f'"{path}"' if _PLAIN.fullmatch(path) else json.dumps(path[:MAX_PATH])
    line = (
        f'{{"time":"{time}","level":"info","logger":"marlin.router.access","message":"request","method":"{flow.method}"'
        f',"path":{path},"status":{flow.status},"duration_ms":{duration_s * 1000:.1f}'
    )
    if flow.ttft_s is not None:
        line += f',"ttft_ms":{flow.ttft_s * 1000:.1f}'
    live = flow.last_live
    if live is not None:
        backend = live.backend
        line += (
            f',"pool":"{backend.pool}","datacenter":"{backend.datacenter}","backend":"{backend.name}"'
            f',"attempts":{flow.attempts}'
        )
    line += f',"bytes_in":{len(flow.body)},"bytes_out":{flow.bytes_out}'
    if flow.usage is not None:
        line += f',"prompt_tokens":{flow.usage[0]},"output_tokens":{flow.usage[1]}'
    if flow.error:
        line += f',"error":{json.dumps(flow.error)}'
    if request_id:
        line += f',"request_id":{json.dumps(request_id[:MAX_PATH])}'
    return line + "}"

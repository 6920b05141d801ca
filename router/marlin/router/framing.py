"""Chunked bodies: where they end, and what they hold.

``ChunkScanner`` passes a backend's chunks on as they are and only finds out where they end; ``ChunkReader`` takes a
client's upload out of its chunks. Both are as strict as RFC 9112, 7.1: what another server might read differently is
an error. Values in, values out: nothing here knows a socket.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CHUNK_LINE_BYTES: Final = 1024
MAX_TRAILER_BYTES: Final = 16 * 1024
HOLD_BYTES: Final = 256 * 1024
"""A chunk up to this size is passed on when it is complete, so that a reply that breaks off ends between two events."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n)*+\r\n")


class FramingError(Exception):
    """The bytes are not chunks as they should be."""


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line.

    Raises:
        FramingError: it is not a size in hexadecimal, perhaps with an extension.
    """
    match = _SIZE.fullmatch(line)
    if match is None:
        raise FramingError("a chunk's size is not a hexadecimal number")
    return int(match[1], 16)


def _line_end(data: bytes, at: int) -> int:
    """Where a chunk's first line ends; -1 when that is not here yet."""
    end = data.find(b"\r\n", at, at + MAX_CHUNK_LINE_BYTES)
    if end < 0 and len(data) - at >= MAX_CHUNK_LINE_BYTES:
        raise FramingError("a chunk's first line has no end")
    return end


class ChunkScanner:
    """Finds the end of a chunked body while it passes by.

    Attributes:
        is_done: whether the end was found.
        owed: bytes that still belong to a chunk whose beginning was passed on, its line end included.
    """

    __slots__ = ("_held", "is_done", "owed")

    def __init__(self) -> None:
        self._held = b""
        self.is_done = False
        self.owed = 0

    @property
    def is_between_chunks(self) -> bool:
        """Whether what was passed on ends with a complete chunk."""
        return self.owed == 0

    def feed(self, data: bytes) -> bytes:
        """What of the body can be passed on: whole chunks, but for the beginnings of very large ones.

        Args:
            data: the next bytes of the reply.

        Raises:
            FramingError: it is not chunked as it should be, or goes on after its end.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        at = self.owed
        if at:
            if at > size:
                self.owed -= size
                return data
            if not b"\r\n".endswith(data[max(0, at - 2) : at]):
                raise FramingError("a chunk is longer than it says")
            self.owed = 0
        while at < size:
            line_end = _line_end(data, at)
            if line_end < 0:
                break
            length = chunk_size(data[at:line_end])
            if length == 0:
                return self._end(data, at, line_end + 2)
            end = line_end + length + 4
            if end > size:
                if length > HOLD_BYTES:
                    self.owed = end - size
                    return data
                break
            if data[end - 2] != 13 or data[end - 1] != 10:
                raise FramingError("a chunk is longer than it says")
            at = end
        if at == size:
            return data
        self._held = data[at:]
        return data[:at]

    def _end(self, data: bytes, at: int, trailer_at: int) -> bytes:
        """The last chunk and its trailer; held back until they are complete."""
        if data.startswith(b"\r\n", trailer_at):
            end = trailer_at + 2
        else:
            found = data.find(b"\r\n\r\n", trailer_at)
            if found < 0:
                if len(data) - trailer_at > MAX_TRAILER_BYTES:
                    raise FramingError("the trailer is too long")
                self._held = data[at:]
                return data[:at]
            end = found + 4
            if _TRAILER.fullmatch(data, trailer_at, end) is None:
                raise FramingError("the trailer is not valid")
        if end != len(data):
            raise FramingError("there are bytes after its end")
        self.is_done = True
        return data


class ChunkReader:
    """Takes a body out of its chunks.

    Attributes:
        is_done: whether its end was read.
        size: bytes of body so far.
    """

    __slots__ = ("_held", "_left", "_parts", "is_done", "size")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._parts: list[bytes] = []
        self.is_done = False
        self.size = 0

    def feed(self, data: bytes) -> bytes:
        """Reads on; returns what comes after the end of the body, if its end is in ``data``.

        Raises:
            FramingError: it is not chunked as it should be.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        at, size = 0, len(data)
        while at < size:
            if self._left > 2:
                taken = data[at : at + self._left - 2]
                self._parts.append(taken)
                self.size += len(taken)
                self._left -= len(taken)
                at += len(taken)
                continue
            if self._left:
                if size - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise FramingError("a chunk is longer than it says")
                at, self._left = at + 2, 0
                continue
            line_end = _line_end(data, at)
            if line_end < 0:
                break
            length = chunk_size(data[at:line_end])
            if length == 0:
                return self._end(data, at, line_end + 2)
            at, self._left = line_end + 2, length + 2
        self._held = data[at:]
        return b""

    def _end(self, data: bytes, at: int, trailer_at: int) -> bytes:
        if data.startswith(b"\r\n", trailer_at):
            end = trailer_at + 2
        else:
            found = data.find(b"\r\n\r\n", trailer_at)
            if found < 0:
                if len(data) - trailer_at > MAX_TRAILER_BYTES:
                    raise FramingError("the trailer is too long")
                self._held = data[at:]
                return b""
            end = found + 4
            if _TRAILER.fullmatch(data, trailer_at, end) is None:
                raise FramingError("the trailer is not valid")
        self.is_done = True
        return data[end:]

    def take(self) -> bytes:
        """What was read since the last call."""
        body = b"".join(self._parts)
        self._parts.clear()
        return body

"""Chunked bodies: where they end, and what they hold.

``ChunkScanner`` passes a backend's chunks on as they are and finds out where they end; ``ChunkReader`` takes a client's
upload out of its chunks. Both are as strict as RFC 9112, 7.1: what another server might read differently is an error.
Values in, values out: nothing here knows a socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from httptools import HttpParserError, HttpResponseParser

MAX_CHUNK_LINE_BYTES: Final = 1024
MAX_TRAILER_BYTES: Final = 16 * 1024
HOLD_BYTES: Final = 256 * 1024
"""A chunk up to this size is passed on when it is complete, so that a reply that breaks off ends between two events."""

_CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_USUAL_END: Final = b"\r\n0\r\n\r\n"
EVENT_END: Final = b"\n\r\n"
"""How an event that is a chunk of its own ends: with its empty line's last byte and the chunk's line end."""
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


def invalid(error: HttpParserError) -> FramingError:
    """What llhttp found wrong."""
    return FramingError(f"its chunks are not valid: {error}")


def _nothing(_: bytes) -> None:
    """Instead of a parser that is gone."""


class ChunkScanner:
    """Finds the end of a chunked body while it passes by.

    llhttp reads every byte that is passed on, and says when the body has ended; walking chunk by chunk in Python would
    cost ten times as much. What an event stream sends ends with an empty line and the chunk's own line end: a read that
    ends so is passed on whole. Any other is walked, and what follows its last complete chunk is held back until the
    rest is here, so that a stream that breaks off does so between two events. Whether an error can follow then is for
    llhttp to say (``is_between_chunks``).

    Attributes:
        is_done: whether the end was found.
        read: llhttp itself. Whoever has a read that ends with ``EVENT_END`` while nothing is held back may give it
            there and not to ``feed``; when the end is found then, ``check_end`` follows.
    """

    __slots__ = ("_held", "_is_holding", "is_done", "read")

    def __init__(self) -> None:
        self.read: Callable[[bytes], object] = HttpResponseParser(self).feed_data
        self.begin()

    def begin(self) -> None:
        """Makes ready for the next body; the one before has ended."""
        self._held = b""
        self._is_holding = True
        self.is_done = False
        self.read(_CHUNKED_HEAD)

    def close(self) -> None:
        """Lets go of the parser, which knows this object: a cycle that nobody has to collect then."""
        self.read = _nothing

    @property
    def is_holding_back(self) -> bool:
        """Whether part of a chunk is held back until its rest is here."""
        return bool(self._held)

    def on_message_begin(self) -> None:
        """The parser reads something after the end."""
        if self.is_done:
            raise FramingError("there are bytes after its end")

    def on_message_complete(self) -> None:
        """The parser has read the body to its end."""
        self.is_done = True

    def feed(self, data: bytes) -> bytes:
        """What of the body can be passed on.

        Args:
            data: the next bytes of the reply.

        Raises:
            FramingError: it is not chunked as it should be, or goes on after its end.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(EVENT_END):
            data = self._hold(data)
        try:
            self.read(data)
        except HttpParserError as error:
            raise invalid(error) from None
        if self.is_done:
            self.check_end(data)
        return data

    def check_end(self, data: bytes) -> None:
        """Makes sure that nothing follows the end, which is in ``data``.

        Raises:
            FramingError: something does.
        """
        if data.endswith(_USUAL_END):
            return
        # llhttp takes empty lines before the next message for nothing; a client may take them for something.
        ending = data[len(data.rstrip(b"\r\n")) :]
        if not b"\r\n\r\n".endswith(ending):
            raise FramingError("there are bytes after its end")

    def is_between_chunks(self) -> bool:
        """Whether what was passed on ends with a complete chunk. Nothing can be fed afterwards."""
        try:
            self.read(_LAST_CHUNK)
        except HttpParserError:
            return False
        return self.is_done

    def _hold(self, data: bytes) -> bytes:
        """Everything up to the last complete chunk; all of it where that would be too much to hold."""
        at, size = 0, len(data)
        while self._is_holding:
            line_end = data.find(b"\r\n", at)
            match = _SIZE.fullmatch(data, at, line_end) if line_end >= 0 else None
            if match is None:
                # An unfinished line; a finished one that is no size is for llhttp to judge.
                self._is_holding = line_end < 0 and size - at <= MAX_CHUNK_LINE_BYTES
                break
            length = int(match[1], 16)
            end = line_end + length + 4
            if not length and data.find(b"\r\n\r\n", line_end) >= 0:
                return data  # the end, and what should not follow it
            if end > size or not length:
                self._is_holding = length <= HOLD_BYTES and size - at <= HOLD_BYTES + MAX_CHUNK_LINE_BYTES
                break
            at = end
        if not self._is_holding:
            return data
        self._held = data[at:]
        return data[:at]


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
            # The same limit however it comes: in one read or in many.
            if (len(data) if found < 0 else found) - trailer_at > MAX_TRAILER_BYTES:
                raise FramingError("the trailer is too long")
            if found < 0:
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

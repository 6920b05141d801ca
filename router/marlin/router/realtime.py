"""What a WebSocket's backend says of the tokens that were used, out of the frames that pass by (RFC 6455, 5.2).

vLLM ends each utterance of ``/v1/realtime`` with an event ``transcription.done`` that holds its ``usage``; OpenAI's API
has ``response.done`` and ``...completed``. They are text messages. ``UsageReader`` finds where frames begin, skips what
is too long to be such an event, and adds up the others' usage. Bytes are passed on before they are looked at here, and
nothing that they hold can stop them. Compressed frames cannot be read: a request's offer to compress is not passed on.
"""

from __future__ import annotations

from typing import Final

from marlin.router.usage import find_usage

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Longer messages are not looked at: an event that holds a usage holds no audio."""

_ENDINGS: Final = (b'.done"', b'.completed"')
"""How the types of events end that hold what an utterance or a response used in all."""

_CONTINUATION, _TEXT, _FIRST_CONTROL = 0, 1, 8


class UsageReader:
    """Reads what a backend sends.

    Attributes:
        usage: prompt and output tokens of all that was reported; None: nothing was.
    """

    __slots__ = ("_held", "_is_lost", "_message", "_skip", "usage")

    def __init__(self) -> None:
        self.usage: tuple[int, int] | None = None
        self._held = b""
        self._skip = 0
        self._message: bytes | None = None
        """The message so far; None: it is not looked at."""
        self._is_lost = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, however they were cut."""
        if self._is_lost:
            return
        data = self._held + data
        at, size = 0, len(data)
        while True:
            skipped = min(self._skip, size - at)
            at += skipped
            self._skip -= skipped
            if self._skip or size - at < 2:
                break
            first, second = data[at], data[at + 1]
            length, begins_at = second & 0x7F, at + 2
            if length >= 126:
                begins_at += 2 if length == 126 else 8
                if size < begins_at:
                    break
                length = int.from_bytes(data[at + 2 : begins_at], "big")
            if second & 0x80:
                self._is_lost = True  # a server never masks: these are no frames
                at = size
                break
            if not self._is_wanted(first, length):
                at, self._skip = begins_at, length
                continue
            if size < begins_at + length:
                break
            at = begins_at + length
            self._take(data[begins_at:at], is_last=bool(first & 0x80))
        self._held = data[at:]

    def _is_wanted(self, first: int, length: int) -> bool:
        """Whether a frame belongs to a message that is looked at."""
        opcode = first & 0x0F
        if opcode >= _FIRST_CONTROL:
            return False
        if opcode != _CONTINUATION:
            self._message = b"" if opcode == _TEXT and not first & 0x70 else None
        if self._message is not None and len(self._message) + length > MAX_MESSAGE_BYTES:
            self._message = None
        return self._message is not None

    def _take(self, payload: bytes, *, is_last: bool) -> None:
        assert self._message is not None
        self._message += payload
        if not is_last:
            return
        message, self._message = self._message, None
        if any(ending in message for ending in _ENDINGS) and (found := find_usage(message)) is not None:
            prompt, output = self.usage or (0, 0)
            self.usage = (prompt + found[0], output + found[1])

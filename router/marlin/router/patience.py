"""How long an event stream may take to begin: a deadline that follows what was observed of its backend.

An engine can stop making tokens while its server still answers ``/health``; then nothing but the first token that does
not come tells. ``flow`` notes when streams begin, ``plane`` asks which are late. The deadline is that of TCP's
retransmission timer (RFC 6298): a smoothed mean and deviation, doubled each time that it runs out and back to single
with the next stream that begins, so that a backend which is merely under load is not robbed of its queue. Added is the
time to read the prompt, for one of 100,000 tokens is no sign of trouble. A JSON reply has no such deadline: its first
byte comes when its generation ends.
"""

from __future__ import annotations

import math
from typing import Final

SHORTEST_S: Final = 2.0
"""Nothing is late before that: as long as a silent backend is given."""

MIN_SAMPLES: Final = 8
"""Streams that must have begun at a backend before one can be late there."""

_MEAN_WEIGHT: Final = 1 / 8
_DEVIATION_WEIGHT: Final = 1 / 4
_DEVIATIONS: Final = 8.0
"""TCP takes 4; times to first token have a longer tail than round trips."""

_BYTES_PER_S: Final = 4096.0
"""A prompt's bytes that are read a second: some 1,000 tokens, less than any engine that serves people."""

_MAX_FACTOR: Final = 16.0


class Patience:
    """What is known of one backend. Times are seconds."""

    __slots__ = ("_deviation_s", "_factor", "_mean_s", "_samples")

    def __init__(self) -> None:
        self._samples = 0
        self._mean_s = 0.0
        self._deviation_s = 0.0
        self._factor = 1.0

    def note(self, ttft_s: float) -> None:
        """A stream has begun so long after its request was sent."""
        if self._samples:
            self._deviation_s += _DEVIATION_WEIGHT * (abs(ttft_s - self._mean_s) - self._deviation_s)
            self._mean_s += _MEAN_WEIGHT * (ttft_s - self._mean_s)
        else:
            self._mean_s, self._deviation_s = ttft_s, ttft_s / 2
        self._samples += 1
        self._factor = 1.0

    def ran_out(self) -> None:
        """A stream was given up here for being late."""
        self._factor = min(2 * self._factor, _MAX_FACTOR)

    def longest_s(self, prompt_bytes: int) -> float:
        """How long a request may take to begin; infinite while too little is known.

        Args:
            prompt_bytes: of its body.
        """
        if self._samples < MIN_SAMPLES:
            return math.inf
        usual_s = max(SHORTEST_S, self._mean_s + _DEVIATIONS * self._deviation_s)
        return self._factor * usual_s + prompt_bytes / _BYTES_PER_S

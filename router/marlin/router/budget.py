"""How many requests may be sent a second time: a share of all requests, so that retries never become the load.

Every request pays in a little, every retry takes out one, and a small reserve fills up with time, so that a router
with few requests can retry too. When the purse is empty, the backend's own answer goes to the client.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
"""Retries a request pays for."""

RESERVE: Final = 100.0
"""Most that is ever in the purse, and what is in it at the beginning."""

REFILL_PER_S: Final = 10.0
"""Retries a second without any other request."""


class RetryBudget:
    """The purse.

    Args:
        now_s: monotonic time, s.
    """

    __slots__ = ("_balance", "_filled_s")

    def __init__(self, now_s: float) -> None:
        self._balance = RESERVE
        self._filled_s = now_s

    def pay_in(self) -> None:
        """Notes a request."""
        if self._balance < RESERVE:
            self._balance += SHARE

    def take(self, now_s: float) -> bool:
        """Whether a request may be sent again; if so, that is paid for."""
        self._balance = min(RESERVE, self._balance + REFILL_PER_S * (now_s - self._filled_s))
        self._filled_s = now_s
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

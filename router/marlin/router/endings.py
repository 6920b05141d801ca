"""Requests that have ended, until they are counted and logged: many at a time.

A request leaves a few values behind (``Ending``); finding its tokens in the end of its reply, counting it, pricing it
and writing its line is done for a hundred requests in a row, several times a second at least, and before anybody asks
for a report, a new table is taken, or what a token takes changes. So nothing is counted otherwise than it would have
been at once. In a row this takes 9 us of CPU a request. One by one, between two calls into the kernel that push its
code and data out of the caches, it took 17 (docs/reference/benchmarks.md).

What cannot wait does not: a tenant's budget, an estimate in a reply's head, and a trace need the tokens at once
(``flow``), and hand them over here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from marlin.router.access_log import AccessLog
from marlin.router.usage import find_usage

if TYPE_CHECKING:
    from marlin.router.balancer import LiveBackend
    from marlin.router.heads import RequestLine
    from marlin.router.tally import Cell

MAX_HELD: Final = 128
"""Requests after which they are counted at once: a pause of half a millisecond, and at most 3 MB of replies' ends."""


class Ending(msgspec.Struct, gc=False):
    """What is noted of a request that has ended. Times are seconds."""

    ended_s: float
    """Unix time."""
    duration_s: float
    ttft_s: float | None
    """To the first byte of the reply's body."""
    first_token_s: float | None
    """The same, where it was a token."""
    status: int
    line: RequestLine
    live: LiveBackend | None
    """The backend it was at last."""
    attempts: int
    bytes_in: int
    bytes_out: int
    has_usage: bool
    """Whether it is to be counted what it used: a 2xx reply to a POST, complete."""
    usage: tuple[int, int] | None
    """Prompt and output tokens, where they were read already."""
    tail: bytes
    """Where they are to be looked for, if not."""
    tenant: str
    """Empty: none."""
    error: str
    request_id: bytes


class Endings:
    """Holds them and works them off.

    Args:
        own_cell: where requests are counted that never had a backend.
        log: gets a line of each; None: there is no access log.
    """

    def __init__(self, own_cell: Cell, log: AccessLog | None) -> None:
        self._own_cell = own_cell
        self._log = log
        self._held: list[Ending] = []
        self.add: Callable[[Ending], None] = self._held.append
        """Notes one."""

    @property
    def is_full(self) -> bool:
        """Whether they are to be worked off now."""
        return len(self._held) >= MAX_HELD

    def work_off(self) -> None:
        """Counts and logs all that are held."""
        held = self._held
        if not held:
            return
        log = self._log
        for ending in held:
            live = ending.live
            cell = self._own_cell if live is None else live.peer.cell
            cell.count_request(ending.status, ending.duration_s, ending.first_token_s)
            if ending.has_usage and live is not None:
                if ending.usage is None and ending.tail:
                    ending.usage = find_usage(ending.tail)
                cell.count_usage(live, live.site.site.datacenter, ending.usage, ending.ended_s)
            if log is not None:
                log.add(ending)
        held.clear()

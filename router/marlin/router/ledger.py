"""What tenants have used, on a page of memory that all workers of a router share.

One row for each tenant. A row is changed under a record lock on its bytes of the page: that costs about a microsecond,
only workers that serve the same tenant at the same instant wait for each other, and the kernel lets go of it when its
holder dies. So a limit holds exactly, however many workers there are, without asking the control process. Whoever dies
between two cells of a row leaves one request half counted, nothing worse. A router with one worker takes no locks.

The control process makes the page, hands out rows, and writes what other pods have spent (``store``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from marlin.router.limits import MAX_TENANTS

CELLS: Final = 8
"""Cells of a row."""

# What the cells of a row are.
REQUESTS_FULL_AT: Final = 0
"""When the bucket of requests is full again, monotonic ns."""
TOKENS_FULL_AT: Final = 1
PERIOD: Final = 2
"""The period that the next two are of."""
NANO_USD: Final = 3
MICRO_GCO2: Final = 4
ELSEWHERE_PERIOD: Final = 5
"""The period that the next two are of: what other pods have spent, as the store says."""
ELSEWHERE_NANO_USD: Final = 6
ELSEWHERE_MICRO_GCO2: Final = 7

_PODS: Final = 0
"""In the header row: how many routers divide the limits."""

_ROW_BYTES: Final = 8 * CELLS
SIZE: Final = (MAX_TENANTS + 1) * _ROW_BYTES


class Ledger:
    """The page, as one process sees it.

    Args:
        fd: file descriptor of the page; it stays open for locks, and is closed by ``close``.
        is_shared: whether other processes write rows too.

    Attributes:
        cells: (rows * CELLS,) all rows; a tenant's begins at ``row_at(slot)``.
    """

    def __init__(self, fd: int, *, is_shared: bool) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, SIZE)
        self._is_shared = is_shared
        self.cells = memoryview(self._memory).cast("q")

    @staticmethod
    def create() -> int:
        """Makes an empty page for one pod; returns its file descriptor, which child processes may be given."""
        fd = os.memfd_create("marlin-router-ledger")
        os.ftruncate(fd, SIZE)
        os.pwrite(fd, (1).to_bytes(8, "little"), 8 * _PODS)
        return fd

    @property
    def pods(self) -> int:
        """How many routers divide the limits."""
        return self.cells[_PODS]

    @pods.setter
    def pods(self, count: int) -> None:
        self.cells[_PODS] = max(1, count)

    @staticmethod
    def row_at(slot: int) -> int:
        """Position of a tenant's first cell."""
        return (slot + 1) * CELLS

    def lock(self, slot: int) -> None:
        """Waits until nobody else changes a tenant's row."""
        if self._is_shared:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, _ROW_BYTES, (slot + 1) * _ROW_BYTES)

    def unlock(self, slot: int) -> None:
        """Lets others change the row."""
        if self._is_shared:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _ROW_BYTES, (slot + 1) * _ROW_BYTES)

    def clear(self, slot: int) -> None:
        """Forgets what a tenant used whose row is given to another one."""
        self.lock(slot)
        try:
            at = self.row_at(slot)
            self.cells[at : at + CELLS] = memoryview(bytes(_ROW_BYTES)).cast("q")
        finally:
            self.unlock(slot)

    def close(self) -> None:
        """Lets go of the page."""
        self.cells.release()
        self._memory.close()
        os.close(self._fd)

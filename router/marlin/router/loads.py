"""Requests in flight, counted so that all workers of a router see one another's.

A page of memory is shared by the control process and its workers: one row for each worker, one cell for each backend.
A worker writes its own row and reads all of them, so there is nothing to lock and nothing to wait for; when a worker
dies, the control process sets its row to zero. The page outlives every worker.

Only where a backend states a limit, a request is counted in under a record lock on its cell (``take``), so that two
workers never both take the last place; the kernel lets go of it when its holder dies. That is two system calls for a
request to such a backend of a router with several workers, 2 us, and nothing for any other.

Four more rows are the control process's: what it learnt of each backend's load that others cause (``scrapes``). And
each worker has a second row: when it last heard of each backend, so that one that answers another worker is not taken
to be hung.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

SLOTS: Final = 16_384
"""Cells of a row; the last one is nobody's."""

SCRAP: Final = SLOTS - 1
"""Cell of backends that left the table while requests were in flight to them."""

_CELL_BYTES: Final = 8

MILLI: Final = 1000
"""Capacities are kept in thousandths of a request, KV use in thousandths of the cache."""

# Rows after those of the workers.
_WAITING: Final = 1
_CAPACITY: Final = 2
_KV_USAGE: Final = 3
_ROWS: Final = 4


def _size_bytes(workers: int) -> int:
    return (2 * workers + _ROWS) * SLOTS * _CELL_BYTES


class LoadPage:
    """The page, as one process sees it.

    Args:
        fd: file descriptor of the page; it stays open for locks.
        workers: its number of rows.
        row: the row that this process writes; -1: none, as in the control process.
    """

    def __init__(self, fd: int, workers: int, row: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, _size_bytes(workers))
        self.cells = memoryview(self._memory).cast("q")
        """((2 * workers + 4) * SLOTS,) requests in flight, row after row; then what backends hold of others; then when
        each worker heard of them, monotonic ms."""
        self.workers = workers
        self.first = max(row, 0) * SLOTS
        """Where this process's row begins."""
        self._outside = workers * SLOTS
        self._heard = (workers + _ROWS) * SLOTS
        self.others = tuple(i * SLOTS for i in range(workers) if i != row)
        """Where the rows of the other workers begin."""

    @staticmethod
    def create(workers: int) -> int:
        """Makes an empty page; returns its file descriptor, which child processes may be given."""
        fd = os.memfd_create("marlin-router-loads")
        os.ftruncate(fd, _size_bytes(workers))
        return fd

    def elsewhere(self, slot: int) -> int:
        """Requests in flight of the other workers to a backend."""
        cells = self.cells
        total = 0
        for first in self.others:
            total += cells[first + slot]
        return total

    def take(self, slot: int, own: int, room: int) -> bool:
        """Counts in one more request to a backend, unless all workers together hold as many as it takes.

        Args:
            slot: the backend's cell.
            own: requests of this worker to it, this one included.
            room: how many it takes of this router at once.
        """
        at = slot * _CELL_BYTES
        fcntl.lockf(self._fd, fcntl.LOCK_EX, _CELL_BYTES, at)
        try:
            if own + self.elsewhere(slot) > room:
                return False
            self.cells[self.first + slot] = own
            return True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _CELL_BYTES, at)

    def write_heard(self, slot: int, now_s: float) -> None:
        """Notes that a byte came from a backend. Monotonic time, which all processes of a machine share."""
        self.cells[self._heard + self.first + slot] = int(now_s * MILLI)

    def heard_elsewhere_s(self, slot: int) -> float:
        """When another worker last heard of a backend, monotonic s; 0: never."""
        cells, latest = self.cells, 0
        for first in self.others:
            latest = max(latest, cells[self._heard + first + slot])
        return latest / MILLI

    def outside(self, slot: int) -> int:
        """Requests in flight at a backend that are not this router's, as far as is known."""
        return self.cells[self._outside + slot]

    def waiting(self, slot: int) -> int:
        """Requests at a backend, whoever sent them, that no engine works on yet."""
        return self.cells[self._outside + _WAITING * SLOTS + slot]

    def capacity(self, slot: int) -> float:
        """Requests a backend says it can take at once; 0: it does not say."""
        return self.cells[self._outside + _CAPACITY * SLOTS + slot] / MILLI

    def kv_usage(self, slot: int) -> float:
        """Part of a backend's KV cache that running requests hold, 0 to 1, as far as is known."""
        return self.cells[self._outside + _KV_USAGE * SLOTS + slot] / MILLI

    def write_held(self, slot: int, in_flight: int, waiting: int, capacity: float, kv_usage: float = 0.0) -> None:
        """Notes what a backend holds; this router's own part is taken out."""
        self.cells[self._outside + slot] = max(0, in_flight - self.total(slot))
        self.cells[self._outside + _WAITING * SLOTS + slot] = waiting
        self.cells[self._outside + _CAPACITY * SLOTS + slot] = round(capacity * MILLI)
        self.cells[self._outside + _KV_USAGE * SLOTS + slot] = round(kv_usage * MILLI)

    def total(self, slot: int) -> int:
        """Requests in flight of all workers to a backend."""
        return sum(self.cells[row * SLOTS + slot] for row in range(self.workers))

    def clear_row(self, row: int) -> None:
        """Forgets what a worker that is gone had in flight, and what it heard."""
        for first in (row * SLOTS, self._heard + row * SLOTS):
            self.cells[first : first + SLOTS] = memoryview(bytes(SLOTS * _CELL_BYTES)).cast("q")

    def clear_slot(self, slot: int) -> None:
        """Forgets a backend that is gone."""
        for row in range(2 * self.workers + _ROWS):
            self.cells[row * SLOTS + slot] = 0

    def close(self) -> None:
        """Lets go of the memory."""
        self.cells.release()
        self._memory.close()

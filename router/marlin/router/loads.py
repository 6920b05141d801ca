"""Requests in flight, counted so that all workers of a router see one another's.

A page of memory is shared by the control process and its workers: one row for each worker, one cell for each backend.
A worker writes its own row and reads all of them, so there is nothing to lock and nothing to wait for; when a worker
dies, the control process sets its row to zero. The page outlives every worker.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

SLOTS: Final = 16_384
"""Cells of a row; the last one is nobody's."""

SCRAP: Final = SLOTS - 1
"""Cell of backends that left the table while requests were in flight to them."""

_CELL_BYTES: Final = 8


class LoadPage:
    """The page, as one process sees it.

    Args:
        fd: file descriptor of the page.
        workers: its number of rows.
        row: the row that this process writes; -1: none, as in the control process.
    """

    def __init__(self, fd: int, workers: int, row: int) -> None:
        self._memory = mmap.mmap(fd, workers * SLOTS * _CELL_BYTES)
        self.cells = memoryview(self._memory).cast("q")
        """(workers * SLOTS,) requests in flight, row after row."""
        self.workers = workers
        self.first = max(row, 0) * SLOTS
        """Where this process's row begins."""
        self.others = tuple(i * SLOTS for i in range(workers) if i != row)
        """Where the rows of the other workers begin."""

    @staticmethod
    def create(workers: int) -> int:
        """Makes an empty page; returns its file descriptor, which child processes may be given."""
        fd = os.memfd_create("marlin-router-loads")
        os.ftruncate(fd, workers * SLOTS * _CELL_BYTES)
        return fd

    def elsewhere(self, slot: int) -> int:
        """Requests in flight of the other workers to a backend."""
        cells = self.cells
        total = 0
        for first in self.others:
            total += cells[first + slot]
        return total

    def total(self, slot: int) -> int:
        """Requests in flight of all workers to a backend."""
        return sum(self.cells[row * SLOTS + slot] for row in range(self.workers))

    def clear_row(self, row: int) -> None:
        """Forgets what a worker that is gone had in flight."""
        self.cells[row * SLOTS : (row + 1) * SLOTS] = memoryview(bytes(SLOTS * _CELL_BYTES)).cast("q")

    def clear_slot(self, slot: int) -> None:
        """Forgets a backend that is gone."""
        for row in range(self.workers):
            self.cells[row * SLOTS + slot] = 0

    def close(self) -> None:
        """Lets go of the memory."""
        self.cells.release()
        self._memory.close()

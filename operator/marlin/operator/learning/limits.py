"""What a process that learns may take, and how it holds itself to that.

Learning must cost serving nothing. The process stands back (nice), takes no more than a part of one core (after each
slice of processor time it sleeps for as long as the part asks), and ends itself at a limit of processor time, memory
or file size. Where memory runs short all the same, the kernel ends it before the operator. It dies with the thread that
started it, however that ends: nothing has to clean up after a SIGKILL.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""

SLICE_S: Final = 0.1
"""Processor time between two looks at the share."""

_LARGEST_FILE: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process."""

    cpu_s: int
    """Processor time after which it is ended."""
    memory_mb: int
    """Memory that it may have of its own, MB; what is mapped from files does not count."""
    core_share: float
    """Part of one core that it may use, 0 to 1."""
    nice: int = 19
    """How far it stands back, 0 to 19."""

    def words(self) -> list[str]:
        """As a command line holds them."""
        return [str(self.cpu_s), str(self.memory_mb), str(self.core_share), str(self.nice)]

    @staticmethod
    def of(words: Sequence[str]) -> Limits:
        """Out of a command line."""
        cpu_s, memory_mb, core_share, nice = words
        return Limits(int(cpu_s), int(memory_mb), float(core_share), int(nice))


class OrphanedError(Exception):
    """Who started this process is gone."""


def hold_to(limits: Limits, parent: int) -> None:
    """Puts this process under limits, for good.

    Args:
        limits: what it may take.
        parent: process number of who started it.

    Raises:
        OrphanedError: that one is gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this line
        raise OrphanedError
    os.nice(limits.nice)
    with contextlib.suppress(OSError):  # a /proc that is mounted read-only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_mb * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE,) * 2)
    signal.signal(signal.SIGPROF, resting(limits.core_share))
    signal.setitimer(signal.ITIMER_PROF, SLICE_S, SLICE_S)
    # An interpreter that ends gives its handlers back before it takes its modules down: a slice that is full in between
    # would end, by a signal, a process that had finished well.
    atexit.register(signal.setitimer, signal.ITIMER_PROF, 0.0)


def resting(core_share: float, sleep: Callable[[float], None] = time.sleep) -> Callable[[int, FrameType | None], None]:
    """What is done after each slice of processor time: sleeps, so that no more than a part of a core is used."""
    rest_s = SLICE_S * (1.0 / core_share - 1.0)

    def rest(_signal: int, _frame: FrameType | None) -> None:
        sleep(rest_s)

    return rest

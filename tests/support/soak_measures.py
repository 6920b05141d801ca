"""What soaks look at: processes from outside, the router's metrics, free ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from router_process import RouterProcess

_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20


async def drained(router: RouterProcess) -> None:
    """Reads the access log away, as whoever collects it does."""
    assert router.process.stderr is not None
    while await router.process.stderr.read(2**20):
        pass


def workers_of(router: RouterProcess) -> list[int]:
    """The process ids of a router's workers."""
    pid = router.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()]


def rss_mb(pid: int) -> float:
    """What a process holds in memory, MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def sum_of(exposition: str, name: str) -> float:
    """Sum over the labels of a metric in an exposition."""
    lines = (line for line in exposition.splitlines() if line.startswith(f"{name}{{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()

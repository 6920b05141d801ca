"""The processes of the demo: started, waited for, and always ended.

Emulated backends and routers are the real commands, ``marlin emulate`` and ``marlin router``, each a process of its
own on a loopback port that the system picks. Whatever happens, ``Processes`` ends what it started and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from marlin.api.errors import MarlinError

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0

_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""


class StartError(MarlinError):
    """A process of the demo did not come up."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running process and its address."""

    name: str
    url: str
    admin_url: str | None
    """Address of its admin pages, where they have a port of their own."""
    process: asyncio.subprocess.Process


@dataclass(slots=True)
class Processes:
    """Starts ``marlin`` sub-commands and ends them when the block is left."""

    folder: Path
    """Where port files and logs go."""
    _running: list[tuple[str, asyncio.subprocess.Process]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for _, process in self._running:
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def start(self, name: str, *arguments: str, ready_path: str, port: int = 0) -> Service:
        """Starts ``marlin ARGUMENTS`` and waits until ``ready_path`` answers 200.

        Args:
            name: what to call it in messages and log files.
            arguments: the sub-command and its options, without an address.
            ready_path: path that answers 200 when it is ready.
            port: where it listens on loopback. Default: the system picks.

        Raises:
            StartError: it ended, or was not ready in time; the message holds the last line of its log.
        """
        port_file, log_file = self.folder / f"{name}.port", self.folder / f"{name}.log"
        port_file.unlink(missing_ok=True)
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "marlin.api.cli", *arguments),
                *("--host", "127.0.0.1", "--port", str(port), "--port-file", str(port_file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end our children in order
                preexec_fn=_end_with_parent,
            )
        self._running.append((name, process))
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while time.monotonic() < deadline_s:
                if process.returncode is not None:
                    raise StartError(f"{name} ended with code {process.returncode}: {_last_line(log_file)}")
                with contextlib.suppress(OSError, ValueError, aiohttp.ClientError, TimeoutError):
                    url, *admin_url = (f"http://127.0.0.1:{int(line)}" for line in port_file.read_text().split())
                    async with session.get(url + ready_path) as response:
                        if response.status == 200:
                            return Service(name, url, next(iter(admin_url), None), process)
                await asyncio.sleep(0.05)
        raise StartError(f"{name} was not ready within {READY_TIMEOUT_S:.0f} s: {_last_line(log_file)}")

    def ended(self) -> str | None:
        """The name of a process that ended by itself; None while all run."""
        return next((name for name, process in self._running if process.returncode is not None), None)


def _end_with_parent() -> None:
    """Runs in the child before it starts: asks Linux for a SIGTERM when we are gone, killed or crashed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(log_file: Path) -> str:
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"

"""Operators by fork: what they import is imported once, so that a test can start and kill twenty of them in a minute.

Run as a program with the options of ``marlin operator``, it starts one for each line that it reads, under the name on
that line, and says ``started PID`` and, once that one is gone, ``ended CODE`` (minus the signal that killed it). With
``--clock FILE`` before the options operators read the time of day as so many seconds off as the file says, which is how
a test moves their clock: nothing but the reading of time is replaced.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, tzinfo
from importlib import import_module
from pathlib import Path


def main(options: list[str]) -> None:
    """Reads names, starts operators."""
    import_module("marlin.operator.serving")  # with it all that an operator imports, before any is started
    run = import_module("marlin.api.cli").main
    if options[0] == "--clock":
        move_clock(Path(options[1]))
        options = options[2:]
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            sys.stdin.close()
            sys.argv = ["marlin", "operator", *options, "--instance", line.strip()]
            run()
            return
        print(f"started {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


def move_clock(file: Path) -> None:
    """Replaces the time of day wherever the operator reads it."""

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=float(file.read_text() or 0))

    for name, module in list(sys.modules.items()):
        if name.startswith("marlin.operator.") and getattr(module, "datetime", None) is datetime:
            module.datetime = Moved  # type: ignore[attr-defined]


class Nursery:
    """The same from outside.

    Args:
        options: of ``marlin operator``, without its name.
        log: where operators write.
        clock: a file with seconds that are added to the time of day. Default: none, time is as it is.
    """

    def __init__(self, options: list[str], log: Path, clock: Path | None = None) -> None:
        self.log = log
        moved = [] if clock is None else ["--clock", str(clock)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__, *moved, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def start(self, name: str) -> int:
        """Starts one; its process number. The one before has to have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        word, number = self._process.stdout.readline().split()
        assert word == "started"
        return int(number)

    def ended(self) -> int:
        """Waits for the one that runs; its exit code, or minus the signal that ended it."""
        assert self._process.stdout is not None
        word, code = self._process.stdout.readline().split()
        assert word == "ended"
        return int(code)

    def close(self, pid: int | None = None) -> None:
        """Ends the one that runs, if any, and the nursery."""
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(30)


if __name__ == "__main__":
    main(sys.argv[1:])

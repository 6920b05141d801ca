"""``marlin router`` as a process, for as long as a block runs."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from router_client import write


@dataclass(slots=True)
class RouterProcess:
    """A router that runs; ``log`` is what it said, once it has ended."""

    process: asyncio.subprocess.Process
    url: str
    admin_url: str
    written: IO[bytes]
    log: str = ""

    async def end(self) -> None:
        """Asks it to end, and waits for that."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), 60)
        self.log = said(self.written)


def said(written: IO[bytes]) -> str:
    """All that was written so far."""
    written.seek(0)
    return written.read().decode()


@asynccontextmanager
async def running(folder: Path, document: dict[str, Any] | None, *options: str) -> AsyncIterator[RouterProcess]:
    """A router for a table, or without a file of one; ends by asserting that it ended well."""
    port_file = folder / "ports"
    config: tuple[str, ...] = ()
    if document is not None:
        write(folder / "table.json", document)
        config = ("--config", str(folder / "table.json"))
    # A file and no pipe: nobody reads while the block runs, a full pipe stops the router, and one not read to its
    # end keeps `wait` waiting for a router that was killed.
    with tempfile.TemporaryFile() as written:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "marlin.api.cli", "router", *config, "--port", "0"),
            *("--admin-port", "0", "--port-file", str(port_file), "--drain-grace-s", "0", *options),
            stderr=written,
        )
        try:
            while not port_file.exists():
                assert process.returncode is None, f"the router ended: {said(written)}"
                await asyncio.sleep(0.02)
            port, admin_port = port_file.read_text().split()
            router = RouterProcess(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", written)
            yield router
            await router.end()
            assert process.returncode == 0, router.log
            assert "Traceback" not in router.log, router.log
        except BaseException as error:
            error.add_note(f"the router said:\n{said(written)[-4000:]}")
            raise
        finally:
            port_file.unlink(missing_ok=True)
            if process.returncode is None:
                process.kill()
                await process.wait()

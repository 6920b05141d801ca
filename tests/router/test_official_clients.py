"""The official ``openai`` and ``anthropic`` clients through a router, before the emulator; e2e has a real vLLM."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import client_scenarios as scenarios
from router_client import table
from router_process import running


@asynccontextmanager
async def emulator(folder: Path, model: str) -> AsyncIterator[str]:
    """The address of an emulated vLLM."""
    port_file = folder / "emulator-port"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marlin.api.cli", "emulate", "--model", model, "--port", "0"),
        *("--time-compression", "20", "--port-file", str(port_file)),
    )
    try:
        while not port_file.exists():
            assert process.returncode is None, "the emulator ended"
            await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        await process.wait()


async def test_the_official_clients_run_their_scenarios(tmp_path: Path) -> None:
    async with emulator(tmp_path, "m") as url, running(tmp_path, table(url)) as router:
        place = scenarios.Place(router.url, "none", "m", router.admin_url)
        await asyncio.to_thread(scenarios.openai_answers, place)
        await scenarios.openai_answers_asynchronously(place)
        await asyncio.to_thread(scenarios.anthropic_answers, place)
        await scenarios.anthropic_answers_asynchronously(place)

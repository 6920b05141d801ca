"""``marlin emulate`` as a process: how it says it is ready, how it ends, and what it says to wrong options."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from marlin.simulator.emulator.cli import emulate

LONG = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@asynccontextmanager
async def emulator(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    code = "from marlin.simulator.emulator.cli import emulate; emulate()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "--port", "0", *options), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert line.startswith("listening on http://127.0.0.1:")
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def events(reply: aiohttp.ClientResponse) -> list[str]:
    return (await reply.text()).split("\n\n")[:-1]


async def first_event(session: aiohttp.ClientSession, url: str, **body: Any) -> aiohttp.ClientResponse:
    reply = await session.post(url + "/v1/completions", json={**LONG, **body})
    await reply.content.readuntil(b"\n\n")
    return reply


async def test_sigterm_ends_streams_with_abort_and_the_process_soon(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    async with (
        emulator("--port-file", str(port_file), "--max-model-len", "5000") as (process, url),
        aiohttp.ClientSession() as session,
    ):
        assert int(port_file.read_text()) == int(url.rsplit(":", 1)[1])
        reply = await first_event(session, url)
        process.send_signal(signal.SIGTERM)
        *_, last, done = await events(reply)
        assert '"finish_reason":"abort"' in last
        assert done == "data: [DONE]"
        assert await asyncio.wait_for(process.wait(), 5) == 0


async def test_a_shutdown_timeout_finishes_streams_and_refuses_new_requests() -> None:
    options = ("--shutdown-timeout", "20", "--time-compression", "50")
    async with emulator(*options) as (process, url), aiohttp.ClientSession() as session:
        reply = await first_event(session, url, max_tokens=1500)
        process.send_signal(signal.SIGTERM)
        for _ in range(100):
            async with session.post(url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}) as new:
                said = await new.text()
                if new.status == 500:
                    break
        assert "cannot schedule new futures after shutdown" in said
        async with session.get(url + "/health") as health:
            assert health.status == 200
        *_, last, done = await events(reply)
        assert '"finish_reason":"length"' in last
        assert done == "data: [DONE]"
        assert await asyncio.wait_for(process.wait(), 5) == 0


async def test_a_silent_stream_does_not_keep_the_process() -> None:
    async with emulator("--fault", "silent-stream") as (process, url), aiohttp.ClientSession() as session:
        reply = await first_event(session, url)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
        reply.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tensor-parallel", "0"], "--tensor-parallel"),
        (["--time-compression", "0"], "--time-compression"),
        (["--profile", "Llama-2-70b", "--tensor-parallel", "2", "--max-model-len", "99999"], "does not fit"),
        (["--runner", "train"], "--runner"),
        (["--origin-latency-ms", "tokyo:5"], "should look like"),
    ],
)
def test_wrong_options_get_a_line_and_code_2(options: list[str], says: str) -> None:
    result = CliRunner().invoke(emulate, options)
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize("options", [["--profile", "Llama-9"], ["--fault", "rain"]])
def test_an_unknown_name_says_what_there_is(options: list[str]) -> None:
    result = CliRunner().invoke(emulate, options)
    assert result.exit_code != 0
    assert "there are" in str(result.exception)

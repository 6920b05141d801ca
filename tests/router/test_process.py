"""The router as the process it will be: started by its command, ended by a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from fake_backend import FakeBackend, Seen
from openai import AsyncOpenAI
from router_client import table, write

EVENT = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
)
EVENTS = 5


async def slow_stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(EVENTS):
        writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        await writer.drain()
        await asyncio.sleep(0.1)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.fixture
async def streaming() -> AsyncIterator[FakeBackend]:
    async with FakeBackend(slow_stream) as fake:
        yield fake


async def start_router(config: Path, *options: str) -> tuple[asyncio.subprocess.Process, str]:
    port_file = config.with_suffix(".port")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "marlin.api.cli", "router", "--config", str(config), "--port", "0"),
        *("--admin-port", "0"),
        *("--port-file", str(port_file), "--drain-grace-s", "0.2", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    while not port_file.exists():
        assert process.returncode is None
        await asyncio.sleep(0.02)
    return process, f"http://127.0.0.1:{int(port_file.read_text().split()[0])}"


def workers(process: asyncio.subprocess.Process) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


async def end(process: asyncio.subprocess.Process, *, is_asked: bool = True) -> str:
    if is_asked:
        process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 60)
    return log.decode()


async def test_on_sigterm_twenty_of_twenty_streams_finish_and_the_process_ends_well(
    tmp_path: Path, streaming: FakeBackend
) -> None:
    write(tmp_path / "table.json", table(streaming.url))
    process, url = await start_router(tmp_path / "table.json")

    async def stream() -> bytes:
        async with session.post(f"{url}/v1/chat/completions", json={"model": "m", "stream": True}) as response:
            return await response.read()

    async with aiohttp.ClientSession() as session:
        streams = [asyncio.ensure_future(stream()) for _ in range(20)]
        while len(streaming.seen) < 20:  # noqa: ASYNC110 requests arrive one by one
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        bodies = await asyncio.gather(*streams)
    log = await end(process, is_asked=False)
    assert all(body.count(EVENT) == EVENTS and body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert process.returncode == 0
    assert "draining" in log
    assert "Traceback" not in log


async def test_the_official_client_streams_through_it(tmp_path: Path, streaming: FakeBackend) -> None:
    write(tmp_path / "table.json", table(streaming.url))
    process, url = await start_router(tmp_path / "table.json")
    try:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="m", stream=True, messages=[{"role": "user", "content": "hello"}]
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    finally:
        log = await end(process)
    assert text == "x" * EVENTS
    assert "Bearer" not in log
    assert "hello" not in log


async def test_sighup_reads_the_file_at_once(tmp_path: Path) -> None:
    async with FakeBackend() as one, FakeBackend() as two:
        config = tmp_path / "table.json"
        write(config, table(one.url))
        process, url = await start_router(config)
        try:
            write(config, table(two.url, generation=1))
            process.send_signal(signal.SIGHUP)
            async with aiohttp.ClientSession() as session:
                for _ in range(200):
                    async with session.post(f"{url}/v1/completions", json={"model": "m"}) as response:
                        assert response.status == 200
                    if two.seen:
                        break
                    await asyncio.sleep(0.02)
        finally:
            await end(process)
        assert two.seen


async def test_a_bad_configuration_stops_it_at_the_start_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "table.json"
    config.write_text("kind: Deployment\napiVersion: apps/v1\n")
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "marlin.api.cli",
            "router",
            "--config",
            str(config),
            "--port",
            "0",
            "--admin-port",
            "0",
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    _, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"kind 'Deployment' is not known" in log
    assert b"Traceback" not in log


def test_a_worker_imports_neither_pydantic_nor_aiohttp_nor_numpy() -> None:
    heavy = "{'pydantic', 'aiohttp', 'numpy', 'prometheus_client', 'yaml'}"
    code = f"import sys, marlin.router.worker; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_checks_options_before_workers_start_imports_none_of_what_comes_while_they_do() -> None:
    """A third of a second more until a router that watches its table is ready, otherwise."""
    heavy = "{'pydantic', 'aiohttp', 'numpy', 'prometheus_client', 'yaml'}"
    options = (
        "dict(config=None, table_config_map='n/t', table_server='https://a', table_ca_file=None, table_token_file=None)"
    )
    code = f"import sys, marlin.router.cli as cli; cli._check_table({options}); "
    code += f"sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_worker_that_dies_is_replaced_and_nobody_is_refused(tmp_path: Path) -> None:
    async with FakeBackend() as backend:
        write(tmp_path / "table.json", table(backend.url))
        process, url = await start_router(tmp_path / "table.json")
        try:
            (worker,) = workers(process)
            os.kill(worker, signal.SIGKILL)
            async with aiohttp.ClientSession() as session:
                while True:
                    try:
                        async with session.post(f"{url}/v1/completions", json={"model": "m"}) as response:
                            assert response.status == 200
                            break
                    except aiohttp.ServerDisconnectedError:
                        continue  # accepted by the worker in the moment of its death
            assert workers(process) != [worker]
        finally:
            log = await end(process)
    assert "another one is started" in log


async def test_two_workers_count_as_one_router(tmp_path: Path) -> None:
    requests = 60
    async with FakeBackend() as backend:
        write(tmp_path / "table.json", table(backend.url))
        process, url = await start_router(tmp_path / "table.json", "--workers", "2")
        admin_port = int((tmp_path / "table.port").read_text().split()[1])
        try:
            for _ in range(requests):
                # A connection of its own for each: the kernel spreads connections over the workers.
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{url}/v1/completions", json={"model": "m"}) as response,
                ):
                    assert response.status == 200
            admin_url = f"http://127.0.0.1:{admin_port}/metrics"
            async with aiohttp.ClientSession() as session, session.get(admin_url) as response:
                text = await response.text()
        finally:
            await end(process)
    assert f'marlin_router_requests_total{{code="200",datacenter="dc0",pool="chat"}} {requests}.0' in text
    assert "marlin_router_workers 2.0" in text

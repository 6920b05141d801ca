"""The real router in front of the real emulator, as processes, while the emulated vLLM fails in each documented way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from router_client import table, write

from marlin.operator.demo.processes import Processes, Service

EMULATE = ("emulate", "--model", "m", "--profile", "Llama-2-7b", "--accelerator", "H100-80GB", "--tensor-parallel", "1")
FAST = ("--time-compression", "20")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Service, Service]]:
    """An emulator, and a router in front of it."""
    async with Processes(tmp_path) as processes:
        emulator = await processes.start("vllm", *EMULATE, *FAST, ready_path="/health")
        config = tmp_path / "table.json"
        write(config, table(emulator.url))
        options = ("--config", str(config), "--admin-port", "0", "--stream-idle-timeout-s", "1", "--drain-grace-s", "0")
        router = await processes.start("router", "router", *options, ready_path="/readyz")
        yield emulator, router


async def ask(router: Service, *, is_stream: bool) -> tuple[int, bytes]:
    body: dict[str, Any] = {"model": "m", "prompt": "hello", "max_tokens": 20, "ignore_eos": True, "stream": is_stream}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post(f"{router.url}/v1/completions", json=body) as response,
    ):
        return response.status, await response.read()


async def inject(emulator: Service, **fault: Any) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{emulator.url}/emulator/faults", json=fault) as response,
    ):
        assert response.status == 200, await response.text()


async def test_without_a_fault_stream_and_reply_come_through_whole(pair: tuple[Service, Service]) -> None:
    _, router = pair
    status, body = await ask(router, is_stream=True)
    assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
    status, body = await ask(router, is_stream=False)
    assert status == 200
    assert json.loads(body)["usage"]["completion_tokens"] == 20


async def test_a_vllm_that_dies_in_mid_stream_ends_it_with_an_error_and_without_done(
    pair: tuple[Service, Service],
) -> None:
    emulator, router = pair
    await inject(emulator, fault="die-mid-stream", afterTokens=5)
    status, body = await ask(router, is_stream=True)
    assert status == 200
    assert b'"code": "died_mid_reply"' in body or b'"code":"died_mid_reply"' in body
    assert b"[DONE]" not in body


async def test_a_vllm_that_falls_silent_is_given_up_after_the_idle_time_out(pair: tuple[Service, Service]) -> None:
    emulator, router = pair
    await inject(emulator, fault="silent-stream", afterTokens=5)
    status, body = await ask(router, is_stream=True)
    assert status == 200
    assert b"stream_idle" in body
    assert b"[DONE]" not in body


async def test_vllm_s_own_503_when_its_queue_is_full_reaches_the_client(pair: tuple[Service, Service]) -> None:
    emulator, router = pair
    await inject(emulator, fault="queue-full", requests=1)
    status, body = await ask(router, is_stream=True)
    assert status == 503
    assert json.loads(body)["error"]["type"] == "Service Unavailable"
    assert (await ask(router, is_stream=True))[0] == 200


async def test_a_vllm_that_resets_connections_is_answered_for_with_502(pair: tuple[Service, Service]) -> None:
    emulator, router = pair
    await inject(emulator, fault="refuse", requests=1)
    status, body = await ask(router, is_stream=False)
    assert status == 502
    assert json.loads(body)["error"]["code"] == "upstream_disconnected"

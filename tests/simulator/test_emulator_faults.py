"""Each fault does what it says to the requests it strikes, and nothing to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from marlin.simulator.emulator.faults import Fault, FaultBoard, FaultError, fault_from, fault_from_option
from marlin.simulator.emulator.server import Server
from marlin.simulator.emulator.settings import Settings


@dataclass(frozen=True)
class Even:
    kv_capacity_tokens: int = 100_000
    max_batch: int = 64

    def prefill_s(self, prompt_tokens: float) -> float:
        return 0.002

    def step_s(self, batch: float) -> float:
        return 0.002


BODY = {"prompt": "Hello", "max_tokens": 20, "ignore_eos": True}


@dataclass
class Client:
    url: str
    session: aiohttp.ClientSession

    async def fault(self, name: str, **fields: Any) -> Any:
        async with self.session.post(self.url + "/emulator/faults", json={"fault": name, **fields}) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    async def status(self, path: str = "/v1/completions", **fields: Any) -> int:
        async with self.session.post(self.url + path, json={**BODY, **fields}) as reply:
            await reply.read()
            return reply.status

    async def stream(self, path: str = "/v1/completions", **fields: Any) -> tuple[list[str], bool]:
        """The events received, and whether the reply ended properly."""
        events = b""
        try:
            async with self.session.post(self.url + path, json={**BODY, "stream": True, **fields}) as reply:
                async for data in reply.content.iter_any():
                    events += data
        except aiohttp.ClientPayloadError:
            return events.decode().split("\n\n")[:-1], False
        return events.decode().split("\n\n")[:-1], True


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    server = Server(Settings(model="m", profile=Even()))
    port = await server.start("127.0.0.1", 0)
    # Without a retry of its own, and with a new connection for each request.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield Client(f"http://127.0.0.1:{port}", session)
    await server.stop()


async def test_refuse_resets_the_connection_for_the_next_requests(client: Client) -> None:
    await client.fault("refuse", requests=2)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientOSError, match="reset"):
            await client.status()
    assert await client.status() == 200


async def test_only_the_endpoints_of_the_model_are_struck_unless_the_scope_says_all(client: Client) -> None:
    await client.fault("refuse")
    async with client.session.get(client.url + "/health") as reply:
        assert reply.status == 200
    await client.fault("refuse", scope="all")
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await client.session.get(client.url + "/health")


async def test_stall_never_answers(client: Client) -> None:
    await client.fault("stall")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.status()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_stream_dies_after_so_many_tokens(client: Client, path: str) -> None:
    await client.fault("die-mid-stream", afterTokens=5)
    events, whole = await client.stream(path, messages=[{"role": "user", "content": "a"}])
    assert not whole
    assert "data: [DONE]" not in events
    text = "".join(event.split('"text":"')[-1].split('"')[0] for event in events if '"text"' in event)
    if path == "/v1/completions":
        assert len(text.split()) == 5


async def test_a_reply_that_is_not_streamed_dies_with_its_connection(client: Client) -> None:
    await client.fault("die-mid-stream", requests=1)
    with pytest.raises(aiohttp.ClientError):
        await client.status()
    assert await client.status() == 200


async def read_to_end(reply: aiohttp.ClientResponse) -> None:
    while data := await reply.content.readany():
        assert b"[DONE]" not in data


async def test_a_silent_stream_stops_with_the_connection_open(client: Client) -> None:
    await client.fault("silent-stream", afterTokens=3)
    received = b""
    async with client.session.post(client.url + "/v1/completions", json={**BODY, "stream": True}) as reply:
        while b"\n\n" not in received:
            received += await reply.content.readany()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_to_end(reply), 0.3)
        assert not reply.content.at_eof()
    assert b"data: {" in received
    assert b"[DONE]" not in received


async def test_slow_takes_that_many_times_longer(client: Client) -> None:
    loop = asyncio.get_running_loop()
    await client.fault("slow", factor=6)
    started_s = loop.time()
    events, whole = await client.stream()
    assert whole
    assert events[-1] == "data: [DONE]"
    assert loop.time() - started_s >= 0.9 * 6 * (0.002 + 19 * 0.002)


async def test_queue_full_answers_503(client: Client) -> None:
    await client.fault("queue-full", requests=1)
    assert await client.status() == 503
    assert await client.status() == 200


async def test_a_dead_engine_ends_streams_with_an_error_and_answers_500(client: Client) -> None:
    running = asyncio.create_task(client.stream(max_tokens=2000))
    await asyncio.sleep(0.1)
    await client.fault("engine-dead")
    events, whole = await running
    assert whole
    assert events[-1] == "data: [DONE]"
    assert events[-2].startswith('data: {"error": {"message": "EngineCore encountered an issue.')
    assert await client.status() == 500
    async with client.session.get(client.url + "/health") as reply:
        assert reply.status == 503
    async with client.session.delete(client.url + "/emulator/faults") as reply:
        assert (await reply.json())["faults"] == []
    assert await client.status() == 200


async def test_a_dead_engine_for_one_request_leaves_the_others_alone(client: Client) -> None:
    await client.fault("engine-dead", requests=1, afterTokens=2)
    events, _ = await client.stream()
    assert events[-2].startswith('data: {"error":')
    assert await client.status() == 200
    async with client.session.get(client.url + "/health") as reply:
        assert reply.status == 200


async def test_messages_and_responses_end_in_their_own_way_when_the_engine_dies(client: Client) -> None:
    await client.fault("engine-dead", requests=2, afterTokens=2)
    fields = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    events, whole = await client.stream("/v1/messages", **fields)
    assert whole
    assert events[-1].startswith("event: error\n")
    events, whole = await client.stream("/v1/responses", input="a", max_output_tokens=20)
    assert not whole
    assert events[-1].startswith("event: response.output_text.delta\n")


async def test_faults_are_shown_with_their_hits(client: Client) -> None:
    await client.fault("queue_full", requests=3)
    await client.status()
    async with client.session.get(client.url + "/emulator/faults") as reply:
        (shown,) = (await reply.json())["faults"]
    assert shown["fault"] == "queue-full"
    assert shown["hits"] == 1
    assert not shown["over"]


@pytest.mark.parametrize("document", [{"fault": "rain"}, {"fault": "slow", "speed": 1}, {"fault": "slow", "factor": 0}])
async def test_a_wrong_fault_gets_one_line(client: Client, document: dict[str, Any]) -> None:
    async with client.session.post(client.url + "/emulator/faults", json=document) as reply:
        assert reply.status == 400
        assert len((await reply.json())["error"].splitlines()) == 1


def test_a_probability_strikes_its_share_and_the_same_requests_for_the_same_seed() -> None:
    def strikes(seed: int) -> list[bool]:
        board = FaultBoard()
        board.set(Fault("slow", probability=0.3, seed=seed))
        return [bool(board.strike(inference=True)) for _ in range(1000)]

    assert strikes(1) == strikes(1)
    assert strikes(1) != strikes(2)
    assert 250 < sum(strikes(1)) < 350


def test_an_option_reads_as_json_does() -> None:
    option = fault_from_option("die-mid-stream, after-tokens=5, requests=3")
    assert option == fault_from({"fault": "die_mid_stream", "afterTokens": 5, "requests": 3})
    with pytest.raises(FaultError, match="not key=value"):
        fault_from_option("slow,3")

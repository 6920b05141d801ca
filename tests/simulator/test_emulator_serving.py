"""What a served request does to the engine and its counters, and what a client that goes away does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from marlin.simulator.emulator.server import Server
from marlin.simulator.emulator.settings import Settings


@dataclass(frozen=True)
class Paced:
    """A replica with the times given."""

    prefill: float = 0.001
    step: float = 0.001
    kv_capacity_tokens: int = 100_000
    max_batch: int = 64

    def prefill_s(self, prompt_tokens: float) -> float:
        return self.prefill

    def step_s(self, batch: float) -> float:
        return self.step


SLOW = Paced(step=0.05)
ENDLESS = {"model": "m", "prompt": "Hello", "max_tokens": 4000, "ignore_eos": True}


@dataclass
class Client:
    """A running server and a session with it."""

    url: str
    session: aiohttp.ClientSession
    server: Server

    async def post(self, path: str, **body: Any) -> Any:
        async with self.session.post(self.url + path, json=body) as reply:
            return await reply.json()

    async def metric(self, name: str, **labels: str) -> float:
        async with self.session.get(self.url + "/metrics") as reply:
            text = await reply.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, name: str, value: float) -> None:
        async with asyncio.timeout(5):
            while await self.metric(name) != value:  # noqa: ASYNC110  a scrape is all there is
                await asyncio.sleep(0.005)


Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def serving(**options: Any) -> AsyncIterator[Client]:
        server = Server(Settings(**{"model": "m", "profile": Paced(), **options}))
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                yield Client(f"http://127.0.0.1:{port}", session, server)
        finally:
            await server.stop()
        assert server.engine.requests == 0

    return serving


async def test_a_client_that_leaves_a_stream_frees_its_place(serve: Serve) -> None:
    async with serve(profile=SLOW) as client:
        reply = await client.session.post(client.url + "/v1/completions", json={**ENDLESS, "stream": True})
        await reply.content.readline()
        assert await client.metric("vllm:num_requests_running") == 1
        reply.close()
        await client.until("vllm:num_requests_running", 0)
        assert await client.metric("vllm:request_success_total") == 0
        await client.until("vllm:kv_cache_usage_perc", 0)


async def test_a_client_that_leaves_before_the_reply_frees_its_place(serve: Serve) -> None:
    async with serve(profile=SLOW) as client:
        waiting = asyncio.create_task(client.post("/v1/completions", **ENDLESS))
        await client.until("vllm:num_requests_running", 1)
        waiting.cancel()
        await client.until("vllm:num_requests_running", 0)


async def test_a_client_that_leaves_the_queue_is_not_served(serve: Serve) -> None:
    async with serve(profile=SLOW, max_num_seqs=1) as client:
        first = asyncio.create_task(client.post("/v1/completions", **ENDLESS))
        await client.until("vllm:num_requests_running", 1)
        second = asyncio.create_task(client.post("/v1/completions", **ENDLESS))
        await client.until("vllm:num_requests_waiting", 1)
        assert await client.metric("vllm:num_requests_waiting_by_reason", reason="capacity") == 1
        second.cancel()
        await client.until("vllm:num_requests_waiting", 0)
        assert await client.metric("vllm:num_requests_running") == 1
        first.cancel()


async def test_counters_tell_what_was_served(serve: Serve) -> None:
    async with serve() as client:
        await client.post("/v1/completions", prompt="x" * 40, max_tokens=7, ignore_eos=True)
        await client.post("/v1/completions", prompt="x" * 40, max_tokens=300, stop=["a", "e", "o"])
        assert await client.metric("vllm:prompt_tokens_total") == 20
        assert await client.metric("vllm:request_success_total", finished_reason="length") == 1
        assert await client.metric("vllm:request_success_total", finished_reason="stop") == 1
        written = await client.metric("vllm:generation_tokens_total")
        assert written == await client.metric("vllm:request_generation_tokens_sum")
        assert written > 7
        for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_decode_time"):
            assert await client.metric(f"vllm:{name}_seconds_count") == 2
        tokens_after_the_first = written - 2
        assert await client.metric("vllm:inter_token_latency_seconds_count") == tokens_after_the_first
        assert await client.metric("http_requests_total", handler="/v1/completions", status="2xx") == 2


async def test_times_in_the_counters_are_those_of_the_profile(serve: Serve) -> None:
    async with serve(profile=Paced(prefill=4.0, step=1.0), time_compression=100.0) as client:
        await client.post("/v1/completions", prompt="a", max_tokens=6, ignore_eos=True)
        assert await client.metric("vllm:time_to_first_token_seconds_sum") == pytest.approx(0.04)
        assert await client.metric("vllm:e2e_request_latency_seconds_sum") == pytest.approx(0.04 + 5 * 0.01)


async def test_tokens_come_over_time_and_not_at_the_end(serve: Serve) -> None:
    async with serve(profile=Paced(prefill=0.02, step=0.02)) as client:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        body = {"model": "m", "prompt": "a", "max_tokens": 8, "ignore_eos": True, "stream": True}
        async with client.session.post(client.url + "/v1/completions", json=body) as reply:
            moments = [loop.time() - started_s async for line in reply.content if line.startswith(b"data: {")]
        assert moments[0] >= 0.02
        assert moments[-1] >= 0.16
        assert len(moments) >= 4
        assert moments[0] <= moments[-1] - 0.08


async def test_requests_go_to_the_replica_with_the_fewest(serve: Serve) -> None:
    async with serve(profile=SLOW, replicas=3) as client:
        requests = [asyncio.create_task(client.post("/v1/completions", **ENDLESS)) for _ in range(6)]
        await client.until("vllm:num_requests_running", 6)
        assert [await client.metric("vllm:num_requests_running", engine=str(i)) for i in range(3)] == [2, 2, 2]
        for request in requests:
            request.cancel()


async def test_many_streams_each_get_all_their_tokens(serve: Serve) -> None:
    async with serve(profile=Paced(step=0.0005, max_batch=256), max_num_seqs=256) as client:

        async def count(_: int) -> int:
            body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
            body["stream_options"] = {"include_usage": True}
            async with client.session.post(client.url + "/v1/completions", json=body) as reply:
                chunks = [line[6:] for line in (await reply.text()).splitlines() if line.startswith("data: {")]
            words = "".join(choice["text"] for chunk in chunks for choice in json.loads(chunk)["choices"]).split()
            assert json.loads(chunks[-1])["usage"]["completion_tokens"] == 100
            return len(words)

        assert set(await asyncio.gather(*map(count, range(80)))) == {100}


async def test_a_seed_fixes_the_text_and_another_gives_another(serve: Serve) -> None:
    async def text(client: Client, **body: Any) -> str:
        reply = await client.post("/v1/completions", prompt="a", max_tokens=20, **body)
        return str(reply["choices"][0]["text"])

    async with serve() as one, serve(seed=7) as other:
        assert await text(one, seed=1) == await text(other, seed=1)
        assert await text(one, seed=1) != await text(one, seed=2)
        assert await text(one, temperature=0) == await text(other, temperature=0)
        assert await text(one) != await text(one)


async def test_min_tokens_holds_off_the_end_and_the_stop_strings(serve: Serve) -> None:
    async with serve(mean_output_tokens=8) as client:
        reply = await client.post("/v1/completions", prompt="a", max_tokens=90, min_tokens=60, stop=["a", "e"])
        assert reply["usage"]["completion_tokens"] >= 60
        assert reply["choices"][0]["finish_reason"] == "stop"


async def test_the_openai_client_reads_streams_and_replies(serve: Serve) -> None:
    async with serve() as client:
        api = openai.AsyncOpenAI(base_url=client.url + "/v1", api_key="x")
        chat = await api.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], max_tokens=5, extra_body={"ignore_eos": True}
        )
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 5
        stream = await api.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], max_tokens=5, stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        response = await api.responses.create(model="m", input="Hello", max_output_tokens=5)
        assert response.output_text
        await api.close()


async def test_the_datacenter_is_named_in_each_reply(serve: Serve) -> None:
    async with serve(datacenter="oregon") as client:
        for path in ("/health", "/v1/models", "/nope"):
            async with client.session.get(client.url + path) as reply:
                assert reply.headers["x-marlin-emulated-datacenter"] == "oregon"
        async with client.session.post(
            client.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1, "stream": True}
        ) as reply:
            assert reply.headers["x-marlin-emulated-datacenter"] == "oregon"


async def test_load_counts_inference_requests_in_flight(serve: Serve) -> None:
    async with serve(profile=SLOW) as client:
        request = asyncio.create_task(client.post("/v1/completions", **ENDLESS))
        await client.until("vllm:num_requests_running", 1)
        async with client.session.get(client.url + "/load") as reply:
            assert await reply.json() == {"server_load": 1}
        request.cancel()


async def test_tokenize_and_detokenize_give_the_text_back(serve: Serve) -> None:
    async with serve() as client:
        tokens = (await client.post("/tokenize", prompt="Grüße, 世界!"))["tokens"]
        assert (await client.post("/detokenize", tokens=tokens))["prompt"] == "Grüße, 世界!"


async def test_what_tokenize_counts_is_what_usage_says(serve: Serve) -> None:
    async with serve() as client:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, how are you?"}]
        counted = (await client.post("/tokenize", messages=messages))["count"]
        reply = await client.post("/v1/chat/completions", messages=messages, max_tokens=1)
        assert reply["usage"]["prompt_tokens"] == counted


async def test_a_request_from_afar_waits_for_its_way(serve: Serve) -> None:
    async with serve(added_latency_s=0.05, origin_latency_s={"tokyo": 0.2}) as client:
        loop = asyncio.get_running_loop()

        async def took_s(origin: str) -> float:
            started_s = loop.time()
            body = {"prompt": "a", "max_tokens": 1}
            headers = {"x-marlin-origin": origin}
            async with client.session.post(client.url + "/v1/completions", json=body, headers=headers) as reply:
                assert reply.status == 200
            return loop.time() - started_s

        assert 0.05 <= await took_s("oregon") < 0.2
        assert await took_s("tokyo") >= 0.25

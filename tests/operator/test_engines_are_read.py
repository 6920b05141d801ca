"""Engines are read over HTTP, at their own pages or out of a real Prometheus: the emulator stands for vLLM."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from own_secrets import OwnSecrets
from prometheus_process import prometheus_over

from marlin.api.policy import Matcher, Observation, PrometheusObservation
from marlin.api.sending import SEND_TO
from marlin.api.values import SecretKeyRef, Tls, Verification
from marlin.operator.arrivals.task import Arrivals
from marlin.operator.core.applies import Apply
from marlin.operator.demo.processes import Processes, Service
from marlin.operator.engines.fitting import Fit
from marlin.operator.engines.task import EngineTasks, EngineWatcher
from marlin.operator.engines.wanted import Address, Wanted
from marlin.operator.scraping.sources import Scraper
from marlin.operator.signals.http import WebHttp
from marlin.simulator.profiles import load_profile

KIND = ("Llama-2-70b", "A100-80GB", 4)
FASTER = 30.0
EMULATE = ("emulate", "--model", "m", "--profile", KIND[0], "--accelerator", KIND[1], "--tensor-parallel", str(KIND[2]))
PLAIN = Tls(verification=Verification.DISABLED)
KEY = ("default", "chat")
TOKEN = "a-token-that-is-in-no-message"


class Hub:
    """Takes applies."""

    async def apply(self, apply: Apply) -> dict[str, Any]:
        return {}


@asynccontextmanager
async def watching(
    wanted: Wanted, clock_s: Any = None, secrets: OwnSecrets | None = None
) -> AsyncIterator[EngineWatcher]:
    """A pool's watcher, which looks when the test says so."""
    http = WebHttp(timeout_s=5.0)
    loop = asyncio.get_running_loop()
    tasks = EngineTasks(Scraper(http, secrets or OwnSecrets()), 3600.0, lambda: None, clock_s or loop.time)
    try:
        yield EngineWatcher(tasks, KEY, wanted)
    finally:
        await http.close()


async def send(session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
    """One request of exponential lengths: four bytes are a token."""
    words = "abc " * max(1, min(3000, int(rng.expovariate(1 / 500))))
    tokens = max(1, min(900, int(rng.expovariate(1 / 100))))
    body = {"model": "m", "prompt": words, "max_tokens": tokens, "ignore_eos": True}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()


async def test_the_speed_of_a_vllm_is_found_out_over_http(tmp_path: Path) -> None:
    """A load of chance that rises; the constants that come out are those of the emulator's profile."""
    profile, rng = load_profile(*KIND), random.Random(1)
    most_rps = FASTER / (profile.prefill_s(500) + 99 * profile.step_s(64) / 64)
    async with Processes(tmp_path) as processes:
        vllm = await processes.start("vllm", *EMULATE, "--time-compression", str(FASTER), ready_path="/health")
        wanted = Wanted("m", (Address("frankfurt", f"{vllm.url}/metrics", PLAIN),))
        connector = aiohttp.TCPConnector(limit=0)
        async with watching(wanted) as watcher, aiohttp.ClientSession(connector=connector) as session:
            async with asyncio.TaskGroup() as group:
                for step in range(24):
                    rate = most_rps * (0.05 + 0.025 * step)
                    for _ in range(25):
                        group.create_task(send(session, vllm.url, rng))
                        await asyncio.sleep(rng.expovariate(rate))
                    await watcher.look()
            await watcher.look()
            sight = watcher.sight()
    fit = sight.fit
    assert isinstance(fit, Fit), sight
    assert fit.prefill_tokens_per_s / FASTER == pytest.approx(500 / profile.prefill_s(500), rel=0.15)
    assert fit.single_stream_tokens_per_s / FASTER == pytest.approx(1 / profile.step_s(1), rel=0.1)
    assert FASTER * (fit.base_s + fit.per_request_s * fit.most_batch) == pytest.approx(
        profile.step_s(fit.most_batch), rel=0.15
    )
    assert fit.kv_capacity_tokens == pytest.approx(profile.kv_capacity_tokens, rel=0.01)
    assert (sight.is_whole, sight.running) == (True, {"frankfurt": 0.0})


def asking(url: str, **more: Any) -> PrometheusObservation:
    return PrometheusObservation(url=url, tls=PLAIN, **more)


async def until_running(watcher: EngineWatcher, requests: float) -> None:
    for _ in range(200):
        await watcher.look()
        if sum(watcher.engines.running().values()) >= requests:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never {requests} running: {watcher.sight()}")


async def test_a_real_prometheus_tells_of_engines_by_site_and_of_routers_by_origin(tmp_path: Path) -> None:
    """What runs in an engine is counted at the site that its series name; a router's page comes by its origin."""
    labels = {"datacenter": "frankfurt", "pod": "vllm-0", "cluster": "prod", "origin": "europe"}
    async with Processes(tmp_path) as processes:
        vllm = await processes.start("vllm", *EMULATE, "--max-num-seqs", "2", ready_path="/health")
        router = web.Application()
        router.router.add_get("/metrics", _router_page)
        targets = {"vllm": vllm.url.removeprefix("http://"), "marlin-router": await serving(router)}
        async with prometheus_over(tmp_path, targets, labels) as prometheus:
            source = asking(prometheus.url, matchers=(Matcher(label="cluster", value="prod"),), origin_label="origin")
            async with watching(Wanted("m", prometheus=source)) as watcher, holding(vllm, 3):
                await until_running(watcher, 2)
                sight = watcher.sight()
                assert (sight.is_whole, sight.running) == (True, {"frankfurt": 2.0})
                assert sight.waiting == {"frankfurt": 1.0}
                watcher.follow(Wanted("another", prometheus=source))
                await watcher.look()
                assert watcher.sight().reason == "EnginesUnreachable"
                arrivals = Arrivals(Hub(), watcher.tasks.scraper, 3600.0, {})
                await prometheus.until("marlin_router_requests_total")
                pages, problems = await arrivals.read_all(Observation(prometheus=source))
                assert problems == []
                (_, origin, page), *others = pages
                assert (origin, others, dict(page.counts.requests)) == ("europe", [], {"chat": 12.0})
                elsewhere = source.model_copy(update={"matchers": (Matcher(label="cluster", value="none"),)})
                pages, problems = await arrivals.read_all(Observation(prometheus=elsewhere))
                assert (pages, len(problems)) == ([], 1)
                assert "no series of routers" in problems[0]


PAGE = """# TYPE marlin_router_requests_total counter
marlin_router_requests_total{pool="chat",datacenter="frankfurt",code="200"} 12
"""


async def _router_page(_: web.Request) -> web.Response:
    return web.Response(text=PAGE)


@asynccontextmanager
async def holding(vllm: Service, requests: int) -> AsyncIterator[None]:
    """Requests that go on until the block is left."""
    body = {"model": "m", "prompt": "hello", "max_tokens": 3000, "ignore_eos": True}
    async with aiohttp.ClientSession() as session:
        posts = [asyncio.create_task(session.post(f"{vllm.url}/v1/completions", json=body)) for _ in range(requests)]
        try:
            yield
        finally:
            for post in posts:
                post.cancel()
            await asyncio.gather(*posts, return_exceptions=True)


_RUNNERS: list[web.AppRunner] = []


@pytest.fixture(autouse=True)
async def _nothing_left_running() -> AsyncIterator[None]:
    yield
    while _RUNNERS:
        await _RUNNERS.pop().cleanup()


async def serving(app: web.Application) -> str:
    """HOST:PORT of an app."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    _RUNNERS.append(runner)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"127.0.0.1:{runner.addresses[0][1]}"


ANSWERS = {
    "busy": (503, "", "answered 503"),
    "refuses": (401, "", "credentials are not accepted"),
    "no-json": (200, "<html>", "not that of a Prometheus"),
    "error": (200, '{"status":"error","errorType":"bad_data","error":"parse error"}', "bad_data"),
    "scalar": (200, '{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}', "no ranges"),
    "nothing": (200, '{"status":"success","data":{"resultType":"matrix","result":[]}}', "no vllm series"),
    "odd": (200, '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{}}]}}', "not that of a"),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_is_wrong_with_a_prometheus_is_said_and_its_token_is_not(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, text, expected = ANSWERS[answer]
    heard: list[web.Request] = []

    async def query(request: web.Request) -> web.Response:
        heard.append(request)
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/api/v1/query", query)
    url = f"http://{await serving(app)}"
    source = asking(url, token_secret_ref=SecretKeyRef(name="prometheus", key="token"))
    secrets = OwnSecrets(prometheus={"token": f"{TOKEN}\n", SEND_TO: url})
    async with watching(Wanted("m", prometheus=source), secrets=secrets) as watcher:
        await watcher.look()
        sight = watcher.sight()
    assert heard[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert (sight.fit, sight.reason, sight.is_whole) == (None, "EnginesUnreachable", False)
    assert expected in sight.message
    assert TOKEN not in sight.message + caplog.text


async def test_a_token_that_is_missing_is_named() -> None:
    source = asking("http://127.0.0.1:9", token_secret_ref=SecretKeyRef(name="gone", key="token"))
    async with watching(Wanted("m", prometheus=source)) as watcher:
        await watcher.look()
        assert "Secret gone does not exist" in watcher.sight().message


async def test_an_engine_that_cannot_be_read_makes_the_whole_unknown_and_keeps_what_was_learnt() -> None:
    page = 'vllm:num_requests_running{engine="0",model_name="m"} 4\n'
    is_down = False

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(status=503 if is_down else 200, text=page)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    address = f"http://{await serving(app)}/metrics"
    async with watching(Wanted("m", (Address("frankfurt", address, PLAIN),))) as watcher:
        await watcher.look()
        assert watcher.sight().running == {"frankfurt": 4.0}
        is_down = True
        await watcher.look()
        sight = watcher.sight()
        assert (sight.is_whole, sight.running, sight.reason) == (False, {}, "EnginesUnreachable")
        assert "503" in sight.message


async def test_engines_of_another_cluster_cannot_be_read_and_the_way_out_is_named() -> None:
    async with watching(Wanted("m", out_of_reach=("frankfurt-a100",))) as watcher:
        await watcher.look()
        sight = watcher.sight()
    assert sight.reason == "EnginesUnreachable"
    assert "frankfurt-a100" in sight.message
    assert "spec.observation" in sight.message

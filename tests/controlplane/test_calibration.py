"""A pool of unknown speed as its user sees it: an operator on a real API server reads emulators that stand for vLLM."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from cluster_fleet import Fleet
from control_plane import Process, eventually
from worlds import the

from marlin.operator.demo.processes import Processes
from marlin.simulator.profiles import load_profile

KIND = ("Llama-2-70b", "A100-80GB", 4)
FASTER = 20.0
MODEL = "llama-2-70b"
EMULATE = (
    "emulate",
    "--model",
    MODEL,
    "--profile",
    KIND[0],
    "--accelerator",
    KIND[1],
    "--tensor-parallel",
    str(KIND[2]),
)
SITES = ("frankfurt", "oregon")
PLAIN = {"verification": "Disabled"}

pytestmark = pytest.mark.timeout(300)  # as in test_faults


async def test_a_pool_is_planned_by_capacity_until_its_engines_are_known_and_by_what_they_are_from_then_on(
    fleet: Fleet, operator: Callable[..., Process], tmp_path: Path
) -> None:
    async with Processes(tmp_path) as processes:
        urls = {}
        for site in SITES:
            engine = await processes.start(site, *EMULATE, "--time-compression", str(FASTER), ready_path="/health")
            urls[site] = engine.url
        await asyncio.to_thread(apply, fleet, urls)
        operator("one")
        assert await asyncio.to_thread(eventually, lambda: fleet.condition("Planned") == ("True", "Planned"))
        assert await asyncio.to_thread(eventually, lambda: condition(fleet) == ("False", "Collecting"))
        status = fleet.status()
        assert "by capacity, their speed is not known: llama-2-70b" in status["plan"]["explanation"]
        assert status["plan"]["pools"][0]["weights"] == [6667, 3333]
        assert "estimate" not in status

        load = asyncio.create_task(sending(list(urls.values())))
        try:
            calibrated = await asyncio.to_thread(eventually, lambda: condition(fleet) == ("True", "Calibrated"), 200)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        assert calibrated
        fitted = fleet.pool()["status"]["fittedProfile"]
        assert fitted["samples"] >= 12
        assert float(fitted["residualPercent"]) <= 15.0
        # How near the fit comes is tested where nothing else runs; here it is of the kind of engine that is there.
        alone = FASTER / load_profile(*KIND).step_s(1)
        assert float(fitted["singleStreamTokensPerSecond"]) == pytest.approx(alone, rel=0.5)
        assert await asyncio.to_thread(eventually, lambda: fleet.events("Calibrated"))

        # A changed spec is planned at once; the epoch to come would be planned so as well.
        await asyncio.to_thread(fleet.apply, mode="Enforce")
        assert await asyncio.to_thread(eventually, lambda: fleet.status().get("estimate"))
        plan = fleet.status()["plan"]
        assert "speed is not known" not in plan["explanation"]
        assert plan["pools"][0]["dispatch"] == "Ordered"
        table = await asyncio.to_thread(eventually, lambda: fleet.table().plan and fleet.table())
        assert all(backend.joules_per_output_token > 0 for backend in table.pools[0].backends)


def apply(fleet: Fleet, urls: dict[str, str]) -> None:
    """The sample without a profile, at two sites, each with an engine that is reached by its address."""
    spec = the(fleet.objects, "InferencePool")["spec"]
    del spec["profile"]
    spec["backends"] = [backend for backend in spec["backends"] if backend["name"] in urls]
    for backend in spec["backends"]:
        del backend["serviceRef"]
        backend |= {"url": urls[backend["name"]], "tls": PLAIN}
    fleet.apply(mode="DryRun", guardrails={"maxWeightChangePercent": 100})


def condition(fleet: Fleet) -> tuple[str, str]:
    found = next(c for c in fleet.pool()["status"]["conditions"] if c["type"] == "ProfileCalibrated")
    return found["status"], found["reason"]


async def sending(urls: list[str]) -> None:
    """Requests of chance at a load that rises and begins anew, until it is cancelled."""
    profile, rng, sent = load_profile(*KIND), random.Random(1), 0
    most_rps = len(urls) * FASTER / (profile.prefill_s(500) + 99 * profile.step_s(64) / 64)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        while True:
            sent += 1
            group.create_task(post(session, urls[sent % len(urls)], rng))
            await asyncio.sleep(rng.expovariate(most_rps * (0.05 + 0.05 * (sent // 40 % 9))))


async def post(session: aiohttp.ClientSession, url: str, rng: random.Random) -> None:
    words = "abc " * max(1, min(3000, int(rng.expovariate(1 / 500))))
    tokens = max(1, min(900, int(rng.expovariate(1 / 100))))
    body = {"model": MODEL, "prompt": words, "max_tokens": tokens, "ignore_eos": True}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()

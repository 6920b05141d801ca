"""The emulator answers as vLLM does: the table of tests/vllm_contract.py, and the families of its metrics."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from marlin.simulator.emulator.server import Server
from marlin.simulator.emulator.settings import Settings

HERE = Path(__file__).resolve().parent


def load_contract() -> Any:
    """The table; tests are no package, so it is loaded by its path."""
    if "vllm_contract" not in sys.modules:
        spec = importlib.util.spec_from_file_location("vllm_contract", HERE.parent / "vllm_contract.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["vllm_contract"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["vllm_contract"]


contract = load_contract()


@dataclass(frozen=True)
class Fast:
    """A replica without weight: a millisecond for anything."""

    kv_capacity_tokens: int = 100_000
    max_batch: int = 64

    def prefill_s(self, prompt_tokens: float) -> float:
        return 0.001

    def step_s(self, batch: float) -> float:
        return 0.001


@pytest.fixture
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    server = Server(
        Settings(
            model=contract.MODEL,
            profile=Fast(),
            runner=request.param,
            max_model_len=contract.MAX_MODEL_LEN,
            max_num_seqs=8,
            max_num_queued_reqs=contract.MAX_QUEUED,
            api_key=contract.API_KEY,
        )
    )
    port = await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}"
    await server.stop()


@pytest.mark.parametrize(
    ("url", "case"), [pytest.param(c.runner, c, id=c.name) for c in contract.CASES], indirect=["url"]
)
async def test_answers_as_vllm(url: str, case: Any) -> None:
    async with aiohttp.ClientSession() as session:
        await contract.run_case(session, url, case)


@pytest.mark.parametrize("url", ["generate"], indirect=True)
async def test_metric_families_are_those_of_vllm(url: str) -> None:
    recorded = json.loads((HERE / "vllm_metric_families.json").read_text())["families"]
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as reply:
        shown = contract.metric_families(await reply.text())
        assert reply.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    assert list(shown) == list(recorded)
    assert shown == recorded


@pytest.mark.parametrize("url", ["generate"], indirect=True)
async def test_header_names_and_order_are_uvicorns(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(url + "/version") as reply:
        names = [name.decode() for name, _ in reply.raw_headers]
    assert names == ["date", "server", "content-length", "content-type", "vary"]

"""The official ``openai`` and ``anthropic`` clients, through a router, at a real vLLM (``make e2e-vllm``)."""

from __future__ import annotations

import asyncio
import os
import runpy
from pathlib import Path

import client_scenarios as scenarios
import pytest
from router_client import table
from router_process import running

pytestmark = pytest.mark.real_vllm

CONTRACT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "vllm_contract.py"), run_name="vllm_contract")
KEY, MODEL = CONTRACT["API_KEY"], CONTRACT["MODEL"]
URL = os.environ.get("MARLIN_VLLM_CLIENTS_URL", "")


async def test_the_official_clients_run_their_scenarios(tmp_path: Path) -> None:
    document = table(URL)
    document["pools"][0]["modelName"] = MODEL
    async with running(tmp_path, document) as router:
        place = scenarios.Place(router.url, KEY, MODEL, router.admin_url)
        await asyncio.to_thread(scenarios.openai_answers, place)
        await scenarios.openai_answers_asynchronously(place)
        await asyncio.to_thread(scenarios.openai_names_tools, place)
        await asyncio.to_thread(scenarios.anthropic_answers, place)
        await scenarios.anthropic_answers_asynchronously(place)

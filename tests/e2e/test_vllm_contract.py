"""A real vLLM answers as the table of tests/vllm_contract.py says: so the table is true, and the emulator with it.

Runs only where servers are given: MARLIN_VLLM_URL (the generate runner) and MARLIN_VLLM_POOLING_URL, both started with
the table's SERVER_OPTIONS. ``make e2e-vllm`` starts them and runs this; an ordinary run of the suite does not collect
this folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.real_vllm


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

URLS = {"generate": os.environ.get("MARLIN_VLLM_URL"), "pooling": os.environ.get("MARLIN_VLLM_POOLING_URL")}
CASES = [(URLS[case.runner], case) for case in contract.CASES if URLS[case.runner]]


@pytest.mark.parametrize(("url", "case"), [pytest.param(url, case, id=case.name) for url, case in CASES])
async def test_answers_as_the_table_says(url: str, case: Any) -> None:
    async with aiohttp.ClientSession() as session:
        await contract.run_case(session, url, case)


@pytest.mark.parametrize("url", [url for url in URLS.values() if url])
async def test_metric_families_are_as_recorded(url: str) -> None:
    recorded = json.loads((HERE.parent / "simulator" / "vllm_metric_families.json").read_text())["families"]
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as reply:
        shown = contract.metric_families(await reply.text())
        assert reply.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    assert shown == recorded

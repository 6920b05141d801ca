"""Rules and dashboards in a real Prometheus that scrapes a real router, with traffic and faults, and an operator."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from agents import small_artifact
from aiohttp import web
from chart_values import CHART
from prometheus_process import RULES, program, prometheus_over
from router_client import table, write
from worlds import NOON, Cluster, sample, the

from marlin.operator.arrivals.history import Ended
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.demo.processes import Processes, Service
from marlin.operator.kube.access import Access
from marlin.operator.report.prometheus import read
from marlin.operator.running import Operator, Settings
from marlin.operator.serving import pages
from marlin.operator.telemetry.levels import Levels

EMULATE = ("emulate", "--model", "m", "--profile", "Llama-2-7b", "--accelerator", "H100-80GB", "--tensor-parallel", "1")

POLICY = ("default", "balanced")

NEVER_HAPPENED = {"marlin_router_requests_without_estimate_total", "marlin_router_table_reloads_total"}
"""Counters that this traffic has no reason to raise."""


@asynccontextmanager
async def _operator_pages(artifact: Path) -> AsyncIterator[str]:
    """Address of a leading operator's pages, without a cluster behind them: its agents agreed on a plan."""
    operator = Operator(Access("https://hub", ""), Settings("marlin-system", "one"))
    operator.is_leader, operator.rounds, operator.last_round_s = True, 3, asyncio.get_running_loop().time()
    small_artifact(artifact)
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["planner"] = {"kind": "Marlin", "scheme": "Balanced"}
    cluster = Cluster(objects)
    cluster.known["artifacts"] = {(POLICY, "planner"): ArtifactUse(artifact)}
    report = cluster.reconcile().report
    operator.ledger.heard(report)
    epoch = int(NOON.timestamp()) // 900
    operator.levels = Levels(
        report,
        operator.ledger.last,
        {POLICY: Ended(epoch, {"llama-2-70b": 900.0}, {"llama-2-70b": 0.4}, {"llama-2-70b": 90.0})},
    )
    runner = web.AppRunner(pages(operator), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def _traffic(session: aiohttp.ClientSession, router: Service, emulators: list[Service]) -> None:
    """Requests without end, of which some meet a full queue: rate() sees a counter grow, not begin."""

    async def ask() -> None:
        body = {"model": "m", "prompt": "hello", "max_tokens": 5, "ignore_eos": True, "stream": True}
        body["stream_options"] = {"include_usage": True}
        async with session.post(f"{router.url}/v1/completions", json=body) as response:
            await response.read()

    while True:
        for emulator in emulators:
            fault = {"fault": "queue-full", "requests": 1}
            async with session.post(f"{emulator.url}/emulator/faults", json=fault) as response:
                assert response.status == 200
        await asyncio.gather(*(ask() for _ in range(5)))


def _rules() -> list[dict[str, Any]]:
    return [rule for f in RULES for group in yaml.safe_load(f.read_text())["groups"] for rule in group["rules"]]


def _panels() -> list[tuple[str, str]]:
    """Each query of the dashboards with its panel's title, as Grafana would ask it for everything."""
    found = []
    for file in sorted((CHART / "files" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = re.sub(r"\$__(rate_interval|range)", "1m", target["expr"])
                found.append((panel["title"], re.sub(r"\$(namespace|policy|pool|datacenter)\b", ".*", query)))
    return found


async def test_every_query_of_rules_and_dashboards_has_a_value_where_there_is_traffic(tmp_path: Path) -> None:
    program()
    async with (
        Processes(tmp_path) as processes,
        _operator_pages(tmp_path / "artifact") as operator,
        aiohttp.ClientSession() as session,
    ):
        emulators = [await processes.start(name, *EMULATE, ready_path="/health") for name in ("north", "south")]
        document = table(*(one.url for one in emulators))
        for site in document["datacenters"]:
            site |= {"carbonGco2PerKwh": 100.0, "waterLPerKwh": 2.0, "priceUsdPerKwh": 0.1}
        for backend in document["pools"][0]["backends"]:
            backend |= {"joulesPerPromptToken": 0.1, "joulesPerOutputToken": 1.0, "concurrencyAtCapacity": 8.0}
        config = tmp_path / "table.json"
        write(config, document)
        router = await processes.start(
            *("router", "router", "--config", str(config), "--admin-port", "0", "--drain-grace-s", "0"),
            ready_path="/readyz",
        )
        assert router.admin_url is not None
        targets = {
            "marlin-router-metrics": router.admin_url.removeprefix("http://"),
            "marlin-operator-metrics": operator,
        }
        async with prometheus_over(tmp_path, targets) as prometheus:
            flowing = asyncio.create_task(_traffic(session, router, emulators))
            await prometheus.until("sum(rate(marlin_router_retries_total[1m])) > 0")
            await prometheus.until("sum(rate(marlin_router_upstream_errors_total[1m])) > 0")
            await prometheus.until("sum(rate(marlin_router_requests_total[1m])) > 0")
            unknown = 'sum(increase(marlin_router_requests_total{code="404",datacenter=""}[1m])) > 0'
            for _ in range(2):  # the counter begins with the first, and grows with the second
                async with session.post(f"{router.url}/v1/completions", json={"model": "nobody's"}) as response:
                    assert response.status == 404
                await prometheus.until('marlin_router_requests_total{code="404"}')
            await prometheus.until(unknown)
            # An increase is between two scrapes, and the operator's first may come later than the router's.
            await prometheus.until("count_over_time(marlin_operator_is_leader[1m]) > 1")

            for rule in _rules():
                if "record" in rule:
                    assert await prometheus.until(rule["record"]), rule["record"]
            evaluated = [r for group in (await prometheus.ask("rules"))["groups"] for r in group["rules"]]
            assert len(evaluated) == len(_rules())
            assert [r["name"] for r in evaluated if r["health"] != "ok"] == []
            empty = [(title, q) for title, q in _panels() if not await prometheus.query(q)]
            now = datetime.now(UTC)
            seen = await read(prometheus.url, now - timedelta(minutes=1), now, 'job="marlin-router-metrics"')
            flowing.cancel()
            assert {pool for pool, _ in seen.sites} == {"chat"}
            for usage in seen.sites.values():
                assert usage.tokens > 0
                assert usage.carbon_gco2 > 0
                assert usage.capacity_requests > 0
                assert usage.ttft_p95_s is not None
                assert usage.ttft_mean_s is not None
            assert seen.unreached.requests > 0
            assert seen.pools_ttft["chat"].keys() == seen.all_ttft.keys() == {"ttft_p50_s", "ttft_p95_s", "ttft_p99_s"}
            assert seen.datacenters_ttft.keys() == {"dc0", "dc1"}
            assert seen.other is not None
            assert (seen.other.covered, seen.other.assumed) == (1.0, 0.0)
            # Both sites are on the same grid with the same machines: nothing can be saved.
            assert seen.saved_percent is not None
            assert seen.saved_percent["carbon_gco2"] == pytest.approx(0.0, abs=10.0)
            assert [one for one in empty if not any(name in one[1] for name in NEVER_HAPPENED)] == []

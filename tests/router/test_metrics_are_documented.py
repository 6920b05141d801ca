"""The page of the router names every metric and attribute of a trace that there is, with its labels, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from marlin.api.footprint import Intensity
from marlin.router import tracer
from marlin.router.messages import BackendReport, Report
from marlin.router.metrics import Metrics
from marlin.router.tally import Cell, Spending, Times
from marlin.router.view import Backend, Datacenter, PlanInfo, Pool, Shares, Site, Table

PAGE = (Path(__file__).parents[2] / "docs/reference/router.md").read_text("utf-8")
PREFIX = "marlin_router_"
EVERYWHERE = {"pool", "datacenter"}


def rows(heading: str) -> list[str]:
    """The first cells of the table below a heading of the page."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]


def documented() -> dict[str, set[str]]:
    """Metric to its labels, but for pool and datacenter, which most have, and tenant, which those have called so."""
    found = {}
    for cell in rows("Metrics"):
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([a-z, ]+)\})?`", cell):
            found[name] = set(filter(None, re.split(r",\s*", labels))) - EVERYWHERE
    return found


def shown() -> dict[str, set[str]]:
    """What /metrics shows of a router that has everything to show."""
    times = Times(buckets=[1, *(0 for _ in Times().buckets[1:])], sum_s=0.001)
    backend = Backend(
        "chat", "b", "dc", "http://b", 1.0, energy_in_flight=(1.0, 2.0), energy_factor=(2.0, 1.0),
        joules_per_prompt_token=1.0, joules_per_output_token=1.0,
    )  # fmt: skip
    site = Site(Datacenter("dc", "eu", "Active", Intensity(1.0, 1.0, 1.0)), (backend,))
    pool = Pool("chat", "m", (site,), Shares((1.0,)), (1.0,), is_planned=True)
    table = Table.of(1, (pool,), (site.datacenter,), PlanInfo(1, 0.0, 0.0, 900.0, "MeritOrder", "hash"))
    cell = Cell(
        pool="chat", datacenter="dc", codes={200: 1}, ttft=times, duration=times, upstream_errors={"connect": 1},
        retries={"connect": 1}, no_estimate={"no_usage": 1}, prompt_tokens=1, output_tokens=1, energy_kwh=1.0,
    )  # fmt: skip
    spending = Spending(
        tenant="ann", pool="chat", datacenter="dc", codes={200: 1}, refused={"rate": 1}, prompt_tokens=1,
        output_tokens=1, energy_kwh=1.0, streams=1, ttft_sum_s=1.0,
    )  # fmt: skip
    reported = BackendReport(*backend.key, in_flight=1, is_usable=True, concurrency=1.0, service_time_s=1.0)
    metrics = Metrics(lambda: table, lambda: 1.0)
    metrics.is_table_watched = lambda: True
    metrics.count_reload("ok")
    metrics.count_tenant_reload("ok")
    text = metrics.exposition([Report(1, 1, [cell], [reported], [spending])]).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.samples, family.name
        assert family.name.startswith(PREFIX)
        assert family.documentation
        name = family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - EVERYWHERE - {"le"}
        found[name] = labels - {"tenant"} if name.startswith("tenant_") else labels
    return found


def test_every_metric_is_on_the_page_with_its_labels_and_no_other() -> None:
    assert documented() == shown()


def test_every_attribute_of_a_trace_is_on_the_page_and_no_other() -> None:
    source = Path(tracer.__file__).read_text("utf-8")
    made = set(re.findall(r'"((?:marlin|error)\.[a-z_.]+)"', source))
    named = {name for cell in rows("Traces") for name in re.findall(r"`((?:marlin|error)\.[a-z_.]+)`", cell)}
    assert made == named
    others = set(re.findall(r'"((?:http|url|gen_ai)\.[a-z_.]+)"', source))
    assert others
    for name in others:
        group = re.match(r"[a-z_]+", name)
        assert group is not None
        assert f"`{group[0]}.*`" in PAGE or f"`{name}`" in PAGE, name

"""``marlin report``: figures worked by hand, and the command against an HTTP server that answers as Prometheus does."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.errors import InputError, MarlinError
from marlin.operator.report.cli import moment, report
from marlin.operator.report.method import Usage, carbon_per_1000_tokens, counterfactual, saved_percent
from marlin.operator.report.prometheus import PrometheusError

# Clean and dirty have equal capacity; three of four tokens went to the clean one.
CLEAN = Usage(requests=30, tokens=3000, energy_kwh=3, carbon_gco2=300, water_l=3, cost_usd=0.3, capacity_requests=8)
DIRTY = Usage(requests=10, tokens=1000, energy_kwh=1, carbon_gco2=500, water_l=5, cost_usd=0.1, capacity_requests=8)


def test_the_counterfactual_worked_by_hand() -> None:
    found = counterfactual({("chat", "clean"): CLEAN, ("chat", "dirty"): DIRTY})
    assert found is not None
    # 2,000 tokens each: 0.1 g and 0.5 g a token.
    assert found.carbon_gco2 == pytest.approx(200 + 1000)
    assert found.energy_kwh == pytest.approx(4)
    assert found.covered == 1.0


def test_a_site_that_answered_nothing_is_left_out_and_said_so() -> None:
    idle = Usage(capacity_requests=16)
    found = counterfactual({("chat", "clean"): CLEAN, ("chat", "idle"): idle})
    assert found is not None
    assert found.carbon_gco2 == pytest.approx(300)
    assert found.covered == pytest.approx(1 / 3)


def test_pools_are_compared_apart() -> None:
    found = counterfactual({("a", "clean"): CLEAN, ("b", "dirty"): DIRTY})
    assert found is not None
    assert found.carbon_gco2 == pytest.approx(800)


def test_a_site_without_a_capacity_is_on_neither_side_of_what_was_saved() -> None:
    both = {("chat", "clean"): CLEAN, ("chat", "dirty"): DIRTY}
    unstated = {
        ("chat", "unstated"): replace(DIRTY, capacity_requests=0),
        ("other", "unstated"): replace(DIRTY, capacity_requests=0),
    }
    saved = saved_percent(both | unstated)
    assert saved is not None
    assert saved == saved_percent(both)
    assert saved["carbon_gco2"] == pytest.approx(100 / 3)
    assert saved_percent(unstated) is None


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e3)), min_size=1, max_size=6))
def test_routing_by_capacity_saves_nothing_against_itself(sites: list[tuple[float, float]]) -> None:
    """Tokens in proportion to capacity: the counterfactual is what happened."""
    usages = {
        ("p", f"d{i}"): Usage(tokens=100 * capacity, carbon_gco2=carbon, capacity_requests=capacity)
        for i, (carbon, capacity) in enumerate(sites)
    }
    found = counterfactual(usages)
    assert found is not None
    assert found.carbon_gco2 == pytest.approx(sum(carbon for carbon, _ in sites))


def test_carbon_per_1000_tokens_holds_what_is_embodied() -> None:
    assert carbon_per_1000_tokens(CLEAN) == pytest.approx(100)
    assert carbon_per_1000_tokens(CLEAN, embodied_gco2=30) == pytest.approx(110)
    assert carbon_per_1000_tokens(Usage()) is None


def test_a_time_without_a_zone_is_utc_and_nonsense_is_refused() -> None:
    assert moment("--from", "2026-11-01") == moment("--from", "2026-11-01T00:00Z")
    with pytest.raises(InputError, match="--to: 'soon'"):
        moment("--to", "soon")


VALUES: dict[str, dict[str, float]] = {
    "requests_total": {"clean": 30, "dirty": 10},
    "tokens_total": {"clean": 3000, "dirty": 1000},
    "energy_joules_total": {"clean": 3, "dirty": 1},
    "carbon_grams_total": {"clean": 300, "dirty": 500},
    "water_liters_total": {"clean": 3, "dirty": 5},
    "cost_usd": {"clean": 0.3, "dirty": 0.1},
    "capacity_requests": {"clean": 8, "dirty": 8},
    "ttft_seconds_bucket": {"clean": 0.25, "dirty": 0.5},
}


class FakePrometheus:
    """Answers by the metric that a query names, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                outer.asked.append(asked)
                body = json.dumps({"status": "success", "data": {"result": outer.result(asked["query"][0])}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def result(self, query: str) -> list[dict[str, Any]]:
        if "5.." in query or "without_estimate" in query:
            return []
        metric = re.search(r"marlin_router_(?:tenant_)?(?:estimated_)?(\w+)\{", query)
        assert metric is not None, query
        values = VALUES[metric[1]]
        if "by (tenant)" in query:
            return [{"metric": {"tenant": "=cmd"}, "value": [0, str(sum(values.values()))]}]
        return [{"metric": {"pool": "chat", "datacenter": d}, "value": [0, str(v)]} for d, v in values.items()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    server = FakePrometheus()
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


def _run(fake: FakePrometheus, *options: str) -> str:
    interval = ["--prometheus", fake.url, "--from", "2026-11-01", "--to", "2026-11-02"]
    result = CliRunner().invoke(report, [*interval, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_report_says_what_was_saved(fake: FakePrometheus) -> None:
    said = json.loads(_run(fake, "--format", "json", "--embodied-gco2", "400"))
    assert said["total"]["carbon_gco2"] == 800
    assert said["counterfactual"]["carbon_gco2"] == pytest.approx(1200)
    assert said["savedPercent"]["carbon_gco2"] == pytest.approx(100 / 3)
    assert said["sciGco2PerThousandTokens"] == pytest.approx(300)
    assert said["sites"]["chat / clean"]["ttft_p95_s"] == 0.25
    assert said["datacenters"]["dirty"]["tokens"] == 1000
    assert said["method"]
    for asked in fake.asked:
        assert "[86400s]" in asked["query"][0]
        assert 'job="marlin-router-metrics"' in asked["query"][0]
        assert asked["time"] == ["1793577600.0"]


def test_a_spreadsheet_gets_rows_and_no_formulas(fake: FakePrometheus) -> None:
    rows = list(csv.DictReader(io.StringIO(_run(fake, "--format", "csv"))))
    assert {row["level"] for row in rows} == {"pools", "datacenters", "sites", "tenants", "total", "counterfactual"}
    assert [row["name"] for row in rows if row["level"] == "tenants"] == ["'=cmd"]
    assert [row["carbon_gco2"] for row in rows if row["level"] == "total"] == ["800.0"]


def test_a_page_is_written_and_says_its_method(fake: FakePrometheus, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert _run(fake, "--out", str(out)) == ""
    page = out.read_text()
    assert "Uncertainty" in page
    assert "1,200" in page
    assert "<script" not in page


def test_a_file_that_cannot_be_written_is_named(fake: FakePrometheus, tmp_path: Path) -> None:
    with pytest.raises(MarlinError, match=r"--out: .*report\.html cannot be written: No such file"):
        _run(fake, "--out", str(tmp_path / "missing" / "report.html"))


def test_a_prometheus_that_is_not_there_is_named() -> None:
    options = ["--prometheus", "http://127.0.0.1:9", "--from", "2026-11-01", "--to", "2026-11-02"]
    with pytest.raises(PrometheusError, match=r"http://127\.0\.0\.1:9 cannot be asked"):
        CliRunner().invoke(report, options, catch_exceptions=False)

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
from marlin.api.footprint import Footprint
from marlin.operator.report.cli import moment, report
from marlin.operator.report.method import (
    Counterfactual,
    Usage,
    Window,
    carbon_per_1000_tokens,
    counterfactual,
)
from marlin.operator.report.prometheus import PrometheusError

# Clean and dirty have equal capacity; three of four tokens went to the clean one.
CLEAN = Usage(requests=30, tokens=3000, energy_kwh=3, carbon_gco2=300, water_l=3, cost_usd=0.3, capacity_requests=8)
DIRTY = Usage(requests=10, tokens=1000, energy_kwh=1, carbon_gco2=500, water_l=5, cost_usd=0.1, capacity_requests=8)


def compared(*windows: Window) -> tuple[Counterfactual, dict[str, float | None]]:
    found = counterfactual(windows)
    assert found is not None
    return found


def test_the_counterfactual_worked_by_hand() -> None:
    found, saved = compared(Window({("chat", "clean"): CLEAN, ("chat", "dirty"): DIRTY}))
    # 2,000 tokens each: 0.1 g and 0.5 g a token.
    assert found.carbon_gco2 == pytest.approx(200 + 1000)
    assert found.energy_kwh == pytest.approx(4)
    assert (found.covered, found.assumed) == (1.0, 0.0)
    assert saved["carbon_gco2"] == pytest.approx(100 / 3)


def test_a_site_that_answered_nothing_takes_what_the_table_says() -> None:
    idle = Usage(capacity_requests=16)
    usages = {("chat", "clean"): CLEAN, ("chat", "idle"): idle}
    found, saved = compared(Window(usages, {("chat", "idle"): Footprint(carbon_gco2=0.7)}))
    # 1,000 of the 3,000 tokens where they were, 2,000 at 0.7 g.
    assert found.carbon_gco2 == pytest.approx(100 + 1400)
    assert found.covered == 1.0
    assert found.assumed == pytest.approx(2 / 3)
    assert saved["carbon_gco2"] == pytest.approx(80)


def test_tokens_that_move_take_what_moderate_load_takes_where_that_is_known() -> None:
    """A site that hardly anybody used took ten times as much per token: what idled there stays, whoever is sent."""
    empty = replace(DIRTY, tokens=100, energy_kwh=1, carbon_gco2=500)
    stated = {("chat", "clean"): Footprint(carbon_gco2=0.1), ("chat", "empty"): Footprint(carbon_gco2=0.5)}
    found, _ = compared(Window({("chat", "clean"): CLEAN, ("chat", "empty"): empty}, stated))
    # 1,550 tokens each: 1,450 moved, at 0.4 g more.
    assert found.carbon_gco2 == pytest.approx(300 + 500 + 1450 * 0.4)
    assert found.assumed == 0.0


def test_two_measures_are_not_mixed_among_sites_that_answered() -> None:
    stated = {("chat", "clean"): Footprint(carbon_gco2=9.0)}
    usages = {("chat", "clean"): CLEAN, ("chat", "dirty"): DIRTY}
    assert compared(Window(usages, stated)) == compared(Window(usages))


@pytest.mark.parametrize("silent", [Usage(capacity_requests=16), Usage(capacity_requests=16, tokens=10)])
def test_a_site_of_which_nothing_is_known_is_left_out_and_said_so(silent: Usage) -> None:
    """One that answered nothing, and one whose tokens nobody could price: it did not answer for nothing."""
    found, _ = compared(Window({("chat", "clean"): CLEAN, ("chat", "silent"): silent}))
    assert found.carbon_gco2 == pytest.approx(300)
    assert found.covered == pytest.approx(1 / 3)


def test_pools_are_compared_apart() -> None:
    found, _ = compared(Window({("a", "clean"): CLEAN, ("b", "dirty"): DIRTY}))
    assert found.carbon_gco2 == pytest.approx(800)


def test_hours_are_compared_apart() -> None:
    """All at night where it is clean by night, all by day where it is clean by day: means over both would hide it."""
    by_night = {("p", "wind"): CLEAN, ("p", "sun"): replace(DIRTY, tokens=1, energy_kwh=0.001, carbon_gco2=0.5)}
    by_day = {("p", "sun"): CLEAN, ("p", "wind"): replace(DIRTY, tokens=1, energy_kwh=0.001, carbon_gco2=0.5)}
    _, apart = compared(Window(by_night), Window(by_day))
    both = {key: by_night[key].plus(by_day[key]) for key in by_night}
    _, together = compared(Window(both))
    assert apart["carbon_gco2"] == pytest.approx(66.6, abs=0.1)
    assert together["carbon_gco2"] == pytest.approx(0.0, abs=1e-9)


def test_a_site_without_a_capacity_is_on_neither_side_of_what_was_saved() -> None:
    both = {("chat", "clean"): CLEAN, ("chat", "dirty"): DIRTY}
    unstated = {
        ("chat", "unstated"): replace(DIRTY, capacity_requests=0),
        ("other", "unstated"): replace(DIRTY, capacity_requests=0),
    }
    assert compared(Window(both | unstated))[1] == compared(Window(both))[1]
    assert counterfactual([Window(unstated)]) is None


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e3)), min_size=1, max_size=6))
def test_routing_by_capacity_saves_nothing_against_itself(sites: list[tuple[float, float]]) -> None:
    """Tokens in proportion to capacity: the counterfactual is what happened."""
    usages = {
        ("p", f"d{i}"): Usage(tokens=100 * capacity, energy_kwh=1, carbon_gco2=carbon, capacity_requests=capacity)
        for i, (carbon, capacity) in enumerate(sites)
    }
    found, saved = compared(Window(usages))
    assert found.carbon_gco2 == pytest.approx(sum(carbon for carbon, _ in sites))
    assert saved["carbon_gco2"] == pytest.approx(0, abs=1e-9)


def test_means_add_up_by_what_they_are_of_and_percentiles_do_not() -> None:
    one = Usage(timed=3, ttft_mean_s=1.0, ttft_p95_s=2.0)
    both = one.plus(Usage(timed=1, ttft_mean_s=5.0)).plus(Usage(requests=100))
    assert both.ttft_mean_s == pytest.approx(2.0)
    assert both.ttft_p95_s is None
    assert both.timed == 4


def test_carbon_per_1000_tokens_holds_what_is_embodied() -> None:
    assert carbon_per_1000_tokens(CLEAN) == pytest.approx(100)
    assert carbon_per_1000_tokens(CLEAN, embodied_gco2=30) == pytest.approx(110)
    assert carbon_per_1000_tokens(Usage()) is None


def test_a_time_without_a_zone_is_utc_and_nonsense_is_refused() -> None:
    assert moment("--from", "2026-11-01") == moment("--from", "2026-11-01T00:00Z")
    with pytest.raises(InputError, match="--to: 'soon'"):
        moment("--to", "soon")


VALUES: dict[str, dict[str, float]] = {
    "requests_total": {"clean": 30, "dirty": 10, "": 7},
    "tokens_total": {"clean": 3000, "dirty": 1000},
    "energy_joules_total": {"clean": 3, "dirty": 1},
    "carbon_grams_total": {"clean": 300, "dirty": 500},
    "water_liters_total": {"clean": 3, "dirty": 5},
    "cost_usd": {"clean": 0.3, "dirty": 0.1},
    "capacity_requests": {"clean": 8, "dirty": 8, "idle": 16},
    "ttft_seconds_bucket": {"clean": 0.25, "dirty": 0.5},
    "ttft_seconds_sum": {"clean": 6, "dirty": 4},
    "ttft_seconds_count": {"clean": 30, "dirty": 10},
}


class FakePrometheus:
    """Answers by the metric that a query names, and remembers what it was asked.

    ``idle`` has a capacity and answered nothing; seven requests reached no datacenter, three of them failed.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.has_rates = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                what = urlsplit(self.path).path.rpartition("/")[2]
                outer.asked.append((what, asked))
                rows = outer.result(asked["query"][0])
                if what == "query_range":
                    end_s = float(asked["end"][0])
                    rows = [{"metric": row["metric"], "values": [[end_s, row["value"][1]]]} for row in rows]
                body = json.dumps({"status": "success", "data": {"result": rows}}).encode()
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
        if "without_estimate" in query:
            return []
        metric = re.search(r"marlin_router_(?:tenant_)?(?:estimated_)?(\w+)\{", query)
        assert metric is not None, query
        if "per_kwh" in query:
            return [
                {"metric": {"datacenter": "idle", "figure": figure}, "value": [0, value]}
                for figure, value in {"carbon_grams": "720", "water_liters": "1", "cost_usd": "0.1"}.items()
                if self.has_rates
            ]
        if "joules_per_token" in query:  # 2,000 and 4,000 J: half of each is 3,000 J, 1/1200 kWh, 0.6 g
            return [
                {"metric": {"pool": "chat", "datacenter": "idle", "kind": kind}, "value": [0, value]}
                for kind, value in {"prompt": "2000", "output": "4000"}.items()
            ]
        if "by (pool, kind)" in query:
            return [{"metric": {"pool": "chat", "kind": kind}, "value": [0, "2000"]} for kind in ("prompt", "output")]
        values = {"": 3} if "5.." in query else VALUES[metric[1]]
        if "by (tenant)" in query:
            return [{"metric": {"tenant": "=cmd"}, "value": [0, str(sum(values.values()))]}]
        if "by (le)" in query:
            return [{"metric": {}, "value": [0, "0.4"]}]
        label = "pool" if "by (pool, le)" in query else "datacenter"
        if label == "pool":
            return [{"metric": {"pool": "chat"}, "value": [0, "0.45"]}]
        return [
            {"metric": {"pool": "chat" if d else "", "datacenter": d}, "value": [0, str(v)]} for d, v in values.items()
        ]

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
    # A quarter of 4,000 tokens at 0.1 g, a quarter at 0.5 g, half of them where nothing was asked, at 0.6 g.
    assert said["counterfactual"]["carbon_gco2"] == pytest.approx(100 + 500 + 1200)
    assert said["counterfactual"]["assumed"] == pytest.approx(0.5)
    assert said["savedPercent"]["carbon_gco2"] == pytest.approx(100 * (1 - 800 / 1800))
    assert said["sciGco2PerThousandTokens"] == pytest.approx(300)
    assert said["sites"]["chat / clean"]["ttft_p95_s"] == 0.25
    assert said["datacenters"]["dirty"]["tokens"] == 1000
    assert said["method"]
    assert said["unknown"]


def test_without_the_routers_rates_an_idle_site_is_left_out(fake: FakePrometheus) -> None:
    fake.has_rates = False
    said = json.loads(_run(fake, "--format", "json"))
    assert said["counterfactual"]["carbon_gco2"] == pytest.approx(200 + 1000)
    assert said["counterfactual"]["covered"] == pytest.approx(0.5)


def test_the_report_says_how_long_the_first_token_took_by_pool_datacenter_and_tenant(fake: FakePrometheus) -> None:
    said = json.loads(_run(fake, "--format", "json"))
    assert said["total"]["ttft_mean_s"] == pytest.approx(10 / 40)
    assert said["total"]["ttft_p95_s"] == 0.4
    assert said["pools"]["chat"]["ttft_p99_s"] == 0.45
    assert said["datacenters"]["dirty"]["ttft_mean_s"] == pytest.approx(0.4)
    assert said["datacenters"]["dirty"]["ttft_p50_s"] == 0.5
    assert said["tenants"]["=cmd"]["ttft_mean_s"] == pytest.approx(0.25)


def test_requests_that_reached_no_datacenter_are_counted(fake: FakePrometheus) -> None:
    said = json.loads(_run(fake, "--format", "json"))
    assert said["reachedNoDatacenter"] == {"requests": 7, "failed": 3}
    assert (said["total"]["requests"], said["total"]["failed"]) == (47, 3)
    assert "" not in said["datacenters"]


def test_the_whole_interval_is_asked_about_and_every_hour_of_it(fake: FakePrometheus) -> None:
    _run(fake)
    for what, asked in fake.asked:
        assert 'job="marlin-router-metrics"' in asked["query"][0]
        if what == "query":
            assert "[86400s]" in asked["query"][0]
            assert asked["time"] == ["1793577600.0"]
        else:
            assert "[3600000ms]" in asked["query"][0]
            assert (asked["start"], asked["end"], asked["step"]) == (["1793494800.0"], ["1793577600.0"], ["3600.000"])
    assert {what for what, _ in fake.asked} == {"query", "query_range"}


def test_a_spreadsheet_gets_rows_and_no_formulas(fake: FakePrometheus) -> None:
    rows = list(csv.DictReader(io.StringIO(_run(fake, "--format", "csv"))))
    levels = {"pools", "datacenters", "sites", "tenants", "none", "total", "counterfactual", "saved"}
    assert {row["level"] for row in rows} == levels
    assert [row["name"] for row in rows if row["level"] == "tenants"] == ["'=cmd"]
    assert [row["carbon_gco2"] for row in rows if row["level"] == "total"] == ["800.0"]


def test_a_page_is_written_and_says_its_method(fake: FakePrometheus, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert _run(fake, "--out", str(out)) == ""
    page = out.read_text()
    assert "Uncertainty" in page
    assert "What is not known" in page
    assert "1,800" in page
    assert "50 % is of sites that answered nothing" in page
    assert "<script" not in page


def test_one_source_has_to_be_named(fake: FakePrometheus, tmp_path: Path) -> None:
    interval = ["--from", "2026-11-01", "--to", "2026-11-02"]
    for options in ([], ["--prometheus", fake.url, "--history", str(tmp_path / "h")]):
        result = CliRunner().invoke(report, [*interval, *options])
        assert result.exit_code == 2
        assert "give one of --prometheus and --history" in result.output


def test_a_file_that_cannot_be_written_is_named(fake: FakePrometheus, tmp_path: Path) -> None:
    with pytest.raises(MarlinError, match=r"--out: .*report\.html cannot be written: No such file"):
        _run(fake, "--out", str(tmp_path / "missing" / "report.html"))


def test_a_prometheus_that_is_not_there_is_named() -> None:
    options = ["--prometheus", "http://127.0.0.1:9", "--from", "2026-11-01", "--to", "2026-11-02"]
    with pytest.raises(PrometheusError, match=r"http://127\.0\.0\.1:9 cannot be asked"):
        CliRunner().invoke(report, options, catch_exceptions=False)

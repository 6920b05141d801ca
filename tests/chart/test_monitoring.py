"""Rules and dashboards: they name metrics that there are, Prometheus can read them, alerts fire as they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_values import CHART, ROOT, objects_of, of_kind

from marlin.operator.telemetry.catalogue import MEASURES
from marlin.router.messages import Report
from marlin.router.metrics import Metrics
from marlin.router.tally import Cell
from marlin.router.view import Table

RULES = sorted((CHART / "files" / "rules").glob("*.yaml"))
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "how-to" / "answer-an-alert.md"


def _rules() -> list[dict[str, Any]]:
    return [rule for file in RULES for rule in _rules_of(file)]


def _rules_of(file: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panel_expressions() -> Iterator[str]:
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            yield from (target["expr"] for target in panel.get("targets", []))


def _exposed() -> set[str]:
    """Names of the series that /metrics of routers and operators hold."""
    table = Table.of(generation=1, pools=(), datacenters=(), plan=None)
    cell = Cell(pool="a", datacenter="x", prompt_tokens=1, output_tokens=1, energy_kwh=1.0)
    cell.count_request(200, 1.0, 1.0)
    cell.count_upstream_error("connect")
    cell.count_retry("connect")
    text = (
        Metrics(lambda: table, lambda: 0.0).exposition([Report(number=1, active=0, cells=[cell], backends=[])]).decode()
    )
    families = re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)
    # The operator's catalogue is held to what its page exposes by tests/operator/test_operator_metrics.py.
    families += [(measure.exposed, measure.kind) for measure in MEASURES.values()]
    return {name for name, _ in families} | {f"{name}_bucket" for name, kind in families if kind == "histogram"}


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in _rules()), *_panel_expressions()])
def test_a_query_names_metrics_that_there_are(expression: str) -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    names = set(re.findall(r"\bmarlin[:_][a-z0-9_:]+", expression))
    assert names - {"marlin-router-metrics", "marlin-operator-metrics"} <= _exposed() | recorded
    assert names


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    alerts = [rule for rule in _rules() if "alert" in rule]
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts)
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/how-to/answer-an-alert.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize(("profile", "release"), [("production", "marlin"), ("everything", "marlin-lab")])
def test_the_chart_puts_its_own_names_into_the_rules(profile: str, release: str) -> None:
    objects = objects_of(ROOT / "tests" / "chart" / "rendered" / f"{profile}.yaml")
    rules = {one["metadata"]["name"]: one["spec"]["groups"] for one in of_kind(objects, "PrometheusRule")}
    assert len(rules) == len(RULES)
    for file in RULES:
        rendered = [one["expr"] for group in rules[f"{release}-{file.stem}"] for one in group["rules"]]
        service = f"{release}-{file.stem}-metrics"
        selector = f'namespace="marlin",job="{service}"'
        assert rendered == [
            one["expr"].replace(f'job="marlin-{file.stem}-metrics"', selector) for one in _rules_of(file)
        ]
        assert all(selector in one or "marlin:router" in one for one in rendered)
        assert service in {one["metadata"]["name"] for one in of_kind(objects, "Service")}


def test_a_dashboard_arrives_as_it_is() -> None:
    objects = objects_of(ROOT / "tests" / "chart" / "rendered" / "production.yaml")
    config_maps = [one for one in of_kind(objects, "ConfigMap") if "dashboard" in one["metadata"]["name"]]
    by_file = {next(iter(one["data"])): one for one in config_maps}
    assert by_file.keys() == {f"marlin-{file.name}" for file in DASHBOARDS}
    for file in DASHBOARDS:
        config_map = by_file[f"marlin-{file.name}"]
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(config_map["data"][f"marlin-{file.name}"]) == json.loads(file.read_text(encoding="utf-8"))


def _checked(dashboard_check: Path, *files: Path) -> list[str]:
    run = subprocess.run([dashboard_check, *files], capture_output=True, text=True, check=False)
    assert run.returncode in {0, 1}, run.stderr
    assert (run.returncode == 1) is bool(run.stdout)
    return run.stdout.splitlines()


def test_grafana_s_own_types_read_the_dashboards(dashboard_check: Path) -> None:
    assert _checked(dashboard_check, *DASHBOARDS) == []


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ('"fieldConfig"', '"fieldConfg"', "unexpected field 'fieldConfg'"),
        ('"expr"', '"exp"', "targets[0].expr: required field is missing"),
        ('"type": "timeseries"', '"type": "timeserie"', 'there is no panel "timeserie"'),
        ('"unit": "s"', '"unit": 5', "cannot unmarshal number"),
    ],
)
def test_a_slip_in_a_dashboard_is_seen(
    dashboard_check: Path, tmp_path: Path, right: str, wrong: str, says: str
) -> None:
    file = tmp_path / "slip.json"
    text = DASHBOARDS[0].read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong, 1))
    assert says in "\n".join(_checked(dashboard_check, file))


def test_prometheus_reads_the_rules(promtool: Path) -> None:
    subprocess.run([promtool, "check", "rules", *RULES], check=True, capture_output=True)


def test_prometheus_reads_the_dashboards_queries(promtool: Path, tmp_path: Path) -> None:
    file = tmp_path / "panels.yaml"
    queries = [
        re.sub(r"\$(namespace|policy|pool|datacenter)\b", ".*", re.sub(r"\$__(rate_interval|range)", "5m", expr))
        for expr in _panel_expressions()
    ]
    rules = [{"record": f"panel{number}", "expr": query} for number, query in enumerate(queries)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert len(rules) > 20
    subprocess.run([promtool, "check", "rules", file], check=True, capture_output=True)


def test_alerts_fire_when_they_should_and_only_then(promtool: Path, tmp_path: Path) -> None:
    test = tmp_path / "rules_test.yaml"
    text = (ROOT / "tests" / "chart" / "rules_test.yaml").read_text(encoding="utf-8")
    test.write_text(text.replace("@RULES@", str(CHART / "files" / "rules")))
    run = subprocess.run([promtool, "test", "rules", test], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {rule["alert"] for rule in _rules() if "alert" in rule} == set(re.findall(r"alertname: (\w+)", text))

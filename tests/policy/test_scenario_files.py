"""Scenario files: mistakes with their line, the schema as an editor applies it, and the shipped examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.api.errors import InputError
from marlin.simulator.scenario_file import KEYS, scenario_schema
from marlin.simulator.scenario_text import load_scenario

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "scenarios").glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads(scenario_schema())
MISTAKES = [
    ("lod: mean56", "s.yaml:2: scenario.lod: unknown key; did you mean load?"),
    ("first_date: 2023-06-12", "s.yaml:2: scenario.first_date: unknown key; did you mean firstDate?"),
    ("1: x", "s.yaml:2: scenario.1: unknown key; there are base, "),
    ("load: mean99", "s.yaml:2: scenario.load: 'mean99' is not known; did you mean mean80?"),
    ("days: 0", "s.yaml:2: scenario.days: input should be greater than or equal to 1"),
    ("days: '2'", "s.yaml:2: scenario.days: '2': write a whole number"),
    ("days: 1.5", "s.yaml:2: scenario.days: 1.5: write a whole number"),
    ("lateWeight: '3'", "s.yaml:2: scenario.lateWeight: '3': write a number"),
    ("lateWeight: true", "s.yaml:2: scenario.lateWeight: true: write a number"),
    ("lateWeight: 101", "s.yaml:2: scenario.lateWeight: input should be less than or equal to 100"),
    ("compare: 'no'", "s.yaml:2: scenario.compare: 'no': write true or false"),
    ("datacenters: sg", "s.yaml:2: scenario.datacenters: 'sg': write a list, such as [sg, gb]"),
    ("firstDate: 2023-02-30", "s.yaml:2: scenario.firstDate: '2023-02-30': write a date, such as 2023-06-12"),
    ("firstDate: 20230612", "s.yaml:2: scenario.firstDate: 20230612: write a date"),
    ("firstDate: 1969-12-31", "s.yaml:2: scenario.firstDate: 1969-12-31 is not between 1970-01-01 and 2999-12-31"),
    ("drain:\n    - sg\n    - sg@9-3", "s.yaml:4: scenario.drain.1: 'sg@9-3' ends before it begins"),
    ("settings:\n    patince_s: 30", "s.yaml:3: scenario.settings.patince_s: patince_s is not known; did you mean pat"),
    ("settings:\n    patience_s: 9", "s.yaml:3: scenario.settings.patience_s: 9 is not between 10 and 300 s"),
    ("settings: {balancer: pack}", "s.yaml:2: scenario.settings.balancer: balancer is no setting but a key of its own"),
    ("settings: [patience_s]", "s.yaml:2: scenario.settings: ['patience_s']: write names and values"),
    ("base: demo-3\n  fleet: x.yaml", "s.yaml:3: scenario.fleet: give either base or fleet"),
    ("load: mean56\n  load: mean80", "s.yaml:3: load is there twice"),
    ("settings: &a {}\n  drain: *a", "s.yaml:3: an alias (*name) has no place here; write the value out"),
    ("base: [demo-3", "s.yaml:3: not valid YAML: "),
]


def refusal(text: str) -> str:
    with pytest.raises(InputError) as refused:
        load_scenario(text, "s.yaml")
    return str(refused.value)


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_to_write(line: str, message: str) -> None:
    assert message in refusal(f"scenario:\n  {line}\n") + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a scenario file has one key, scenario"),
        ("scenaro: {}", "a scenario file has one key, scenario"),
        ("scenario: {}\nother: 1", "a scenario file has one key, scenario"),
        ("kind: Datacenter", "fleet documents are given with --fleet"),
        ("kind: Datacenter\n---\nkind: Datacenter", "s.yaml:2: a scenario is one document"),
        ("scenario: {base: demo-3, " + " " * 2**20 + "}", "larger than 1 MiB"),
        ("scenario: " + "[" * 5000, "not valid YAML"),
        ("scenario: &a {settings: *a}", "an alias"),
    ],
)
def test_a_file_that_is_something_else_is_refused_in_one_line(text: str, message: str) -> None:
    told = refusal(text)
    assert message in told
    assert "\n" not in told


def test_the_schema_is_itself_valid_and_knows_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]["Scenario"]["properties"]) == set(KEYS)


def is_accepted_by_the_schema(text: str) -> bool:
    # An editor reads dates as text.
    document = yaml.load(text, yaml.BaseLoader if "firstDate" in text else yaml.SafeLoader)
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_schema_accepts_each_example(file: Path) -> None:
    assert is_accepted_by_the_schema(file.read_text())
    assert (ROOT / "docs" / "reference" / "scenario.schema.json").is_file()
    assert file.read_text().startswith("# yaml-language-server: $schema=../../docs/reference/scenario.schema.json\n")


# What a schema cannot say: YAML's own faults, the calendar, an outage that ends before it begins.
_BEYOND = ("firstDate", "sg@9-3", "load: mean56\n", "&a", "[demo-3")


@pytest.mark.parametrize("line", [line for line, _ in MISTAKES if not any(beyond in line for beyond in _BEYOND)])
def test_the_schema_refuses_what_the_command_refuses(line: str) -> None:
    assert not is_accepted_by_the_schema(f"scenario:\n  {line}\n")


def test_the_schema_is_printed_for_an_editor() -> None:
    shown = CliRunner().invoke(marlin, ["simulate", "--schema"])
    assert (shown.exit_code, shown.stdout) == (0, scenario_schema())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_runs_from_another_folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--days", "1", "--no-compare", "--quiet", "--json"]
    result = CliRunner().invoke(marlin, ["simulate", "--scenario", str(file), *short])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["served_share"] > 0.99
    assert found["requests"] > 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_paths_in_a_file_are_meant_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").touch()
    text = "scenario:\n  fleet: fleet.yaml\n  data: full\n  trace: azure2023:counts.csv\n"
    assert load_scenario(text, str(tmp_path / "s.yaml"))[0] == {
        "fleet": str(tmp_path / "fleet.yaml"),
        "data": str(tmp_path / "full"),
        "trace": f"azure2023:{tmp_path / 'counts.csv'}",
    }
    for trace in ("burstgpt", "mmpp:burst_ratio=20", "diurnal:days=2,amplitude=0.5"):
        assert load_scenario(f"scenario:\n  trace: {trace}\n", str(tmp_path / "s.yaml"))[0] == {"trace": trace}
    assert load_scenario("scenario:\n  trace: no.csv\n", "some/s.yaml")[0] == {"trace": "some/no.csv"}


@pytest.mark.timeout(300)
def test_the_page_on_studies_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and all Python of the page, in its order; shown lines are what comes out."""
    monkeypatch.chdir(tmp_path)
    blocks = _blocks((ROOT / "docs" / "how-to" / "simulate-a-study.md").read_text())
    assert {language for language, _ in blocks} == {"console", "yaml", "python"}
    for language, body in blocks:
        if language == "yaml":
            (tmp_path / "study.yaml").write_text(body)
        elif language == "python":
            subprocess.run([sys.executable, "-c", body], timeout=100, check=True)
        else:
            _run_console(body)


def _blocks(page: str) -> list[tuple[str, str]]:
    found = []
    for part in page.split("\n```")[0::1]:
        language, newline, body = part.partition("\n")
        if newline and language in {"console", "yaml", "python"}:
            found.append((language, body))
    return found


def _run_console(body: str) -> None:
    for part in body.split("$ ")[1:]:
        command, _, shown = part.partition("\n")
        result = CliRunner().invoke(marlin, command.removeprefix("marlin ").split())
        assert result.exit_code == (2 if shown.startswith("Error") else 0), result.output
        assert shown.strip() in result.output

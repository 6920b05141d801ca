"""``marlin report --history``: recorded plans lived through in the twin, against what the study itself said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.api.errors import InputError
from marlin.api.history import RecordedEpoch
from marlin.operator.report.cli import report
from marlin.policy.history import append, read

DAY = ("--from", "2023-06-12", "--to", "2023-06-13")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A day of merit order with machines that sleep: its recording, and what ``marlin simulate`` says of it."""
    file = tmp_path_factory.mktemp("recorded") / "epochs.jsonl"
    how = ["--scenario", "demo-3", "--load", "mean30", "--planner", "merit-order", "--scheme", "min-carbon"]
    how += ["--power-down", "Sleep"]
    result = CliRunner().invoke(marlin, ["simulate", *how, "--history", str(file), "--quiet", "--json"])
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.output)
    return file, said


def reported(file: Path, *options: str) -> str:
    result = CliRunner().invoke(report, ["--history", str(file), *DAY, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_was_recorded_took_what_the_study_said_and_so_did_routing_by_capacity(
    study: tuple[Path, dict[str, Any]],
) -> None:
    """Both sides with machines that sleep, for the study compares with the same ability to power down.

    A study charges something for the few requests that were not served in time; a report tells what was drawn.
    """
    file, said = study
    found = json.loads(reported(file, "--format", "json"))
    ours, theirs = said, said["baseline"]
    for row, summary in ((found["total"], ours), (found["counterfactual"], theirs)):
        assert row["energy_kwh"] == pytest.approx(summary["energy_kwh"], rel=1e-9)
        for name in ("carbon_gco2", "water_l", "cost_usd"):
            assert 0.99 * summary[name] <= row[name] <= (1 + 1e-9) * summary[name], name
        assert row["ttft_mean_s"] == pytest.approx(summary["ttft_s"], rel=1e-4)
    assert found["savedPercent"]["carbon_gco2"] == pytest.approx(
        100 * (1 - ours["carbon_gco2"] / theirs["carbon_gco2"]), abs=0.5
    )
    assert found["savedPercent"]["carbon_gco2"] > 5


def test_pools_and_datacenters_add_up_and_what_is_not_known_is_said(study: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads(reported(study[0], "--format", "json"))
    for level in ("pools", "datacenters", "sites"):
        for name in ("requests", "energy_kwh", "carbon_gco2", "water_l", "cost_usd"):
            parts = sum(row[name] for row in found[level].values())
            missing = found["reachedNoDatacenter"]["requests"] if name == "requests" else 0.0
            assert parts + missing == pytest.approx(found["total"][name]), (level, name)
        assert all(row["capacity_requests"] > 0 for row in found[level].values())
        assert all(row["ttft_mean_s"] > 0 for row in found[level].values() if row["requests"])
    assert found["tenants"] == {}
    assert any(line.startswith("Tenants") for line in found["unknown"])
    assert any("Uncertainty" in line for line in found["method"])


def test_an_hour_of_it_is_less_than_the_day(study: tuple[Path, dict[str, Any]]) -> None:
    hour = CliRunner().invoke(
        report,
        ["--history", str(study[0]), "--from", "2023-06-12T06:00Z", "--to", "2023-06-12T07:00Z", "--format", "csv"],
    )
    rows = [list(csv.DictReader(io.StringIO(text))) for text in (hour.output, reported(study[0], "--format", "csv"))]
    short, long = (next(row for row in each if row["level"] == "total") for each in rows)
    assert 0 < float(short["energy_kwh"]) < float(long["energy_kwh"]) / 12


def test_epochs_without_a_plan_and_intervals_without_an_epoch_are_refused(
    study: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first = read(study[0])[0]
    assert first.plan is not None
    file = tmp_path / "old.jsonl"
    append(file, [first.model_copy(update={"plan": None})])
    with pytest.raises(InputError, match=r"old\.jsonl: epoch \d+ has no plan"):
        reported(file)
    with pytest.raises(InputError, match="holds no epoch that begins in this interval"):
        CliRunner().invoke(
            report,
            ["--history", str(study[0]), "--from", "2020-01-01", "--to", "2020-01-02"],
            catch_exceptions=False,
        )


def test_a_plan_for_another_fleet_is_no_part_of_an_epoch(study: tuple[Path, dict[str, Any]]) -> None:
    one = read(study[0])[0]
    document = json.loads(one.model_dump_json(by_alias=True))
    document["plan"]["datacenters"] = [f"{name}-x" for name in document["plan"]["datacenters"]]
    document["plan"].pop("hash", None)
    with pytest.raises(ValueError, match="plan must be for the state's datacenters and pools"):
        RecordedEpoch.model_validate(document)

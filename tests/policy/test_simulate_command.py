"""``marlin simulate`` as a person calls it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.policy.simulating import prepare
from marlin.simulator.scenario_file import Scenario

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(marlin, ["simulate", "--quiet", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def summary(*arguments: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run("--scenario", "demo-3", "--json", *arguments))
    return result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--load mean99", "--load: 'mean99' is not known; did you mean mean80?"),
        ("--scenario paper-9", "--scenario: 'paper-9' is not known; did you mean paper-8?"),
        ("--scenario paper-8 --fleet x.yaml", "either --scenario or --fleet"),
        ("--scenario no-such.yaml", "no-such.yaml: cannot be read: No such file"),
        ("--fleet no-such.yaml", "no-such.yaml: cannot be read: No such file"),
        ("--planner merit", "--planner: 'merit' is not known; did you mean merit-order?"),
        ("--planner best-static", "planner best-static is chosen on past days"),
        ("--planner nearest --best-of 3", "--best-of: is for planner marlin, not for nearest"),
        ("--planner oracle --late-weight 3", "--late-weight: is for planner marlin, not for oracle"),
        ("--planner marlin --artifact no-such", "no-such/card.json: cannot be read"),
        ("--planner merit-order --weights carbon=1,speed=2", "--weights: 'speed' is not one of ttft, carbon"),
        ("--scheme balanced --weights carbon=1", "--weights: give either scheme or weights"),
        ("--scheme min-carbn", "--scheme: 'min-carbn' is not known; did you mean min-carbon?"),
        ("--dispatch order", "--dispatch: 'order' is not known; did you mean ordered?"),
        ("--power-down slep", "--power-down: 'slep' is not known; did you mean Sleep?"),
        ("--balancer pck", "--balancer: 'pck' is not known; did you mean pack?"),
        ("--engine fluidd", "--engine: 'fluidd' is not known; did you mean fluid?"),
        ("--days 0", "--days: input should be greater than or equal to 1"),
        ("--first-date 2023-13-01", "--first-date: '2023-13-01': write a date, such as 2023-06-12"),
        ("--set patience_s=9999", "--set patience_s: 9999 is not between 10 and 300 s"),
        ("--set patince_s=30", "did you mean patience_s?"),
        ("--set patience_s", "'patience_s' is not NAME=VALUE"),
        ("--set blowdown=theirs", "--set blowdown: 'theirs' is not known; there are ours, paper"),
        ("--drain sgg", "--drain: the fleet has no 'sgg'; did you mean sg?"),
        ("--fail sg@9-3", "'sg@9-3' ends before it begins"),
        ("--absent sg@1 --engine request-level", "the request-level engine follows one fleet"),
        ("--fail sg@96", "sg@96 is after the last epoch, which is 95"),
        ("--trace burst", "trace 'burst' is not known; did you mean burstgpt?"),
        ("--out run.xlsx", "run.xlsx: results end in .parquet or .csv"),
        ("--detail", "--detail needs --out"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_what_was_probably_meant(arguments: str, message: str) -> None:
    shown = run(*arguments.split(), code=2)
    assert message in shown
    assert "Traceback" not in shown


def test_the_summary_shows_quantiles_and_the_share_served_beside_every_saving() -> None:
    shown = run("--scenario", "demo-3", "--planner", "merit-order")
    for word in ("capacity-proportional", "difference", "TTFT p99, s", "carbon, kgCO2eq", "energy, kWh", "served"):
        assert word in shown
    assert shown.count("100.000%") == 2


def test_csv_holds_a_row_per_epoch_and_site_that_adds_up_to_the_summary(tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    found = summary("--out", str(out))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 96 * 3
    assert {row["datacenter"] for row in rows} == {"de-lu", "us-cal-ciso", "sg"}
    assert sum(float(row["energy_kwh"]) for row in rows) == pytest.approx(found["energy_kwh"], rel=1e-6)
    assert sum(float(row["served"]) for row in rows) == pytest.approx(found["requests"] - found["rejected"], rel=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["day.csv"]


def test_the_same_seed_gives_the_same_and_another_seed_other_arrivals() -> None:
    assert summary() == summary()
    assert summary("--seed", "1")["requests"] != summary()["requests"]


def test_merit_order_saves_carbon_on_the_same_requests_and_drops_none() -> None:
    found = summary("--planner", "merit-order", "--scheme", "min-carbon")
    base = found["baseline"]
    assert found["requests"] == base["requests"]
    assert found["change"]["carbon_gco2"] == pytest.approx(found["carbon_gco2"] / base["carbon_gco2"] - 1)
    assert found["change"]["carbon_gco2"] < 0
    assert found["served_share"] >= base["served_share"] - 1e-9


def test_the_baseline_is_the_planner_capacity_proportional_with_shares() -> None:
    alone = summary("--planner", "capacity-proportional")
    assert "baseline" not in alone
    assert alone["dispatch"] == "shares"
    beside = summary("--planner", "nearest")["baseline"]
    assert beside == {name: alone[name] for name in beside}


@pytest.mark.parametrize(
    "option",
    [
        "--set idle_accelerator_w=120",
        "--carbon lifecycle",
        "--price wholesale",
        "--first-date 2023-12-01",
        "--origins local-hour",
        "--balancer pack",
        "--power-down ScaleToZero",
        "--load mean30",
        "--first-day 1",
        "--trace azure2024",
        "--dispatch ordered",
        "--drain sg",
        "--fail sg@40-56",
    ],
)
def test_each_option_changes_what_is_simulated(option: str) -> None:
    plain, changed = summary("--no-compare"), summary("--no-compare", *option.split())
    metrics = ("ttft_s", "carbon_gco2", "water_l", "cost_usd")
    assert [plain[name] for name in metrics] != [changed[name] for name in metrics]


def test_a_drained_site_gets_nothing_and_a_failed_one_nothing_while_it_is_out(tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    found = summary("--drain", "sg", "--fail", "de-lu@4-6", "--out", str(out))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {float(row["served"]) for row in rows if row["datacenter"] == "sg"} == {0.0}
    planned = {int(r["epoch"]): float(r["share_planned"]) for r in rows if r["datacenter"] == "de-lu"}
    served = {int(r["epoch"]): float(r["served"]) for r in rows if r["datacenter"] == "de-lu"}
    assert [epoch for epoch in range(3, 9) if served[epoch] == 0] == [4, 5, 6]
    assert [epoch for epoch in range(3, 9) if planned[epoch] == 0] == [5, 6]  # the first one came unforeseen
    total = sum(float(row["served"]) for row in rows) + found["rejected"]
    assert total == pytest.approx(found["requests"], rel=1e-6)


def test_a_site_that_joins_or_leaves_draws_nothing_while_it_is_not_there_and_no_request_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    found = summary("--absent", "sg@0-30", "--absent", "de-lu@70-95", "--out", str(out), "--no-compare")
    rows = list(csv.DictReader(out.read_text().splitlines()))

    def drawing(site: str) -> list[int]:
        return [int(r["epoch"]) for r in rows if r["datacenter"] == site and float(r["energy_kwh"]) > 0]

    assert drawing("sg")[0] == 31
    assert drawing("de-lu")[-1] == 69
    assert all(float(r["served"]) == 0 for r in rows if float(r["energy_kwh"]) == 0)
    total = sum(float(row["served"]) for row in rows) + found["rejected"]
    assert total == pytest.approx(found["requests"], rel=1e-6)


def test_options_change_what_a_scenario_file_says_and_zero_counts_as_said(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "scenario:\n  base: demo-3\n  seed: 7\n  load: mean56\n  settings: {patience_s: 30, idle_accelerator_w: 90}\n"
    )
    said = json.loads(run("--scenario", str(file), "--seed", "0", "--set", "patience_s=40", "--json"))["scenario"]
    assert (said["seed"], said["load"]) == (0, "mean56")
    assert said["settings"] == {"patience_s": 40, "idle_accelerator_w": 90}


def test_a_fleet_file_can_be_simulated_and_only_some_of_its_sites_kept(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"scenario:\n  fleet: {ROOT}/examples/fleet/fleet.yaml\n  datacenters: [nowhere]\n")
    assert "the fleet has no 'nowhere'" in run("--scenario", str(file), code=2)
    out = tmp_path / "run.csv"
    run("--fleet", str(ROOT / "examples/fleet/fleet.yaml"), "--out", str(out))
    sites = sorted({row["datacenter"] for row in csv.DictReader(out.read_text().splitlines())})
    file.write_text(f"scenario:\n  fleet: {ROOT}/examples/fleet/fleet.yaml\n  datacenters: {sites[:2]}\n")
    run("--scenario", str(file), "--out", str(out))
    assert sorted({row["datacenter"] for row in csv.DictReader(out.read_text().splitlines())}) == sites[:2]


def test_both_engines_meet_the_same_requests() -> None:
    tiny = ("--no-compare", "--load", "mean30")
    fluid, level = summary(*tiny), summary(*tiny, "--engine", "request-level")
    assert level["requests"] == fluid["requests"]
    assert level["energy_kwh"] == pytest.approx(fluid["energy_kwh"], rel=0.1)


def test_without_a_terminal_each_simulated_day_is_a_line_on_standard_error() -> None:
    result = CliRunner().invoke(marlin, ["simulate", "--scenario", "demo-3", "--days", "2", "--no-compare", "--json"])
    lines = result.stderr.splitlines()
    assert ["2023-06-12" in lines[0], "2023-06-13" in lines[1], len(lines)] == [True, True, 2]
    assert json.loads(result.stdout)["days"] == 2


def test_bad_rows_are_refused_or_counted(tmp_path: Path) -> None:
    trace = tmp_path / "requests.csv"
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    good = "".join(f"{hour * 3600 + 5},ChatGPT,100,50,150,API log\n" for hour in range(48))
    trace.write_text(header + good + "170000,ChatGPT,many,50,150,API log\n")
    assert f"{trace}:50:" in run("--scenario", "demo-3", "--trace", str(trace), code=2)
    found = summary("--trace", str(trace), "--skip-bad-rows", "--no-compare")
    assert found["bad_rows"] == 1
    assert "1 bad row was skipped" in found["notes"][0]


@pytest.mark.timeout(400)  # compiling takes half a minute, and more beside other tests
def test_the_compiled_form_gives_the_same() -> None:
    usual = summary("--planner", "merit-order", "--power-down", "Sleep", "--fail", "sg@40-56")
    compiled = summary("--planner", "merit-order", "--power-down", "Sleep", "--fail", "sg@40-56", "--form", "numba")
    assert compiled["form"] == "numba"
    for name in ("ttft_s", "ttft_p99_s", "carbon_gco2", "water_l", "cost_usd", "requests", "rejected", "awake_share"):
        assert compiled[name] == pytest.approx(usual[name], rel=1e-9)


@pytest.mark.timeout(400)  # the same
def test_the_request_level_engine_follows_an_hour_of_eight_sites(tmp_path: Path) -> None:
    """A trace that is silent but for an hour, so that a small fleet's busiest epochs are met and no more."""
    trace = tmp_path / "hour.csv"
    rows = [f"{24 * 3600 + 9 * i},ChatGPT,600,120,720,API log" for i in range(400)]
    end = "172790,GPT-4,600,120,720,API log"
    trace.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join([*rows, end]))
    file = tmp_path / "study.yaml"
    file.write_text("scenario: {base: 8x12, pools: [llama-2-70b], trace: hour.csv, compare: false}")
    found = {
        engine: json.loads(run("--scenario", str(file), "--engine", engine, "--json"))
        for engine in ("fluid", "request-level")
    }
    fluid, level = found["fluid"], found["request-level"]
    assert level["requests"] == fluid["requests"] > 100_000
    assert level["served_share"] > 0.99
    assert level["energy_kwh"] == pytest.approx(fluid["energy_kwh"], rel=0.05)
    assert level["ttft_s"] == pytest.approx(fluid["ttft_s"], rel=0.25)


def test_following_more_requests_than_one_wants_to_wait_for_is_said_beforehand() -> None:
    scenario = Scenario(base="paper-8", engine="request-level", form="numpy")
    assert "follows each of about 1," in (prepare(scenario).forewarning() or "")
    assert prepare(Scenario(base="paper-8")).forewarning() is None
    assert prepare(Scenario(base="8x12", engine="request-level")).forewarning() is None


def test_a_scenario_may_come_from_standard_input() -> None:
    result = CliRunner().invoke(
        marlin, ["simulate", "--quiet", "--scenario", "-", "--json"], input="scenario:\n  base: demo-3\n  seed: 3\n"
    )
    assert json.loads(result.stdout)["seed"] == 3
    for text, message in (
        ("scenario:\n  sed: 3\n", "standard input:2: scenario.sed: unknown key; did you mean seed?"),
        (
            "scenario:\n  base: demo-3\n  drain:\n    - sg\n    - gb\n",
            "standard input:5: scenario.drain.1: the fleet has no 'gb'; did you mean sg?",
        ),
    ):
        result = CliRunner().invoke(marlin, ["simulate", "--scenario", "-"], input=text)
        assert result.output == f"Error: {message}\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_stopped_leaves_what_was_there_before(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "run.csv"
    out.write_text("of yesterday")
    months = ["--scenario", "demo-3", "--trace", "diurnal:days=360", "--days", "360", "--no-compare"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a background job inherit deafness to it
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "marlin"), "simulate", *months, "--out", str(out), "--detail"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        assert "day 1" in process.stderr.readline()
        assert len(list(tmp_path.iterdir())) == 2  # what it writes lies beside what was there
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("run.csv", "of yesterday")]


def test_a_reader_that_went_away_hears_nothing_more() -> None:
    command = f"{Path(sys.executable).parent / 'marlin'} simulate --quiet --scenario demo-3 | head -1"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("demo-3, peak95, 1 day: capacity-proportional, shares\n", "")


def test_the_agents_plan_a_day_and_remember_their_capital_through_it(tmp_path: Path) -> None:
    small_artifact(tmp_path / "policy")
    arguments = [
        "--planner",
        "marlin",
        "--artifact",
        str(tmp_path / "policy"),
        "--best-of",
        "0",
        "--weights",
        "carbon=1",
    ]
    found = summary(*arguments)
    assert found["dispatch"] == "ordered"
    assert found["scenario"]["weights"] == "carbon=1"
    assert found["served_share"] == pytest.approx(1.0)
    assert found["carbon_gco2"] < found["baseline"]["carbon_gco2"]
    assert found == summary(*arguments)

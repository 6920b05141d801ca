"""``marlin plan`` as a person calls it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from agents import small_artifact
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.api.documents import dump_documents
from marlin.api.plan import PlannerKind, RoutingPlan
from marlin.api.pool import PowerDown
from marlin.simulator.scenario import scenario_documents

AT = ["--at", "2023-06-15T12:00Z"]
MERIT = ["--planner", "merit-order"]


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(marlin, arguments)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_plan_prints_shares_order_and_what_is_expected_against_capacity_proportional() -> None:
    shown = run("plan", "--scenario", "demo-3", "--planner", "merit-order", *AT)
    for word in ("merit-order balanced", "llama-2-70b", "us-cal-ciso", "carbon, gCO2", "capacity-proportional"):
        assert word in shown


def test_plan_as_json_is_a_valid_sealed_plan_with_its_estimates() -> None:
    result = json.loads(run("plan", "--scenario", "paper-8", *MERIT, "--scheme", "min-carbon", "--json", *AT))
    plan = RoutingPlan.model_validate(result["plan"])
    assert plan.hash == plan.content_hash()
    assert result["estimate"]["carbonGco2"] < result["baselineEstimate"]["carbonGco2"]
    assert result["record"]["weights"] == {"ttft": 0.0, "carbon": 1.0, "water": 0.0, "cost": 0.0}


@pytest.mark.parametrize(
    ("scheme", "metric"), [("min-carbon", "carbonGco2"), ("min-water", "waterL"), ("min-cost", "costUsd")]
)
@pytest.mark.parametrize("planner", [(), ("--planner", "merit-order")])
def test_each_scheme_saves_in_its_own_metric(scheme: str, metric: str, planner: tuple[str, ...]) -> None:
    result = json.loads(run("plan", "--scenario", "paper-8", *planner, "--scheme", scheme, "--json", *AT))
    assert result["estimate"][metric] < result["baselineEstimate"][metric]


def test_weights_lie_between_the_schemes() -> None:
    def carbon(*arguments: str) -> float:
        return float(
            json.loads(run("plan", "--scenario", "paper-8", *MERIT, *arguments, "--json", *AT))["estimate"][
                "carbonGco2"
            ]
        )

    assert carbon("--scheme", "min-carbon") <= carbon("--weights", "carbon=1,cost=1") <= carbon("--scheme", "min-cost")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "give either --fleet FILE or --scenario NAME"),
        (
            ["plan", "--scenario", "demo-3", "--scheme", "min-cost", "--weights", "cost=1"],
            "either --scheme or --weights",
        ),
        (
            ["plan", "--scenario", "demo-3", "--planner", "best-static"],
            "planner best-static is chosen on past days, which only",
        ),
        (
            ["plan", "--scenario", "demo-3", "--planner", "merit-order", "--best-of", "3", "--late-weight", "3"],
            "--best-of and --late-weight: for planner marlin alone, not for merit-order",
        ),
        (["plan", "--scenario", "demo-3", "--planner", "marlin", "--late-weight", "-1"], "-1.0 is not in the range"),
        (["plan", "--scenario", "demo-3", "--planner", "marlin", "--artifact", "/"], "card.json: cannot be read"),
        (["plan", "--scenario", "demo-3", "--at", "noon"], "is not a time such as"),
        (["plan", "--scenario", "demo-3", "--at", "1950-01-01T00:00Z"], "is not between 1970-01-01 and"),
        (["plan", "--scenario", "demo-3", "--at", "9999-12-31T23:59Z"], "is not between 1970-01-01 and"),
        (["plan", "--scenario", "demo-3", "--weights", "carbon=nan"], "weights must be finite"),
        (["plan", "--scenario", "demo-3", "--weights", "carbon=1e308,cost=1e308"], "weights must be finite"),
        (["plan", "--scenario", "demo-3", "--weights", "carbon=1,carbon=2"], "weights: carbon is given twice"),
        (["plan", "--fleet", "no-such.yaml"], "no-such.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str) -> None:
    shown = run(*arguments, code=2)
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("given", "who"),
    [
        ([], "marlin"),
        (["--weights", "carbon=2,cost=1"], "marlin"),
        (["--planner", "nearest"], "nearest:"),
    ],
)
def test_without_a_policy_marlin_plans_unless_another_is_asked_for(given: list[str], who: str) -> None:
    assert run("plan", "--scenario", "demo-3", *given, *AT).startswith(f"{who} ")


@pytest.mark.parametrize("option", ["--artifact", "--best-of", "--late-weight"])
def test_who_says_how_agents_decide_has_them_plan_whoever_the_policy_names(
    option: str, artifact: str, tmp_path: Path
) -> None:
    fleet = _fleet(tmp_path, kind=PlannerKind.MERIT_ORDER)
    assert run("plan", "--fleet", fleet, *AT).startswith("merit-order ")
    value = artifact if option == "--artifact" else "1"
    assert run("plan", "--fleet", fleet, option, value, *AT).startswith("marlin ")


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        ("merit-order", ("what a thousand more requests cost", "score", "milli-USD")),
        ("oracle", ("plans that were tried", "merit order", "nearest")),
        ("round-robin", ("round-robin looks at no signal",)),
    ],
)
def test_every_planner_explains_itself_in_words(planner: str, words: tuple[str, ...]) -> None:
    shown = run("plan", "--scenario", "demo-3", "--planner", planner, "--explain", *AT)
    for word in words:
        assert word in shown
    assert "{" not in shown


def test_where_replicas_power_down_the_plan_says_how_many_are_kept_awake(tmp_path: Path) -> None:
    fleet = _fleet(tmp_path, power_down=PowerDown.SLEEP)
    plan = json.loads(run("plan", "--fleet", fleet, *MERIT, "--load", "0.2", "--json", *AT))["plan"]
    shown = run("plan", "--fleet", fleet, *MERIT, "--load", "0.2", *AT)
    assert "awake" in shown
    for pool in plan["pools"]:
        for name, kept in zip(plan["datacenters"], pool["replicas"], strict=True):
            assert re.search(rf"{name} .*│ +{kept} │\n", shown)
    assert "awake" not in run("plan", "--scenario", "demo-3", *MERIT, *AT)


def test_what_is_expected_over_all_that_may_come_is_beside_what_is_if_the_forecast_comes(
    artifact: str, tmp_path: Path
) -> None:
    """A plan that is awake for surges looks dear if none comes: who reads it must see both."""
    fleet = _fleet(tmp_path, power_down=PowerDown.SCALE_TO_ZERO, late_weight=100)
    asked = ("plan", "--fleet", fleet, "--artifact", artifact, "--best-of", "0", "--load", "0.3", *AT)
    record = json.loads(run(*asked, "--json"))["record"]
    shown = run(*asked)
    late, of_capacity = (record["late"][key] for key in ("share", "capacity_proportional_share"))
    assert late < of_capacity
    assert re.search(rf"late +│ +{late:.2%} │ +{of_capacity:.2%} │", shown)
    worth = min(value for key, value in record["expected"].items() if key.endswith("value"))
    assert re.search(rf"weighed, less is better │ +{worth:.4f} │", shown)
    assert "over all that may come" not in run(*asked[:3], "--planner", "merit-order", *AT)


@pytest.mark.parametrize("dispatch", ["ordered", "shares"])
def test_where_nothing_is_expected_the_plan_says_so(dispatch: str) -> None:
    shown = run("plan", "--scenario", "demo-3", "--load", "0", "--dispatch", dispatch, "--explain", *AT)
    assert shown.startswith("marlin balanced: nothing is expected to come;")


def _fleet(
    folder: Path, kind: PlannerKind = PlannerKind.MARLIN, power_down: PowerDown = PowerDown.NONE, **of_planner: object
) -> str:
    """A file with the documents of demo-3 and what is asked for."""
    documents = scenario_documents("demo-3")
    (policy,) = documents.policies
    planner = policy.spec.planner.model_copy(update={"kind": kind, **of_planner})
    stated = policy.model_copy(update={"spec": policy.spec.model_copy(update={"planner": planner})})
    pools = [
        pool.model_copy(update={"spec": pool.spec.model_copy(update={"power_down": power_down})})
        for pool in documents.pools
    ]
    fleet = folder / "fleet.yaml"
    fleet.write_text(dump_documents((*documents.datacenters, *pools, stated)))
    return str(fleet)


@pytest.fixture
def artifact(tmp_path: Path) -> str:
    small_artifact(tmp_path / "policy")
    return str(tmp_path / "policy")


def test_plan_by_the_agents_explains_proposals_game_and_outcome(artifact: str) -> None:
    shown = run("plan", "--scenario", "paper-8", "--planner", "marlin", "--artifact", artifact, "--explain", *AT)
    for word in ("marlin balanced", "what each agent proposes", " of 9", "who counts how much", "by these weights"):
        assert word in shown


def test_plan_by_the_agents_as_json_holds_the_account_and_who_made_it(artifact: str) -> None:
    arguments = ["--planner", "marlin", "--artifact", artifact, "--best-of", "0", "--weights", "carbon=2,cost=1"]
    result = json.loads(run("plan", "--scenario", "paper-8", *arguments, "--json", *AT))
    plan = RoutingPlan.model_validate(result["plan"])
    assert plan.artifact_sha256 == result["record"]["artifact"]["sha256"]
    assert result["record"]["weights"] == pytest.approx({"ttft": 0.0, "carbon": 2 / 3, "water": 0.0, "cost": 1 / 3})
    assert result["record"]["proposals"]["carbon"]["of"] == 1
    assert set(result["record"]["game"]["final_weights"]) == {"ttft", "carbon", "water", "cost"}


def test_late_requests_weigh_what_the_option_says_else_the_policy_else_one(artifact: str, tmp_path: Path) -> None:
    def weight(*arguments: str) -> float:
        planner = ["--planner", "marlin", "--artifact", artifact, "--best-of", "0"]
        return float(json.loads(run("plan", *arguments, *planner, "--json", *AT))["record"]["late"]["weight"])

    fleet = _fleet(tmp_path, late_weight=4)
    assert weight("--scenario", "demo-3") == 1.0
    assert weight("--fleet", fleet) == 4.0
    assert weight("--fleet", fleet, "--late-weight", "0.5") == 0.5


def test_planning_by_the_agents_needs_neither_torch_nor_a_compiler_nor_the_oracle(artifact: str) -> None:
    code = f"""
import sys
from marlin.api.cli import marlin
marlin(["plan", "--scenario", "demo-3", "--planner", "marlin", "--artifact", {artifact!r}], standalone_mode=False)
found = [name for name in ("torch", "numba", "scipy", "polars", "pandas", "matplotlib") if name in sys.modules]
print("loaded:", found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "loaded: []" in done.stdout, done.stderr

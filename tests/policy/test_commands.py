"""``marlin plan`` as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agents import small_artifact
from click.testing import CliRunner

from marlin.api.cli import marlin
from marlin.api.documents import dump_documents
from marlin.api.plan import PlannerKind, RoutingPlan
from marlin.simulator.scenario import scenario_documents

AT = ["--at", "2023-06-15T12:00Z"]


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(marlin, arguments)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_plan_prints_shares_order_and_what_is_expected_against_capacity_proportional() -> None:
    shown = run("plan", "--scenario", "demo-3", *AT)
    for word in ("merit-order balanced", "llama-2-70b", "us-cal-ciso", "carbon, gCO2", "capacity-proportional"):
        assert word in shown


def test_plan_as_json_is_a_valid_sealed_plan_with_its_estimates() -> None:
    result = json.loads(run("plan", "--scenario", "paper-8", "--scheme", "min-carbon", "--json", *AT))
    plan = RoutingPlan.model_validate(result["plan"])
    assert plan.hash == plan.content_hash()
    assert result["estimate"]["carbonGco2"] < result["baselineEstimate"]["carbonGco2"]
    assert result["record"]["weights"] == {"ttft": 0.0, "carbon": 1.0, "water": 0.0, "cost": 0.0}


@pytest.mark.parametrize(
    ("scheme", "metric"), [("min-carbon", "carbonGco2"), ("min-water", "waterL"), ("min-cost", "costUsd")]
)
def test_each_scheme_saves_in_its_own_metric(scheme: str, metric: str) -> None:
    result = json.loads(run("plan", "--scenario", "paper-8", "--scheme", scheme, "--json", *AT))
    assert result["estimate"][metric] < result["baselineEstimate"][metric]


def test_weights_lie_between_the_schemes() -> None:
    def carbon(*arguments: str) -> float:
        return float(
            json.loads(run("plan", "--scenario", "paper-8", *arguments, "--json", *AT))["estimate"]["carbonGco2"]
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
        (["plan", "--scenario", "demo-3", "--planner", "best-static"], "planner best-static is not built yet"),
        (["plan", "--scenario", "demo-3", "--best-of", "3"], "are for planner marlin, not for merit-order"),
        (["plan", "--scenario", "demo-3", "--late-weight", "3"], "are for planner marlin, not for merit-order"),
        (["plan", "--scenario", "demo-3", "--planner", "marlin", "--late-weight", "-1"], "-1.0 is not in the range"),
        (["plan", "--scenario", "demo-3", "--planner", "marlin", "--artifact", "/"], "card.json: cannot be read"),
        (["plan", "--scenario", "demo-3", "--at", "noon"], "is not a time such as"),
        (["plan", "--fleet", "no-such.yaml"], "no-such.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str) -> None:
    shown = run(*arguments, code=2)
    assert message in shown
    assert "Traceback" not in shown


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

    documents = scenario_documents("demo-3")
    (policy,) = documents.policies
    planner = policy.spec.planner.model_copy(update={"kind": PlannerKind.MARLIN, "late_weight": 4})
    stated = policy.model_copy(update={"spec": policy.spec.model_copy(update={"planner": planner})})
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(dump_documents((*documents.datacenters, *documents.pools, stated)))
    assert weight("--scenario", "demo-3") == 1.0
    assert weight("--fleet", str(fleet)) == 4.0
    assert weight("--fleet", str(fleet), "--late-weight", "0.5") == 0.5


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

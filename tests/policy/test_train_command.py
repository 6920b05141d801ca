"""``marlin train`` from a scenario to an artifact that loads; what cannot be is refused before anything is trained."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import small_artifact
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.cli import marlin
from marlin.api.errors import InputError, MarlinError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch
from marlin.policy import artifact
from marlin.policy.training.job import Job
from marlin.policy.training.random_fleets import Purpose, random_episodes
from marlin.policy.training.run import TrainSettings
from marlin.policy.training.seeds import train_each
from marlin.simulator.experiment import Study
from marlin.simulator.fleet import Builder
from marlin.simulator.scenario import ZONES, scenario_documents

QUICK = TrainSettings(rounds=1, lanes=2, batch=4, warm_epochs=180, critic_first=5, actor_hidden=8, critic_hidden=8)
GIVEN = {
    "scenarios": ("demo-3",),
    "dispatch": "shares",
    "tune_days": 1,
    "days": 2,
    "load": "mean30",
    "random_fleets": 0,
}


def test_a_training_ends_in_an_artifact_with_what_it_was_seen_to_do(tmp_path: Path) -> None:
    heard: list[str] = []
    made = Job.prepared(tmp_path / "policy", QUICK, 3, GIVEN).run(heard.append, resume=False)
    loaded = artifact.load(tmp_path / "policy")
    assert loaded.card == made.card
    assert loaded.card.seed == 3
    assert loaded.card.hyper_parameters["rounds_done"] == 1
    assert set(loaded.card.hyper_parameters["best_round"]) <= {0, 1}
    assert loaded.card.dispatch == (Dispatch.SHARES,)
    by_metric = {row["metric"]: row for row in loaded.card.evaluation}
    assert set(by_metric) == {"ttft_s", "carbon_gco2", "water_l", "cost_usd"}
    carbon = by_metric["carbon_gco2"]
    assert carbon["sort_saves"] > 0.01, "a sort saves carbon here"
    assert (
        carbon["agent_saves"] + carbon["agent_saves_balanced"] >= carbon["sort_saves"] + carbon["sort_saves_balanced"]
    )
    assert heard[-1].startswith("round 1/1: agents save ttft")
    assert f"carbon {carbon['agent_saves']:+.1%} (sort {carbon['sort_saves']:+.1%})" in heard[-1]
    log = list(csv.DictReader((tmp_path / "policy.training" / "log.csv").read_text().splitlines()))
    assert [row["round"] for row in log] == ["0", "1"]
    # Over already: going on only writes the artifact again.
    again = Job.prepared(tmp_path / "policy", QUICK, 3, GIVEN).run(heard.append, resume=True)
    assert heard[-1] == "goes on after round 1"
    assert again.card.weights_sha256 == made.card.weights_sha256
    # With more rounds it goes on to where a longer training would have ended.
    longer = replace(QUICK, rounds=2)
    further = Job.prepared(tmp_path / "policy", longer, 3, GIVEN).run(heard.append, resume=True)
    at_once = Job.prepared(tmp_path / "longer", longer, 3, GIVEN).run(lambda line: None, resume=False)
    assert heard[-1].startswith("round 2/2")
    assert further.card == at_once.card
    assert (tmp_path / "policy.training" / "log.csv").read_text() == (
        tmp_path / "longer.training" / "log.csv"
    ).read_text()
    with pytest.raises(InputError, match="scenario, seed or settings differ"):
        Job.prepared(tmp_path / "policy", replace(longer, lanes=3), 3, GIVEN).run(lambda line: None, resume=True)


@pytest.mark.timeout(300)
def test_several_seeds_are_what_each_alone_would_be(tmp_path: Path) -> None:
    heard: list[str] = []
    quick = replace(QUICK, warm_epochs=2_000)
    alone = Job.prepared(tmp_path / "alone", quick, 4, GIVEN).run(heard.append, resume=False)
    job = Job.prepared(tmp_path / "both", quick, 3, GIVEN, is_folder=True)
    made = train_each(job, range(3, 5), heard.append, jobs=1, resume=False)
    assert list(made) == [3, 4]
    assert artifact.load(tmp_path / "both" / "seed-4").card == alone.card
    assert made[3].card.weights_sha256 != made[4].card.weights_sha256
    assert heard[-1] == "seed 4: done, 2 of 2"
    with pytest.raises(InputError, match="alone: is an artifact; several seeds need a folder"):
        train_each(replace(job, out=tmp_path / "alone"), range(2), heard.append, jobs=1, resume=False)


def test_random_fleets_are_learnt_on_and_other_ones_judge(tmp_path: Path) -> None:
    asked = GIVEN | {"random_fleets": 1, "days": 3}
    made = Job.prepared(tmp_path / "policy", replace(QUICK, warm_epochs=2_000), 3, asked).run(
        lambda line: None, resume=False
    )
    assert made.card.hyper_parameters["randomFleets"] == 1
    assert {row["days"] for row in made.card.evaluation} == {5}, "four random fleets' and the scenario's"


@given(st.integers(0, 10_000), st.sampled_from(Purpose))
def test_a_random_fleet_has_no_zone_that_is_kept_for_showing_what_was_never_seen(seed: int, purpose: Purpose) -> None:
    studies, _ = random_episodes(Study(Builder(scenario_documents("demo-3")), days=5), purpose, seed, 0, tune_days=2)
    for study in studies:
        zones = {site.spec.location.zone for site in study.builder.documents.datacenters}
        assert zones <= set(ZONES)
        assert len(zones) >= 2
        assert study.first_day in ((0, 1, 2) if purpose is Purpose.TRAIN else (3, 4))
        assert (study.first_date.month < 10) == (purpose is Purpose.TRAIN)


def test_a_checkpoint_of_another_seed_is_not_gone_on_from(tmp_path: Path) -> None:
    job = Job.prepared(tmp_path / "policy", QUICK, 3, GIVEN)
    (tmp_path / "policy.training").mkdir()
    (tmp_path / "policy.training" / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"state\.safetensors: is no checkpoint"):
        job.run(lambda line: None, resume=True)


def test_a_folder_that_is_something_else_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there and is no artifact"):
        Job.prepared(tmp_path, QUICK, 0, GIVEN)
    with pytest.raises(MarlinError, match="there is no folder"):
        Job.prepared(tmp_path / "missing" / "policy", QUICK, 0, GIVEN)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ("", {}),
        ("--random-fleets 2 --rounds 1 --seed 5", {"random_fleets": 2, "rounds": 1, "seed": 5}),
        ("--scenario paper-8 --load mean30", {"scenarios": ["paper-8"], "load": "mean30"}),
    ],
)
def test_a_reduced_training_has_defaults_of_its_own_and_what_is_given_beside_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, differs: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []

    def prepared(out: Path, settings: TrainSettings, seed: int, given: dict[str, Any], *, is_folder: bool) -> Job:
        asked.append({**given, "scenarios": list(given["scenarios"]), "rounds": settings.rounds, "seed": seed})
        raise InputError("far enough")

    monkeypatch.setattr(Job, "prepared", prepared)
    for order in ([*options.split(), "--reduced"], ["--reduced", *options.split()]):
        CliRunner().invoke(marlin, ["train", "--out", str(tmp_path / "policy"), "--data", "full", *order])
    defaults: dict[str, Any] = {
        "scenarios": ["8x120"],
        "load": "mean56",
        "dispatch": "ordered",
        "power_down": None,
        "data": "full",
    }
    defaults |= {"first_day": None, "days": 30, "tune_days": 2, "random_fleets": 8, "rounds": 3, "seed": 0}
    assert asked == [defaults | differs] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--days 3 --tune-days 3", "--tune-days must be fewer than --days"),
        ("--scenario paper-9", "paper-9"),
        ("--load mean57", "mean57"),
        ("--days 60", "days 0 to 5"),
        ("--reduced", "days 0 to 5"),
        ("--rounds 0", "--rounds"),
    ],
)
def test_wrong_options_get_a_line_and_code_2(tmp_path: Path, options: str, message: str) -> None:
    result = CliRunner().invoke(marlin, ["train", "--out", str(tmp_path / "policy"), *options.split()])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "policy").exists()


def test_what_was_trained_is_shown_as_a_table_or_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"metric": name, "days": 6, "agent_saves": 0.197, "sort_saves": 0.195}
        | {"agent_saves_balanced": 0.08, "sort_saves_balanced": 0.082}
        for name in METRIC_NAMES
    ]
    made = small_artifact(tmp_path / "small")
    made = replace(made, card=made.card.model_copy(update={"evaluation": tuple(rows), "seed": 3}))
    monkeypatch.setattr(Job, "run", lambda *_, **__: made)
    asked = ["train", "--scenario", "demo-3", "--seed", "3", "--out", str(tmp_path / "out"), "--quiet"]
    shown = CliRunner().invoke(marlin, asked).stdout
    for part in ("judged on 6 days", "carbon", "+19.7%", "+19.5%", "+8.0%", "+8.2%", f"--artifact {tmp_path / 'out'}"):
        assert part in shown
    told = json.loads(CliRunner().invoke(marlin, [*asked, "--json"]).stdout)
    assert told == {"artifacts": [{"artifact": str(tmp_path / "out"), "seed": 3, "evaluation": rows}]}

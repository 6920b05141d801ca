"""Learning on in service: from what really came, judged on what was held back, adopted only where it is better."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agents import small_artifact
from click.testing import CliRunner
from lived_epochs import lived

from marlin.api.cli import marlin
from marlin.api.errors import InputError
from marlin.api.history import RecordedEpoch
from marlin.api.plan import Dispatch, PlannerKind
from marlin.api.policy import Negotiation
from marlin.policy import artifact as artifacts
from marlin.policy.agents import shipped
from marlin.policy.agents.stated import game_of, parse_negotiation, text_of
from marlin.policy.artifact import Artifact
from marlin.policy.game import GameSettings
from marlin.policy.history import append, read
from marlin.policy.planners import make_planner
from marlin.policy.training.adapting import AdaptSettings, Verdict, adapt
from marlin.policy.training.one_thread import use_one_thread
from marlin.simulator.environments.forecast import smoothed
from marlin.simulator.environments.task import TaskSettings, recorded_task
from marlin.simulator.experiment import Epoch
from marlin.simulator.fluid import Form
from marlin.simulator.recorded import replay, stretches

QUICK = AdaptSettings(held_back=24, cpu_s=14.0, updates_per_epoch=5, lanes=2, margin=0.0)


@pytest.fixture(scope="module", name="lived")
def lived_once() -> tuple[list[RecordedEpoch], list[Epoch]]:
    return lived()


@pytest.fixture(scope="module")
def history(lived: tuple[list[RecordedEpoch], list[Epoch]]) -> list[RecordedEpoch]:
    return lived[0]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    use_one_thread()
    return small_artifact(tmp_path_factory.mktemp("artifacts") / "small")


class Clock:
    """Processor time that passes only when it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


# --- histories -----------------------------------------------------------------------------------------------------


def test_a_history_is_read_as_it_was_written_and_of_an_epoch_the_last_word_counts(
    history: list[RecordedEpoch], tmp_path: Path
) -> None:
    file = tmp_path / "epochs.jsonl"
    other = history[1].model_copy(update={"arrived_requests": history[0].arrived_requests})
    append(file, [history[1], history[0], history[2]])
    append(file, [other])
    assert read(file) == [history[0], other, history[2]]


def test_a_line_that_is_being_written_is_left_out_and_a_broken_one_is_named(
    history: list[RecordedEpoch], tmp_path: Path
) -> None:
    file = tmp_path / "epochs.jsonl"
    append(file, history[:2])
    whole = file.read_text()
    file.write_text(whole + whole[:100])
    assert read(file) == history[:2]
    file.write_text(whole[:100] + "\n" + whole)
    with pytest.raises(InputError, match=r"epochs\.jsonl: line 1: "):
        read(file)
    rows = json.loads(whole.splitlines()[0])
    file.write_text(json.dumps(rows | {"arrivedRequests": [[1.0]]}) + "\n")
    with pytest.raises(InputError, match=r"line 1: .*arrivedRequests must be 2 rows"):
        read(file)
    file.write_text("")
    with pytest.raises(InputError, match="holds no recorded epoch"):
        read(file)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "missing.jsonl")


def test_of_a_long_history_no_more_is_read_than_is_asked_for(history: list[RecordedEpoch], tmp_path: Path) -> None:
    file = tmp_path / "epochs.jsonl"
    file.write_text("of an older version\n")
    append(file, history[:5])
    assert read(file, newest=3) == history[2:5]
    with pytest.raises(InputError, match=r"line 1: "):
        read(file)


def test_simulate_writes_a_history(tmp_path: Path) -> None:
    file = tmp_path / "epochs.jsonl"
    options = ["--scenario", "demo-3", "--no-compare", "--quiet", "--history", str(file)]
    result = CliRunner().invoke(marlin, ["simulate", *options])
    assert result.exit_code == 0, result.output
    assert f"wrote {file}" in result.output
    assert len(stretches(read(file))) == 1
    assert len(read(file)) == 96


# --- living through it again ---------------------------------------------------------------------------------------


def test_the_same_planner_lives_through_a_recording_as_it_did(
    lived: tuple[list[RecordedEpoch], list[Epoch]],
) -> None:
    history, epochs = lived
    planner = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    again = list(replay(history, lambda state: planner.decide(state).plan))
    assert [e.plan for e in again if not e.is_run_out] == [e.plan for e in epochs]
    for one, other in zip(epochs, again, strict=False):
        assert other.outcome.carbon_gco2 == pytest.approx(one.outcome.carbon_gco2, rel=1e-9)
        assert other.outcome.metrics[0] == pytest.approx(one.outcome.metrics[0], rel=0.02)  # origins are as expected


def test_a_gap_begins_a_new_stretch(history: list[RecordedEpoch]) -> None:
    assert [len(part) for part in stretches([*history[:10], *history[12:20]])] == [10, 8]


def test_what_is_learnt_from_is_what_came_whatever_the_seed(history: list[RecordedEpoch]) -> None:
    task = recorded_task([history[:24], history[24:]], TaskSettings(forecaster=smoothed, form=Form.NUMPY))
    came = np.array([one.arrived_requests for one in history]).sum(axis=2)  # (E, V)
    for seed in (0, 7):
        first, second = task.draw([(0, seed), (1, seed)])
        assert np.concatenate([first.arrived, second.arrived]) == pytest.approx(came)


# --- adapting ------------------------------------------------------------------------------------------------------


def adapted(
    frozen: Artifact, history: Sequence[RecordedEpoch], out: Path, step_s: float = 1.0, **changes: object
) -> Verdict:
    clock: Callable[[], float] = Clock(step_s)
    return adapt(frozen, history, replace(QUICK, **changes), out, clock=clock)  # type: ignore[arg-type]


def test_the_adapted_policy_takes_over_only_where_it_is_better_by_the_margin(
    frozen: Artifact, history: list[RecordedEpoch], tmp_path: Path
) -> None:
    before = {name: value.copy() for name, value in frozen.parameters.items()}
    kept = adapted(frozen, history, tmp_path / "kept", margin=1.0)
    assert not kept.adopted
    assert kept.adapted_sha256 is None
    assert not (tmp_path / "kept").exists()
    taken = adapted(frozen, history, tmp_path / "taken", margin=-1.0)
    assert taken.adopted
    assert (taken.frozen_value, taken.adapted_value) == (kept.frozen_value, kept.adapted_value), "the same seed"
    loaded = artifacts.load(tmp_path / "taken")
    assert loaded.card.weights_sha256 == taken.adapted_sha256 != frozen.card.weights_sha256
    assert loaded.card.hyper_parameters["adapted"]["from"] == frozen.card.weights_sha256
    assert loaded.card.evaluation[0]["frozen_value"] == pytest.approx(taken.frozen_value, abs=1e-6)
    assert taken.learnt_from == taken.held_back == 24
    assert taken.updates > 0
    assert json.loads(json.dumps(taken.document()))["heldBackEpochs"] == 24
    assert all((frozen.parameters[name] == value).all() for name, value in before.items())


def test_learning_ends_when_its_processor_time_is_up_in_the_middle_of_a_day(
    frozen: Artifact, history: list[RecordedEpoch], tmp_path: Path
) -> None:
    """Each look at the clock is a second, and each epoch is one look: a day of 24 takes 24."""
    updates = [adapted(frozen, history, tmp_path / str(s), cpu_s=s).updates for s in (4.0, 14.0)]
    assert updates[0] == 0, "so soon nothing is remembered that could be learnt from"
    assert 0 < updates[1] < 5 * 14


def test_both_are_judged_in_the_game_that_they_would_serve_in(history: list[RecordedEpoch], tmp_path: Path) -> None:
    """The shipped agents come to terms, so that who may veto shows in what their plans are worth."""
    games = ("gradientSteps=5", "vetoCapitalThreshold=0,vetoMaxPullPercent=100")
    values = [
        adapted(shipped.load(), history, tmp_path / "out", cpu_s=1.0, margin=1.0, game=game_of(parse_negotiation(text)))
        for text in games
    ]
    usual, loud = [verdict.frozen_value for verdict in values]
    assert usual != loud


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds=3", "'rounds' is not one of gradientSteps, vetoCapitalThreshold, vetoMaxPullPercent"),
        ("gradientSteps=0", "gradientSteps: Input should be greater than or equal to 1"),
        ("gradientSteps=1,gradientSteps=2", "gradientSteps is given twice"),
        ("gradientSteps", "gradientSteps: Input should be a valid integer"),
    ],
)
def test_a_negotiation_that_is_none_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    options = ["--history", str(tmp_path / "epochs.jsonl"), "--out", str(tmp_path / "out"), "--negotiation", text]
    result = CliRunner().invoke(marlin, ["adapt", *options])
    assert result.exit_code == 2
    assert said in result.output
    assert len(result.output.splitlines()) == 1


def test_a_negotiation_as_text_is_the_one_that_was_stated() -> None:
    stated = Negotiation(gradient_steps=7, veto_capital_threshold=0, veto_max_pull_percent=80)
    assert parse_negotiation(text_of(stated)) == stated
    assert (game_of(stated).steps, game_of(stated).veto.capital, game_of(stated).veto.most) == (7, 0.0, 0.8)
    assert game_of(Negotiation()) == GameSettings()


def test_a_history_too_short_to_learn_from_or_to_judge_by_is_refused(
    frozen: Artifact, history: list[RecordedEpoch], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="at least 24 epochs must be held back"):
        adapted(frozen, history, tmp_path / "out", held_back=10)
    with pytest.raises(InputError, match="the history holds 24 epochs"):
        adapted(frozen, history[:24], tmp_path / "out")
    with pytest.raises(InputError, match="has 20 epochs in a row"):
        adapted(frozen, [*history[:3], *history[4:]], tmp_path / "out")


def test_the_command_refuses_a_folder_that_is_something_else_before_it_learns(
    history: list[RecordedEpoch], tmp_path: Path
) -> None:
    append(tmp_path / "epochs.jsonl", history[:1])
    (tmp_path / "full").mkdir()
    asked = ["adapt", "--history", str(tmp_path / "epochs.jsonl"), "--nice", "0", "--out"]
    result = CliRunner().invoke(marlin, [*asked, str(tmp_path / "full")])
    assert result.exit_code == 2
    assert "is there and is no artifact" in result.output
    result = CliRunner().invoke(marlin, [*asked, str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "the history holds 1 epochs" in result.output

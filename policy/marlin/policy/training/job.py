"""One training as a person asks for it: scenarios, days, files.

Each day of a scenario is an episode of its own; the last ones judge and are never learnt from. Fleets that nobody has
may be trained on beside them, or instead (``random_fleets``). Beside the artifact lie the checkpoint and a CSV log with
a line per round, from which a plot is one command away; its line for round 0 is what a sort does, because agents that
have learnt nothing sort.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import torch

from marlin.api.errors import InputError, MarlinError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch
from marlin.policy import artifact
from marlin.policy.artifact import Artifact
from marlin.policy.forecasting.studying import predicted_days
from marlin.policy.simulate_cli import scenario_of
from marlin.policy.simulating import Experiment, prepare
from marlin.policy.training import checkpoint
from marlin.policy.training.allocation import keep_freed_memory
from marlin.policy.training.networks import arrays
from marlin.policy.training.random_fleets import Purpose, random_episodes
from marlin.policy.training.run import Fleets, Training, TrainSettings, begin, described, next_round
from marlin.simulator.environments.task import Task, TaskSettings, make_task
from marlin.simulator.experiment import Study
from marlin.simulator.fluid import Form

_SOURCES: Final = ("BurstGPT (arrivals)", "Electricity Maps 2023, ODbL 1.0 (carbon)", "ENTSO-E and others (price)")
_JUDGING_FLEETS: Final = 4
"""Random fleets that judge where random fleets are trained on."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training, ready to begin."""

    out: Path
    experiments: tuple[Experiment, ...]
    dispatch: Dispatch
    tune_days: int
    random_fleets: int
    settings: TrainSettings
    seed: int

    @classmethod
    def prepared(cls, out: Path, settings: TrainSettings, seed: int, given: Mapping[str, Any]) -> Self:
        """Reads what is named, and looks whether the result can be written.

        Args:
            out: the artifact's folder.
            settings: how long and how large.
            seed: of everything that is drawn.
            given: ``scenarios``, ``dispatch``, ``tune_days``, ``random_fleets``, and what changes every scenario.

        Raises:
            InputError: a scenario is not known or wrong, or the folder is something else.
            MarlinError: there is no folder to write into.
        """
        if out.exists() and not (out / artifact.CARD_FILE).is_file():
            raise InputError(f"{out}: is there and is no artifact; name another folder")
        if not out.absolute().parent.is_dir():
            raise MarlinError(f"{out}: cannot be written: there is no folder {out.absolute().parent}")
        own = ("scenarios", "dispatch", "tune_days", "random_fleets")
        changes = {name: value for name, value in given.items() if name not in own}
        names = given["scenarios"] or ("paper-8",)
        made = tuple(prepare(*scenario_of({"scenario": name, **changes})) for name in names)
        dispatch = Dispatch(given["dispatch"].capitalize())
        return cls(out, made, dispatch, given["tune_days"], given["random_fleets"], settings, seed)

    def run(self, say: Callable[[str], None], *, resume: bool) -> Artifact:
        """Trains to the end.

        Args:
            say: told a line now and then.
            resume: go on from the checkpoint.

        Raises:
            InputError: there is no checkpoint to go on from, or it is of another training.
            MarlinError: files cannot be written.
        """
        torch.set_num_threads(1)  # so that the same seed is the same result, whatever machine
        keep_freed_memory()
        files = self.out.with_name(f"{self.out.name}.training")
        files.mkdir(exist_ok=True)
        say("makes fleets")
        fleets = self._fleets()
        training = begin(fleets, self.settings, self.seed)
        if resume:
            checkpoint.restore(training, files / "state.safetensors", self.identity())
            say(f"goes on after round {training.round}")
        while not training.is_over:
            line = next_round(training, fleets)
            if training.round == 1:
                say(f"round 0, a sort: {_each(training.log[0])}")
            checkpoint.save(training, files / "state.safetensors", self.identity())
            _write_log(training, files / "log.csv")
            best = "  best so far" if training.round in training.best_round else ""
            say(f"round {training.round}/{self.settings.rounds}: {_each(line)}{best}")
        return self._saved(training, fleets)

    def identity(self) -> str:
        """Digest of everything that decides the outcome."""
        parts = [experiment.sha256() for experiment in self.experiments]
        settings = described(self.settings)
        whole = [parts, self.dispatch, self.tune_days, self.random_fleets, settings, self.seed, version("marlin")]
        return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()

    def _fleets(self) -> Fleets:
        """Tasks to learn on and to be judged by: the scenarios', and random ones where they are asked for."""
        train: list[Task] = []
        tune: list[Task] = []
        for experiment in self.experiments:
            days = _days(experiment.study)
            settings = TaskSettings(dispatch=self.dispatch, forecaster=predicted_days, form=Form.NUMBA)
            # With random fleets to learn on, the scenarios only judge: what serves any fleet has to serve these.
            if not self.random_fleets:
                train.append(make_task(days[: -self.tune_days], settings))
            tune.append(make_task(days[-self.tune_days :], settings))
        base = self.experiments[0].study
        for purpose, count, made in (
            (Purpose.TRAIN, self.random_fleets, train),
            (Purpose.TUNE, _JUDGING_FLEETS if self.random_fleets else 0, tune),
        ):
            for number in range(count):
                studies, dispatch = random_episodes(base, purpose, self.seed, number, tune_days=self.tune_days)
                settings = TaskSettings(dispatch=dispatch, forecaster=predicted_days, form=Form.NUMBA)
                made.append(make_task(studies, settings))
        return Fleets(tuple(train), tuple(tune))

    def _saved(self, training: Training, fleets: Fleets) -> Artifact:
        weights = training.best_actor | arrays(training.learner.critic)
        rounds = [int(r) for r in training.best_round]
        evaluation = [
            {
                "metric": name,
                "days": sum(len(task.courses) for task in fleets.tune),
                "agent_saves": round(training.log[best][f"gain_{name}"], 6),
                "sort_saves": round(training.log[0][f"gain_{name}"], 6),
                "agent_saves_balanced": round(training.log[best][f"balanced_by_{name}"], 6),
                "sort_saves_balanced": round(training.log[0][f"balanced_by_{name}"], 6),
            }
            for name, best in zip(METRIC_NAMES, rounds, strict=True)
        ]
        ways = sorted({task.settings.dispatch.value for task in fleets.train})
        card = {
            "marlinVersion": version("marlin"),
            "scenarioSha256": self.identity(),
            "seed": self.seed,
            "dispatch": ways,
            "conditioning": self.settings.conditioning.value,
            "networks": {
                "actorHidden": weights["actor.row.weight"].shape[2],
                "criticHidden": weights["critic.row.weight"].shape[2],
                "pooled": weights["actor.pool.weight"].shape[2],
                "filmHidden": weights["actor.film.weight"].shape[2],
            },
            "hyperParameters": described(self.settings)
            | {"randomFleets": self.random_fleets, "rounds_done": training.round, "best_round": rounds},
            "dataSources": list(_SOURCES),
            "evaluation": evaluation,
        }
        return artifact.save(self.out, json.loads(json.dumps(card, default=str)), weights)


def _days(study: Study) -> list[Study]:
    """A study of each of its days."""
    return [
        replace(study, days=1, first_day=study.first_day + d, first_date=study.first_date + timedelta(days=d))
        for d in range(study.days)
    ]


def _each(line: Mapping[str, Any]) -> str:
    """What agents save of their own metric, and of all where the weights are equal."""
    own = [f"{name.rsplit('_', 1)[0]} {line[f'gain_{name}']:+.1%}" for name in METRIC_NAMES]
    balanced = [line[f"balanced_by_{name}"] for name in METRIC_NAMES]
    return f"agents save {', '.join(own)}; balanced {min(balanced):+.1%} to {max(balanced):+.1%}"


def _write_log(training: Training, file: Path) -> None:
    keys = list(dict.fromkeys(key for line in training.log for key in line))
    try:
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, keys)
            writer.writeheader()
            writer.writerows(training.log)
    except OSError as error:
        raise MarlinError(f"{file}: cannot be written: {error.strerror or error}") from error

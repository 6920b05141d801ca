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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

from marlin.api.errors import InputError, MarlinError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch
from marlin.policy import artifact
from marlin.policy.artifact import Artifact, Networks
from marlin.policy.forecasting.studying import predicted_days
from marlin.policy.simulate_cli import scenario_of
from marlin.policy.simulating import Experiment, prepare
from marlin.policy.training import checkpoint
from marlin.policy.training.allocation import keep_freed_memory
from marlin.policy.training.bounds import BALANCED, most_saved
from marlin.policy.training.networks import arrays
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.random_fleets import Purpose, random_episodes
from marlin.policy.training.run import Fleets, Training, TrainSettings, begin, described, next_round
from marlin.simulator.environments.task import Task, TaskSettings, make_task
from marlin.simulator.experiment import Study
from marlin.simulator.fluid import Form

_SOURCES: Final = ("BurstGPT (arrivals)", "Electricity Maps 2023, ODbL 1.0 (carbon)", "ENTSO-E and others (price)")
_JUDGING_FLEETS: Final = 4
"""Random fleets that judge where random fleets are trained on."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round that is done, for whoever watches."""

    number: int
    of: int
    line: Mapping[str, Any]
    """Of the log."""
    sort: Mapping[str, Any]
    """The log's line for round 0."""
    bound: Mapping[str, float]
    """What the clairvoyant oracle saves, by metric and ``balanced``; empty where nobody asked."""
    is_best: bool
    """Whether an agent was never better."""

    def in_words(self) -> str:
        """What agents save of their own metric, and of all with equal weights; beside it a sort, and the bound."""
        own = [
            self._beside(name.rsplit("_", 1)[0], self.line[f"gain_{name}"], self.sort[f"gain_{name}"], name)
            for name in METRIC_NAMES
        ]
        balanced = [self.line[f"balanced_by_{name}"] for name in METRIC_NAMES]
        beside = [self.sort[f"balanced_by_{name}"] for name in METRIC_NAMES]
        bound = f", oracle {self.bound[BALANCED]:+.1%}" if self.bound else ""
        return (
            f"agents save {', '.join(own)}; balanced {min(balanced):+.1%} to {max(balanced):+.1%} "
            f"(sort {min(beside):+.1%} to {max(beside):+.1%}{bound})"
        )

    def _beside(self, label: str, ours: float, sort: float, name: str) -> str:
        bound = f", oracle {self.bound[name]:+.1%}" if self.bound else ""
        return f"{label} {ours:+.1%} (sort {sort:+.1%}{bound})"


Watch = Callable[[Round], None]


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
    def prepared(
        cls, out: Path, settings: TrainSettings, seed: int, given: Mapping[str, Any], *, is_folder: bool = False
    ) -> Self:
        """Reads what is named, and looks whether the result can be written.

        Args:
            out: the artifact's folder.
            settings: how long and how large.
            seed: of everything that is drawn.
            given: ``scenarios``, ``dispatch``, ``tune_days``, ``random_fleets``, and what changes every scenario.
            is_folder: whether ``out`` is to hold artifacts of several seeds instead of one.

        Raises:
            InputError: a scenario is not known or wrong, or the folder is something else.
            MarlinError: there is no folder to write into.
        """
        if out.exists() and not is_folder and not (out / artifact.CARD_FILE).is_file():
            raise InputError(f"{out}: is there and is no artifact; name another folder")
        if not out.absolute().parent.is_dir():
            raise MarlinError(f"{out}: cannot be written: there is no folder {out.absolute().parent}")
        own = ("scenarios", "dispatch", "tune_days", "random_fleets")
        changes = {name: value for name, value in given.items() if name not in own}
        names = given["scenarios"] or ("paper-8",)
        made = tuple(prepare(*scenario_of({"scenario": name, **changes})) for name in names)
        dispatch = Dispatch(given["dispatch"].capitalize())
        return cls(out, made, dispatch, given["tune_days"], given["random_fleets"], settings, seed)

    def run(
        self, say: Callable[[str], None], *, resume: bool, watch: Watch | None = None, bound: bool = False
    ) -> Artifact:
        """Trains to the end.

        Args:
            say: told a line now and then.
            resume: go on from the checkpoint.
            watch: shown every round. Default: ``say`` is told of it in words.
            bound: whether to work out what the clairvoyant oracle saves on the tuning days; some minutes.

        Raises:
            InputError: there is no checkpoint to go on from, or it is of another training.
            MarlinError: files cannot be written.
        """
        use_one_thread()
        keep_freed_memory()
        files = self.out.with_name(f"{self.out.name}.training")
        files.mkdir(exist_ok=True)
        say("makes fleets")
        fleets = self._fleets()
        training = begin(fleets, self.settings, self.seed)
        if resume:
            checkpoint.restore(training, files / "state.safetensors", self.course())
            say(f"goes on after round {training.round}")
        most: Mapping[str, float] = {}
        if bound and not training.is_over:
            say("asks the oracle for the most that could be saved")
            most = most_saved([studies for studies, _ in self._judging()])
        while not training.is_over:
            line = next_round(training, fleets)
            checkpoint.save(training, files / "state.safetensors", self.course())
            _write_log(training.log, most, files / "log.csv")
            done = Round(
                number=training.round,
                of=self.settings.rounds,
                line=line,
                sort=training.log[0],
                bound=most,
                is_best=training.round in training.best_round,
            )
            if watch is None:
                say(f"round {done.number}/{done.of}: {done.in_words()}{'  best so far' if done.is_best else ''}")
            else:
                watch(done)
        return self._saved(training, fleets)

    def identity(self) -> str:
        """Digest of everything that decides the outcome."""
        return self._digest(described(self.settings))

    def course(self) -> str:
        """Digest of everything that decides what a round makes of the one before; when to stop is not of it."""
        when = ("rounds", "patience")
        return self._digest({name: value for name, value in described(self.settings).items() if name not in when})

    def _digest(self, settings: Mapping[str, Any]) -> str:
        parts = [experiment.sha256() for experiment in self.experiments]
        whole = [parts, self.dispatch, self.tune_days, self.random_fleets, settings, self.seed, version("marlin")]
        return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()

    def _fleets(self) -> Fleets:
        """Tasks to learn on and to be judged by: the scenarios', and random ones where they are asked for."""
        train: list[Task] = []
        # With random fleets to learn on, the scenarios only judge: what serves any fleet has to serve these.
        if not self.random_fleets:
            train = [
                make_task(_days(one.study)[: -self.tune_days], _settings(self.dispatch)) for one in self.experiments
            ]
        for number in range(self.random_fleets):
            studies, dispatch = self._random(Purpose.TRAIN, number)
            train.append(make_task(studies, _settings(dispatch)))
        return Fleets(tuple(train), tuple(make_task(studies, _settings(way)) for studies, way in self._judging()))

    def _judging(self) -> list[tuple[list[Study], Dispatch]]:
        """The days that judge, fleet by fleet, and how plans are carried out there."""
        named = [(_days(experiment.study)[-self.tune_days :], self.dispatch) for experiment in self.experiments]
        many = _JUDGING_FLEETS if self.random_fleets else 0
        return named + [self._random(Purpose.TUNE, number) for number in range(many)]

    def _random(self, purpose: Purpose, number: int) -> tuple[list[Study], Dispatch]:
        return random_episodes(self.experiments[0].study, purpose, self.seed, number, tune_days=self.tune_days)

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
            "networks": Networks(**asdict(training.networks)).to_document(),
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


def _settings(dispatch: Dispatch) -> TaskSettings:
    return TaskSettings(dispatch=dispatch, forecaster=predicted_days, form=Form.NUMBA)


def _write_log(log: Sequence[Mapping[str, Any]], bound: Mapping[str, float], file: Path) -> None:
    rows = [{**line, **{f"oracle_{name}": saved for name, saved in bound.items()}} for line in log]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    try:
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, keys)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise MarlinError(f"{file}: cannot be written: {error.strerror or error}") from error

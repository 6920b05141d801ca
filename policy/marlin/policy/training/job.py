"""One training as a person asks for it: scenarios, days, files.

Each day of a scenario is an episode of its own; the last ones judge and are never learnt from. Beside the artifact lie
the checkpoint and a CSV log with a line per round, from which a plot is one command away.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import torch

from marlin.api.errors import InputError, MarlinError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy import artifact
from marlin.policy.artifact import Artifact
from marlin.policy.planners import make_planner
from marlin.policy.simulate_cli import scenario_of
from marlin.policy.simulating import Experiment, prepare
from marlin.policy.training import checkpoint
from marlin.policy.training.allocation import keep_freed_memory
from marlin.policy.training.run import Fleet, Training, TrainSettings, begin, described, next_round
from marlin.simulator.engines import FluidEngine
from marlin.simulator.environments.task import TaskSettings, make_task
from marlin.simulator.experiment import Study, run, summarise
from marlin.simulator.fluid import Form

_OWN: Final = (Scheme.MIN_TTFT, Scheme.MIN_CARBON, Scheme.MIN_WATER, Scheme.MIN_COST)
"""The scheme of each agent's own metric, in the order of METRIC_NAMES."""
_SOURCES: Final = ("BurstGPT (arrivals)", "Electricity Maps 2023, ODbL 1.0 (carbon)", "ENTSO-E and others (price)")


@dataclass(frozen=True, slots=True)
class Job:
    """A training, ready to begin."""

    out: Path
    experiments: tuple[Experiment, ...]
    dispatch: Dispatch
    tune_days: int
    settings: TrainSettings
    seed: int

    @classmethod
    def prepared(cls, out: Path, settings: TrainSettings, seed: int, given: Mapping[str, Any]) -> Self:
        """Reads what is named, and looks whether the result can be written.

        Args:
            out: the artifact's folder.
            settings: how long and how large.
            seed: of everything that is drawn.
            given: ``scenarios``, ``dispatch``, ``tune_days``, and what changes every scenario.

        Raises:
            InputError: a scenario is not known or wrong, or the folder is something else.
            MarlinError: there is no folder to write into.
        """
        if out.exists() and not (out / artifact.CARD_FILE).is_file():
            raise InputError(f"{out}: is there and is no artifact; name another folder")
        if not out.absolute().parent.is_dir():
            raise MarlinError(f"{out}: cannot be written: there is no folder {out.absolute().parent}")
        own = ("scenarios", "dispatch", "tune_days")
        changes = {name: value for name, value in given.items() if name not in own}
        names = given["scenarios"] or ("paper-8",)
        made = tuple(prepare(*scenario_of({"scenario": name, **changes})) for name in names)
        return cls(out, made, Dispatch(given["dispatch"].capitalize()), given["tune_days"], settings, seed)

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
        fleets = [self._fleet(experiment) for experiment in self.experiments]
        training = begin(fleets, self.settings, self.seed)
        if resume:
            checkpoint.restore(training, files / "state.safetensors", self.identity())
            say(f"goes on after round {training.round}")
        reference = self._merit_order()
        say("merit order saves " + _each(reference))
        while not training.is_over:
            line = next_round(training, fleets)
            checkpoint.save(training, files / "state.safetensors", self.identity())
            _write_log(training, files / "log.csv")
            gains = [line[f"gain_{name}"] for name in METRIC_NAMES]
            best = "  best so far" if training.best_round == training.round else ""
            say(f"round {training.round}/{self.settings.rounds}: agents save {_each(gains)}{best}")
        return self._saved(training, reference)

    def identity(self) -> str:
        """Digest of everything that decides the outcome."""
        parts = [experiment.sha256() for experiment in self.experiments]
        whole = [parts, self.dispatch, self.tune_days, described(self.settings), self.seed, version("marlin")]
        return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()

    def _fleet(self, experiment: Experiment) -> Fleet:
        days = _days(experiment.study)
        settings = TaskSettings(dispatch=self.dispatch, form=Form.NUMBA)
        return Fleet(
            name=experiment.scenario.base or "fleet",
            train=make_task(days[: -self.tune_days], settings),
            tune=make_task(days[-self.tune_days :], settings),
        )

    def _merit_order(self) -> list[float]:
        """What merit order saves of each metric on the tuning days, on the requests that agents are judged on."""
        savings = [0.0] * len(METRIC_NAMES)
        studies = [
            replace(study, seed=day)
            for experiment in self.experiments
            for day, study in enumerate(_days(experiment.study)[-self.tune_days :])
        ]
        for study in studies:
            base = _costs(study, PlannerKind.CAPACITY_PROPORTIONAL, Scheme.BALANCED, Dispatch.SHARES)
            for i, (name, scheme) in enumerate(zip(METRIC_NAMES, _OWN, strict=True)):
                planned = _costs(study, PlannerKind.MERIT_ORDER, scheme, self.dispatch)
                savings[i] += (1.0 - planned[name] / base[name]) / len(studies)
        return savings

    def _saved(self, training: Training, reference: Sequence[float]) -> Artifact:
        networks = training.learner.weights
        best = training.log[training.best_round - 1]
        evaluation = tuple(
            {
                "metric": name,
                "days": self.tune_days * len(self.experiments),
                "agent_saves": round(best[f"gain_{name}"], 6),
                "merit_order_saves": round(saving, 6),
            }
            for name, saving in zip(METRIC_NAMES, reference, strict=True)
        )
        card = {
            "marlinVersion": version("marlin"),
            "scenarioSha256": self.identity(),
            "seed": self.seed,
            "dispatch": self.dispatch.value,
            "conditioning": self.settings.conditioning.value,
            "networks": {
                "channels": networks["actor.head.weight"].shape[2] // 2,
                "actorHidden": networks["actor.row.weight"].shape[2],
                "criticHidden": networks["critic.row.weight"].shape[2],
                "pooled": networks["actor.pool.weight"].shape[2],
                "filmHidden": networks["actor.film.weight"].shape[2],
            },
            "hyperParameters": described(self.settings) | {"bestRound": training.best_round},
            "dataSources": list(_SOURCES),
            "evaluation": list(evaluation),
        }
        return artifact.save(self.out, json.loads(json.dumps(card, default=str)), training.best_weights)


def _days(study: Study) -> list[Study]:
    """A study of each of its days."""
    return [
        replace(study, days=1, first_day=study.first_day + d, first_date=study.first_date + timedelta(days=d))
        for d in range(study.days)
    ]


def _costs(study: Study, kind: PlannerKind, scheme: Scheme, dispatch: Dispatch) -> Mapping[str, float]:
    planner = make_planner(kind, scheme=scheme, dispatch=dispatch)
    summary = summarise(run(study, lambda state: planner.decide(state).plan, FluidEngine(Form.NUMBA)))
    return {name: float(getattr(summary, name)) for name in METRIC_NAMES}


def _each(savings: Sequence[float]) -> str:
    names = [name.rsplit("_", 1)[0] for name in METRIC_NAMES]
    return ", ".join(f"{name} {saving:+.1%}" for name, saving in zip(names, savings, strict=True))


def _write_log(training: Training, file: Path) -> None:
    keys = list(dict.fromkeys(key for line in training.log for key in line))
    try:
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, keys)
            writer.writeheader()
            writer.writerows(training.log)
    except OSError as error:
        raise MarlinError(f"{file}: cannot be written: {error.strerror or error}") from error

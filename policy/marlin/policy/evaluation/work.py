"""One evaluation as a person asks for it: checked before it starts, done by one process or several, watched."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch
from marlin.policy.agents import shipped
from marlin.policy.evaluation.days import Pair, Part, Split, chosen, split_of
from marlin.policy.evaluation.frameworks import Leaning
from marlin.policy.evaluation.scoring import Chosen, Question, Score, Unit, best_of_simple, prepared, scores

Say = Callable[[str], None]
"""Told of every step that is done."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is to be done."""

    question: Question
    leanings: tuple[Leaning, ...]
    pairs: tuple[Pair, ...]
    seeds: int
    split: Split
    tune: Part
    part: str

    @classmethod
    def prepared(cls, artifacts: Sequence[Path], leanings: tuple[Leaning, ...], given: Mapping[str, Any]) -> Self:
        """Reads and checks everything that is named.

        Args:
            artifacts: folders; none means the one shipped with the package.
            leanings: what everybody is to lean towards.
            given: options of the command, by name; of those that may be repeated, one value.

        Raises:
            InputError: an artifact, a fleet, a day or a number is not as it must be.
        """
        split = split_of(given["trace"], has_data=given["data"] is not None)
        part = split.report if given["part"] == "report" else split.tune
        many = min(given["tune_days"], split.tune.days)
        names = {"scenario": "base", "fleet": "fleet", "load": "load", "power_down": "powerDown"}
        names |= {"data": "data", "engine": "engine"}
        scenario = {key: given[name] for name, key in names.items() if given[name] is not None}
        if given["trace"]:
            scenario["trace"] = given["trace"]
        question = Question(
            scenario=tuple(sorted(scenario.items())),
            artifacts=tuple(artifacts) or (None,),
            dispatch=Dispatch(given["dispatch"].capitalize()),
            best_of=_numbers(given["best_of"]),
            ablate=given["ablate"],
            only=given["only"],
            keep=given["keep"],
        )
        for folder in question.artifacts:
            shipped.load(folder)
        prepared(question)
        return cls(
            question=question,
            leanings=leanings,
            pairs=chosen(part, given["days"], given["weeks"]),
            seeds=given["seeds"],
            split=split,
            tune=Part(split.tune.first_day, many, split.tune.first_date),
            part=given["part"],
        )

    def forewarning(self) -> str | None:
        """What is better known before than waited for."""
        return prepared(self.question).forewarning()

    def run(self, say: Say, *, jobs: int) -> tuple[list[Score], dict[str, Chosen]]:
        """Chooses, then scores; the best simple policy by scheme comes with the scores.

        The order of the scores, and every figure, is the same for any number of processes.
        """
        train = Part(self.split.train.first_day, 1, self.split.train.first_date)
        with _pool(jobs) as submit:
            choices = {
                submit(best_of_simple, self.question, leaning, train, self.tune): leaning for leaning in self.leanings
            }
            best: dict[str, Chosen] = {}
            for done in as_completed(choices):
                best[choices[done].name] = done.result()
                say(f"{choices[done].name}: chose {best[choices[done].name].name}")
            units = [
                Unit(leaning, pair, seed, best[leaning.name])
                for leaning in self.leanings
                for pair in self.pairs
                for seed in range(self.seeds)
            ]
            work = {submit(scores, self.question, unit): unit for unit in units}
            for done in as_completed(work):
                unit = work[done]
                done.result()
                say(f"{unit.leaning.name}, day {unit.pair.day} of {unit.pair.start:%Y-%m-%d}, draw {unit.seed}")
            found = [score for done in work for score in done.result()]
        return found, {leaning.name: best[leaning.name] for leaning in self.leanings}

    def about(self) -> dict[str, Any]:
        """What was evaluated, for a file."""
        return {
            "marlin_version": version("marlin"),
            "cell": self.question.cell,
            "scenario": dict(self.question.scenario),
            "dispatch": self.question.dispatch.value.lower(),
            "artifacts": [shipped.load(folder).card.weights_sha256 for folder in self.question.artifacts],
            "part": self.part,
            "days": sorted({pair.day for pair in self.pairs}),
            "dates": sorted({f"{pair.start:%Y-%m-%d}" for pair in self.pairs}),
            "tuned_on": list(self.tune.all_days),
            "draws": self.seeds,
        }

    def heading(self) -> str:
        """What was evaluated, in a line."""
        scenario = dict(self.question.scenario)
        where = scenario.get("fleet") or scenario.get("base", "paper-8")
        days = sorted({pair.day for pair in self.pairs})
        which = f"days {days[0]} to {days[-1]}" if len(days) > 1 else f"day {days[0]}"
        text = (
            f"{where}, {scenario.get('load', 'peak95')}, {self.question.dispatch.value.lower()}, power-down "
            f"{scenario.get('powerDown', 'as stated')}: {which}, dates: {len(self.pairs)}, draws of each: {self.seeds}"
        )
        return text + (" (tuning days: no result)" if self.part == "tune" else "")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise InputError(f"--best-of: {text!r} is not numbers from 1 on, such as 1,8,64")
    return found


@contextmanager
def progress(steps: int, *, quiet: bool) -> Iterator[Say]:
    """A bar on a terminal, a line per step otherwise; both on standard error."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif not console.is_terminal:
        yield lambda text: console.print(text, highlight=False, soft_wrap=True)
    else:
        columns = (
            TextColumn("evaluate"),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("evaluate", total=steps, now="")
            yield lambda text: bar.update(task, advance=1, now=text)


Submit = Callable[..., "Future[Any]"]


@contextmanager
def _pool(jobs: int) -> Iterator[Submit]:
    """Where work goes: other processes, or this one where one is enough."""
    if jobs == 1:
        yield _at_once
        return
    # Not forked: libraries that were loaded here may hold threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _at_once(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(call(*arguments))
    return done

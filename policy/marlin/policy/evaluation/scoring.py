"""One day of one draw: every framework on the same requests, scored on what came.

A unit of work is small and knows all it needs, so that many processes can share an evaluation; what is chosen for it
(the best simple policy) comes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from marlin.api.plan import Dispatch, RoutingPlan
from marlin.api.state import FleetState
from marlin.policy.agents import shipped
from marlin.policy.evaluation.days import Pair, Part
from marlin.policy.evaluation.frameworks import BASELINE, CLAIRVOYANT, LIMITED, SIMPLE, Leaning, learnt, simple
from marlin.policy.evaluation.kept import Kept
from marlin.policy.forecasting.studying import predicted
from marlin.policy.in_order import InOrder
from marlin.policy.origins import OriginAware
from marlin.policy.planner import Planner
from marlin.policy.simulating import Experiment, prepare
from marlin.policy.yardsticks import best_simple_policy, clairvoyant, named_policy, score
from marlin.simulator.engines import Engine, FluidEngine
from marlin.simulator.experiment import Study, Summary, run, summarise
from marlin.simulator.scenario_file import checked


@dataclass(frozen=True, slots=True)
class Question:
    """What is evaluated, apart from days and draws."""

    scenario: tuple[tuple[str, Any], ...]
    """Keys of a scenario (``simulator.scenario_file``) and their values, without days."""
    artifacts: tuple[Path | None, ...]
    """Folders; none is the one shipped with the package."""
    dispatch: Dispatch
    best_of: tuple[int, ...]
    ablate: bool = False
    only: tuple[str, ...] = ()
    """Frameworks that are scored. Default: all."""
    keep: Path | None = None
    """Folder of what is done."""

    @property
    def cell(self) -> str:
        """Load, power-down and dispatch in words, and trace and engine where they are named."""
        said = dict(self.scenario)
        power_down = said.get("powerDown")
        words = [said.get("load", "peak95"), power_down or "as stated", self.dispatch.value.lower()]
        return ", ".join([*words, *(said[key] for key in ("trace", "engine") if key in said)])

    @property
    def carried_out(self) -> str:
        """How plans are, as what is kept is named by: other rows of origins, or their round trips, are another way."""
        rows = ", rows of origins for all, told to who tries plans, spilled over from where they came"
        return self.dispatch.value + (rows if self.dispatch is Dispatch.SHARES else "")

    def wants(self, framework: str) -> bool:
        """Whether it is scored."""
        return not self.only or framework in self.only


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best simple policy."""

    name: str
    value: float
    """On the tuning days."""
    planner: Planner


@dataclass(frozen=True, slots=True)
class _Choice:
    """The same, to be kept."""

    name: str
    value: float
    static: Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, slots=True)
class Unit:
    """One day to be scored on."""

    leaning: Leaning
    pair: Pair
    seed: int
    """Of the draw of the requests."""
    chosen: Chosen


@dataclass(frozen=True, slots=True)
class Score:
    """A framework on a day."""

    cell: str
    """Load, power-down and dispatch."""
    scheme: str
    framework: str
    artifact: str
    """Digest of the trained policy; empty where there is none."""
    day: int
    date: str
    seed: int
    value: float
    """Weighted sum of metrics over capacity-proportional's of the same day, and late requests: less is better."""
    ttft_s: float
    carbon_gco2: float
    water_l: float
    cost_usd: float
    served_share: float
    late_share: float
    awake_share: float
    forecast_error: float
    held_share: float
    """Epochs in which the guard published something plain instead of what the agents agreed on."""


def best_of_simple(question: Question, leaning: Leaning, train: Part, tune: Part) -> Chosen:
    """The best simple policy, chosen on days of ``tune``; its static order is learnt on days of ``train``.

    With the fluid engine, whichever scores: to follow every request for all candidates would take most of an hour.
    """
    experiment = prepared(question)
    kept = None
    if question.keep is not None:
        identity = (experiment.sha256(), question.carried_out, leaning.all_weights, asdict(train), asdict(tune))
        kept = Kept.of(question.keep, _Choice, "choice", *identity)
        if (done := kept.rows().get(SIMPLE)) is not None:
            static = {pool: tuple(sites) for pool, sites in (done.static or {}).items()}
            planner = named_policy(done.name, leaning.scheme, question.dispatch, static=static, weights=leaning.weights)
            return Chosen(done.name, done.value, planner)
    best = best_simple_policy(
        replace(experiment.study, first_day=train.first_day, first_date=train.start, days=train.days),
        replace(experiment.study, first_day=tune.first_day, first_date=tune.start, days=tune.days),
        leaning.scheme,
        question.dispatch,
        FluidEngine(has_quantiles=False),
        leaning.weights,
    )
    if kept is not None:
        chosen = best.planner.inner if isinstance(best.planner, OriginAware) else best.planner
        order = chosen.static if isinstance(chosen, InOrder) else None
        kept.add(SIMPLE, _Choice(best.name, best.value, order))
    return Chosen(best.name, best.value, best.planner)


def scores(question: Question, unit: Unit) -> list[Score]:
    """All frameworks on one day; those that are kept are not scored again."""
    experiment = prepared(question)
    study = replace(experiment.study, first_day=unit.pair.day, first_date=unit.pair.start, days=1, seed=unit.seed)
    weights = unit.leaning.all_weights
    kept = None
    if question.keep is not None:
        identity = (experiment.sha256(), question.carried_out, weights, asdict(unit.pair), unit.seed)
        kept = Kept.of(question.keep, Score, "day", *identity)
    done = {} if kept is None else kept.rows()
    found: list[Score] = []
    baseline: Summary | None = None
    for artifact, name, planner in _everyone(question, unit):
        key = f"{name} {unit.chosen.name}" if name == SIMPLE else f"{name} {artifact}"
        if key in done:
            found.append(done[key])
            continue
        is_limited = name == SIMPLE and unit.chosen.name == LIMITED
        same = next((one for one in found if is_limited and one.framework == LIMITED), None)
        if same is not None:  # it has been scored already
            one = replace(same, framework=SIMPLE)
        elif planner is None:
            leaning, dispatch = unit.leaning, question.dispatch
            bound = clairvoyant(study, leaning.scheme, experiment.engine, leaning.weights, dispatch)
            one = _score(question, unit, name, artifact, bound.summary, bound.value)
        else:
            summary, held_share = _simulated(study, planner, experiment.engine)
            if name == BASELINE:
                baseline = summary
            elif baseline is None:  # kept as a score
                baseline = _simulated(study, next(simple(unit.leaning, question.dispatch))[1], experiment.engine)[0]
            one = _score(question, unit, name, artifact, summary, score(summary, baseline, weights), held_share)
        found.append(one)
        if kept is not None:
            kept.add(key, one)
    return found


def _everyone(question: Question, unit: Unit) -> Iterator[tuple[str, str, Planner | None]]:
    """Digest of the policy, name and planner; capacity-proportional first. The bound has no planner of its own."""
    for name, planner in simple(unit.leaning, question.dispatch):
        if name == BASELINE or question.wants(name):
            yield "", name, planner
    yield "", SIMPLE, unit.chosen.planner
    for folder in question.artifacts:
        artifact = shipped.load(folder)
        made = learnt(artifact, unit.leaning, question.dispatch, question.best_of, ablate=question.ablate)
        for name, planner in made:
            if question.wants(name):
                yield artifact.card.weights_sha256, name, planner
    yield "", CLAIRVOYANT, None


def _simulated(study: Study, planner: Planner, engine: Engine[Any]) -> tuple[Summary, float]:
    """What a planner comes to, and the share of its plans that the guard replaced."""
    held: list[bool] = []

    def decide(state: FleetState) -> RoutingPlan:
        decision = planner.decide(state)
        held.append(decision.record.get("guard") is not None)
        return decision.plan

    summary = summarise(run(study, decide, engine))
    return summary, sum(held) / len(held)


def _score(
    question: Question, unit: Unit, name: str, artifact: str, summary: Summary, value: float, held_share: float = 0.0
) -> Score:
    whole: Mapping[str, Any] = asdict(summary)
    kept = ("ttft_s", "carbon_gco2", "water_l", "cost_usd", "served_share", "late_share", "awake_share")
    return Score(
        cell=question.cell,
        scheme=unit.leaning.name,
        framework=name,
        artifact=artifact,
        day=unit.pair.day,
        date=f"{unit.pair.start:%Y-%m-%d}",
        seed=unit.seed,
        value=value,
        **{key: whole[key] for key in kept},
        forecast_error=whole["forecast_error"],
        held_share=held_share,
    )


@lru_cache(maxsize=8)
def prepared(question: Question) -> Experiment:
    """The fleet and the engine; made once in each process."""
    experiment = prepare(checked(dict(question.scenario), lambda location: str(location[0])))
    engine = experiment.engine
    if isinstance(engine, FluidEngine):
        engine = replace(engine, has_quantiles=False)  # no score asks for them
    return replace(experiment, engine=engine, study=replace(experiment.study, forecaster=predicted))

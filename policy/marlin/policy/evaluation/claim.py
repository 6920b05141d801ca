"""What MARLIN is meant to reach, as cells to be scored and lines to be judged: ``marlin evaluate --claim``.

The cells stand in the order of what they tell, so that a run that is broken off has done the ones that matter most. A
line is judged in every cell that it speaks of, and only by intervals: where the whole interval of a figure is within
its limit the line holds there, where all of it is outside it does not, and everything else, all figures of fewer than
``LEAST_DRAWS`` draws among them, is undecided and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from marlin.api.plan import Scheme
from marlin.policy.agents.planner import Source
from marlin.policy.evaluation.frameworks import (
    ACTOR,
    BASELINE,
    BEST_OF,
    BLEND,
    CLAIRVOYANT,
    CONSENSUS,
    LIMITED,
    MARLIN,
    SIMPLE,
    Leaning,
    random_leanings,
    searched,
)
from marlin.policy.evaluation.scoring import Score
from marlin.policy.evaluation.statistics import Interval, Means, figure_of, means_of

LEAST_DRAWS: Final = 5
"""Draws, times policies, below which nothing is judged."""

_SINGLE: Final = (Scheme.MIN_CARBON, Scheme.MIN_WATER, Scheme.MIN_COST, Scheme.MIN_TTFT)
_LOADS: Final = ("mean30", "mean56", "mean80", "peak95")
_POWER_DOWNS: Final = ("None", "Sleep", "ScaleToZero")
_ROOM: Final = 0.01
"""Of the best simple policy, between it and the bound: where less is left there is no room to recover anything of."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet, load, power-down and dispatch, some schemes, and who is scored there."""

    load: str
    power_down: str
    leanings: tuple[Leaning, ...]
    dispatch: str = "ordered"
    trace: str = ""
    engine: str | None = None
    scenario: str | None = None
    only: tuple[str, ...] = (BASELINE, SIMPLE, MARLIN, CLAIRVOYANT)

    def options(self) -> dict[str, Any]:
        """As options of the command."""
        names = ("load", "power_down", "dispatch", "trace", "engine", "scenario", "only")
        return {name: getattr(self, name) for name in names}


def cells() -> Iterator[Cell]:
    """All of them, what tells most first."""
    balanced = (Leaning(Scheme.BALANCED),)
    weighted = (BASELINE, LIMITED, SIMPLE, ACTOR, MARLIN, CLAIRVOYANT)
    for power_down in _POWER_DOWNS:
        for load in _LOADS:
            yield Cell(load, power_down, balanced, only=weighted)
    singles = tuple(Leaning(scheme) for scheme in _SINGLE)
    beside_ttft = (BASELINE, LIMITED, SIMPLE, MARLIN, CLAIRVOYANT)
    for load in _LOADS:
        yield Cell(load, "None", singles, only=beside_ttft)
    for power_down in _POWER_DOWNS[1:]:
        for load in ("mean30", "mean56", "peak95"):
            yield Cell(load, power_down, singles)
    drawn = random_leanings(10)
    for load, power_down in (("mean30", "None"), ("mean30", "Sleep"), ("mean56", "ScaleToZero"), ("peak95", "None")):
        yield Cell(load, power_down, drawn, only=weighted)
    for power_down in _POWER_DOWNS:
        for load in _LOADS:
            yield Cell(load, power_down, balanced, dispatch="shares")
    for power_down in _POWER_DOWNS:
        yield Cell("mean56", power_down, (*balanced, *singles), trace="azure2024", only=weighted)
    best_of = (searched(source, many) for source in Source for many in BEST_OF)
    search = (BASELINE, SIMPLE, *best_of, CONSENSUS, BLEND, CLAIRVOYANT)
    for load, power_down in (("mean56", "None"), ("mean30", "Sleep")):
        yield Cell(load, power_down, balanced, only=search)
    yield Cell("mean56", "None", balanced, engine="request-level", scenario="8x12")


class Verdict(StrEnum):
    """What can be said of a line."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "too few draws"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Found:
    """A line in one cell."""

    cell: str
    scheme: str
    figure: Interval
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A line over all cells that it speaks of and that were scored; where it is closest to its limit, or beyond it."""

    line: str
    limit: float
    verdict: Verdict
    counts: Mapping[str, int]
    """Cells and schemes by verdict."""
    worst: Found | None

    def to_document(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Where:
    """A cell and a scheme, as a line sees them."""

    load: str
    power_down: str
    rest: tuple[str, ...]
    """Dispatch, and what is not usual: trace and engine."""
    scheme: str
    names: frozenset[str]
    """Who was scored."""

    @property
    def is_plain(self) -> bool:
        """No power-down, filled in turn, the usual trace and engine."""
        return self.power_down == "None" and self.rest == ("ordered",)

    @property
    def is_single(self) -> bool:
        """One metric."""
        return self.scheme in {scheme.option for scheme in _SINGLE}

    def has(self, *names: str) -> bool:
        """Whether all of them were scored."""
        return self.names.issuperset(names)


@dataclass(frozen=True, slots=True)
class _Line:
    """One sentence of the claim."""

    text: str
    speaks_of: Callable[[_Where], bool]
    figure: Callable[[Means], Any]
    """(1 + K,) what is to be at most ``limit``."""
    limit: float
    somewhere: bool = False
    """One cell in which it holds is enough."""
    has_room: Callable[[Means], bool] = lambda means: True


def _beside(ours: str, *theirs: str) -> Callable[[Means], Any]:
    """Relative to the better one of others: 0.01 is a percent worse."""

    def figure(means: Means) -> Any:
        best = min((means.values[name] for name in theirs), key=lambda values: float(values[0]))
        return means.values[ours] / best - 1.0

    return figure


def _not_recovered(means: Means) -> Any:
    simple, ours, bound = (means.values[name] for name in (SIMPLE, MARLIN, CLAIRVOYANT))
    return 1.0 - (simple - ours) / (simple - bound)


def _leaves_room(means: Means) -> bool:
    simple, bound = (float(means.values[name][0]) for name in (SIMPLE, CLAIRVOYANT))
    return simple - bound >= _ROOM * simple


def _later(means: Means) -> Any:
    return means.late[MARLIN] - means.late[SIMPLE]


def _has_both(ours: str, theirs: str, at: _Where) -> bool:
    return at.has(ours, theirs)


_TTFT: Final = Scheme.MIN_TTFT.option
_LINES: Final = (
    _Line(
        "carbon, water, cost, no power-down, ordered, up to mean56: within 2 % of the clairvoyant oracle",
        lambda at: at.is_plain and at.is_single and at.scheme != _TTFT and at.load in {"mean30", "mean56"},
        _beside(MARLIN, CLAIRVOYANT),
        0.02,
    ),
    _Line(
        "the same at mean80: within 3 %",
        lambda at: at.is_plain and at.is_single and at.scheme != _TTFT and at.load == "mean80",
        _beside(MARLIN, CLAIRVOYANT),
        0.03,
    ),
    _Line(
        "the same up to mean80, the best simple policy instead (a sort passes too): within 3 %",
        lambda at: at.is_plain and at.is_single and at.scheme != _TTFT and at.load != "peak95",
        _beside(SIMPLE, CLAIRVOYANT),
        0.03,
    ),
    _Line(
        "time to first token, no power-down, ordered: within 2 % of capacity-proportional and the myopic oracle",
        lambda at: at.is_plain and at.scheme == _TTFT and at.has(LIMITED),
        _beside(MARLIN, BASELINE, LIMITED),
        0.02,
    ),
    _Line(
        "one metric elsewhere: never more than 1 % worse than the best simple policy",
        lambda at: at.is_single and not (at.is_plain and at.load != "peak95") and at.has(MARLIN),
        _beside(MARLIN, SIMPLE),
        0.01,
    ),
    _Line(
        "one metric with power-down, where there is room: at most 90 % of the way to the clairvoyant left",
        lambda at: at.is_single and at.power_down != "None" and at.has(MARLIN),
        _not_recovered,
        0.9,
        has_room=_leaves_room,
    ),
    _Line(
        "weighted, in at least one of mean30, peak95 and power-down: at least 1 % better than the best simple policy",
        lambda at: not at.is_single and at.has(MARLIN) and (at.load in {"mean30", "peak95"} or at.power_down != "None"),
        _beside(MARLIN, SIMPLE),
        -0.01,
        somewhere=True,
    ),
    _Line(
        "weighted: nowhere more than 1 % worse than the best simple policy",
        lambda at: not at.is_single and at.has(MARLIN),
        _beside(MARLIN, SIMPLE),
        0.01,
    ),
    _Line(
        "weighted: never worse than capacity-proportional",
        lambda at: not at.is_single and at.has(MARLIN),
        _beside(MARLIN, BASELINE),
        0.0,
    ),
    _Line(
        "weighted: the actors alone within 2 % of the forecast-limited oracle",
        lambda at: not at.is_single and at.has(ACTOR, LIMITED),
        _beside(ACTOR, LIMITED),
        0.02,
    ),
    _Line(
        "what the game agrees on: within 2 % of the best blend of the same proposals",
        lambda at: at.has(CONSENSUS, BLEND),
        _beside(CONSENSUS, BLEND),
        0.02,
    ),
    _Line(
        "late requests: at most 0.1 point above the best simple policy's",
        lambda at: at.has(MARLIN),
        _later,
        0.001,
    ),
    *(
        _Line(
            f"best of {many}: actors beat random proposals",
            partial(_has_both, *names),
            _beside(*names),
            0.0,
        )
        for many in BEST_OF
        for names in [(searched(Source.ACTOR, many), searched(Source.RANDOM, many))]
    ),
)


def judged(scores: Sequence[Score]) -> list[Judged]:
    """The claim line by line, as far as it was scored."""
    of_cells: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        of_cells.setdefault((score.cell, score.scheme), []).append(score)
    means = {key: means_of(of_cell) for key, of_cell in of_cells.items()}
    return [_judged(line, means) for line in _LINES]


def _judged(line: _Line, means: Mapping[tuple[str, str], Means]) -> Judged:
    found = []
    for (cell, scheme), of_cell in means.items():
        load, power_down, *rest = cell.split(", ")
        at = _Where(load, power_down, tuple(rest), scheme, frozenset(of_cell.values))
        if line.speaks_of(at) and line.has_room(of_cell):
            figure = figure_of(line.figure(of_cell), of_cell.draws)
            found.append(Found(cell, scheme, figure, _verdict(figure, line.limit, of_cell.draws)))
    counts = {verdict.value: sum(one.verdict is verdict for one in found) for verdict in Verdict if found}
    beyond = (min if line.somewhere else max)(found, key=lambda one: one.figure.value, default=None)
    return Judged(line.text, line.limit, _of_all(found, somewhere=line.somewhere), counts, beyond)


def _verdict(figure: Interval, limit: float, draws: int) -> Verdict:
    if draws < LEAST_DRAWS or figure.low is None or figure.high is None:
        return Verdict.UNDECIDED
    if figure.high <= limit:
        return Verdict.HOLDS
    return Verdict.FAILS if figure.low > limit else Verdict.UNDECIDED


def _of_all(found: Iterable[Found], *, somewhere: bool) -> Verdict:
    """What cells say together: all of them must hold, or one must."""
    there = {one.verdict for one in found}
    if not there:
        return Verdict.NOT_RUN
    wanted, other = (Verdict.HOLDS, Verdict.FAILS) if somewhere else (Verdict.FAILS, Verdict.HOLDS)
    if wanted in there:
        return wanted
    return Verdict.UNDECIDED if Verdict.UNDECIDED in there else other

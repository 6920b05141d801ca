"""A planner over days: plan each epoch from a forecast, carry the plan out on what really came, carry the rest over.

The plan for an epoch is made from the epochs before it and never sees its arrivals. Planners come in as a function,
because they live above the twin; signals are those of the scenario's zones on the days simulated. After the last epoch
the horizon runs on until nobody waits, and that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import RoutingPlan
from marlin.api.state import FleetState
from marlin.simulator.constants import DEFAULT_SETTINGS, Settings
from marlin.simulator.demand import DayDemand, DayFrame, Origins, day_frame
from marlin.simulator.engines import Engine, FluidEngine, Left
from marlin.simulator.expectations import HISTORY_DAYS, Expectation, Expected, Forecaster, Smoothed
from marlin.simulator.fleet import Builder, Demand
from marlin.simulator.outcome import Outcome
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from, with_demand
from marlin.simulator.workload.shipped import shipped_week
from marlin.simulator.workload.trace import S_PER_DAY, IntArray, Trace

FIRST_DATE: Final = datetime(2023, 6, 12, tzinfo=UTC)
"""The day whose signals the first day simulated is paired with: inside the training months."""

EPOCH_S: Final = 900
EPOCHS_PER_DAY: Final = S_PER_DAY // EPOCH_S
Decide = Callable[[FleetState], RoutingPlan]


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be simulated, but for the planner."""

    builder: Builder
    """The fleet."""
    days: int = 1
    first_day: int = 0
    """Day of the trace to begin with."""
    load: str = "peak95"
    """How each day is scaled to the fleet, one of ``workload.scaling.LOADS``."""
    seed: int = 0
    """Of everything that is drawn; every planner meets the same arrivals."""
    trace: Trace | None = None
    """Whose arrivals. Default: the shipped week of BurstGPT."""
    first_date: datetime = FIRST_DATE
    """Day whose signals the first day simulated is paired with."""
    origins: Origins = Origins.UNIFORM
    settings: Settings = DEFAULT_SETTINGS
    forecaster: Forecaster | None = None
    """Makes the forecasts, from the week before on. Default: a moving average of the days simulated."""
    foresight: bool = False
    """Planners are shown the arrivals that will really come, and the fleet that will really be there: for bounds."""
    adjust: Callable[[FleetState], FleetState] | None = None
    """Changes the fleet before each epoch, for planner and engine alike: a drained site, another capability. Default:
    it stays as the documents say."""
    surprise: Callable[[FleetState], FleetState] | None = None
    """Changes it after the plan was made, for the engine alone: a site that fails. Default: nothing happens."""

    @property
    def epochs(self) -> int:
        """How many epochs there are, the running out not counted."""
        return self.days * EPOCHS_PER_DAY


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of an experiment."""

    start_time: datetime
    plan: RoutingPlan
    forecast: FloatArray  # (V,) requests
    arrived: FloatArray  # (V,) requests
    outcome: Outcome
    is_run_out: bool = False
    """Whether this is the time after the last epoch, in which nothing arrives."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over an experiment; times to first token are over requests."""

    ttft_s: float
    """Mean."""
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    """Quantiles: means of the epochs' own, weighted by requests."""
    carbon_gco2: float
    water_l: float
    cost_usd: float
    energy_kwh: float
    requests: float
    served_share: float
    rejected: float
    late_share: float
    """Requests beyond the limit of their pool."""
    awake_share: float
    """Mean share of the replicas that were awake."""
    forecast_error: float
    """Mean absolute error of the forecast, over the mean demand."""


def run(study: Study, decide: Decide, engine: Engine[Any] | None = None) -> Iterator[Epoch]:
    """Simulates epoch by epoch.

    Args:
        study: what.
        decide: the planner.
        engine: what carries the plans out. Default: the fluid engine's NumPy form.

    Raises:
        InputError: the trace has fewer days, or the fleet cannot be simulated.
    """
    engine = engine or FluidEngine()
    event_rng = event_stream(study.seed)
    left: Left[Any] | None = None
    twin = None
    for shown in _shown(study):
        state = shown.state(study, left)
        plan = decide(state)
        twin = shown.twin(study, state)
        outcome, left = engine.run(twin, plan, left, event_rng)
        last = Epoch(shown.start, plan, shown.expected.requests, shown.arrived, outcome)
        yield last
    if twin is not None and left is not None:
        yield from run_out(engine, twin, last, left)


DecideAll = Callable[[FleetState, Sequence[FleetState | None]], Sequence[RoutingPlan]]
"""From a fleet in which nobody waits, and the same as each planner left it where somebody does, to everybody's plan."""


def run_all(study: Study, decide_all: DecideAll, planners: int, engine: FluidEngine) -> list[Summary]:
    """Simulates several planners side by side, in one call of the twin an epoch: to choose among many.

    Each fares as if it were alone, because what it is shown does not depend on the others. Planners are shown who
    waits, not who is awake: this is for those that do not ask.

    Args:
        study: what.
        decide_all: the planners.
        planners: how many.
        engine: what carries the plans out.

    Raises:
        InputError: the trace has fewer days, or the fleet cannot be simulated.
    """
    lefts: list[Left[None] | None] = [None] * planners
    tallies, last = [Tally() for _ in range(planners)], list[Epoch]()
    for shown in _shown(study):
        state = shown.state(study, None)
        waiting = [left is not None and bool(left.waiting.any()) for left in lefts]
        own = [shown.state(study, left) if waits else None for left, waits in zip(lefts, waiting, strict=True)]
        plans = decide_all(state, own)
        twin = shown.twin(study, state)
        done = engine.run_all(twin, plans, lefts)
        lefts = [left for _, left in done]
        last = [
            Epoch(shown.start, plan, shown.expected.requests, shown.arrived, outcome)
            for plan, (outcome, _) in zip(plans, done, strict=True)
        ]
        for tally, epoch in zip(tallies, last, strict=True):
            tally.add(epoch)
    for tally, epoch, left in zip(tallies, last, lefts, strict=True):
        if left is not None:
            for more in run_out(engine, twin, epoch, left):
                tally.add(more)
    return [tally.summary() for tally in tallies]


@dataclass(frozen=True, slots=True)
class _Shown:
    """One epoch but for what planners made of those before it."""

    start: datetime
    requests: FloatArray  # (V, R) that really come
    expected: Expected
    by_origin: FloatArray  # (V, R) expected
    demand: DayDemand

    @property
    def arrived(self) -> FloatArray:
        """(V,) requests that really come."""
        total: FloatArray = self.requests.sum(axis=1)
        return total

    def state(self, study: Study, left: Left[Any] | None) -> FleetState:
        """What a planner is shown."""
        state = _state(study.builder, self.start, self.by_origin, self.expected, self.demand, left)
        state = state if study.adjust is None else study.adjust(state)
        return study.surprise(state) if study.foresight and study.surprise is not None else state

    def twin(self, study: Study, state: FleetState) -> TwinState:
        """What its plan is carried out on."""
        if not study.foresight and study.surprise is not None:
            state = study.surprise(state)
        return with_demand(arrays_from(state, study.settings), self.requests)


def _shown(study: Study) -> Iterator[_Shown]:
    """The epochs of a study.

    Raises:
        InputError: the trace has fewer days.
    """
    trace = study.trace or shipped_week()
    if study.first_day + study.days > trace.days:
        raise InputError(
            f"{trace.name} has days 0 to {trace.days - 1}: {study.days} from day {study.first_day} on is too many"
        )
    demand_rng, outlook = demand_stream(study.seed), _Outlook(study, trace)
    for day in range(study.days):
        midnight = study.first_date + timedelta(days=day)
        frame = day_frame(
            study.builder,
            trace,
            study.first_day + day,
            load=study.load,
            start=midnight,
            epoch_s=EPOCH_S,
            origins=study.origins,
        )
        demand = frame.draw(demand_rng)
        outlook.begin(frame, demand)
        for e, requests in enumerate(demand.requests.astype(np.float64)):  # (V, R)
            start = midnight + timedelta(seconds=e * EPOCH_S)
            arrived = requests.sum(axis=1)
            expected = Expected(arrived, arrived) if study.foresight else outlook.expect(arrived)
            by_origin = requests if study.foresight else expected.requests[:, None] * demand.origin_shares[e]
            yield _Shown(start, requests, expected, by_origin, demand)
            outlook.observe(arrived)


def run_out(engine: Engine[Any], twin: TwinState, last: Epoch, left: Left[Any]) -> Iterator[Epoch]:
    """The time after the last epoch, under its plan, until nobody waits or nothing may serve who does."""
    nothing = np.zeros(len(last.arrived))
    start = last.start_time + timedelta(seconds=EPOCH_S)
    while (more := engine.run_out(twin, last.plan, left)) is not None:
        outcome, following = more
        yield Epoch(start, last.plan, nothing, nothing, outcome, is_run_out=True)
        if following.waiting.sum() >= left.waiting.sum():
            return  # nothing may serve them any more
        left = following


def demand_stream(seed: int) -> np.random.Generator:
    """What the requests of a study are drawn with.

    Demand and events have streams of their own, so that every engine and planner meets the same arrivals.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))


def event_stream(seed: int) -> np.random.Generator:
    """What an engine draws with."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))


@dataclass(slots=True)
class Tally:
    """Adds epochs up one by one, so that an experiment of any length needs no memory for the past."""

    metrics: FloatArray = field(default_factory=lambda: np.zeros(4))  # (4,) the first weighted by requests
    epochs: int = 0
    _counted: float = 0.0
    _served: float = 0.0
    _rejected: float = 0.0
    _arrived: float = 0.0
    _missed: float = 0.0
    _energy_kwh: float = 0.0
    _late: float = 0.0
    _awake: float = 0.0
    _quantiles: FloatArray = field(default_factory=lambda: np.zeros(3))  # (3,) weighted by requests

    def add(self, epoch: Epoch) -> None:
        """Counts one more epoch."""
        outcome = epoch.outcome
        counted = outcome.counted
        self.metrics += outcome.metrics * (counted, 1.0, 1.0, 1.0)
        self._counted += counted
        self._served += float(outcome.served.sum())
        self._rejected += float(outcome.rejected.sum())
        self._arrived += float(epoch.arrived.sum())
        self._missed += float(np.abs(epoch.forecast - epoch.arrived).sum())
        self._energy_kwh += float(outcome.energy_kwh.sum())
        self._late += counted * outcome.late_share
        self._quantiles += counted * outcome.ttft_quantiles_s
        if not epoch.is_run_out:
            self.epochs += 1
            self._awake += outcome.awake_share

    def summary(self) -> Summary:
        """What it amounts to so far."""
        counted = max(self._counted, 1e-12)
        ttft_s, *sums = (float(x) for x in self.metrics / (counted, 1.0, 1.0, 1.0))
        p50_s, p95_s, p99_s = (float(x) for x in self._quantiles / counted)
        return Summary(
            ttft_s=ttft_s,
            ttft_p50_s=p50_s,
            ttft_p95_s=p95_s,
            ttft_p99_s=p99_s,
            **dict(zip(METRIC_NAMES[1:], sums, strict=True)),
            energy_kwh=self._energy_kwh,
            requests=self._arrived,
            served_share=self._served / counted,
            rejected=self._rejected,
            late_share=self._late / counted,
            awake_share=self._awake / max(self.epochs, 1),
            forecast_error=self._missed / max(self._arrived, 1e-12),
        )


def summarise(epochs: Iterable[Epoch]) -> Summary:
    """What an experiment amounts to."""
    tally = Tally()
    for epoch in epochs:
        tally.add(epoch)
    return tally.summary()


def _state(
    builder: Builder,
    start: datetime,
    requests: FloatArray,  # (V, R) expected
    forecast: Expected,
    demand: DayDemand,
    left: Left[Any] | None,
) -> FleetState:
    """The fleet as a planner sees it before an epoch."""
    prompt, output = (float(size) for size in demand.sizes)
    pools = {}
    for v, pool in enumerate(builder.pools):
        expected = Demand(
            tuple(float(x) for x in requests[v]),
            prompt,
            output,
            upper_requests=None if forecast.upper is None else float(forecast.upper[v]),
            parts=() if forecast.parts is None else tuple(float(x) for x in forecast.parts[:, v]),
            backlog_requests=() if left is None else tuple(float(x) for x in left.waiting[v]),
            awake_replicas=() if left is None else tuple(float(x) for x in left.awake[v]),
        )
        pools[pool.metadata.name] = expected
    return builder.state(start, pools, epoch=int(start.timestamp() // EPOCH_S), epoch_s=EPOCH_S, start_time=start)


@dataclass(slots=True)
class _Outlook:
    """The forecasts of a study, day by day: each day's forecaster sees the week before on the day's own scale."""

    study: Study
    trace: Trace
    _recorded: list[IntArray] = field(default_factory=list)
    """(E, V) of each day so far that a forecaster may look back on, the latest last."""
    _expected: Expectation | None = None

    def begin(self, frame: DayFrame, demand: DayDemand) -> None:
        """A day begins."""
        if self.study.forecaster is None:
            return
        if not self._recorded:
            # The days before the study are drawn apart, so that the study's own draws stay what they were.
            rng = np.random.default_rng(np.random.SeedSequence(self.study.seed, spawn_key=(2,)))
            first = max(0, frame.day - HISTORY_DAYS)
            self._recorded = [frame.recorded(day, rng) for day in range(first, frame.day)]
        if self._recorded:
            self._expected = self.study.forecaster(demand.rescaled(np.concatenate(self._recorded)))
        self._recorded = [*self._recorded, demand.recorded][-HISTORY_DAYS:]

    def expect(self, arrived: FloatArray) -> Expected:
        """What is expected of the next epoch. Where nothing came before it, what will arrive: there is no better."""
        return Expected(arrived) if self._expected is None else self._expected.expect()

    def observe(self, arrived: FloatArray) -> None:
        """After an epoch."""
        if self._expected is None:
            forecaster = self.study.forecaster
            self._expected = Smoothed(arrived) if forecaster is None else forecaster(arrived[None])
        else:
            self._expected = self._expected.observe(arrived)

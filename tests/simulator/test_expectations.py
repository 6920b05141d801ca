"""What planners are told to expect in a study: the past on the day's own scale, or the truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest

from marlin.api.plan import PlannerKind, RoutingPlan
from marlin.api.state import FleetState
from marlin.policy.forecasting.studying import predicted
from marlin.policy.planners import make_planner
from marlin.simulator.demand import day_demand
from marlin.simulator.expectations import Smoothed
from marlin.simulator.experiment import EPOCH_S, Epoch, Study, demand_stream, run
from marlin.simulator.fleet import Builder
from marlin.simulator.outages import outage, without
from marlin.simulator.physics import FloatArray
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.workload.shipped import shipped_week

BASE = make_planner(PlannerKind.CAPACITY_PROPORTIONAL)


@dataclass
class Notebook:
    """Remembers what forecasters were shown and what planners saw."""

    histories: list[FloatArray] = field(default_factory=list)
    states: list[FleetState] = field(default_factory=list)
    plan: RoutingPlan | None = None

    def forecaster(self, history: FloatArray) -> Smoothed:
        self.histories.append(history)
        return Smoothed(history[-1])

    def decide(self, state: FleetState) -> RoutingPlan:
        self.states.append(state)
        self.plan = self.plan or BASE.decide(state).plan  # what is planned does not matter here
        return self.plan


def study(**changes: object) -> Study:
    return replace(Study(Builder(scenario_documents("8x12")), load="mean56"), **changes)  # type: ignore[arg-type]


def epochs_of(what: Study, notebook: Notebook, count: int = 8) -> list[Epoch]:
    """The first epochs of a study."""
    return list(islice(run(what, notebook.decide), count))


def test_a_day_rescaled_is_what_was_asked_for_but_for_rounding() -> None:
    what = study()
    day = day_demand(
        what.builder, shipped_week(), 2, load="mean56", start=what.first_date, epoch_s=EPOCH_S, rng=demand_stream(0)
    )
    scaled = day.rescaled(day.recorded)
    whole = day.requests.sum(axis=2)
    assert np.abs(scaled - whole).max() <= np.maximum(6.0 * np.sqrt(scaled), 6.0).max()
    assert scaled.sum() == pytest.approx(whole.sum(), rel=0.01)


def test_a_forecaster_is_shown_the_days_before_the_study_on_its_days_scale() -> None:
    notebook = Notebook()
    first = epochs_of(study(first_day=3, forecaster=notebook.forecaster), notebook)[0]
    (history,) = notebook.histories
    assert len(history) == 3 * 96
    assert (first.forecast == history[-1]).all()
    own = shipped_week().counts.sum(axis=1).max()
    assert history.max() > 20 * own  # scaled to the fleet, not the trace's own few hundred
    assert 0.05 < history.mean() / first.arrived.mean() < 20


def test_across_midnight_a_forecaster_is_shown_what_really_came_and_the_new_days_scale() -> None:
    notebook = Notebook()
    epochs = epochs_of(study(first_day=2, days=2, forecaster=notebook.forecaster), notebook, 97)
    before, after = notebook.histories
    assert (len(before), len(after)) == (2 * 96, 3 * 96)
    came = np.array([epoch.arrived for epoch in epochs[:96]])
    seen = after[-96:]
    for v in range(came.shape[1]):  # bent by another exponent: the same order, hour by hour
        assert np.corrcoef(np.argsort(np.argsort(came[:, v])), np.argsort(np.argsort(seen[:, v])))[0, 1] > 0.99


def test_on_the_very_first_day_a_forecaster_begins_with_the_first_epoch() -> None:
    notebook = Notebook()
    epochs = epochs_of(study(forecaster=notebook.forecaster), notebook)
    assert [history.tolist() for history in notebook.histories] == [[epochs[0].arrived.tolist()]]
    assert (epochs[0].forecast == epochs[0].arrived).all()
    assert (epochs[5].forecast != epochs[5].arrived).any()


def test_planners_see_the_predictors_upper_bound_and_every_forecast_meets_the_same_arrivals() -> None:
    plain, bounded, told = Notebook(), Notebook(), Notebook()
    runs = [
        epochs_of(study(first_day=3), plain),
        epochs_of(study(first_day=3, forecaster=predicted), bounded),
        epochs_of(study(first_day=3, foresight=True), told),
    ]
    for epochs in zip(*runs, strict=True):
        assert all((epoch.arrived == epochs[0].arrived).all() for epoch in epochs)
    assert all(state.pools[0].forecast_upper_requests is None for state in plain.states)
    for state in bounded.states:
        for pool in state.pools:
            assert pool.forecast_upper_requests is not None
            assert pool.forecast_upper_requests >= sum(pool.forecast_requests)


def test_foresight_tells_planners_what_comes_and_from_where_and_that_it_is_certain() -> None:
    notebook = Notebook()
    epochs = epochs_of(study(foresight=True), notebook)
    for state, epoch in zip(notebook.states, epochs, strict=True):
        for v, pool in enumerate(state.pools):
            assert sum(pool.forecast_requests) == epoch.arrived[v] == pool.forecast_upper_requests


def test_foresight_knows_of_a_site_that_will_fail() -> None:
    what = study()
    surprise = without([outage("sg@4-6")], what.first_date)
    for foresight, known in ((False, True), (True, False)):
        notebook = Notebook()
        epochs_of(replace(what, surprise=surprise, foresight=foresight), notebook)
        sites = {site.name: site for site in notebook.states[4].datacenters}
        assert sites["sg"].is_available is known

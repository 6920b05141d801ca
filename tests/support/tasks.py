"""Small tasks for the tests of the environments: three sites, both models, one day; each is made once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from marlin.api.plan import Dispatch
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState
from marlin.simulator.environments.forecast import Forecast, smoothed
from marlin.simulator.environments.task import Task, TaskSettings, make_task
from marlin.simulator.experiment import FIRST_DATE, Study
from marlin.simulator.fleet import Builder
from marlin.simulator.outages import outage, without
from marlin.simulator.physics import FloatArray
from marlin.simulator.scenario import scenario_documents

DRAINED = "us-cal-ciso@30-60"
"""Known before: the demand of the hours around it does not fit the other two sites."""
FAILED = ("sg@80-95", "de-lu@93-95")
"""To the end, known one epoch later: one site is left, and the day ends with a queue."""


def point(arrived: FloatArray) -> Forecast:
    """The mean without an interval: what ``experiment`` plans with."""
    forecast = smoothed(arrived)
    return replace(forecast, low=forecast.mean, high=forecast.mean)


def study(*, outages: bool = False, sleeps: bool = False) -> Study:
    known = [outage(DRAINED)] if outages else []
    failed = [outage(text) for text in FAILED] if outages else []
    before, learnt = without(known, FIRST_DATE), without(failed, FIRST_DATE, known_after=1)

    def adjust(state: FleetState) -> FleetState:
        pools = tuple(pool.model_copy(update={"power_down": PowerDown.SLEEP}) for pool in state.pools)
        return learnt(before(state.model_copy(update={"pools": pools}) if sleeps else state))

    return Study(
        Builder(scenario_documents("demo-3")),
        first_day=2,
        load="mean80" if outages else "mean30",
        adjust=adjust if outages or sleeps else None,
        surprise=without(failed, FIRST_DATE) if outages else None,
    )


@cache
def task(*, outages: bool = False, sleeps: bool = False, dispatch: Dispatch = Dispatch.SHARES) -> Task:
    """A task on ``study``, forecasting as ``experiment`` does."""
    settings = TaskSettings(dispatch=dispatch, forecaster=point)
    return make_task([study(outages=outages, sleeps=sleeps)], settings)


@cache
def plain_task() -> Task:
    """Two studies of two days of the trace, with everything at its default."""
    return make_task([study(), replace(study(), first_day=3)])

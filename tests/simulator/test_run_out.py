"""How long the horizon runs on: until nobody waits, and no longer."""

from __future__ import annotations

import numpy as np
import pytest

from marlin.simulator.engines import MOST_RUN_OUT_S, time_to_empty_s
from marlin.simulator.experiment import FIRST_DATE
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import TwinState, arrays_from


@pytest.fixture(scope="module")
def twin() -> TwinState:
    return arrays_from(loaded_state(Builder(scenario_documents("demo-3")), FIRST_DATE, 0.5))


def test_a_queue_takes_as_long_as_the_slower_model_needs_for_its_own(twin: TwinState) -> None:
    limit = twin.capacity_rps.sum(axis=1) * twin.max_utilization
    found = time_to_empty_s(twin, limit * (20.0, 50.0), np.ones_like(twin.capacity_rps), None)
    assert found == pytest.approx(50.0 * 1.01)


def test_fewer_awake_take_longer(twin: TwinState) -> None:
    waiting = twin.capacity_rps.sum(axis=1) * 60.0
    open_ = np.ones_like(twin.capacity_rps)
    assert time_to_empty_s(twin, waiting, open_, twin.all_replicas / 2) == pytest.approx(
        2 * time_to_empty_s(twin, waiting, open_, None)
    )


def test_a_closed_model_that_nobody_waits_for_does_not_lengthen_the_horizon(twin: TwinState) -> None:
    limit = twin.capacity_rps.sum(axis=1) * twin.max_utilization
    closed = np.ones_like(twin.capacity_rps)
    closed[0] = 0.0
    assert time_to_empty_s(twin, limit * (0.0, 50.0), closed, None) == pytest.approx(50.0 * 1.01)


def test_a_queue_that_nobody_may_serve_ends_the_horizon_after_an_hour(twin: TwinState) -> None:
    waiting = np.ones(len(twin.capacity_rps))
    assert time_to_empty_s(twin, waiting, np.zeros_like(twin.capacity_rps), None) == MOST_RUN_OUT_S

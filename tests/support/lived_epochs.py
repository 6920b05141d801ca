"""Epochs of a small fleet as a recorder writes them; tests/support is on the import path."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from tasks import study

from marlin.api.history import RecordedEpoch
from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan
from marlin.api.state import FleetState
from marlin.policy.planners import make_planner
from marlin.simulator.experiment import Epoch, run
from marlin.simulator.recorded import recorded

HALF_A_DAY = 48


def lived() -> tuple[list[RecordedEpoch], list[Epoch]]:
    """The first half of a day under capacity-proportional routing: as it was recorded, and as it was."""
    planner = make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    shown: list[FleetState] = []

    def decide(state: FleetState) -> RoutingPlan:
        shown.append(state)
        return planner.decide(state).plan

    epochs: list[Epoch] = []
    for epoch in run(study(), decide):
        epochs.append(epoch)
        if len(epochs) == HALF_A_DAY:
            break
    return [recorded(s, e.arrived) for s, e in zip(shown, epochs, strict=True)], epochs


def again(history: Sequence[RecordedEpoch], times: int) -> list[RecordedEpoch]:
    """The same epochs one after another, as if the fleet lived through them several times."""
    return [
        one.model_copy(
            update={
                "state": one.state.model_copy(
                    update={
                        "epoch": one.state.epoch + turn * len(history),
                        "start_time": one.state.start_time + turn * len(history) * timedelta(minutes=15),
                    }
                )
            }
        )
        for turn in range(times)
        for one in history
    ]

"""What a planner is: a fleet's state in, a plan with its reasons out.

The operator, the demo, ``marlin plan`` and every experiment hold planners through this protocol and through nothing
else. A planner decides from the state alone; it never sees the arrivals that will really come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from marlin.api.metrics import Metrics
from marlin.api.plan import PlannerKind, RoutingPlan
from marlin.api.state import FleetState


@dataclass(frozen=True)
class Decision:
    """A plan, and what its maker knows about it."""

    plan: RoutingPlan
    expect: Callable[[], Metrics] = field(repr=False)
    expect_of_baseline: Callable[[], Metrics] = field(repr=False)
    """Asked when somebody looks: an experiment of months does not, and estimates took half of its time."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The planner's own account, JSON-able: for ``--explain``, never for a status."""
    carried: Mapping[str, Any] | None = None
    """What the planner remembers after it, JSON-able, to be given back to ``make_planner`` where a process ends between
    two epochs. None: it remembers nothing."""

    @cached_property
    def estimate(self) -> Metrics:
        """What the twin expects of the plan when the forecast comes true."""
        return self.expect()

    @cached_property
    def baseline_estimate(self) -> Metrics:
        """What it expects of capacity-proportional routing in the same epoch."""
        return self.expect_of_baseline()


class Planner(Protocol):
    """Decides one epoch."""

    @property
    def kind(self) -> PlannerKind:
        """Which planner this is."""

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """The plan for the epoch that ``state`` describes.

        Args:
            state: the fleet as forecast for the epoch.
            now: when the decision is taken. Default: the start of the epoch, as in a simulation.
            deadline_s: time it may take; the best valid plan found by then is returned. Default: none.

        Raises:
            InfeasibleError: a pool has no site that may serve it.
        """

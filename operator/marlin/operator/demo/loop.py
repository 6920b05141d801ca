"""The planner's loop: each epoch a state, a decision, a published table.

The plan for an epoch is made in the one before it, from what was seen until then, and published a moment before it
takes effect; it never sees the arrivals it will be carried out on. The table goes to the routers through a file that
is replaced at once, so that nobody reads half of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from marlin.api.plan import RoutingPlan
from marlin.api.table import RoutingTable
from marlin.operator.demo.settings import DemoSettings
from marlin.policy.planner import Decision, Planner

if TYPE_CHECKING:
    from marlin.operator.demo.fleet import Fleet

_SMOOTHING = 0.6
"""Weight of the newest epoch in the forecast: bursts die down fast, but one quiet epoch says little."""


@dataclass(slots=True)
class Arrivals:
    """What the loop has seen: requests by epoch and origin. Written by the replay, read by the planner."""

    origins: tuple[str, ...]
    history: dict[str, float]
    """Requests per epoch by origin, expected before anything was seen."""
    counts: dict[int, dict[str, int]] = field(default_factory=dict)

    def note(self, epoch: int, origin: str) -> None:
        """One request was sent."""
        self.counts.setdefault(epoch, dict.fromkeys(self.origins, 0))[origin] += 1

    def forecast(self, epoch: int, elapsed_share: float) -> tuple[float, ...]:
        """Requests (R,) expected in ``epoch``: a moving average over the epochs before it.

        Args:
            epoch: the epoch to come.
            elapsed_share: part of the epoch before it that has passed; its count is scaled up by it.
        """
        expected = dict(self.history)
        for past in range(epoch):
            share = elapsed_share if past == epoch - 1 else 1.0
            seen = self.counts.get(past, {})
            for origin in self.origins:
                rate = seen.get(origin, 0) / max(share, 0.1)
                expected[origin] += _SMOOTHING * (rate - expected[origin])
        return tuple(expected[origin] for origin in self.origins)


@dataclass(frozen=True, slots=True)
class PlanningLoop:
    """Plans epoch after epoch for one replay."""

    fleet: Fleet
    planner: Planner
    settings: DemoSettings
    arrivals: Arrivals
    table_files: Mapping[str, Path]
    """Origin to the file its router reads."""
    first_generation: int
    on_plan: Callable[[int, Decision], None]

    async def run(self, started_at: datetime, epochs: int | None = None) -> None:
        """Publishes a plan for each epoch, a lead before it starts; the first one at once.

        Args:
            started_at: wall-clock start of epoch 0.
            epochs: how many to plan. Default: until cancelled.
        """
        epoch = 0
        while epochs is None or epoch < epochs:
            starts_at = started_at + timedelta(seconds=epoch * self.settings.epoch_wall_s)
            publish_at = starts_at - timedelta(seconds=self.settings.publish_lead_wall_s)
            await asyncio.sleep(max(0.0, (publish_at - datetime.now(UTC)).total_seconds()))
            self.publish(epoch, starts_at)
            epoch += 1

    def publish(self, epoch: int, starts_at: datetime) -> None:
        """Decides one epoch and hands the table to the routers."""
        settings = self.settings
        elapsed = 1.0 - settings.publish_lead_wall_s / settings.epoch_wall_s
        forecast = self.arrivals.forecast(epoch, elapsed)
        state = self.fleet.state(epoch, forecast, settings)
        decision = self.planner.decide(state)
        plan = stamped(decision.plan, epoch, starts_at, settings.epoch_wall_s)
        for origin, file in self.table_files.items():
            table = self.fleet.table(state, plan, origin, settings, generation=self.first_generation + epoch)
            write_table(file, table)
        self.on_plan(epoch, decision)


def stamped(plan: RoutingPlan, epoch: int, starts_at: datetime, length_s: float) -> RoutingPlan:
    """The plan with the times of this machine's clock in place of the fleet's."""
    unsealed = plan.model_copy(
        update={
            "epoch": epoch,
            "decided_time": datetime.now(UTC),
            "valid_from": starts_at,
            "valid_until": starts_at + timedelta(seconds=length_s),
            "hash": None,
        }
    )
    return unsealed.sealed()


def write_table(file: Path, table: RoutingTable) -> None:
    """Replaces ``file`` in one step."""
    part = file.with_suffix(".part")
    part.write_text(table.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")
    os.replace(part, file)  # noqa: PTH105 the same call as Path.replace, and the one people look for

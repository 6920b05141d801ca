"""What can be set about a demo, each with its unit and the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marlin.api.plan import PlannerKind, Scheme
from marlin.policy.agents.shipped import has_shipped

BASELINES: Final = (PlannerKind.CAPACITY_PROPORTIONAL, PlannerKind.NEAREST)
"""What every planner is shown against."""


def default_planner(artifact: Path | None) -> PlannerKind:
    """Who is shown where nobody is named: MARLIN, where there is a trained policy for it."""
    return PlannerKind.MARLIN if artifact is not None or has_shipped() else PlannerKind.MERIT_ORDER


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """One demo."""

    planner: PlannerKind = PlannerKind.MERIT_ORDER
    """The planner to show; the baselines run beside it."""

    scheme: Scheme = Scheme.BALANCED
    """What the planner leans towards."""

    artifact: Path | None = None
    """Folder of the trained policy, for marlin. Default: the one shipped with the package."""

    seed: int = 0
    """Seed of everything random: the same seed sends the same requests."""

    epochs: int = 12
    """Epochs of one replay. Twelve cover a day in steps of two hours."""

    epoch_wall_s: float = 2.0
    """Length of an epoch on this machine, s. Long enough for tens of requests, short enough for two minutes in all."""

    hours_per_epoch: float = 2.0
    """Hours of the day from one epoch to the next, for carbon, water and price."""

    compression: float = 4.0
    """Seconds of fleet time (GPUs, network) in one second on this machine. More would make times so short that they
    measure this machine instead."""

    peak_utilization: float = 0.8
    """Load of the busiest epoch, of the fleet's capacity."""

    stream_fraction: float = 0.8
    """Part of the requests that ask for a stream."""

    publish_lead_wall_s: float = 0.5
    """How long before its epoch a plan is published, s on this machine; the router looks for a new file more often."""

    scrape_interval_wall_s: float = 0.5
    """How often routers ask engines what waits there, s on this machine: each second of fleet time would be truer, and
    its answers would take a fifth of this machine."""

    @property
    def planners(self) -> tuple[PlannerKind, ...]:
        """All that are replayed, column by column (derived). Beside marlin stands the sort it has to beat."""
        beside = (PlannerKind.MERIT_ORDER,) if self.planner is PlannerKind.MARLIN else ()
        return tuple(dict.fromkeys((self.planner, *beside, *BASELINES)))

    @property
    def epoch_fleet_s(self) -> float:
        """Length of an epoch in fleet time, s (derived)."""
        return self.epoch_wall_s * self.compression

"""The epoch clock: which epoch is to be planned now, and when to look again.

Epochs are aligned to the clock: epoch n of length L starts at n * L seconds after the Unix epoch, so that every
operator, after a restart or a failover too, agrees on their numbers without having to remember anything. The next epoch
is planned shortly before it starts. Whether there is something to plan is asked of the plan in the policy's status and
of nothing else; a clock that jumps makes the two differ, and a plan is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from marlin.api.plan import PUBLISH_LEAD_S, RoutingPlan

PLANNING_LEAD_S: Final = 30.0
"""How long before its start an epoch is planned: long enough for the planner and for routers to read the plan, short
enough that the forecast still knows the newest arrivals."""

_SHARE_OF_EPOCH: Final = 0.25
"""Most of an epoch that the lead may take, where epochs are short: 15 s of a minute."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch."""

    number: int
    length_s: float

    @property
    def start(self) -> datetime:
        """When it starts, UTC."""
        return datetime.fromtimestamp(self.number * self.length_s, tz=UTC)

    @property
    def end(self) -> datetime:
        """When it ends, UTC."""
        return self.start + timedelta(seconds=self.length_s)


def epoch_at(moment: datetime, length_s: float) -> Epoch:
    """The epoch that ``moment`` (with a time zone) lies in."""
    return Epoch(int(moment.timestamp() // length_s), length_s)


def lead_s(length_s: float) -> float:
    """How long before an epoch of this length starts it is planned, s."""
    return min(PLANNING_LEAD_S, _SHARE_OF_EPOCH * length_s)


def epoch_to_plan(now: datetime, length_s: float) -> Epoch:
    """The epoch that a plan has to be there for: the next one once it is close, else the running one."""
    return epoch_at(now + timedelta(seconds=lead_s(length_s)), length_s)


def is_planned(epoch: Epoch, plan: RoutingPlan | None) -> bool:
    """Whether ``plan`` is that of ``epoch``, of the same length too."""
    return plan is not None and plan.epoch == epoch.number and plan.valid_until == epoch.end


def takes_effect(epoch: Epoch, now: datetime) -> datetime:
    """When a plan decided now takes effect: at the epoch's start, but never before routers can have it."""
    return max(epoch.start, now + timedelta(seconds=PUBLISH_LEAD_S))


def next_due(now: datetime, length_s: float) -> datetime:
    """When the next epoch is to be planned; always after ``now``."""
    return epoch_to_plan(now, length_s).end - timedelta(seconds=lead_s(length_s))

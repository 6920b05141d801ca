"""Which plan is in force at which moment: a plan is taken over at its ``validFrom``, not when it arrives.

``control`` offers each table's plan and asks again when time has passed. The value holds any plan type, as long as it
says when it begins, so that nothing here has to be parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar


class Plan(Protocol):
    """What has to be known of a plan to put it in its time."""

    @property
    def valid_from(self) -> datetime:
        """When it takes effect."""


P = TypeVar("P", bound=Plan)


@dataclass(frozen=True, slots=True)
class Schedule(Generic[P]):
    """The plan in force, and the one that waits for its time."""

    current: P | None = None
    upcoming: P | None = None

    def offer(self, plan: P | None, now_s: float) -> Schedule[P]:
        """The schedule after a table came with ``plan``.

        A plan that has begun takes over. One that has not waits, and the one before stays until then; only the newest
        waits. No plan at all means that somebody took it away: then nothing is in force.
        """
        if plan is None:
            return Schedule()
        if plan.valid_from.timestamp() <= now_s:
            return Schedule(plan)
        return Schedule(self.at(now_s).current, plan)

    def at(self, now_s: float) -> Schedule[P]:
        """The schedule at a later moment: an upcoming plan whose time has come is in force."""
        if self.upcoming is not None and self.upcoming.valid_from.timestamp() <= now_s:
            return Schedule(self.upcoming)
        return self

    def next_change_s(self) -> float | None:
        """Unix time of the next take-over; None when nothing waits."""
        return None if self.upcoming is None else self.upcoming.valid_from.timestamp()

"""Conditions: a statement about an object with its reason, and since when it holds.

``lastTransitionTime`` moves only when ``status`` does, so it is carried over from the conditions that are there. A
reason that is not in the documented table is our own mistake and is refused here, where every condition is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from marlin.api.conditions import REASONS, Condition, ConditionStatus

_MOST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Statement:
    """A condition before it has a time."""

    type: str
    holds: bool | None
    """None: not known."""
    reason: str
    message: str = ""


def conditions(
    kind: str,
    statements: Iterable[Statement],
    before: Iterable[Condition],
    *,
    now: datetime,
    generation: int,
) -> tuple[Condition, ...]:
    """The conditions of an object.

    Args:
        kind: its kind, whose table of reasons holds.
        statements: one per type.
        before: the conditions it has.
        now: the time of a change.
        generation: ``metadata.generation`` the statements were made of.
    """
    known: Mapping[str, Condition] = {condition.type: condition for condition in before}
    result = []
    for statement in statements:
        assert statement.reason in REASONS[kind][statement.type], (kind, statement)
        status = _status(statement.holds)
        earlier = known.get(statement.type)
        since = earlier.last_transition_time if earlier is not None and earlier.status is status else now
        result.append(
            Condition(
                type=statement.type,
                status=status,
                reason=statement.reason,
                message=statement.message[:_MOST_MESSAGE],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return tuple(result)


def changed(before: Iterable[Condition], after: Iterable[Condition]) -> list[Condition]:
    """The conditions whose status or reason is another than before, or that are new: what a person wants to know."""
    known = {condition.type: (condition.status, condition.reason) for condition in before}
    return [c for c in after if known.get(c.type) != (c.status, c.reason)]


def _status(holds: bool | None) -> ConditionStatus:
    if holds is None:
        return ConditionStatus.UNKNOWN
    return ConditionStatus.TRUE if holds else ConditionStatus.FALSE

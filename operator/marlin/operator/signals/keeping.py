"""The last week of each live signal, hour by hour, as a ConfigMap holds it: the rung "history" after a restart.

A source is known by a digest of what it asks for, so that a signal that asks something else begins anew. Hours are
written as they end; a restart forgets no more than the hour it happens in. A value takes six digits: 600 signals are
about 700 KB, and where that is too much the oldest days are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from marlin.operator.signals.values import HISTORY, Point

MOST_BYTES: Final = 900_000
_HOUR_S: Final = 3600
_LEAST_HOURS: Final = 24
_MOST_HOURS: Final = int(HISTORY / timedelta(hours=1)) + 1

Histories = Mapping[str, tuple[Point, ...]]
"""Source to its hourly values, earliest first."""


def digest(source: str) -> str:
    """How a source is called in the record."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def newest_hour(histories: Histories) -> int | None:
    """The newest hour of which there is a value, in hours since the Unix epoch; None where there is none."""
    return max((_hour(points[-1].at) for points in histories.values() if points), default=None)


def text_of(histories: Histories, most_bytes: int = MOST_BYTES) -> str:
    """The record. Where it would be too large the oldest hours are left out."""
    hours = _MOST_HOURS
    while True:
        text = json.dumps({key: _row(points, hours) for key, points in sorted(histories.items()) if points})
        if len(text) <= most_bytes or hours <= _LEAST_HOURS:
            return text
        hours = max(_LEAST_HOURS, hours // 2)


def histories_of(text: str, now: datetime) -> dict[str, tuple[Point, ...]]:
    """A record as it was kept, without what is older than a week; what cannot be read is left out."""
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        return {}
    found = {}
    for key, row in document.items() if isinstance(document, dict) else ():
        points = _points(row, now)
        if points:
            found[str(key)] = points
    return found


def _row(points: tuple[Point, ...], hours: int) -> dict[str, Any]:
    """Values by the hour up to the newest; null where there is none."""
    last = _hour(points[-1].at)
    first = max(_hour(points[0].at), last - hours + 1)
    by_hour = {_hour(point.at): point.value for point in points}
    values = [by_hour.get(hour) for hour in range(first, last + 1)]
    return {"lastHour": last, "values": [None if value is None else float(f"{value:.6g}") for value in values]}


def _points(row: Any, now: datetime) -> tuple[Point, ...]:
    try:
        last, values = row["lastHour"], row["values"]
        first = last - len(values) + 1
        points = [
            Point(datetime.fromtimestamp((first + i) * _HOUR_S, tz=UTC), float(value))
            for i, value in enumerate(values)
            if value is not None
        ]
    except (TypeError, ValueError, KeyError, OverflowError, OSError):
        return ()
    if any(point.value != point.value or abs(point.value) == float("inf") for point in points):
        return ()
    return tuple(point for point in points if now - HISTORY < point.at <= now)


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // _HOUR_S

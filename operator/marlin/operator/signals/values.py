"""What is known of one live signal, in the twin's units: gCO2eq/kWh, L/kWh or USD/kWh.

A provider's answer is an ``Answer``. What has been learnt over time is a ``Feed``: the last answer, hourly values of
the last week, the last problem. A feed is a value; ``heard`` and ``failed`` make the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from marlin.api.datacenter import Sample, SampleQuality

HISTORY: Final = timedelta(days=7)
"""How far back values are kept: a week has each hour of the day seven times."""

UNITS: Final = {"carbonIntensity": "gCO2eq/kWh", "waterIntensity": "L/kWh", "energyPrice": "USD/kWh"}
"""Signal to the unit of its values."""

MOST_FORECAST_POINTS: Final = 400
"""72 hours of 15 minutes, and some; what an answer holds beyond is left out."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value that holds from a moment on."""

    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said."""

    current: Point | None
    """The value now, and since when; None where the provider had a forecast only."""
    forecast: tuple[Point, ...] = ()
    """Values to come, earliest first; each holds until the next."""
    is_estimated: bool = False
    """Whether the provider calls the current value an estimate."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there was no answer, in words that hold no secret."""

    reason: str
    """ProviderError or RateLimited, as the condition SignalsFresh names them."""
    message: str
    retry_at: datetime
    """Before then the provider is not asked again."""


@dataclass(frozen=True, slots=True)
class Feed:
    """All that is known of one live signal."""

    current: Point | None = None
    is_estimated: bool = False
    forecast: tuple[Point, ...] = ()
    history: tuple[Point, ...] = ()
    """One value per hour of the last week, earliest first."""
    asked_at: datetime | None = None
    problem: Problem | None = None
    failures: int = 0
    """Answers missing in a row."""

    def heard(self, answer: Answer, now: datetime) -> Feed:
        """The feed after an answer."""
        current = answer.current or self.current
        return replace(
            self,
            current=current,
            is_estimated=answer.is_estimated if answer.current else self.is_estimated,
            forecast=answer.forecast[:MOST_FORECAST_POINTS] or self.forecast,
            history=_with(self.history, answer.current, now),
            asked_at=now,
            problem=None,
            failures=0,
        )

    def failed(self, problem: Problem, now: datetime) -> Feed:
        """The feed after an answer that did not come."""
        return replace(self, asked_at=now, problem=problem, failures=self.failures + 1)


@dataclass(frozen=True, slots=True)
class Reading:
    """A signal's value for a moment, and how far it can be trusted."""

    value: float
    unit: str
    source: str
    quality: SampleQuality
    observed: datetime
    valid_until: datetime | None = None

    def to_sample(self) -> Sample:
        """As a status carries it."""
        return Sample(
            value=f"{self.value:.6f}".rstrip("0").rstrip("."),
            unit=self.unit,
            source=self.source,
            quality=self.quality,
            observed_time=self.observed,
            valid_until_time=self.valid_until,
        )


@dataclass(frozen=True, slots=True)
class SiteReadings:
    """The three signals of a site for one moment."""

    carbon: Reading
    water: Reading
    price: Reading
    problems: tuple[Problem, ...] = field(default=())
    """Of the live signals among them that could not be read last time."""

    def all(self) -> tuple[Reading, Reading, Reading]:
        """Carbon, water, price."""
        return (self.carbon, self.water, self.price)


def _with(history: tuple[Point, ...], point: Point | None, now: datetime) -> tuple[Point, ...]:
    """The history with one more value; within an hour the newest counts."""
    if point is None:
        return history
    hour = point.at.replace(minute=0, second=0, microsecond=0)
    kept = [p for p in history if p.at != hour and p.at > now - HISTORY]
    return tuple(sorted([*kept, Point(hour, point.value)], key=lambda p: p.at))

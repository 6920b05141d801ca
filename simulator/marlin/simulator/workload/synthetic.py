"""Arrivals that nobody recorded: four shapes of load, for what the traces do not contain.

Each generator is a small dataclass of its parameters, made into a ``Trace`` by ``generate``: a rate (P,) in requests
per period, then a Poisson draw. Hours are UTC. None of them is fitted; accuracy shown on them says nothing about real
load (marlin-model, section 5).

``diurnal``      people's day, smooth, quieter on weekends
``mmpp``         calm and bursts in turn, each lasting a random time (Markov-modulated Poisson process)
``flash-crowd``  a diurnal day with rare crowds that come in minutes and leave over an hour or so
``regional``     the sum of many regions' days, each at its own local hour; goes with ``origins.local_hour_shares``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.origins import local_activity
from marlin.simulator.workload.shipped import total_large_share
from marlin.simulator.workload.sizes import published_sizes
from marlin.simulator.workload.trace import S_PER_DAY, S_PER_HOUR, Trace

PERIOD_S: Final = 900
_MAX_DAYS: Final = 3660
_PERIODS_PER_HOUR: Final = S_PER_HOUR // PERIOD_S
_PERIODS_PER_DAY: Final = S_PER_DAY // PERIOD_S
_MONDAY: Final = datetime(2023, 6, 12, tzinfo=UTC)
"""Day 0 is a Monday in June: summer time where there is one."""


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A cosine over the day, lower on two days in seven."""

    days: int = 7
    mean_per_hour: float = 4000.0
    """Requests per hour on a working day. Scaling to a fleet removes it; it sets how noisy the counts are."""
    amplitude: float = 0.6
    """Peak over mean, minus 1; 0 is level, below 1."""
    peak_hour: float = 15.0
    """Hour UTC of the peak."""
    weekend: float = 0.5
    """Load of days 5 and 6 of each week over that of the others (Azure 2024's Sunday: 0.54)."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType(
        {"amplitude": (0.0, 1.0), "peak_hour": (0.0, 24.0), "weekend": (0.0, 1.0)}
    )

    def rate(self, rng: np.random.Generator) -> FloatArray:
        """(P,) requests per period."""
        hour = (np.arange(self.days * _PERIODS_PER_DAY) + 0.5) / _PERIODS_PER_HOUR
        shape = 1.0 + self.amplitude * np.cos(2 * np.pi * (hour - self.peak_hour) / 24)
        is_weekend = (hour // 24) % 7 >= 5
        return np.asarray(self.mean_per_hour / _PERIODS_PER_HOUR * shape * np.where(is_weekend, self.weekend, 1.0))


@dataclass(frozen=True, slots=True)
class Mmpp:
    """Two rates in turn; how long each lasts is exponential."""

    days: int = 7
    mean_per_hour: float = 4000.0
    """Requests per hour, over both states."""
    burst_ratio: float = 8.0
    """Rate in a burst over the calm one."""
    calm_s: float = 5400.0
    """Mean length of a calm, s."""
    burst_s: float = 900.0
    """Mean length of a burst, s."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType(
        {"burst_ratio": (1.0, 1e6), "calm_s": (1.0, 1e7), "burst_s": (1.0, 1e7)}
    )

    def rate(self, rng: np.random.Generator) -> FloatArray:
        """(P,) requests per period: each state's rate times the part of the period spent in it."""
        horizon_s = float(self.days * S_PER_DAY)
        pairs = int(horizon_s / (self.calm_s + self.burst_s) * 1.5) + 50
        ends_s = np.cumsum(np.zeros(0))
        while not ends_s.size or ends_s[-1] < horizon_s:
            lengths = rng.exponential([self.calm_s, self.burst_s], size=(pairs, 2)).ravel()
            ends_s = np.concatenate([ends_s, np.cumsum(lengths) + (ends_s[-1] if ends_s.size else 0.0)])
        # Time spent in bursts up to each switch is piecewise linear; periods read it off at their edges.
        lengths = np.diff(ends_s, prepend=0.0)
        in_burst_s = np.cumsum(np.where(np.arange(len(lengths)) % 2 == 1, lengths, 0.0))
        edges_s = np.arange(self.days * _PERIODS_PER_DAY + 1) * float(PERIOD_S)
        burst = np.diff(np.interp(edges_s, np.append(0.0, ends_s), np.append(0.0, in_burst_s))) / PERIOD_S  # (P,)
        mean_ratio = (self.calm_s + self.burst_ratio * self.burst_s) / (self.calm_s + self.burst_s)
        calm_rate = self.mean_per_hour / _PERIODS_PER_HOUR / mean_ratio
        return np.asarray(calm_rate * (1.0 + (self.burst_ratio - 1.0) * burst))


@dataclass(frozen=True, slots=True)
class FlashCrowd:
    """A diurnal day; crowds come at random times, rise in a straight line and fall off exponentially."""

    days: int = 7
    mean_per_hour: float = 4000.0
    """Requests per hour without crowds, on a working day."""
    crowds_per_day: float = 1.0
    """Expected number; Poisson."""
    height: float = 10.0
    """A crowd's peak over the mean load."""
    rise_s: float = 600.0
    decay_s: float = 3600.0
    """After this time a crowd has fallen to 37 %."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType(
        {"crowds_per_day": (0.0, 100.0), "height": (0.0, 1e4), "rise_s": (1.0, 86_400.0), "decay_s": (1.0, 864_000.0)}
    )

    def rate(self, rng: np.random.Generator) -> FloatArray:
        """(P,) requests per period."""
        base = Diurnal(self.days, self.mean_per_hour).rate(rng)
        horizon_s = float(self.days * S_PER_DAY)
        starts_s = rng.uniform(0.0, horizon_s, size=rng.poisson(self.crowds_per_day * self.days))
        at_s = (np.arange(len(base)) + 0.5) * PERIOD_S
        since_s = at_s[:, None] - starts_s  # (P, crowds)
        falling = np.exp(-np.maximum(since_s - self.rise_s, 0.0) / self.decay_s)
        crowd = np.where(since_s < 0, 0.0, np.minimum(since_s / self.rise_s, 1.0) * falling).sum(axis=1)
        return np.asarray(base + self.mean_per_hour / _PERIODS_PER_HOUR * self.height * crowd)


@dataclass(frozen=True, slots=True)
class Regional:
    """Every shipped grid zone's people at their own local hour, the same number in each."""

    days: int = 7
    mean_per_hour: float = 4000.0
    """Requests per hour, over all regions."""

    zones: ClassVar[tuple[str, ...]] = (
        "AU-NSW", "BR-SP", "DE-LU", "GB", "JP-TK", "SG", "US-CAL-CISO", "US-MIDA-PJM",
    )  # fmt: skip
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})

    def rate(self, rng: np.random.Generator) -> FloatArray:
        """(P,) requests per period."""
        activity = local_activity(self.zones, _MONDAY, self.days * _PERIODS_PER_DAY, PERIOD_S)  # (P, R)
        return np.asarray(self.mean_per_hour / _PERIODS_PER_HOUR * activity.mean(axis=1))


Generator = Diurnal | Mmpp | FlashCrowd | Regional
GENERATORS: Final[Mapping[str, type[Generator]]] = MappingProxyType(
    {"diurnal": Diurnal, "mmpp": Mmpp, "flash-crowd": FlashCrowd, "regional": Regional}
)


def generate(name: str, generator: Generator, rng: np.random.Generator) -> Trace:
    """The trace of a generator: whole, seeded, with BurstGPT's published mean tokens on every day."""
    return Trace(
        name=name,
        classes=("all",),
        counts=rng.poisson(generator.rate(rng))[:, None],
        period_s=PERIOD_S,
        mean_tokens=np.tile(published_sizes(), (generator.days, 1)),
        large_share=total_large_share(1),
    )


def generator_from(name: str, parameters: str) -> Generator:
    """A generator by name, with ``key=value`` parameters separated by commas, e.g. ``days=14,burst_ratio=20``.

    Raises:
        InputError: a parameter is not known, not a number, or out of its range.
    """
    kind = GENERATORS[name]
    ranges = {"days": (1.0, float(_MAX_DAYS)), "mean_per_hour": (0.0, 1e9), **kind.ranges}
    known = [f.name for f in fields(kind)]
    given: dict[str, float] = {}
    for part in filter(None, parameters.split(",")):
        key, _, text = part.partition("=")
        if key not in known:
            raise InputError(f"trace {name}: has no parameter {key!r}; there are {', '.join(known)}")
        low, high = ranges[key]
        try:
            given[key] = float(text)
        except ValueError:
            raise InputError(f"trace {name}: {key} is {text!r}, not a number; write {key}=NUMBER") from None
        if not low <= given[key] <= high:
            raise InputError(f"trace {name}: {key} is {text}, not between {low:g} and {high:g}")
    whole = {"days": int(given.pop("days"))} if "days" in given else {}
    return kind(**whole, **given)  # type: ignore[arg-type]

"""The ladder a signal's value comes down: live, forecast, history, fallback.

Pure: a site's spec, its feeds and a moment in, readings out, each with the rung it stands on. A constant, a schedule
and the shipped table are meant as they are, so they stand on the first rung; only a live provider can come down.

- live: the provider's value, while it is younger than ``staleAfterSeconds``
- forecast: the provider's last forecast, where it covers the moment
- history: the mean of the same hour of the day over the last week, where a third of the days has it
- fallback: ``fallbackValue``, else the zone's shipped table, else the documented default
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from marlin.api.datacenter import Datacenter, SampleQuality
from marlin.api.signals import CarbonSignal, PriceSignal, WaterSignal
from marlin.operator.signals.values import UNITS, Feed, Point, Problem, Reading, SiteReadings
from marlin.simulator.signals import SignalSource, zone_signals
from marlin.simulator.site_signals import SiteSignals

FIELDS: Final = ("carbonIntensity", "waterIntensity", "energyPrice")
"""The signals, in the order of ``SiteReadings``."""

LIVE_PROVIDERS: Final = frozenset(
    {"ConfigMap", "Prometheus", "ElectricityMaps", "WattTime", "CarbonAwareSDK", "ENTSOE"}
)
"""Providers that are asked; the others are read from the object itself or from the shipped table."""

_LONGEST_FORECAST_STEP: Final = timedelta(hours=1)
"""How long the last point of a forecast holds."""

_LEAST_DAYS: Final = 3
"""Days that must have an hour before its mean counts as history."""

AnySignal = CarbonSignal | WaterSignal | PriceSignal


def signal_of(site: Datacenter, field: str) -> AnySignal | None:
    """The signal of that name, None where the site states none."""
    signals = site.spec.signals
    return {
        "carbonIntensity": signals.carbon_intensity,
        "waterIntensity": signals.water_intensity,
        "energyPrice": signals.energy_price,
    }[field]


def live_signal(site: Datacenter, field: str) -> AnySignal | None:
    """The signal where a provider has to be asked for it, else None."""
    signal = signal_of(site, field)
    return signal if signal is not None and signal.provider.value in LIVE_PROVIDERS else None


def site_readings(
    site: Datacenter, feeds: Mapping[str, Feed], at: datetime, now: datetime, source: SignalSource = zone_signals
) -> SiteReadings:
    """The three signals of a site.

    Args:
        site: the site.
        feeds: signal name to what is known of it; a live signal without one was never asked.
        at: the moment the values are for: now, or the start of an epoch to come.
        now: the moment they are asked for.
        source: what provider BuiltIn means.
    """
    readings: list[Reading] = []
    problems: list[Problem] = []
    for field in FIELDS:
        signal = live_signal(site, field)
        if signal is None:
            readings.append(_as_stated(site, field, at, source))
            continue
        feed = feeds.get(field, Feed())
        readings.append(
            _live(signal, feed, field, at, now)
            or _forecast(signal, feed, field, at)
            or _history(signal, feed, field, at)
            or _fallback(site, field, at, source)
        )
        if feed.problem is not None:
            problems.append(feed.problem)
    carbon, water, price = readings
    return SiteReadings(carbon, water, price, tuple(problems))


def _live(signal: AnySignal, feed: Feed, field: str, at: datetime, now: datetime) -> Reading | None:
    """The provider's own value, unless a forecast of its knows the moment better."""
    point = feed.current
    if point is None:
        return None
    until = point.at + timedelta(seconds=signal.stale_after_seconds)
    if now >= until:
        return None
    if at > now and (to_come := _point_at(feed.forecast, at)) is not None and to_come.at > point.at:
        return Reading(to_come.value, UNITS[field], signal.provider.value, SampleQuality.FORECAST, to_come.at, until)
    quality = SampleQuality.ESTIMATED if feed.is_estimated else SampleQuality.MEASURED
    return Reading(point.value, UNITS[field], signal.provider.value, quality, point.at, until)


def _forecast(signal: AnySignal, feed: Feed, field: str, at: datetime) -> Reading | None:
    point = _point_at(feed.forecast, at)
    if point is None:
        return None
    return Reading(point.value, UNITS[field], signal.provider.value, SampleQuality.FORECAST, point.at)


def _history(signal: AnySignal, feed: Feed, field: str, at: datetime) -> Reading | None:
    hour = at.astimezone(UTC).hour
    same_hour = [point.value for point in feed.history if point.at.astimezone(UTC).hour == hour]
    if len(same_hour) < _LEAST_DAYS:
        return None
    mean = sum(same_hour) / len(same_hour)
    return Reading(mean, UNITS[field], signal.provider.value, SampleQuality.HISTORY, feed.history[-1].at)


def _fallback(site: Datacenter, field: str, at: datetime, source: SignalSource) -> Reading:
    # SiteSignals takes the fallback of a provider that it cannot ask: what is wanted here.
    return Reading(_value(site, field, at, source), UNITS[field], "Fallback", SampleQuality.FALLBACK, _hour(at))


def _as_stated(site: Datacenter, field: str, at: datetime, source: SignalSource) -> Reading:
    signal = signal_of(site, field)
    provider = "BuiltIn" if signal is None else signal.provider.value
    quality = SampleQuality.ESTIMATED if provider == "BuiltIn" else SampleQuality.MEASURED
    return Reading(_value(site, field, at, source), UNITS[field], provider, quality, _hour(at))


def _hour(at: datetime) -> datetime:
    """Since when a value that changes by the hour holds; a status must not change while its value does not."""
    return at.replace(minute=0, second=0, microsecond=0)


def _value(site: Datacenter, field: str, at: datetime, source: SignalSource) -> float:
    here = SiteSignals(site.metadata.name, site.spec.location.zone, at, source, lambda _: None)
    signals = site.spec.signals
    if field == "carbonIntensity":
        return here.carbon_gco2_per_kwh(signals.carbon_intensity)
    if field == "waterIntensity":
        return here.water_l_per_kwh(signals.water_intensity)
    return here.price_usd_per_kwh(signals.energy_price)


def _point_at(forecast: tuple[Point, ...], at: datetime) -> Point | None:
    """The point whose interval holds ``at``; each holds until the next, the last one for an hour."""
    for i, point in enumerate(forecast):
        last = i + 1 == len(forecast)
        until = forecast[i + 1].at if not last else point.at + _LONGEST_FORECAST_STEP
        if point.at <= at < until:
            return point
    return None

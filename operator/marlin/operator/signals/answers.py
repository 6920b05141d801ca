"""What providers answer, as ``Answer``s: pure, one function per documented shape.

Every function checks what it relies on (units, the zone that was meant, the currency), because an answer that means
something else is worse than none. Values leave in the twin's units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from xml.etree import ElementTree as ET

from marlin.operator.signals.http import SignalError
from marlin.operator.signals.values import Answer, Point
from marlin.simulator.site_signals import GRAMS_PER_POUND

_STEPS: Final = {
    "PT15M": timedelta(minutes=15),
    "PT30M": timedelta(minutes=30),
    "PT60M": timedelta(hours=1),
    "PT1H": timedelta(hours=1),
    "P1D": timedelta(days=1),
}
_MOST_POINTS: Final = 500


def prometheus(body: bytes, factor: float) -> Answer:
    """An instant query's result: one sample, or a scalar."""
    document = _object(body, "Prometheus")
    if document.get("status") != "success":
        raise SignalError(f"Prometheus says {document.get('errorType', 'error')}")
    data = document.get("data") or {}
    kind, result = data.get("resultType"), data.get("result")
    if kind == "vector":
        if not isinstance(result, list) or len(result) != 1:
            raise SignalError(f"the query yields {len(result or ())} series; it has to yield one")
        result = result[0].get("value")
    elif kind != "scalar":
        raise SignalError(f"the query yields a {kind}; it has to yield one number")
    if not isinstance(result, list) or len(result) != 2:
        raise SignalError("Prometheus answered with no value")
    return Answer(Point(datetime.fromtimestamp(float(result[0]), tz=UTC), _number(result[1]) * factor))


def config_map(text: str, factor: float, now: datetime) -> Answer:
    """A number; or JSON with ``value``, ``observedTime`` and a ``forecast`` of ``time`` and ``value``."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        return Answer(Point(now, _number(stripped) * factor))
    document = _object(stripped.encode(), "the ConfigMap's key")
    forecast = _points(document.get("forecast") or (), "time", "value", factor)
    current = None
    if "value" in document:
        observed = _moment(document["observedTime"]) if "observedTime" in document else now
        current = Point(observed, _number(document["value"]) * factor)
    if current is None and not forecast:
        raise SignalError("the ConfigMap's key holds neither value nor forecast")
    return Answer(current or _covering(forecast, now), forecast)


def electricity_maps_latest(body: bytes, zone: str) -> Answer:
    """``/v3/carbon-intensity/latest``; the zone is compared, because the API may answer for another."""
    document = _object(body, "Electricity Maps")
    _same_zone(document, zone)
    point = Point(_moment(document.get("datetime")), _number(document.get("carbonIntensity")))
    return Answer(point, is_estimated=bool(document.get("isEstimated")))


def electricity_maps_forecast(body: bytes, zone: str) -> tuple[Point, ...]:
    """``/v3/carbon-intensity/forecast``."""
    document = _object(body, "Electricity Maps")
    _same_zone(document, zone)
    return _points(document.get("forecast") or (), "datetime", "carbonIntensity", 1.0)


def watt_time_token(body: bytes) -> str:
    """``/login``."""
    token = _object(body, "WattTime").get("token")
    if not isinstance(token, str) or not token:
        raise SignalError("WattTime gave no token")
    return token


def watt_time_forecast(body: bytes, region: str, now: datetime) -> Answer:
    """``/v3/forecast`` of co2_moer: the point that covers now is the current value."""
    document = _object(body, "WattTime")
    meta = document.get("meta") or {}
    if meta.get("region") != region:
        raise SignalError(f"WattTime answered for region {meta.get('region')!r}, not {region}")
    if meta.get("units") != "lbs_co2_per_mwh":
        raise SignalError(f"WattTime answered in {meta.get('units')!r}; lbs_co2_per_mwh is understood")
    forecast = _points(document.get("data") or (), "point_time", "value", GRAMS_PER_POUND / 1000)
    return Answer(_covering(forecast, now) or (forecast[0] if forecast else None), forecast, is_estimated=True)


def carbon_aware_emissions(body: bytes, location: str) -> Answer:
    """``/emissions/bylocation``: the newest of the list."""
    entries = [e for e in _list(body, "Carbon Aware SDK") if isinstance(e, dict) and e.get("location") == location]
    points = _points(entries, "time", "rating", 1.0)
    if not points:
        raise SignalError(f"Carbon Aware SDK has no emissions for location {location}")
    return Answer(points[-1])


def carbon_aware_forecast(body: bytes, location: str) -> tuple[Point, ...]:
    """``/emissions/forecasts/current``."""
    for entry in _list(body, "Carbon Aware SDK"):
        if isinstance(entry, dict) and entry.get("location") == location:
            return _points(entry.get("forecastData") or (), "timestamp", "value", 1.0)
    return ()


def entsoe_prices(body: bytes, currency: str, usd_per_unit: float, now: datetime) -> Answer:
    """Day-ahead prices (A44), per MWh; a position that is left out repeats the one before it.

    Where there are series of two resolutions the finer one is taken.
    """
    root = _xml(body)
    if _local(root.tag) == "Acknowledgement_MarketDocument":
        raise SignalError(f"ENTSO-E says: {_text(root, 'text')[:120] or 'no data'}")
    by_step: dict[timedelta, dict[datetime, float]] = {}
    for series in _all(root, "TimeSeries"):
        if (found := _text(series, "currency_Unit.name")) != currency:
            raise SignalError(f"ENTSO-E answered in {found!r}; the signal's currency is {currency}")
        if (unit := _text(series, "price_Measure_Unit.name")) != "MWH":
            raise SignalError(f"ENTSO-E answered per {unit!r}; MWH is understood")
        for period in _all(series, "Period"):
            step = _STEPS.get(_text(period, "resolution"))
            if step is None:
                raise SignalError(f"ENTSO-E answered in steps of {_text(period, 'resolution')!r}")
            by_step.setdefault(step, {}).update(_period(period, step, usd_per_unit / 1000))
    if not by_step:
        raise SignalError("ENTSO-E answered without prices")
    forecast = tuple(Point(at, value) for at, value in sorted(by_step[min(by_step)].items()))
    # A price of the day ahead is known, not predicted: the one that holds now is a current value, true as of now.
    covering = _covering(forecast, now)
    return Answer(None if covering is None else Point(now, covering.value), forecast)


def _period(period: ET.Element, step: timedelta, factor: float) -> dict[datetime, float]:
    start, end = _moment(_text(period, "start")), _moment(_text(period, "end"))
    stated = {int(_text(p, "position")): _number(_text(p, "price.amount")) * factor for p in _all(period, "Point")}
    prices: dict[datetime, float] = {}
    value: float | None = None
    for position in range(1, min(_MOST_POINTS, round((end - start) / step)) + 1):
        value = stated.get(position, value)
        if value is not None:
            prices[start + (position - 1) * step] = value
    return prices


def _covering(forecast: Sequence[Point], now: datetime) -> Point | None:
    earlier = [point for point in forecast if point.at <= now]
    return earlier[-1] if earlier else None


def _points(entries: Iterable[Any], at: str, value: str, factor: float) -> tuple[Point, ...]:
    points = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise SignalError("a forecast's entry is not an object")
        points.append(Point(_moment(entry.get(at)), _number(entry.get(value)) * factor))
    return tuple(sorted(points, key=lambda point: point.at))


def _same_zone(document: dict[str, Any], zone: str) -> None:
    if document.get("zone") != zone:
        raise SignalError(f"Electricity Maps answered for zone {document.get('zone')!r}, not {zone}")


def _object(body: bytes, who: str) -> dict[str, Any]:
    document = _json(body, who)
    if not isinstance(document, dict):
        raise SignalError(f"{who}: the answer is not an object")
    return document


def _list(body: bytes, who: str) -> list[Any]:
    document = _json(body, who)
    if not isinstance(document, list):
        raise SignalError(f"{who}: the answer is not a list")
    return document


def _json(body: bytes, who: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise SignalError(f"{who}: the answer is not JSON") from None


def _xml(body: bytes) -> ET.Element:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise SignalError("ENTSO-E: the answer declares entities, which no price needs")
    try:
        return ET.fromstring(body)  # noqa: S314 entities, which it would expand, were refused
    except ET.ParseError:
        raise SignalError("ENTSO-E: the answer is not XML") from None


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _all(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if _local(element.tag) == name]


def _text(root: ET.Element, name: str) -> str:
    return next(((element.text or "").strip() for element in _all(root, name)), "")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise SignalError("the answer holds no number where one belongs")
    try:
        number = float(value)
    except ValueError:
        raise SignalError("the answer holds no number where one belongs") from None
    if not math.isfinite(number):
        raise SignalError("the answer's number is not finite")
    return number


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise SignalError("the answer holds no time where one belongs") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

"""What a site's own signals say at a moment: constants, schedules on the local clock, and the zone's tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from marlin.api.signals import CarbonSignal, PriceSignal, WaterSignal
from marlin.simulator.signals import built_in_signals, zone_signals
from marlin.simulator.site_signals import (
    DEFAULT_PRICE_USD_PER_KWH,
    DEFAULT_WATER_L_PER_KWH,
    WORLD_CARBON_GCO2_PER_KWH,
    SiteSignals,
)

NOON = datetime(2023, 6, 15, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def site(at: datetime = NOON, zone: str | None = "DE-LU", warnings: list[str] | None = None) -> SiteSignals:
    heard = [] if warnings is None else warnings
    return SiteSignals("here", zone, at, built_in_signals(), heard.append)


def price(**source: Any) -> PriceSignal:
    return PriceSignal.model_validate(source)


def schedule(*entries: tuple[int, float], time_zone: str = "Europe/Berlin") -> PriceSignal:
    listed = [{"fromHour": hour, "value": str(value)} for hour, value in entries]
    return price(provider="Schedule", schedule={"timeZone": time_zone, "entries": listed})


def hourly_prices(signal: PriceSignal, midnight: datetime) -> list[float]:
    """The price in each hour of a local day, in the order they pass."""
    start = midnight.astimezone(UTC)
    end = (midnight + timedelta(days=1)).astimezone(UTC)
    count = int((end - start).total_seconds()) // 3600
    return [site(start + timedelta(hours=h)).price_usd_per_kwh(signal) for h in range(count)]


def test_without_a_signal_the_zone_s_table_holds() -> None:
    known = zone_signals("DE-LU", NOON)
    assert site().carbon_gco2_per_kwh(None) == known.carbon_gco2_per_kwh
    assert site().water_l_per_kwh(None) == known.water_l_per_kwh
    assert site().price_usd_per_kwh(None) == known.price_usd_per_kwh


def test_life_cycle_carbon_is_had_by_asking_for_it() -> None:
    signal = CarbonSignal.model_validate({"provider": "BuiltIn", "emissionFactor": "Lifecycle"})
    assert site().carbon_gco2_per_kwh(signal) == zone_signals("DE-LU", NOON).carbon_lifecycle_gco2_per_kwh


def test_another_zone_s_table_can_be_named() -> None:
    signal = CarbonSignal.model_validate({"provider": "BuiltIn", "builtIn": {"zone": "GB"}})
    assert site().carbon_gco2_per_kwh(signal) == zone_signals("GB", NOON).carbon_gco2_per_kwh


@pytest.mark.parametrize(
    ("unit", "expected"), [("gCO2eq/kWh", 300.0), ("kgCO2eq/MWh", 300.0), ("lbCO2eq/MWh", 300 * 0.45359237)]
)
def test_carbon_is_converted_from_the_unit_of_its_source(unit: str, expected: float) -> None:
    signal = CarbonSignal.model_validate({"provider": "Static", "static": {"value": "300"}, "unit": unit})
    assert site().carbon_gco2_per_kwh(signal) == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "expected"), [("L/kWh", 2.0), ("m3/MWh", 2.0), ("gal/MWh", 2 * 0.003785411784)])
def test_water_is_converted_from_the_unit_of_its_source(unit: str, expected: float) -> None:
    signal = WaterSignal.model_validate({"provider": "Static", "static": {"value": "2"}, "unit": unit})
    assert site().water_l_per_kwh(signal) == pytest.approx(expected)


def test_a_price_is_converted_from_its_currency_and_per_megawatt_hour() -> None:
    signal = price(provider="Static", static={"value": "80"}, unit="PerMWh", currency="EUR", usdPerCurrencyUnit="1.25")
    assert site().price_usd_per_kwh(signal) == pytest.approx(0.1)


def test_a_schedule_s_last_entry_holds_over_midnight_until_the_first() -> None:
    day = hourly_prices(schedule((6, 0.3), (22, 0.1)), datetime(2023, 6, 15, tzinfo=BERLIN))
    assert day == [0.1] * 6 + [0.3] * 16 + [0.1] * 2


def test_a_day_of_23_hours_skips_the_entry_of_the_hour_that_is_left_out() -> None:
    every_hour = schedule(*((h, h) for h in range(24)))
    spring = hourly_prices(every_hour, datetime(2023, 3, 26, tzinfo=BERLIN))
    assert spring == [0, 1, *range(3, 24)], "there is no two o'clock"
    assert hourly_prices(schedule((0, 1.0), (2, 2.0)), datetime(2023, 3, 26, tzinfo=BERLIN)) == [1.0] * 2 + [2.0] * 21


def test_a_day_of_25_hours_has_the_doubled_hour_s_entry_twice() -> None:
    every_hour = schedule(*((h, h) for h in range(24)))
    assert hourly_prices(every_hour, datetime(2023, 10, 29, tzinfo=BERLIN)) == [0, 1, 2, 2, *range(3, 24)]


def test_an_ambiguous_local_time_is_either_of_its_two_moments_and_has_one_price() -> None:
    signal = schedule((0, 0.1), (2, 0.2), (3, 0.3))
    twice = datetime(2023, 10, 29, 2, 30, tzinfo=BERLIN)
    assert [site(twice.replace(fold=fold)).price_usd_per_kwh(signal) for fold in (0, 1)] == [0.2, 0.2]


def test_a_schedule_half_an_hour_off_utc_follows_its_own_clock() -> None:
    signal = schedule((0, 0.1), (18, 0.9), time_zone="Asia/Kolkata")
    assert site(datetime(2023, 6, 15, 12, 29, tzinfo=UTC)).price_usd_per_kwh(signal) == 0.1
    assert site(datetime(2023, 6, 15, 12, 30, tzinfo=UTC)).price_usd_per_kwh(signal) == 0.9


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        site(NOON.replace(tzinfo=None))


def test_a_live_provider_is_not_asked_and_that_is_said() -> None:
    warnings: list[str] = []
    live = {"provider": "Prometheus", "prometheus": {"url": "http://prometheus:9090", "query": "price"}}
    assert site(warnings=warnings).price_usd_per_kwh(price(**live, fallbackValue="0.5")) == 0.5
    assert warnings == ["Datacenter here: energyPrice comes from Prometheus, which is not asked here"]


def test_where_nothing_is_known_the_documented_default_is_taken_with_a_warning() -> None:
    warnings: list[str] = []
    nowhere = site(zone=None, warnings=warnings)
    assert nowhere.carbon_gco2_per_kwh(None) == WORLD_CARBON_GCO2_PER_KWH
    assert nowhere.water_l_per_kwh(None) == DEFAULT_WATER_L_PER_KWH
    assert nowhere.price_usd_per_kwh(None) == DEFAULT_PRICE_USD_PER_KWH
    assert warnings[0] == "Datacenter here: carbonIntensity is not known, 475 is taken"
    assert len(warnings) == 3

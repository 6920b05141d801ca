from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from marlin.api.errors import InputError
from marlin.simulator.constants import Reading, constant
from marlin.simulator.network import great_circle_km, round_trip_ms, zone_coordinates
from marlin.simulator.signals import (
    DEFAULT_OPTIONS,
    CarbonAccounting,
    PriceKind,
    SignalOptions,
    available_zones,
    built_in_signals,
    tariff_usd_per_kwh,
    zone_signals,
)

NOON = datetime(2023, 6, 15, 12, tzinfo=UTC)


def test_all_sixteen_zones_have_plausible_signals_in_every_month_and_hour() -> None:
    assert len(available_zones()) == 16
    for zone in available_zones():
        for month in range(1, 13):
            for hour in range(24):
                signals = zone_signals(zone, NOON.replace(month=month, hour=hour))
                assert 0 < signals.carbon_gco2_per_kwh < 1200
                assert signals.carbon_gco2_per_kwh < signals.carbon_lifecycle_gco2_per_kwh
                assert 0 < signals.water_l_per_kwh < 20
                assert 0.04 <= signals.price_usd_per_kwh < 1.0, "a tariff is never below its adder"


def test_carbon_is_direct_unless_the_life_cycle_is_asked_for() -> None:
    direct = zone_signals("DE-LU", NOON)
    lifecycle = zone_signals("DE-LU", NOON, SignalOptions(carbon=CarbonAccounting.LIFECYCLE))
    assert lifecycle.carbon_gco2_per_kwh == direct.carbon_lifecycle_gco2_per_kwh > direct.carbon_gco2_per_kwh
    assert replace(lifecycle, carbon_gco2_per_kwh=direct.carbon_gco2_per_kwh) == direct, "nothing else changes"


def test_the_tariff_is_the_wholesale_price_floored_at_zero_and_an_adder() -> None:
    adder = constant("price_adder_usd_per_kwh")
    wholesale = built_in_signals(SignalOptions(price=PriceKind.WHOLESALE))("DE-LU", NOON).price_usd_per_kwh
    assert zone_signals("DE-LU", NOON).price_usd_per_kwh == pytest.approx(max(0.0, wholesale) + adder)
    assert tariff_usd_per_kwh(-0.2) == pytest.approx(adder)
    assert tariff_usd_per_kwh(0.1) == pytest.approx(0.1 + adder)


def test_the_paper_s_hydropower_uses_more_water_where_there_is_hydropower() -> None:
    paper = built_in_signals(replace(DEFAULT_OPTIONS, water=Reading.PAPER))
    ours = built_in_signals()
    assert paper("BR-SP", NOON).water_l_per_kwh > 2 * ours("BR-SP", NOON).water_l_per_kwh
    for zone in available_zones():
        assert paper(zone, NOON).water_l_per_kwh >= ours(zone, NOON).water_l_per_kwh


def test_a_leap_day_has_the_signals_of_february() -> None:
    assert zone_signals("GB", datetime(2024, 2, 29, 7, tzinfo=UTC)) == zone_signals(
        "GB", datetime(2023, 2, 3, 7, tzinfo=UTC)
    )


def test_a_local_time_means_the_same_moment() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert zone_signals("JP-TK", NOON) == zone_signals("JP-TK", NOON.astimezone(tokyo))


def test_the_sun_shows_in_california() -> None:
    noon_there = zone_signals("US-CAL-CISO", NOON.replace(hour=20)).carbon_gco2_per_kwh
    night_there = zone_signals("US-CAL-CISO", NOON.replace(hour=6)).carbon_gco2_per_kwh
    assert noon_there < 0.7 * night_there


def test_an_unknown_zone_and_a_naive_time_are_refused() -> None:
    with pytest.raises(InputError, match="zone XX has no built-in signals; there are"):
        zone_signals("XX", NOON)
    with pytest.raises(ValueError, match="time zone"):
        zone_signals("DE-LU", NOON.replace(tzinfo=None))


def test_a_measured_round_trip_is_used_and_another_is_estimated_from_the_distance() -> None:
    frankfurt, sydney = zone_coordinates("DE-LU"), zone_coordinates("AU-NSW")
    measured = round_trip_ms("DE-LU", frankfurt, "AU-NSW", sydney)
    assert 230 < measured < 330
    estimated = round_trip_ms(None, frankfurt, None, sydney)
    assert estimated == pytest.approx(2 * 0.0081 * great_circle_km(frankfurt, sydney) + 10.0)
    assert round_trip_ms("DE-LU", frankfurt, "DE-LU", frankfurt) == 14.0, "4 ms within a zone, 10 ms last mile"


def test_the_great_circle_between_frankfurt_and_sydney_is_as_an_atlas_says() -> None:
    assert great_circle_km((50.12, 8.68), (-33.87, 151.21)) == pytest.approx(16_500, rel=0.01)

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from marlin.api.errors import InputError
from marlin.simulator.network import great_circle_km, round_trip_ms, zone_coordinates
from marlin.simulator.signals import available_zones, zone_pue, zone_signals

NOON = datetime(2023, 6, 15, 12, tzinfo=UTC)


def test_all_sixteen_zones_have_plausible_signals_in_every_month_and_hour() -> None:
    assert len(available_zones()) == 16
    for zone in available_zones():
        pue = zone_pue(zone)
        assert pue is not None
        assert 1.2 <= pue <= 1.7
        for month in range(1, 13):
            for hour in range(24):
                signals = zone_signals(zone, NOON.replace(month=month, hour=hour))
                assert 0 < signals.carbon_gco2_per_kwh < 1200
                assert signals.carbon_gco2_per_kwh < signals.carbon_lifecycle_gco2_per_kwh
                assert 0 < signals.water_l_per_kwh < 20
                assert 0.04 <= signals.price_usd_per_kwh < 1.0, "a tariff is never below its adder"


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

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.errors import InputError
from marlin.simulator.network import great_circle_km, round_trip_ms, zone_coordinates
from marlin.simulator.signals import available_zones, zone_pue, zone_signals
from marlin.simulator.workload import LOADS, epoch_requests, mean_tokens, model_requests, scaled, shipped_trace

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


def test_splitting_hours_into_epochs_keeps_every_request() -> None:
    quarters = epoch_requests(0, 4, np.random.default_rng(0))
    whole = epoch_requests(0, 1, np.random.default_rng(1))
    assert quarters.shape == (96, 2)
    assert np.array_equal(quarters.reshape(24, 4, 2).sum(axis=1), whole)
    assert model_requests(quarters).sum() == pytest.approx(quarters.sum())


def test_the_same_seed_splits_the_same_way() -> None:
    one, two = (epoch_requests(1, 4, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, epoch_requests(1, 4, np.random.default_rng(6)))


@given(st.lists(st.floats(0.0, 50.0), min_size=8, max_size=96).filter(lambda x: sum(v > 0.01 for v in x) >= 6))
def test_a_scaled_day_peaks_at_95_percent(needed: list[float]) -> None:
    demand = np.array(needed)
    utilization = demand * scaled(demand, "peak95")
    assert utilization.max() == pytest.approx(0.95)
    assert np.argmax(utilization) == np.argmax(demand)


@pytest.mark.parametrize("day", range(shipped_trace().days))
@pytest.mark.parametrize(("load", "mean"), [(name, mean) for name, mean in LOADS.items() if mean is not None])
def test_a_bent_day_has_the_mean_it_is_named_after_and_still_peaks_at_95_percent(
    day: int, load: str, mean: float
) -> None:
    demand = epoch_requests(day, 4, np.random.default_rng(0)).sum(axis=1) + 0.01
    utilization = demand * scaled(demand, load)
    assert utilization.max() == pytest.approx(0.95)
    assert utilization.mean() == pytest.approx(mean, abs=0.005)


def test_days_have_their_own_token_sizes() -> None:
    prompt, output = mean_tokens(0)
    assert prompt + output == pytest.approx(2418.0)
    assert mean_tokens(3) != mean_tokens(0)


def test_what_the_workload_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="the shipped week has days 0 to 5, not 99"):
        epoch_requests(99, 4, np.random.default_rng(0))
    with pytest.raises(InputError, match="there are peak95, mean30"):
        scaled(np.ones(4), "mean99")
    with pytest.raises(InputError, match="no requests"):
        scaled(np.zeros(4), "peak95")

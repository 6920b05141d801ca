from __future__ import annotations

from datetime import timedelta
from typing import Any

from worlds import NOON

from marlin.api.datacenter import Datacenter, SampleQuality
from marlin.operator.signals.ladder import site_readings
from marlin.operator.signals.values import Answer, Feed, Point, Problem

PROMETHEUS: dict[str, Any] = {
    "provider": "Prometheus",
    "prometheus": {"url": "https://prometheus.example", "query": "carbon"},
    "staleAfterSeconds": 3600,
}
HOUR = timedelta(hours=1)


def site(carbon: dict[str, Any]) -> Datacenter:
    return Datacenter.model_validate(
        {
            "metadata": {"name": "frankfurt"},
            "spec": {"location": {"region": "eu", "zone": "DE-LU"}, "signals": {"carbonIntensity": carbon}},
        }
    )


def quality(feed: Feed, carbon: dict[str, Any] = PROMETHEUS, ahead: timedelta = timedelta(0)) -> tuple[str, float]:
    reading = site_readings(site(carbon), {"carbonIntensity": feed}, NOON + ahead, NOON).carbon
    return reading.quality.value, round(reading.value, 3)


def feed_of(*answers: tuple[timedelta, Answer]) -> Feed:
    feed = Feed()
    for ago, answer in answers:
        feed = feed.heard(answer, NOON - ago)
    return feed


def at(ago: timedelta, value: float) -> Answer:
    return Answer(Point(NOON - ago, value))


def test_a_young_value_of_the_provider_is_measured() -> None:
    assert quality(feed_of((timedelta(0), at(HOUR / 2, 321.0)))) == ("Measured", 321.0)


def test_what_the_provider_calls_an_estimate_is_shown_as_one() -> None:
    assert quality(feed_of((timedelta(0), Answer(Point(NOON, 321.0), is_estimated=True)))) == ("Estimated", 321.0)


def test_a_value_as_old_as_it_may_grow_gives_way_to_the_forecast() -> None:
    forecast = (Point(NOON - HOUR / 2, 200.0), Point(NOON + HOUR / 2, 100.0))
    feed = feed_of((HOUR, Answer(Point(NOON - HOUR, 321.0), forecast)))
    assert quality(feed) == ("Forecast", 200.0)


def test_for_an_epoch_to_come_the_forecast_knows_better_than_the_value_of_now() -> None:
    forecast = (Point(NOON - HOUR, 200.0), Point(NOON + HOUR, 100.0))
    feed = feed_of((timedelta(0), Answer(Point(NOON, 321.0), forecast)))
    assert quality(feed) == ("Measured", 321.0)
    assert quality(feed, ahead=HOUR) == ("Forecast", 100.0)


def test_without_a_forecast_the_same_hour_of_the_last_days_stands_in() -> None:
    days = [(timedelta(days=d), at(timedelta(days=d), 100.0 * d)) for d in (4, 3, 2)]
    assert quality(feed_of(*days)) == ("History", 300.0)


def test_two_days_are_no_history() -> None:
    days = [(timedelta(days=d), at(timedelta(days=d), 100.0)) for d in (3, 2)]
    assert quality(feed_of(*days))[0] == "Fallback"


def test_what_was_never_heard_falls_back_to_the_stated_value_first() -> None:
    assert quality(Feed(), {**PROMETHEUS, "fallbackValue": "77.5"}) == ("Fallback", 77.5)


def test_without_a_stated_fallback_the_zones_table_is_better_than_a_constant_for_the_world() -> None:
    level, value = quality(Feed())
    assert level == "Fallback"
    assert value == quality(Feed(), {"provider": "BuiltIn"})[1] != 475.0


def test_a_constant_is_meant_as_it_is_and_converted() -> None:
    stated = {"provider": "Static", "unit": "lbCO2eq/MWh", "static": {"value": 1000}}
    assert quality(Feed(), stated) == ("Measured", 453.592)


def test_history_forgets_what_is_older_than_a_week_and_keeps_one_value_an_hour() -> None:
    feed = feed_of(
        (timedelta(days=8), at(timedelta(days=8), 1.0)),
        (HOUR, at(HOUR, 2.0)),
        (HOUR, at(HOUR - timedelta(minutes=3), 3.0)),
    )
    assert [point.value for point in feed.history] == [3.0]


def test_a_problem_leaves_the_last_value_in_place_and_is_shown() -> None:
    problem = Problem("RateLimited", "prometheus.example answered 429", NOON)
    feed = feed_of((timedelta(0), at(HOUR / 2, 321.0))).failed(problem, NOON)
    readings = site_readings(site(PROMETHEUS), {"carbonIntensity": feed}, NOON, NOON)
    assert readings.carbon.quality is SampleQuality.MEASURED
    assert readings.problems == (problem,)


def test_the_status_of_a_signal_that_does_not_change_does_not_change_either() -> None:
    stated = site({"provider": "BuiltIn"})
    first, second = (site_readings(stated, {}, moment, moment) for moment in (NOON, NOON + timedelta(minutes=9)))
    assert first == second


def test_a_status_carries_value_unit_source_quality_and_the_times_between_which_it_holds() -> None:
    feed = feed_of((timedelta(0), at(HOUR / 2, 321.0)))
    live = site_readings(site(PROMETHEUS), {"carbonIntensity": feed}, NOON, NOON)
    observed = NOON - HOUR / 2
    assert live.carbon.to_sample().model_dump() == {
        "value": "321",
        "unit": "gCO2eq/kWh",
        "source": "Prometheus",
        "quality": SampleQuality.MEASURED,
        "observed_time": observed,
        "valid_until_time": observed + HOUR,
    }
    assert [reading.unit for reading in live.all()] == ["gCO2eq/kWh", "L/kWh", "USD/kWh"]
    fallen = site_readings(site(PROMETHEUS), {}, NOON, NOON).carbon.to_sample()
    assert (fallen.source, fallen.quality, fallen.valid_until_time) == ("Fallback", SampleQuality.FALLBACK, None)

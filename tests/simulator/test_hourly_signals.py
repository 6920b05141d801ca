"""Signals hour by hour from a file: what can be wrong with it, and what is said or done then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from marlin.api.errors import InputError
from marlin.simulator.constants import constant
from marlin.simulator.hourly_signals import MAX_GAP_H, HourlySignals, hourly_signals
from marlin.simulator.signals import CarbonAccounting, PriceKind, SignalOptions

HEADER = "utc,zone,ci_direct_g_per_kwh,ci_lca_g_per_kwh,price_usd_per_mwh"
MARCH = datetime(2023, 3, 1, tzinfo=UTC)
WHOLESALE = SignalOptions(price=PriceKind.WHOLESALE)


def row(at: datetime, zone: str = "DE-LU", *, direct: float = 400, price: float = 100) -> str:
    return f"{at:%Y-%m-%dT%H:%MZ},{zone},{direct:g},{direct + 100:g},{price:g}"


def hours(first: datetime, count: int) -> list[str]:
    """So many hours, whose direct carbon intensity is 1, 2, 3, ..."""
    return [row(first + timedelta(hours=h), direct=h + 1) for h in range(count)]


def read(
    folder: Path, rows: Iterable[str], options: SignalOptions = WHOLESALE, *, header: str = HEADER, skip: bool = False
) -> HourlySignals:
    path = folder / "signals.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return hourly_signals(path, options, skip_bad_rows=skip)


def carbon(source: HourlySignals, at: datetime) -> float:
    return source("DE-LU", at).carbon_gco2_per_kwh


def test_carbon_is_direct_or_of_the_life_cycle_and_price_wholesale_or_a_tariff(tmp_path: Path) -> None:
    rows = [row(MARCH, price=-50)]
    assert astuple(read(tmp_path, rows)("DE-LU", MARCH))[::3] == (400.0, -0.05), "wholesale may be negative"
    options = SignalOptions(CarbonAccounting.LIFECYCLE, PriceKind.TARIFF)
    assert astuple(read(tmp_path, rows, options)("DE-LU", MARCH))[::3] == (
        500.0,
        constant("price_adder_usd_per_kwh"),
    ), "a tariff is floored at zero before the adder"


def test_a_tariff_is_the_mean_of_the_hour_in_the_month_and_wholesale_is_the_hour_s_own_price(tmp_path: Path) -> None:
    adder = constant("price_adder_usd_per_kwh")
    nights = [MARCH + timedelta(days=d) for d in range(28)]
    price = {at: 90 if i % 2 else 130 for i, at in enumerate(nights)} | {MARCH + timedelta(hours=12): 5000}
    rows = [
        row(at, price=price.get(at, 100)) for night in nights for at in (night + timedelta(hours=h) for h in range(24))
    ]
    tariff, wholesale = read(tmp_path, rows, SignalOptions()), read(tmp_path, rows)
    for night in nights:
        assert tariff("DE-LU", night).price_usd_per_kwh == pytest.approx(0.11 + adder)
        assert wholesale("DE-LU", night).price_usd_per_kwh == pytest.approx(price[night] / 1000)
    noon = MARCH + timedelta(hours=12)
    assert wholesale("DE-LU", noon).price_usd_per_kwh == 5.0
    assert tariff("DE-LU", noon).price_usd_per_kwh < 0.105 + adder, "a single spike is winsorised"


@pytest.mark.parametrize("missing", [1, 7, MAX_GAP_H])
def test_a_gap_of_up_to_a_day_is_bridged_by_the_same_hours_of_the_day_before(tmp_path: Path, missing: int) -> None:
    rows = hours(MARCH, 72)
    source = read(tmp_path, rows[:30] + rows[30 + missing :])
    for h in range(30, 30 + missing):
        assert carbon(source, MARCH + timedelta(hours=h)) == h - 24 + 1
    assert carbon(source, MARCH + timedelta(hours=30 + missing)) == 31 + missing
    assert f"missing and bridged by the day before: DE-LU {missing} h" in source.describe_repairs()


def test_a_gap_on_the_first_day_is_bridged_by_the_next_or_by_the_hour_before(tmp_path: Path) -> None:
    rows = hours(MARCH, 30)
    source = read(tmp_path, rows[:3] + rows[4:10] + rows[11:])
    assert carbon(source, MARCH + timedelta(hours=3)) == 28, "the same hour of the next day"
    assert carbon(source, MARCH + timedelta(hours=10)) == 10, "no next day has it: the hour before"


def test_a_gap_of_more_than_a_day_is_refused_with_its_beginning(tmp_path: Path) -> None:
    rows = hours(MARCH, 72)
    with pytest.raises(InputError, match=r"zone DE-LU lacks 25 hours from 2023-03-02 06:00 UTC on; up to 24 are"):
        read(tmp_path, rows[:30] + rows[55:])


def test_a_whole_file_says_nothing_about_repairs(tmp_path: Path) -> None:
    assert read(tmp_path, hours(MARCH, 48)).describe_repairs() == ""


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(MARCH), "the zone has this hour already"),
        ("2023-03-01T05:00,DE-LU,1,2,3", "utc does not say its time zone"),
        ("2023-03-01T05:30Z,DE-LU,1,2,3", "utc is not on a full hour"),
        ("2023-02-29T05:00Z,DE-LU,1,2,3", "utc is not a date and time"),
        ("2023-03-01T05:00Z,DE-LU,-1,2,3", "ci_direct_g_per_kwh is not a number between 0 and 5000"),
        ("2023-03-01T05:00Z,DE-LU,1,nan,3", "ci_lca_g_per_kwh is not a number between"),
        ("2023-03-01T05:00Z,DE-LU,1,2,1e9", "price_usd_per_mwh is not a number between"),
        ("2023-03-01T05:00Z,DE-LU,1,2", "the line has not 5 fields"),
        ("2023-03-01T05:00Z,ATLANTIS,1,2,3", "the zone's water is not known; add a column water_l_per_kwh"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_or_left_out_and_counted(tmp_path: Path, bad: str, reason: str) -> None:
    rows = [row(MARCH), bad, row(MARCH + timedelta(hours=1))]
    with pytest.raises(InputError, match=rf"signals\.csv:3: {reason}"):
        read(tmp_path, rows)
    source = read(tmp_path, rows, skip=True)
    assert source.bad_rows.total == 1
    assert reason in source.describe_repairs()
    assert carbon(source, MARCH) == 400


def test_a_file_with_no_good_row_is_refused_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no good row"):
        read(tmp_path, ["yesterday,DE-LU,1,2,3"], skip=True)


def test_a_zone_of_one_s_own_is_welcome_with_its_water_in_the_file(tmp_path: Path) -> None:
    source = read(tmp_path, ["2023-03-01T00:00Z,ATLANTIS,1,2,3,4.5"], header=HEADER + ",water_l_per_kwh")
    assert source("ATLANTIS", MARCH).water_l_per_kwh == 4.5
    with pytest.raises(InputError, match="has nothing for zone DE-LU; it has ATLANTIS"):
        source("DE-LU", MARCH)


def test_a_time_with_an_offset_is_the_moment_it_names(tmp_path: Path) -> None:
    source = read(tmp_path, ["2023-03-01T01:00+01:00,DE-LU,7,8,9"])
    assert carbon(source, MARCH) == 7


def test_the_night_of_the_clock_change_has_23_or_25_different_hours(tmp_path: Path) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for midnight, length in ((datetime(2023, 3, 26, tzinfo=berlin), 23), (datetime(2023, 10, 29, tzinfo=berlin), 25)):
        start, following = midnight.astimezone(UTC), (midnight + timedelta(days=1)).astimezone(UTC)
        source = read(tmp_path, hours(start, 26))
        moments = [start + timedelta(hours=h) for h in range(26) if start + timedelta(hours=h) < following]
        assert [carbon(source, at.astimezone(berlin)) for at in moments] == list(range(1, length + 1))
    twice = datetime(2023, 10, 29, 2, tzinfo=berlin)
    assert carbon(source, twice.replace(fold=1)) - carbon(source, twice) == 1, "fold tells the two hours apart"


def test_a_leap_day_takes_the_28th_where_the_recorded_year_has_none(tmp_path: Path) -> None:
    february = datetime(2023, 2, 28, tzinfo=UTC)
    source = read(tmp_path, hours(february, 48))
    assert carbon(source, datetime(2024, 2, 29, 5, tzinfo=UTC)) == 6
    assert carbon(source, datetime(2024, 3, 1, 5, tzinfo=UTC)) == 30


def test_a_recorded_leap_day_is_itself(tmp_path: Path) -> None:
    source = read(tmp_path, hours(datetime(2024, 2, 28, tzinfo=UTC), 72))
    assert carbon(source, datetime(2024, 2, 29, 5, tzinfo=UTC)) == 30
    assert carbon(source, datetime(2028, 2, 29, 5, tzinfo=UTC)) == 30


def test_another_year_takes_the_same_hour_of_the_latest_recorded_year_that_has_it(tmp_path: Path) -> None:
    start = datetime(2022, 12, 31, tzinfo=UTC)
    source = read(tmp_path, hours(start, 48))
    assert carbon(source, datetime(2026, 12, 31, 3, tzinfo=UTC)) == 4
    assert carbon(source, datetime(2026, 1, 1, 3, tzinfo=UTC)) == 28
    with pytest.raises(InputError, match="has nothing for zone DE-LU at 01-02 03:00 UTC"):
        source("DE-LU", datetime(2026, 1, 2, 3, tzinfo=UTC))


def test_of_two_recorded_years_the_later_stands_for_others(tmp_path: Path) -> None:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    rows = [row(start + timedelta(hours=h), direct=h // 24) for h in range(366 * 24)]
    assert carbon(read(tmp_path, rows), datetime(2030, 1, 1, tzinfo=UTC)) == 365


def test_a_moment_without_a_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        read(tmp_path, hours(MARCH, 2))("DE-LU", MARCH.replace(tzinfo=None))

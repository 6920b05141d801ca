"""Carbon, water and price of a zone in every hour of a recorded time, from a file.

The file has a row per zone and hour UTC, as ``grid/zones_hourly_2023.csv.gz`` of a folder of full data: ``utc``,
``zone``, ``ci_direct_g_per_kwh``, ``ci_lca_g_per_kwh``, ``price_usd_per_mwh``, and ``water_l_per_kwh`` if it varies.
Zones of a user's own are welcome; what the shipped tables say of a zone's water holds where the column is missing.

What can be wrong with such a file, and what happens then:

- A time without a zone, not on a full hour, or an hour that a zone has twice: a bad row, refused by default. Both come
  from files in local time, at the change from daylight saving.
- Hours missing between a zone's first and last: up to a day is bridged by the same hour of the day before (which is
  what markets' and providers' own repairs do), and counted; a longer gap is refused, because a plan made on it would
  be made on nothing.
- A moment outside the recorded time: the same month, day and hour of the latest recorded year that has it; 29 February
  becomes the 28th where that year has none. If there is no such hour either, it is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.signals import (
    DEFAULT_OPTIONS,
    CarbonAccounting,
    PriceKind,
    SignalOptions,
    ZoneSignals,
    tariff_usd_per_kwh,
    utc_of,
    zone_water_l_per_kwh,
)
from marlin.simulator.workload.bad_rows import BadRows, RowJudge
from marlin.simulator.workload.columns import plain_number, read_cells

HOURLY_FILE: Final = "grid/zones_hourly_2023.csv.gz"
MAX_GAP_H: Final = 24
"""Longest run of missing hours that is bridged."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_S_PER_HOUR: Final = 3600
_DIRECT, _LIFECYCLE, _PRICE, _WATER = range(4)
_RANGES: Final = (
    ("ci_direct_g_per_kwh", 0.0, 5000.0),
    ("ci_lca_g_per_kwh", 0.0, 5000.0),
    ("price_usd_per_mwh", -1e5, 1e5),
    ("water_l_per_kwh", 0.0, 1000.0),
)
_WINSORISED: Final = (0.01, 0.99)
"""Quantiles of a zone's prices beyond which a price counts as that quantile in the tariff's means, as shipped."""


@dataclass(frozen=True, slots=True)
class ZoneHours:
    """One zone, hour by hour."""

    first_hour: int
    """Hours since 1970."""
    values: FloatArray  # (H, 4) direct and life-cycle gCO2eq/kWh, USD/kWh wholesale, L/kWh
    profile: FloatArray  # (12, 24) mean wholesale price by month and hour UTC, USD/kWh
    bridged_h: int
    """Hours that were missing."""


@dataclass(frozen=True, slots=True)
class HourlySignals:
    """A ``SignalSource`` read from a file."""

    name: str
    zones: Mapping[str, ZoneHours]
    options: SignalOptions
    bad_rows: BadRows

    def __call__(self, zone: str, at: datetime) -> ZoneSignals:
        """The signals of ``zone`` in the hour that ``at`` lies in.

        Raises:
            InputError: the file has no such zone or hour.
            ValueError: ``at`` has no time zone.
        """
        utc = utc_of(at)
        hours = self.zones.get(zone)
        if hours is None:
            raise InputError(f"{self.name}: has nothing for zone {zone}; it has {', '.join(self.zones)}")
        found = _recorded(hours, utc)
        if found is None:
            raise InputError(f"{self.name}: has nothing for zone {zone} at {utc:%m-%d %H}:00 UTC")
        direct, lifecycle, price, water = (float(x) for x in hours.values[_hour(found) - hours.first_hour])
        is_tariff = self.options.price is PriceKind.TARIFF
        return ZoneSignals(
            carbon_gco2_per_kwh=direct if self.options.carbon is CarbonAccounting.DIRECT else lifecycle,
            carbon_lifecycle_gco2_per_kwh=lifecycle,
            water_l_per_kwh=water,
            price_usd_per_kwh=(
                tariff_usd_per_kwh(float(hours.profile[found.month - 1, found.hour])) if is_tariff else price
            ),
        )

    def describe_repairs(self) -> str:
        """One line about what was left out or bridged; empty if nothing was."""
        bridged = [f"{zone} {hours.bridged_h} h" for zone, hours in self.zones.items() if hours.bridged_h]
        gaps = f"hours missing and bridged by the day before: {', '.join(bridged)}" if bridged else ""
        said = "; ".join(filter(None, (self.bad_rows.describe(), gaps)))
        return f"{self.name}: {said}" if said else ""


def hourly_signals(
    path: Path, options: SignalOptions = DEFAULT_OPTIONS, *, skip_bad_rows: bool = False
) -> HourlySignals:
    """The signals of every hour.

    Args:
        path: the file, or a folder of full data that has it as ``grid/zones_hourly_2023.csv.gz``.
        options: what was chosen.
        skip_bad_rows: leave bad rows out, counted in ``bad_rows``. Default: the first is refused.

    Raises:
        InputError: the file is missing or has no good row, a row of it is not as documented (file, line and reason),
            or a zone has a gap of more than a day.
    """
    file = path / HOURLY_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: No such file; --data names a folder of full data")
    judge = RowJudge(str(file), skip_bad_rows)
    rows: dict[str, dict[int, tuple[float, ...]]] = defaultdict(dict)
    for zone, hour, values in _read(file, options, judge):
        rows[zone][hour] = values
    if not rows:
        raise InputError(f"{file}: has no good row")
    zones = {zone: _zone_hours(str(file), zone, hours) for zone, hours in rows.items()}
    return HourlySignals(str(file), zones, options, judge.found)


def _read(file: Path, options: SignalOptions, judge: RowJudge) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    names = ["utc", "zone", *(name for name, _, _ in _RANGES[:_WATER]), "water_l_per_kwh?"]
    seen: set[tuple[str, int]] = set()
    for line, (utc, zone, *cells) in read_cells(file, names, judge):
        hour = _hour_of(utc)
        if isinstance(hour, str):
            judge.bad(line, hour, utc)
            continue
        if (zone, hour) in seen:
            judge.bad(line, "the zone has this hour already", f"{zone} {utc}")
            continue
        known_water = zone_water_l_per_kwh(zone, options.water)
        if not cells[_WATER] and known_water is None:
            judge.bad(line, "the zone's water is not known; add a column water_l_per_kwh", zone)
            continue
        values = [plain_number(cell) for cell in (*cells[:_WATER], cells[_WATER] or str(known_water))]
        wrong = next(
            (
                (f"{name} is not a number between {low:g} and {high:g}", cell)
                for (name, low, high), value, cell in zip(_RANGES, values, cells, strict=True)
                if value is None or not low <= value <= high
            ),
            None,
        )
        if wrong is not None:
            judge.bad(line, *wrong)
            continue
        seen.add((zone, hour))
        direct, lifecycle, price_per_mwh, water = (value for value in values if value is not None)
        yield zone, hour, (direct, lifecycle, price_per_mwh / 1000.0, water)


def _hour_of(text: str) -> int | str:
    """Hours since 1970, or what is wrong with the time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return "utc is not a date and time such as 2023-03-01T05:00Z"
    if moment.tzinfo is None:
        return "utc does not say its time zone; write 2023-03-01T05:00Z"
    utc = moment.astimezone(UTC)
    return "utc is not on a full hour" if utc.minute or utc.second or utc.microsecond else _hour(utc)


def _hour(utc: datetime) -> int:
    return int((utc - _EPOCH).total_seconds()) // _S_PER_HOUR


def _zone_hours(file: str, zone: str, rows: Mapping[int, tuple[float, ...]]) -> ZoneHours:
    first, last = min(rows), max(rows)
    values = np.full((last - first + 1, 4), np.nan)
    values[np.array(list(rows)) - first] = list(rows.values())
    missing = np.flatnonzero(np.isnan(values[:, 0]))
    for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1) if missing.size else []:
        if len(run) > MAX_GAP_H:
            start = _EPOCH + timedelta(hours=first + int(run[0]))
            raise InputError(
                f"{file}: zone {zone} lacks {len(run)} hours from {start:%Y-%m-%d %H}:00 UTC on; up to {MAX_GAP_H} are"
                " bridged: fill the gap, or leave the zone out"
            )
    for i in missing:  # in order, so that what was bridged can bridge
        after = values[i + MAX_GAP_H] if i + MAX_GAP_H < len(values) else np.full(4, np.nan)
        if i >= MAX_GAP_H:
            values[i] = values[i - MAX_GAP_H]
        else:  # on the first day: the next one's same hour, else the hour before
            values[i] = values[i - 1] if np.isnan(after[0]) else after
    return ZoneHours(first, values, _profile(first, values[:, _PRICE]), len(missing))


def _profile(first_hour: int, price: FloatArray) -> FloatArray:
    """Mean price (12, 24) by month and hour UTC, winsorised; NaN where nothing was recorded."""
    hours = first_hour + np.arange(len(price))
    month = hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64) % 12
    kept = np.clip(price, *np.quantile(price, _WINSORISED))
    cell = month * 24 + hours % 24
    sums, rows = np.bincount(cell, kept, minlength=288), np.bincount(cell, minlength=288)
    return np.asarray(np.divide(sums, rows, out=np.full(288, np.nan), where=rows > 0)).reshape(12, 24)


def _recorded(hours: ZoneHours, utc: datetime) -> datetime | None:
    """The recorded hour that stands for a moment."""
    last_hour = hours.first_hour + len(hours.values) - 1
    if hours.first_hour <= _hour(utc) <= last_hour:
        return utc
    first_year, last_year = ((_EPOCH + timedelta(hours=h)).year for h in (hours.first_hour, last_hour))
    for year in range(last_year, first_year - 1, -1):
        try:
            same = utc.replace(year=year)
        except ValueError:  # 29 February
            same = utc.replace(year=year, day=28)
        if hours.first_hour <= _hour(same) <= last_hour:
            return same
    return None

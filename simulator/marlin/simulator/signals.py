"""Carbon, water and price of a zone at a moment.

From the shipped means of each hour of the day in each month, or from a folder of full data, hour by hour
(``hourly_signals``); either is a function of zone and moment, a ``SignalSource``. Hours are UTC. The price is
tariff-like: the profile, floored at zero because wholesale prices go negative and would make wasting optimal, plus a
fixed adder (marlin-model, section 4).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.constants import constant

HOURLY_FILE: Final = "grid/zones_hourly_2023.csv.gz"
_HOURLY_COLUMNS: Final = ("ci_direct_g_per_kwh", "ci_lca_g_per_kwh", "price_usd_per_mwh")


@dataclass(frozen=True, slots=True)
class ZoneSignals:
    """What a kWh drawn in a zone brings with it."""

    carbon_gco2_per_kwh: float
    carbon_lifecycle_gco2_per_kwh: float
    water_l_per_kwh: float
    price_usd_per_kwh: float


SignalSource = Callable[[str, datetime], ZoneSignals]
"""Zone and moment (with a time zone) to what a kWh brings with it."""


def zone_signals(zone: str, at: datetime) -> ZoneSignals:
    """The signals of ``zone`` at ``at``.

    The hour's mean is used as it is: a line between hours would claim more than monthly means can tell.

    Args:
        zone: grid zone, e.g. ``DE-LU``.
        at: a moment with a time zone.

    Raises:
        InputError: the zone is not shipped.
        ValueError: ``at`` has no time zone.
    """
    if at.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    utc = at.astimezone(UTC)
    row = _profiles().get((zone, utc.month, utc.hour))
    if row is None:
        raise InputError(f"zone {zone} has no built-in signals; there are {', '.join(available_zones())}")
    direct, lifecycle, price = row
    return ZoneSignals(direct, lifecycle, _water()[zone], _tariff(price))


def hourly_signals(folder: Path) -> SignalSource:
    """The signals of every hour of 2023, from ``grid/zones_hourly_2023.csv.gz`` below a folder of full data.

    The price is the market's, floored and with the adder, as in the shipped table. A moment of another year is that of
    2023 with the same month, day and hour.

    Raises:
        InputError: the file is missing, or a row of it is not as documented (file, line and reason).
    """
    path = folder / HOURLY_FILE
    values: dict[tuple[str, int, int, int], ZoneSignals] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                try:
                    utc = datetime.fromisoformat(row["utc"])
                    direct, lifecycle, price = (float(row[name]) for name in _HOURLY_COLUMNS)
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{path}:{line}: {type(error).__name__}: {error}") from None
                values[row["zone"], utc.month, utc.day, utc.hour] = ZoneSignals(
                    direct, lifecycle, _water()[row["zone"]], _tariff(price / 1000.0)
                )
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; --data names a folder of full data") from None

    def at_hour(zone: str, at: datetime) -> ZoneSignals:
        utc = at.astimezone(UTC)
        found = values.get((zone, utc.month, utc.day, utc.hour))
        if found is None:
            raise InputError(f"{path}: has nothing for zone {zone} at {utc:%m-%d %H}:00 UTC")
        return found

    return at_hour


def _tariff(price_usd_per_kwh: float) -> float:
    return max(0.0, price_usd_per_kwh) + constant("price_adder_usd_per_kwh")


def zone_pue(zone: str) -> float | None:
    """The PUE that a zone's climate allows (data/README.md); None where it is not known."""
    return _pue().get(zone)


def available_zones() -> tuple[str, ...]:
    """The zones with built-in signals."""
    return tuple(_water())


@cache
def _profiles() -> dict[tuple[str, int, int], tuple[float, float, float]]:
    return {
        (row["zone"], int(row["month"]), int(row["utc_hour"])): (
            float(row["ci_direct_gco2_per_kwh"]),
            float(row["ci_lifecycle_gco2_per_kwh"]),
            float(row["price_usd_per_kwh"]),
        )
        for row in tables.rows("grid_profiles.csv")
    }


@cache
def _water() -> dict[str, float]:
    return {row["zone"]: float(row["water_l_per_kwh"]) for row in tables.rows("zones.csv")}


@cache
def _pue() -> dict[str, float]:
    return {row["zone"]: float(row["pue"]) for row in tables.rows("zones.csv")}

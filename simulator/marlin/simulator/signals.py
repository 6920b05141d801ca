"""Carbon, water and price of a zone at a moment.

A ``SignalSource`` is a function of zone and moment. This module's reads the shipped means of each hour of the day in
each month of 2023; ``hourly_signals`` reads every hour from a file. Hours are UTC; a moment needs a time zone.

What an experiment may choose is ``SignalOptions``: carbon at the power plant (the paper says operational) or over the
life cycle; a tariff-like price, because wholesale prices go negative and would make wasting optimal, or wholesale as it
is; hydropower's water as measured or as the paper has it (marlin-model, section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, partial
from typing import Final

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.constants import Reading, constant


class CarbonAccounting(StrEnum):
    """Which emissions of a kWh count."""

    DIRECT = "direct"
    """At the power plant."""
    LIFECYCLE = "lifecycle"
    """Plant construction and fuel supply too."""


class PriceKind(StrEnum):
    """What a kWh is paid by."""

    TARIFF = "tariff"
    """max(0, mean wholesale price of the hour of the day in the month) and a fixed adder for the grid."""
    WHOLESALE = "wholesale"
    """The market's price as it is, without the adder; it may be negative. A scenario: report USD, never ratios."""


@dataclass(frozen=True, slots=True)
class SignalOptions:
    """What an experiment chooses about signals."""

    carbon: CarbonAccounting = CarbonAccounting.DIRECT
    price: PriceKind = PriceKind.TARIFF
    water: Reading = Reading.OURS
    """Hydropower's water: 17 L/kWh (the measured median), or the paper's 67."""


DEFAULT_OPTIONS: Final = SignalOptions()


@dataclass(frozen=True, slots=True)
class ZoneSignals:
    """What a kWh drawn in a zone brings with it."""

    carbon_gco2_per_kwh: float
    """By the accounting that was chosen."""
    carbon_lifecycle_gco2_per_kwh: float
    water_l_per_kwh: float
    price_usd_per_kwh: float
    """Of the kind that was chosen."""


SignalSource = Callable[[str, datetime], ZoneSignals]
"""Zone and moment (with a time zone) to what a kWh brings with it."""


class UnknownZoneError(InputError):
    """The shipped tables do not have the zone."""


def built_in_signals(options: SignalOptions = DEFAULT_OPTIONS) -> SignalSource:
    """The shipped means, as chosen. Wholesale means are winsorised means too: spikes are in the hourly file only."""
    return partial(zone_signals, options=options)


def zone_signals(zone: str, at: datetime, options: SignalOptions = DEFAULT_OPTIONS) -> ZoneSignals:
    """The signals of ``zone`` at ``at``, from the shipped tables.

    The hour's mean is used as it is: a line between hours would claim more than monthly means can tell.

    Args:
        zone: grid zone, e.g. ``DE-LU``.
        at: a moment with a time zone.
        options: what was chosen.

    Raises:
        UnknownZoneError: the zone is not shipped.
        ValueError: ``at`` has no time zone.
    """
    utc = utc_of(at)
    row = _profiles().get((zone, utc.month, utc.hour))
    if row is None:
        raise UnknownZoneError(f"zone {zone} has no built-in signals; there are {', '.join(available_zones())}")
    direct, lifecycle, price = row
    is_tariff = options.price is PriceKind.TARIFF
    water = zone_water_l_per_kwh(zone, options.water)
    assert water is not None, zone
    return ZoneSignals(
        carbon_gco2_per_kwh=direct if options.carbon is CarbonAccounting.DIRECT else lifecycle,
        carbon_lifecycle_gco2_per_kwh=lifecycle,
        water_l_per_kwh=water,
        price_usd_per_kwh=tariff_usd_per_kwh(price) if is_tariff else price,
    )


def utc_of(at: datetime) -> datetime:
    """The moment in UTC.

    Raises:
        ValueError: it has no time zone; Python would silently take the machine's.
    """
    if at.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return at.astimezone(UTC)


def tariff_usd_per_kwh(profile_usd_per_kwh: float) -> float:
    """The tariff-like price: the mean wholesale price, floored at zero, and a fixed adder."""
    return max(0.0, profile_usd_per_kwh) + constant("price_adder_usd_per_kwh")


def zone_water_l_per_kwh(zone: str, reading: Reading = Reading.OURS) -> float | None:
    """Water that the grid consumes per kWh; None where the zone is not shipped."""
    row = _zones().get(zone)
    return (
        None if row is None else float(row["water_paper_l_per_kwh" if reading is Reading.PAPER else "water_l_per_kwh"])
    )


def available_zones() -> tuple[str, ...]:
    """The zones with built-in signals."""
    return tuple(_zones())


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
def _zones() -> dict[str, dict[str, str]]:
    return {row["zone"]: row for row in tables.rows("zones.csv")}

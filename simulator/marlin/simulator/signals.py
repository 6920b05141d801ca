"""Carbon, water and price of a zone at a moment, from the shipped means of each hour of the day in each month.

Hours are UTC. The price is tariff-like: the profile, floored at zero because wholesale prices go negative and would
make wasting optimal, plus a fixed adder (marlin-model, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.constants import constant


@dataclass(frozen=True, slots=True)
class ZoneSignals:
    """What a kWh drawn in a zone brings with it."""

    carbon_gco2_per_kwh: float
    carbon_lifecycle_gco2_per_kwh: float
    water_l_per_kwh: float
    price_usd_per_kwh: float


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
    return ZoneSignals(direct, lifecycle, _water()[zone], max(0.0, price) + constant("price_adder_usd_per_kwh"))


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

"""Round trips between regions: the measured matrix, and equation (2) where nothing was measured."""

from __future__ import annotations

import math
from functools import cache

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.constants import constant
from marlin.simulator.physics import network_one_way_ms

Coordinates = tuple[float, float]
"""Latitude and longitude, degrees."""

_EARTH_RADIUS_KM = 6371.0


def round_trip_ms(origin_zone: str | None, origin: Coordinates, site_zone: str | None, site: Coordinates) -> float:
    """Round trip between a user near ``origin`` and a site, ms, the last mile included.

    Measured where both zones are in the matrix; a lookup in it is already 2 x LA_net (marlin-model, section 3).
    Otherwise twice equation (2) over the great circle.
    """
    measured = _matrix().get((origin_zone or "", site_zone or ""))
    if measured is None:
        measured = 2.0 * float(network_one_way_ms(great_circle_km(origin, site), constant("one_way_ms_per_km")))
    return max(measured, constant("same_zone_rtt_ms")) + constant("last_mile_rtt_ms")


def great_circle_km(a: Coordinates, b: Coordinates) -> float:
    """Distance over the Earth's surface, km (haversine)."""
    lat_a, lon_a, lat_b, lon_b = (math.radians(x) for x in (*a, *b))
    h = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


def zone_coordinates(zone: str) -> Coordinates:
    """Where a grid zone's datacenters are taken to be.

    Raises:
        InputError: the zone is not shipped.
    """
    found = _zones().get(zone)
    if found is None:
        raise InputError(f"zone {zone} has no coordinates here; set location.coordinates. Known: {', '.join(_zones())}")
    return found


@cache
def _zones() -> dict[str, Coordinates]:
    return {row["zone"]: (float(row["latitude"]), float(row["longitude"])) for row in tables.rows("zones.csv")}


@cache
def _matrix() -> dict[tuple[str, str], float]:
    return {(row["src"], row["dst"]): float(row["rtt_ms"]) for row in tables.rows("zone_rtt_ms.csv")}

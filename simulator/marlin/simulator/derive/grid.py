"""Zones: carbon and price profiles, water, cooling and network distance."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from marlin.simulator.derive.files import read, table

# How well a site cools follows from its climate. No source has a COP per site, so the rule is an assumption: the
# plant's COP (of the paper's equation (6), which counts the chillers' energy three times) falls linearly with the
# yearly mean wet bulb, and stays where PUE = 1.13 + 3 / COP lies between 1.2 and 1.7.
COP_AT_ZERO: Final = 22.0
COP_PER_DEGREE: Final = -0.65
INFRASTRUCTURE_OVERHEAD: Final = 0.13
PUE_RANGE: Final = (1.2, 1.7)

TIME_ZONES: Final = {
    "AU-NSW": "Australia/Sydney",
    "AU-VIC": "Australia/Melbourne",
    "BR-SP": "America/Sao_Paulo",
    "CA-ON": "America/Toronto",
    "CL-SIC": "America/Santiago",
    "DE-LU": "Europe/Berlin",
    "GB": "Europe/London",
    "IN-WE": "Asia/Kolkata",
    "JP-TK": "Asia/Tokyo",
    "KR": "Asia/Seoul",
    "SG": "Asia/Singapore",
    "US-CAL-CISO": "America/Los_Angeles",
    "US-MIDA-PJM": "America/New_York",
    "US-NY-NYIS": "America/New_York",
    "US-TEX-ERCO": "America/Chicago",
    "ZA": "Africa/Johannesburg",
}
"""Facts: the time zone in which most people of a grid zone live."""


def cooling_cop(wetbulb_c: float) -> float:
    """COP of a site's cooling for a yearly mean wet bulb in degrees Celsius."""
    lowest, highest = (3.0 / (pue - 1.0 - INFRASTRUCTURE_OVERHEAD) for pue in reversed(PUE_RANGE))
    return min(highest, max(lowest, COP_AT_ZERO + COP_PER_DEGREE * wetbulb_c))


def grid_profiles(data: Path) -> bytes:
    """``grid_profiles.csv``: mean carbon intensity and price of each zone by month and hour (UTC) of 2023."""
    direct: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    lifecycle: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for row in read(data, "grid/zones_hourly_2023.csv.gz"):
        key = (row["zone"], int(row["utc"][5:7]), int(row["utc"][11:13]))
        direct[key].append(float(row["ci_direct_g_per_kwh"]))
        lifecycle[key].append(float(row["ci_lca_g_per_kwh"]))
    price = {
        (r["zone"], int(r["month"]), int(r["utc_hour"])): float(r["tou_usd_per_kwh"])
        for r in read(data, "grid/zones_monthly_tou_2023.csv")
    }
    return table(
        ("zone", "month", "utc_hour", "ci_direct_gco2_per_kwh", "ci_lifecycle_gco2_per_kwh", "price_usd_per_kwh"),
        ((*key, round(_mean(direct[key]), 1), round(_mean(lifecycle[key]), 1), price[key]) for key in sorted(direct)),
    )


def zones(data: Path) -> bytes:
    """``zones.csv``: coordinates, time zone, grid water, wet bulb, COP and the PUE that follows, per zone."""
    wetbulb: dict[str, list[float]] = defaultdict(list)
    for row in read(data, "grid/zones_hourly_2023.csv.gz"):
        wetbulb[row["zone"]].append(float(row["wetbulb_c"]))
    water = {r["zone"]: r for r in read(data, "water/zone_water_intensity.csv")}
    rows = []
    for place in read(data, "network/zones.csv"):
        zone = place["zone"]
        mean_c = round(_mean(wetbulb[zone]), 1)
        cop = round(cooling_cop(mean_c), 2)
        rows.append(
            (
                zone, place["azure_region"], place["lat"], place["lon"], TIME_ZONES[zone],
                water[zone]["gi_l_per_kwh"], water[zone]["gi_paper_anchors_l_per_kwh"],
                mean_c, cop, round(1.0 + INFRASTRUCTURE_OVERHEAD + 3.0 / cop, 3),
            )
        )  # fmt: skip
    columns = (
        "zone", "azure_region", "latitude", "longitude", "time_zone", "water_l_per_kwh", "water_paper_l_per_kwh",
        "wetbulb_mean_c", "cooling_cop", "pue",
    )  # fmt: skip
    return table(columns, rows)


def zone_rtt(data: Path) -> bytes:
    """``zone_rtt_ms.csv``: round trip between each pair of zones, ms, and how it is known."""
    rows = read(data, "network/zone_rtt_ms.csv")
    columns = ("src", "dst", "distance_km", "rtt_ms", "basis")
    return table(columns, (tuple(r[c] for c in columns) for r in rows))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

"""What one request costs the world: the formulas behind every per-request estimate.

The twin prices whole epochs; a router or a report prices single requests from the joules per token it was handed in
the ``RoutingTable``. Plain arithmetic on floats, so that the router's worker needs no library for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JOULES_PER_KWH: Final = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Intensity:
    """What a unit of energy drawn at a site brings with it."""

    carbon_gco2_per_kwh: float
    water_l_per_kwh: float
    """Grid water and on-site water together, per kWh drawn from the grid."""
    price_usd_per_kwh: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one request, or a sum of them, cost."""

    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    water_l: float = 0.0
    cost_usd: float = 0.0

    def __add__(self, other: Footprint) -> Footprint:
        """Footprints add up."""
        return Footprint(
            self.energy_kwh + other.energy_kwh,
            self.carbon_gco2 + other.carbon_gco2,
            self.water_l + other.water_l,
            self.cost_usd + other.cost_usd,
        )


def request_energy_kwh(
    prompt_tokens: float, output_tokens: float, joules_per_prompt_token: float, joules_per_output_token: float
) -> float:
    """Energy drawn from the grid for one request, kWh.

    The joules per token already hold the site's PUE and each request's part of what idles (RoutingTable).
    """
    joules = prompt_tokens * joules_per_prompt_token + output_tokens * joules_per_output_token
    return joules / JOULES_PER_KWH


def footprint_of(energy_kwh: float, intensity: Intensity) -> Footprint:
    """Carbon, water and cost of ``energy_kwh`` drawn where ``intensity`` holds."""
    return Footprint(
        energy_kwh=energy_kwh,
        carbon_gco2=energy_kwh * intensity.carbon_gco2_per_kwh,
        water_l=energy_kwh * intensity.water_l_per_kwh,
        cost_usd=energy_kwh * intensity.price_usd_per_kwh,
    )

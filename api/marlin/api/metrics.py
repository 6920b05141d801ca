"""The four numbers that everything is judged by, always in the same order."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from marlin.api.values import ApiModel, DecimalText

METRIC_NAMES: Final = ("ttft_s", "carbon_gco2", "water_l", "cost_usd")
"""The order of the metric axis, which is the last one of every array that has it."""


class Metrics(ApiModel):
    """Time to first token, carbon, water and cost of the requests of one epoch or one run."""

    ttft_s: float = Field(description="Request-weighted mean time to first token, s.")
    carbon_gco2: float = Field(description="Carbon emitted, gCO2eq.")
    water_l: float = Field(description="Water consumed, L.")
    cost_usd: float = Field(description="Cost of energy, USD.")

    def as_tuple(self) -> tuple[float, float, float, float]:
        """The values in the order of ``METRIC_NAMES``."""
        return (self.ttft_s, self.carbon_gco2, self.water_l, self.cost_usd)


class MetricsText(ApiModel):
    """The four numbers as a status carries them: decimal strings."""

    time_to_first_token_milliseconds: DecimalText = Field(description="Mean time to first token, ms.")
    carbon_grams: DecimalText = Field(description="Carbon emitted, gCO2eq.")
    water_liters: DecimalText = Field(description="Water consumed, L.")
    cost_usd: DecimalText = Field(description="Cost of energy, USD.")

    @classmethod
    def of(cls, metrics: Metrics) -> MetricsText:
        """Rounded for people; nothing computes with these."""
        return cls(
            time_to_first_token_milliseconds=f"{metrics.ttft_s * 1000:.1f}",
            carbon_grams=f"{metrics.carbon_gco2:.1f}",
            water_liters=f"{metrics.water_l:.2f}",
            cost_usd=f"{metrics.cost_usd:.4f}",
        )

"""What became of an epoch: the fleet as it was planned, and the requests that really came.

A history is a file of these, one JSON document a line, the oldest first: whoever plans appends to it, and ``marlin
adapt`` learns from it.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from marlin.api.state import FleetState, NonNegative
from marlin.api.values import ApiModel


class RecordedEpoch(ApiModel):
    """One epoch that is over."""

    state: FleetState = Field(description="The fleet at its start, with the forecast that it was planned with.")
    arrived_requests: tuple[tuple[NonNegative, ...], ...] = Field(
        description="(V, R) requests that came, by pool and origin."
    )

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        pools, origins = len(self.state.pools), len(self.state.origins)
        if len(self.arrived_requests) != pools or any(len(row) != origins for row in self.arrived_requests):
            raise ValueError(f"arrivedRequests must be {pools} rows of {origins}, one per pool and origin")
        return self

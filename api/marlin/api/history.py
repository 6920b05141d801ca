"""What became of an epoch: the fleet as it was planned, and the requests that really came.

A history is a file of these, one JSON document a line, the oldest first: whoever plans appends to it, ``marlin adapt``
learns from it, and ``marlin report`` says what the plans in it took.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from marlin.api.plan import RoutingPlan
from marlin.api.state import FleetState, NonNegative
from marlin.api.values import ApiModel


class RecordedEpoch(ApiModel):
    """One epoch that is over."""

    state: FleetState = Field(description="The fleet at its start, with the forecast that it was planned with.")
    arrived_requests: tuple[tuple[NonNegative, ...], ...] = Field(
        description="(V, R) requests that came, by pool and origin."
    )
    plan: RoutingPlan | None = Field(
        default=None, description="What was carried out, for the same sites and pools. Default: nobody wrote it down."
    )

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        pools, origins = len(self.state.pools), len(self.state.origins)
        if len(self.arrived_requests) != pools or any(len(row) != origins for row in self.arrived_requests):
            raise ValueError(f"arrivedRequests must be {pools} rows of {origins}, one per pool and origin")
        if self.plan is not None and not self._is_planned(self.plan):
            raise ValueError("plan must be for the state's datacenters and pools")
        return self

    def _is_planned(self, plan: RoutingPlan) -> bool:
        sites, pools = ([one.name for one in rows] for rows in (self.state.datacenters, self.state.pools))
        return list(plan.datacenters) == sites and [pool.name for pool in plan.pools] == pools

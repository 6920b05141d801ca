"""What the twin expects of each pool under the plan that is published, to be held against what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from marlin.api.plan import RoutingPlan
from marlin.api.state import FleetState
from marlin.simulator.fluid import simulate_plan
from marlin.simulator.twin_state import arrays_from


@dataclass(frozen=True, slots=True)
class Prediction:
    """One pool in one epoch."""

    requests: float
    ttft_s: float
    """Mean time to first token, network and waiting included, s."""
    output_tokens_per_s: float
    """Of replies that are served."""


def predictions(state: FleetState, plan: RoutingPlan) -> Mapping[str, Prediction]:
    """Pool to what is expected of it; pools that are expected to serve nothing are missing."""
    result = simulate_plan(arrays_from(state), plan)
    served = result.served[0]  # (V, D)
    waited_s = result.waited_s[0]  # (V,)
    total_s = (served * result.ttft_s[0]).sum(axis=1) + waited_s  # (V,)
    return {
        pool.name: Prediction(
            sum(pool.forecast_requests),
            float(seconds / requests),
            float(requests * pool.mean_output_tokens / state.epoch_s),
        )
        for pool, seconds, requests in zip(state.pools, total_s, served.sum(axis=1), strict=True)
        if requests > 0
    }

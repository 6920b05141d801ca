"""Merit order: sort the sites by what one more request costs there, fill them in turn.

The classical rule of power dispatch, and the simple planner that any learned one has to beat. The marginal figures
come from the twin at moderate load, under the last known signals; a scheme with several metrics sorts by their
weighted ratios to capacity-proportional routing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marlin.policy.building import Proposal, fill_in_order
from marlin.policy.objective import relative_score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marlin.api.state import FleetState
    from marlin.policy.objective import Weights


def merit_order(
    state: FleetState,
    capacity_rps: NDArray[np.float64],  # (V, D)
    marginal: NDArray[np.float64],  # (V, D, 4) ttft_s, gCO2, L and USD of one more request
    allowed: NDArray[np.bool_],  # (V, D)
    weights: Weights,
) -> tuple[Proposal, NDArray[np.float64]]:
    """The proposal, and the score (V, D) it was sorted by; lower is better."""
    by_capacity = np.where(allowed, capacity_rps, 0.0)
    reference = np.einsum("vd,vdm->vm", by_capacity / by_capacity.sum(axis=1, keepdims=True), marginal)  # (V, 4)
    score = np.where(allowed, relative_score(marginal, reference[:, None, :], weights), np.inf)
    shares = np.zeros_like(capacity_rps)
    orders = []
    for v, pool in enumerate(state.pools):
        order = tuple(int(d) for d in np.argsort(score[v], kind="stable") if allowed[v, d])
        demand_rps = sum(pool.forecast_requests) / state.epoch_s
        shares[v] = fill_in_order(order, demand_rps, capacity_rps[v], state.max_utilization)
        orders.append(order)
    return Proposal(shares, tuple(orders)), score

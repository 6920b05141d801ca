"""What a rate of one model costs at each site, in units of an objective: the terms of a demand's division.

Models do not meet in any cost, and sites meet in the demand alone, as long as every site gets what it can take. Where a
pool can power down, every number of awake replicas between "just enough" and "all" is tried, and the cheapest counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.policy.trials import Objective
from marlin.simulator.fluid import awake_carrying, site_outcomes
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

_AWAKE_LOADS: Final = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Loads of the awake replicas that are tried; all awake is tried too."""


def site_costs(twin: TwinState, objective: Objective, model: int, rates: FloatArray, awake: FloatArray) -> FloatArray:
    """Costs (D, N) of rates (D, N) of a model at each site, of whose replicas ``awake`` (D, N) are kept awake.

    Energy of a site that no plan changes is not in them.
    """
    found = site_outcomes(twin, model, rates, awake)
    requests = rates * twin.epoch_s
    weights = objective.weights / objective.scale  # (4,)
    per_joule = conditions(twin).per_joule[0, :, 1:] @ weights[1:]  # (D,)
    late = objective.late * found.late / objective.requests
    return np.asarray(requests * (weights[0] * found.ttft_s + late) + found.it_j * per_joule[:, None])


def cheapest_awake(
    twin: TwinState, objective: Objective, model: int, rates: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Costs (D, N) of rates (D, N) of a model at each site, and the awake replicas (D, N) that make them so cheap."""
    if not twin.can_sleep[model]:
        awake = awake_carrying(twin, model, rates)
        return site_costs(twin, objective, model, rates, awake), awake
    # All choices side by side: the curves are looked up once for all of them.
    needed = np.concatenate([rates / load for load in _AWAKE_LOADS] + [np.full_like(rates, np.inf)], axis=1)
    awake = awake_carrying(twin, model, needed)  # (D, A x N)
    costs = site_costs(twin, objective, model, np.tile(rates, len(_AWAKE_LOADS) + 1), awake)
    by_choice = (len(rates), len(_AWAKE_LOADS) + 1, rates.shape[1])
    best = costs.reshape(by_choice).argmin(axis=1)[:, None]  # (D, 1, N)
    return (
        np.take_along_axis(costs.reshape(by_choice), best, axis=1)[:, 0],
        np.take_along_axis(awake.reshape(by_choice), best, axis=1)[:, 0],
    )

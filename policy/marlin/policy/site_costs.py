"""What a rate of one model costs at each site, in units of an objective: the terms of a demand's division.

Models do not meet in any cost, and sites meet in the demand alone, as long as every site gets what it can take.
"""

from __future__ import annotations

import numpy as np

from marlin.policy.trials import Objective
from marlin.simulator.fluid import site_outcomes
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


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

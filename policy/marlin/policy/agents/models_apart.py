"""The best of many plans model by model: what a model costs depends on no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marlin.policy.agents.situation import Situation
from marlin.simulator.fluid import Plans
from marlin.simulator.physics import FloatArray

IntArray = NDArray[np.int64]


def models_apart(situation: Situation, plans: Plans) -> Plans:
    """The best of some plans, and each model's own best put together."""
    own = situation.values_by_model(plans)  # (N, V)
    best, of_each = int(own.sum(axis=1).argmin()), own.argmin(axis=0)
    if len(of_each) == 1:
        return plans.take([best])
    return _picked(plans, np.stack([np.full_like(of_each, best), of_each]))


def _picked(plans: Plans, rows: IntArray) -> Plans:
    """Plans whose models are each of the plan that ``rows`` (N, V) says."""
    models = np.arange(rows.shape[1])

    def of(values: FloatArray | None) -> FloatArray | None:
        return None if values is None else values[rows, models]

    return replace(
        plans,
        shares=plans.shares[rows, models],
        order=None if plans.order is None else plans.order[rows, models],
        cap=of(plans.cap),
        awake=of(plans.awake),
    )

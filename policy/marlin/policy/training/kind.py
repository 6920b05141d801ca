"""``networks.kind`` in torch: which networks a set of weights is of."""

from __future__ import annotations

from torch import Tensor

from marlin.policy.networks.parameters import is_flat
from marlin.policy.training import flat, networks
from marlin.policy.training.networks import IntentTensors, RowTensors, Weights


def propose(p: Weights, rows: RowTensors, preference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log of the spread, before tanh; arguments as of ``networks.propose``."""
    if is_flat(p):
        return flat.propose(p, rows, preference)
    return networks.propose(p, rows, preference)


def worth_of_twins(p: Weights, rows: RowTensors, intent: IntentTensors, preference: Tensor) -> Tensor:
    """What both critics of each agent make of intents; arguments as of ``networks.worth_of_twins``."""
    if is_flat(p):
        return flat.worth_of_twins(p, rows, intent, preference)
    return networks.worth_of_twins(p, rows, intent, preference)

"""Which networks a set of weights is of: of any fleet (``actor``, ``critic``), or of one (``flat``).

Names tell: no file or flag beside the weights could say otherwise and be believed.
"""

from __future__ import annotations

from marlin.policy.networks import actor, flat
from marlin.policy.networks.actor import Proposals
from marlin.policy.networks.critic import Critics
from marlin.policy.networks.flat import FlatCritics
from marlin.policy.networks.parameters import Parameters, is_flat
from marlin.policy.networks.rows import Rows
from marlin.simulator.physics import FloatArray


def propose(parameters: Parameters, rows: Rows, preference: FloatArray) -> Proposals:
    """The distributions of all agents; arguments as of ``actor.propose``."""
    if is_flat(parameters):
        return flat.propose(parameters, rows, preference)
    return actor.propose(parameters, rows, preference)


def critics_of(parameters: Parameters, rows: Rows, preference: FloatArray) -> Critics | FlatCritics:
    """Critics in a situation; arguments as of ``critic.Critics.of``."""
    if is_flat(parameters):
        return FlatCritics.of(parameters, rows, preference)
    return Critics.of(parameters, rows, preference)

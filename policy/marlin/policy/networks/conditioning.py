"""What each agent goes by: its own metric, and the user's weights.

In ``paper`` mode an agent knows its metric alone, and the user's weights come in when proposals are negotiated. In
``film`` mode each agent leans towards its metric but goes by the weights for the rest, so that what it proposes is
already close to what the user wants: a blend of four single-minded proposals often is not (marlin-model, section 7).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np

from marlin.policy.networks.parameters import AGENTS
from marlin.simulator.physics import FloatArray

OWN_PART: Final = 0.25
"""How far an agent leans towards its own metric in ``film`` mode. Part of what an artifact means: whoever changes it
trains anew."""


class Conditioning(StrEnum):
    """What each agent goes by."""

    PAPER = "paper"
    """Its own metric alone."""
    FILM = "film"
    """Its own metric, and the user's weights."""


def goals(conditioning: Conditioning, preference: FloatArray) -> FloatArray:
    """(J, N, 4) the weights that each agent goes by, on the simplex, for the preferences (N, 4) of N users."""
    own = np.repeat(np.eye(AGENTS)[:, None], len(preference), axis=1)
    if conditioning is Conditioning.PAPER:
        return own
    return np.asarray(OWN_PART * own + (1.0 - OWN_PART) * preference[None])

"""What the four agents want: the networks' answer to a situation, as intents.

The one place that knows how an artifact's numbers become an intent; everything after it deals in intents.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.policy.agents.situation import Situation
from marlin.policy.artifact import Artifact, Conditioning
from marlin.policy.networks import actor
from marlin.policy.networks.actor import Proposals
from marlin.policy.networks.parameters import AGENTS
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import ActionLayout, Intent, intents
from marlin.simulator.physics import FloatArray

_CHANNELS: Final = ("preference", "fill", "margin")
"""Numbers of a row that a network answers with; those that mean nothing in a situation are left out."""


def goals(conditioning: Conditioning, preference: FloatArray) -> FloatArray:
    """(J, 4) weights that each agent goes by: its own metric, and in ``film`` mode the user's (4,) as well."""
    own = np.eye(AGENTS)
    return own if conditioning is Conditioning.PAPER else np.asarray((own + preference) / 2.0)


def propose(artifact: Artifact, rows: Rows, goal: FloatArray) -> Proposals:
    """The distributions of all agents' actions, for rows of one fleet and goals (J, 4)."""
    return actor.propose(artifact.parameters, rows, goal[:, None])


def best(proposals: Proposals, situation: Situation) -> Intent:
    """What each agent proposes, parts of shape (J, V, D)."""
    return _meant(proposals.best(), (AGENTS,), situation)


def samples(proposals: Proposals, situation: Situation, rng: np.random.Generator, many: int) -> Intent:
    """What each agent might have proposed as well, parts of shape (J, S, V, D)."""
    return _meant(proposals.sample(rng, many), (AGENTS, many), situation)


def anything(situation: Situation, rng: np.random.Generator, many: int) -> Intent:
    """Proposals of agents that know nothing, parts of shape (J, S, V, D): what a search is worth without learning."""
    drawn = rng.uniform(-1.0, 1.0, (AGENTS, many, situation.allowed.size, len(_CHANNELS)))
    return _meant(drawn, (AGENTS, many), situation)


def _meant(actions: FloatArray, leading: tuple[int, ...], situation: Situation) -> Intent:
    """Numbers of all channels in every row, ``leading`` axes in front, as intents (*leading, V, D)."""
    models, sites = situation.allowed.shape
    layout = ActionLayout(models, sites, situation.dispatch, situation.fleets.can_power_down)
    known = [_CHANNELS.index(name) for name in layout.channels]
    cells = actions.reshape(*leading, 1, models * sites, len(_CHANNELS))[..., known]
    allowed, capacity = situation.allowed[None], situation.twin.capacity_rps[None]
    meant = intents(layout, cells.reshape(*leading, 1, layout.size), allowed, capacity)
    return Intent(*(part.squeeze(axis=-3) for part in (meant.shares, meant.fill, meant.margin)))

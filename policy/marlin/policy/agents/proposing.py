"""What the four agents want: the networks' answer to a situation, as intents.

The one place that knows how an artifact's numbers become an intent; everything after it deals in intents.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.policy.agents.situation import Situation
from marlin.policy.artifact import Artifact
from marlin.policy.networks import kind
from marlin.policy.networks.actor import Proposals
from marlin.policy.networks.conditioning import Conditioning
from marlin.policy.networks.conditioning import goals as conditioned
from marlin.policy.networks.parameters import AGENTS, CHANNEL_COUNT
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import ActionLayout, Intent, intents, laid_out
from marlin.simulator.physics import FloatArray

COMMON_SHIFT: Final = 2.0
"""Standard deviation, before tanh, by which samples after the first ``NARROW`` shift the fills, and the margins, of all
of a model's sites together, where replicas can power down."""

NARROW: Final = 8
"""Samples that are drawn closely around what an agent proposes, before a search looks further away."""


def goals(conditioning: Conditioning, preference: FloatArray) -> FloatArray:
    """(J, 4) weights that each agent goes by for a user who weighs (4,)."""
    return conditioned(conditioning, preference[None])[:, 0]


def propose(artifact: Artifact, rows: Rows, goal: FloatArray) -> Proposals:
    """The distributions of all agents' actions, for rows of one fleet and goals (J, 4); in the rows' precision.

    Raises:
        ValueError: the networks know another fleet than this one alone.
    """
    fleet, (_, models, sites) = artifact.card.networks.fleet, rows.shape
    if fleet not in (None, (models, sites)):
        raise ValueError(
            f"a flat network knows the fleet it was trained for, of {fleet[0]} models and {fleet[1]} sites, not "
            f"{models} and {sites}"
        )
    return kind.propose(artifact.parameters, rows, goal[:, None].astype(rows.features.dtype))


def best(proposals: Proposals, situation: Situation) -> Intent:
    """What each agent proposes, parts of shape (J, V, D)."""
    return _meant(proposals.best(), situation)


def samples(proposals: Proposals, situation: Situation, rng: np.random.Generator, many: int) -> Intent:
    """What each agent proposes, and after it what it might have proposed as well: parts of shape (J, 1 + S, V, D)."""
    shift = _common_shifts(proposals, rng, many) if situation.fleets.can_power_down else 0.0
    return _meant(np.concatenate([proposals.best()[:, None], proposals.sample(rng, many, shift)], axis=1), situation)


def anything(situation: Situation, rng: np.random.Generator, many: int) -> Intent:
    """Proposals of agents that know nothing, parts of shape (J, S, V, D): what a search is worth without learning."""
    drawn = rng.uniform(-1.0, 1.0, (AGENTS, many, 1, *situation.allowed.shape, CHANNEL_COUNT))
    return _meant(drawn, situation)


def _common_shifts(proposals: Proposals, rng: np.random.Generator, many: int) -> FloatArray:
    """(S, J, N, V, 1, C) by which later samples are fuller or more awake, or less, at all of a model's sites.

    Each site's own noise is independent of the others', so that a sample is hardly ever more awake as a whole than the
    action it is drawn around: where agents sleep too deep, no sample does not. Preferences, which are what was learnt,
    stay. A generator of its own, so that the first of many samples are the same as of few.
    """
    shape = (many, *proposals.mean.shape[:3], 1, CHANNEL_COUNT)
    shifts = COMMON_SHIFT * rng.spawn(1)[0].standard_normal(shape)
    shifts[:NARROW] = 0.0
    shifts[..., 0] = 0.0
    return shifts


def _meant(cells: FloatArray, situation: Situation) -> Intent:
    """Numbers of all channels in every row (..., 1, V, D, C) as intents (..., V, D)."""
    twin, (models, sites) = situation.twin, situation.allowed.shape
    layout = ActionLayout(models, sites, situation.dispatch, situation.fleets.can_power_down)
    meant = intents(
        layout,
        laid_out(layout, cells),
        situation.allowed[None],
        twin.capacity_rps[None],
        situation.forecast.mean / twin.epoch_s,
        np.array([twin.max_utilization]),
    )
    return Intent(*(part.squeeze(axis=-3) for part in (meant.shares, meant.fill, meant.margin)))

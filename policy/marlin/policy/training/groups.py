"""Learning from groups: what several samples of one agent are expected to earn in the same epoch, beside their mean.

A critic's derivatives tell the better of two plans that differ by a percent hardly better than chance, and an agent
that begins as a good sort loses by following them. The twin says what a plan is expected to earn (``outlook``), so an
agent's own samples can be compared without a critic: those above the mean of their group become likelier, those below
less so. It is the score-function gradient (Williams 1992) with the group's mean as its baseline (Kool et al. 2019;
"group-relative" in Shao et al. 2024), unbiased but for the bound on single advantages, and it is Algorithm 1's exploit
step turned into a lesson: what simulation finds better is what the actor is moved towards. Samples come in pairs
around the mean, which halves the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from marlin.policy.networks import kind as in_numpy
from marlin.policy.networks.parameters import AGENTS
from marlin.policy.networks.rows import Rows
from marlin.policy.training import kind
from marlin.policy.training.networks import RowTensors
from marlin.policy.training.outlook import expected_terms
from marlin.policy.training.replay import Floats
from marlin.policy.training.sac import Learner
from marlin.simulator.environments.action import Intent, laid_out
from marlin.simulator.environments.reward import Terms
from marlin.simulator.environments.task import Lanes, Task
from marlin.simulator.physics import FloatArray

_MOST: Final = 2.0
"""Bound of an advantage: one surge that a sample sleeps through is not all that a batch says."""


def learn_in_groups(
    learner: Learner, task: Task, lanes: Lanes, rows: Rows, preference: Floats, pairs: int, rng: np.random.Generator
) -> dict[str, float]:
    """One step of the actors, and of their calm copies, by samples tried from where the lanes are.

    Args:
        learner: its actors are changed, and nothing else.
        task: the fleet.
        lanes: N of them, before an epoch.
        rows: what is seen there.
        preference: (J, N, 4) what each agent goes by in each lane.
        pairs: of samples, for each agent in each lane.
        rng: draws them.

    Returns:
        For the log: what samples are expected to earn, and how far those of a group are apart.
    """
    settings, (n, v, d) = learner.settings, rows.shape
    weights = {name: value.detach().numpy() for name, value in learner.actor.items()}
    proposals = in_numpy.propose(weights, rows, preference.astype(np.float64))
    noise = rng.standard_normal((AGENTS, pairs, *proposals.mean.shape[1:]))
    noise = np.concatenate([noise, -noise], axis=1)  # (J, K, N, V, D, C)
    drawn = proposals.mean[:, None] + np.exp(proposals.log_std)[:, None] * noise
    wanted = task.propose(lanes, laid_out(task.action, np.tanh(drawn)))  # parts (J, K, N, V, D)
    parts = (part.reshape(-1, n, v, d) for part in (wanted.shares, wanted.fill, wanted.margin))
    terms = expected_terms(task, lanes, [Intent(*one) for one in zip(*parts, strict=True)])
    earned = _earned(terms, preference, settings.reward.late)
    advantage = advantages(earned, settings.least_spread)
    meant = rows.mask[..., None] * (np.arange(noise.shape[-1]) < len(task.action.channels))  # (N, V, D, C)
    loss = _loss(learner.actor, rows, preference, drawn, advantage, meant)
    learner.actor_steps.zero_grad()
    loss.backward()
    learner.actor_steps.step()
    with torch.no_grad():
        for name, value in learner.actor.items():
            learner.calm[name].lerp_(value, settings.calming)
    return {"expected": float(earned.mean()), "spread": float(earned.std(axis=1).mean())}


def advantages(earned: FloatArray, least_spread: float) -> FloatArray:
    """(J, K, N) by how much each of K samples is above the mean of its group, in the group's spreads.

    A spread below ``least_spread`` counts as that: where all samples are worth the same, there is nothing to learn.
    """
    off = earned - earned.mean(axis=1, keepdims=True)
    return np.asarray(np.clip(off / np.maximum(off.std(axis=1, keepdims=True), least_spread), -_MOST, _MOST))


def _earned(terms: list[Terms], preference: Floats, late_weight: float) -> FloatArray:
    """(J, K, N) what samples are worth to the agent whose they are: what it gains, and what is late.

    As policies are scored, that is: an agent's own moving average is the same for all of a group, sleeping saves by
    itself, and losses need no taming where advantages are bounded.
    """
    gain = np.stack([one.gain for one in terms]).reshape(AGENTS, -1, *terms[0].gain.shape)  # (J, K, N, 4)
    late = np.stack([one.late for one in terms]).reshape(gain.shape[:3])
    return np.asarray((gain * preference[:, None]).sum(axis=-1) - late_weight * late)


def _loss(
    actor: Mapping[str, Tensor],
    rows: Rows,
    preference: Floats,
    drawn: FloatArray,  # (J, K, N, V, D, C) before tanh
    advantage: FloatArray,  # (J, K, N)
    meant: FloatArray,  # (N, V, D, C) 1 where a number means something
) -> Tensor:
    """What is least when better samples are likelier. Spreads have no part in it."""
    mean, log_std = kind.propose(actor, RowTensors.of(rows), torch.as_tensor(preference))
    off = (torch.as_tensor(drawn, dtype=torch.float32) - mean[:, None]) / log_std.detach().exp()[:, None]
    log_chance = (-0.5 * off**2 * torch.as_tensor(meant, dtype=torch.float32)).sum(dim=(3, 4, 5))  # (J, K, N)
    return -(torch.as_tensor(advantage, dtype=torch.float32) * log_chance).mean(dim=(1, 2)).sum()

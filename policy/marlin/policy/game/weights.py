"""How much each proposal counts in the blend (Algorithm 2, lines 1-11).

Line 11 as printed overwrites line 5, so that utilities would not matter; here the ascent starts from capital and
utility together. Q_tot is the mean over agents (line 7 divides by I, which must be J), weighted by the importance of
their metrics where the user has named one: equal importance gives the paper's.
"""

from __future__ import annotations

import numpy as np

from marlin.policy.game.critics import Critic, floored, gradients, values_of
from marlin.policy.game.simplex import project
from marlin.simulator.physics import FloatArray


def utilities(critic: Critic, proposals: FloatArray) -> FloatArray:
    """q_j = Q_j(a_j), floored: what each agent's own proposal (J, *A) is worth to it, (J,). Lines 1-3."""
    agents = len(proposals)
    own = [values_of(critic, proposals[j : j + 1], j, agents) for j in range(agents)]
    return floored(np.concatenate(own))


def first_weights(utility: FloatArray, capital: FloatArray, importance: FloatArray) -> FloatArray:
    """omega_1 (J,): proportional to importance x capital share x utility share. Lines 4-6.

    An agent without capital starts without weight; when all are without, importance alone decides.
    """
    share = importance * capital * utility
    share = share if share.sum() > 0 else importance
    return np.asarray(share / share.sum())


def blend(weights: FloatArray, proposals: FloatArray) -> FloatArray:
    """The blend a = sum_j omega_j a_j, (*A). Lines 5 and 11."""
    return np.asarray(np.tensordot(weights, proposals, axes=1))


def ascend(
    critic: Critic,
    proposals: FloatArray,  # (J, *A)
    start: FloatArray,  # (J,) on the simplex
    importance: FloatArray,  # (J,) on the simplex
    *,
    steps: int,
    rate: float,
) -> FloatArray:
    """Gradient ascent on Q_tot over the weights, each step projected onto the simplex: the path, (K + 1, J).

    Lines 8-11, which give the step once as 1 / K_opt and once (section 6) as 0.05: ``rate`` is the latter. The ascent
    uses Q as it is, not floored: below the floor there would be no slope to climb.
    """
    path = [start]
    for _ in range(steps):
        slopes = gradients(critic, blend(path[-1], proposals), len(proposals))  # (J, *A)
        uphill = np.tensordot(importance, slopes, axes=1)  # (*A)
        along = (proposals * uphill).reshape(len(proposals), -1).sum(axis=1)  # (J,) dQ_tot / domega
        path.append(project(path[-1] + rate * along))
    return np.array(path)

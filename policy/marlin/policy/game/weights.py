"""How much each proposal counts in the blend (Algorithm 2, lines 1-11).

Line 11 as printed overwrites line 5, so that utilities would not matter; here the ascent starts from capital and
utility together. Q_tot is the mean over agents (line 7 divides by I, which must be J), weighted by the importance of
their metrics where the user has named one: equal importance gives the paper's.
"""

from __future__ import annotations

import numpy as np

from marlin.policy.game.critics import Table, floored
from marlin.policy.game.simplex import project
from marlin.simulator.physics import FloatArray


def utilities(table: Table) -> FloatArray:
    """q_j = Q_j(a_j), floored: what each agent's own proposal is worth to it, (J,). Lines 1-3."""
    return floored(table.own())


def first_weights(utility: FloatArray, capital: FloatArray, importance: FloatArray) -> FloatArray:
    """omega_1 (J,): proportional to importance x capital share x utility share. Lines 4-6.

    An agent without capital starts without weight; when all are without, importance alone decides.
    """
    share = importance * capital * utility
    share = share if share.sum() > 0 else importance
    return np.asarray(share / share.sum())


def ascend(
    table: Table,
    start: FloatArray,  # (J,) on the simplex
    importance: FloatArray,  # (J,) on the simplex
    *,
    steps: int,
    rate: float,
    looks: int,
) -> tuple[FloatArray, list[int]]:
    """Gradient ascent on Q_tot over the weights, each step projected onto the simplex.

    Lines 8-11, which give the step once as 1 / K_opt and once (section 6) as 0.05: ``rate`` is the latter. The ascent
    uses Q as it is, not floored: below the floor there would be no slope to climb.

    Returns:
        The path, (K + 1, J), and its rows at which the slopes were looked at, with the last one.
    """
    path, at = [start], np.linspace(0, steps, min(looks, steps) + 1).astype(int).tolist()
    uphill = np.zeros_like(start)
    for step in range(steps):
        if step in at:
            uphill = importance @ table.slopes(path[-1])
        path.append(project(path[-1] + rate * uphill))
    return np.array(path), at

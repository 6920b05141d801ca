"""The demands that may come in an epoch, a few of them standing for all.

A forecast is a median and an upper quantile. What comes is taken to be spread around the median as the predictor's
errors are: seven values of equal chance. Whoever has to choose one plan for whatever comes tries every candidate on
each of them (``trials``). Fewer do harm: between two demands that are looked at, a plan that fills sites exactly to the
rate of one of them is dear, and three demands do not show it.

Where replicas can power down, there are thirteen, closer to each other and of smaller chances the higher they are. A
surge that finds a site asleep waits minutes for it to wake, so that one epoch of a hundred decides what a day was
worth; a mean of the seventh does not show it, and a planner that looks no further keeps too little awake. Nor may
the far ones lie far apart: whoever searches well finds the plan that is just good enough for each of them. So it is
where plans are shares: they are fixed, and what comes beyond them overflows to sites that are far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.api.plan import Dispatch
from marlin.api.state import FORECAST_CHANCES
from marlin.policy.forecasting.parts import USUAL_POINTS
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from marlin.api.state import FleetState
    from marlin.simulator.twin_state import TwinState

UPPER_Z: Final = 1.645
"""Standard deviations from the median to the upper quantile of a forecast (0.95)."""

UNKNOWN_SPREAD: Final = 0.4
"""Standard deviation of log demand where the forecast has no upper quantile (assumption: as on BurstGPT's epochs). A
forecast that is certain says so: its upper quantile is itself."""

_POINTS: Final = (-4.0, -1.0, -0.35, 0.0, 0.35, 0.7, 1.5)
"""Middles of sevenths of the predictor's errors, in units of the distance to the upper quantile over ``UPPER_Z``. On
BurstGPT's days 9 to 27 at three loads: the upper half is that of a normal distribution, the lower one has a long tail,
because demand can fall to nothing."""

_FEW: Final = {len(_POINTS): ((1, 3, 5), (0, 2, 5)), len(FORECAST_CHANCES): ((1, 3, 5, 7, 9, 11), (0, 3, 5, 7, 9, 11))}
"""Positions of a few that stand for all, and where the parts begin that each stands for, by how many there are: low,
middle, high, and the far ones."""


@dataclass(frozen=True, slots=True)
class Demands:
    """S demands."""

    requests: FloatArray  # (S, V) that arrive in the epoch
    chances: FloatArray  # (S,) they add up to one
    calm: FloatArray  # (S,)
    """What a second of waiting counts for when it comes; 1 where capacity-proportional routing never waits."""

    def __len__(self) -> int:
        """S."""
        return len(self.chances)

    def few(self) -> Demands:
        """A low, a middle and a high one, and the far ones where there are: to make plans for, not to judge them by."""
        if len(self) not in _FEW:
            return self
        kept, begins = (list(positions) for positions in _FEW[len(self)])
        return Demands(self.requests[kept], np.add.reduceat(self.chances, begins), self.calm[kept])


def spread_of(state: FleetState) -> FloatArray:
    """(V,) standard deviation of the logarithm of each pool's demand; 0 where nothing is expected."""
    spread = np.zeros(len(state.pools))
    for v, pool in enumerate(state.pools):
        if (expected := sum(pool.forecast_requests)) > 0:
            upper = pool.forecast_upper_requests
            spread[v] = UNKNOWN_SPREAD if upper is None else np.log(max(upper / expected, 1.0)) / UPPER_Z
    return spread


def usual_errors(*, is_tailed: bool) -> tuple[FloatArray, FloatArray]:
    """Errors of a forecast (S,), in standard deviations of the logarithm of demand, and the chance (S,) of each."""
    if is_tailed:
        return np.array(USUAL_POINTS), np.array(FORECAST_CHANCES)
    return np.array(_POINTS), np.full(len(_POINTS), 1.0 / len(_POINTS))


def is_tailed(twin: TwinState, dispatch: Dispatch) -> bool:
    """Whether surges are looked at closely: replicas may be asleep when they come, or shares are fixed."""
    return bool(twin.can_sleep.any()) or dispatch is Dispatch.SHARES


def demands_of(state: FleetState, most: FloatArray, *, is_tailed: bool = False) -> Demands:
    """The demands that stand for what a state's forecast may turn out to be.

    All pools are taken to be high or low together: the fleet must carry them together. More than the fleet can carry is
    not looked at: no plan can help it, and its cost would drown what plans differ in.

    Args:
        state: whose forecast.
        most: (V,) requests that can be carried at all.
        is_tailed: whether surges are looked at closely; see the function of that name.
    """
    spread, expected = spread_of(state), np.array([sum(pool.forecast_requests) for pool in state.pools])
    knows_parts = is_tailed and any(pool.forecast_parts for pool in state.pools)
    if not spread.any() and not knows_parts:
        return Demands(expected[None], np.ones(1), np.ones(1))
    points, chances = usual_errors(is_tailed=is_tailed)
    requests = expected * np.exp(points[:, None] * spread)  # (S, V)
    if knows_parts:
        for v, pool in enumerate(state.pools):
            if pool.forecast_parts:
                requests[:, v] = pool.forecast_parts
    return Demands(np.minimum(requests, np.maximum(most, expected)), chances, np.ones(len(chances)))

"""Even margins: sites are filled to where one more request costs the same at each of them, in the user's own weights.

Merit order fills the cheapest site to its limit and then the next. That is right where a request costs the same at any
load; time to first token rises with it, ever faster, and then the cheapest division is the one whose margins are even
(Wardrop; in power dispatch the rule of equal incremental cost). So each site's cost is cut into slices of load, and
merit order is by slices: the cheapest slice first, wherever it is. Where a cost bends the other way, as energy does,
its convex hull counts: what is worth beginning there is worth filling, and what comes out is merit order again.

Where replicas can power down, a site costs what it does with as many awake as make it cheapest, so that what sleeping
spares is in the margins. Which demand replicas are awake for is then what matters most; each has its own plan.

No search, and nothing of the oracle: one sort, which serves all demands at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.policy.site_costs import cheapest_awake
from marlin.policy.trials import Objective
from marlin.simulator.environments.proportional import by_capacity
from marlin.simulator.fluid import Plans
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

SLICES: Final = 16
"""Of each site, up to its limit. With 8, 16 and 32 plans were worth the same within 0.02 % on a tuning day."""

_UNUSED: Final = 1e-6
"""Part of a demand below which a site counts as not used."""


@dataclass(frozen=True, slots=True)
class Slices:
    """Every site's load up to the limit, in C slices that cost more and more."""

    twin: TwinState
    objective: Objective
    allowed: NDArray[np.bool_]  # (V, D)
    width_rps: FloatArray  # (V, D) of one slice; 0 where a site is closed
    slope: FloatArray  # (V, D, C) cost of one more request per second, never falling; infinite where a site is closed

    @property
    def sleeps(self) -> NDArray[np.bool_]:
        """(V, 1) models whose replicas can power down."""
        return self.twin.can_sleep[:, None]

    @property
    def limit_rps(self) -> FloatArray:
        """(V, D) all slices of a site."""
        return np.asarray(self.width_rps * self.slope.shape[2])

    def rates(self, demand_rps: FloatArray) -> FloatArray:
        """Rates (S, V, D) that carry ``demand_rps`` (S, V), the cheapest slices first; at most the limits."""
        models, sites, many = self.slope.shape
        in_turn = self.slope.reshape(models, -1).argsort(axis=1, kind="stable")  # (V, D x C)
        width = np.take_along_axis(np.repeat(self.width_rps, many, axis=1), in_turn, axis=1)
        before = np.cumsum(width, axis=1) - width
        taken = np.clip(demand_rps[:, :, None] - before, 0.0, width)  # (S, V, D x C)
        filled = np.zeros_like(taken)
        np.put_along_axis(filled, np.broadcast_to(in_turn, taken.shape), taken, axis=2)
        by_site = filled.reshape(-1, models, sites, many)
        return np.asarray(by_site.sum(axis=3))

    def awake(self, rates: FloatArray) -> FloatArray | None:
        """Replicas (S, V, D) that are cheapest for rates (S, V, D); None where none can power down."""
        if not self.twin.can_sleep.any():
            return None
        of_models = (cheapest_awake(self.twin, self.objective, v, rates[:, v].T)[1].T for v in range(rates.shape[1]))
        return np.stack(list(of_models), axis=1)


def slices_of(twin: TwinState, objective: Objective, allowed: NDArray[np.bool_]) -> Slices:
    """The slices of a fleet.

    Args:
        twin: the fleet.
        objective: what the user weighs.
        allowed: (V, D) which sites may serve.
    """
    limit = np.where(allowed, twin.capacity_rps * twin.max_utilization, 0.0)
    points = limit[:, :, None] * (np.arange(SLICES + 1) / SLICES)  # (V, D, C + 1)
    cost = np.stack([cheapest_awake(twin, objective, v, points[v])[0] for v in range(len(limit))])
    width = limit / SLICES
    slope = _hull_slopes(cost) / np.where(allowed, width, 1.0)[:, :, None]
    return Slices(twin, objective, allowed, width, np.where(allowed[:, :, None], slope, np.inf))


def _hull_slopes(values: FloatArray) -> FloatArray:
    """Rises (..., C), of the lower convex hull of values (..., C + 1) from each to the next.

    From k to k + 1 the hull rises by the largest, over all i up to k, of the least mean rise from i to some j beyond k.
    """
    count = values.shape[-1]
    places = np.arange(count)
    apart = places[None, :] - places[:, None]  # (i, j)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.where(apart > 0, (values[..., None, :] - values[..., :, None]) / apart, np.inf)
    least = np.minimum.accumulate(rise[..., ::-1], axis=-1)[..., ::-1]  # over all ends from j on
    return np.asarray(np.where(apart[:-1, 1:] > 0, least[..., :-1, 1:], -np.inf).max(axis=-2))


def even_shares(slices: Slices, demand_rps: FloatArray) -> Plans:
    """One plan of shares for each of the demands (S, V) that it makes margins even for.

    Where replicas can power down, one for each of them and each that is no less: shares for the one, and awake what
    either needs. Shares are fixed, so that what comes beyond them overflows, and has to find somebody awake.

    Args:
        slices: of the fleet.
        demand_rps: where replicas can power down from the least to the largest.
    """
    rates = slices.rates(demand_rps)
    shares, awake = _shares(slices, rates), slices.awake(rates)
    if awake is None:
        return Plans(shares)
    usual, largest = np.triu_indices(len(rates))
    return Plans(shares[usual], awake=np.maximum(awake[usual], awake[largest]))


def even_orders(slices: Slices, demand_rps: FloatArray) -> tuple[Plans, Plans]:
    """Orders and caps for each of the demands (S, V) that they make margins even for, carried out in two ways: S each.

    The cheapest first request comes first, whatever the demand: what is spared when less comes is what would not have
    been begun for less. In the first way the last site in use and those after it are open to the limit, so that more
    goes there in turn. In the second each site is filled to its rate, and what comes beyond goes to whoever has room:
    nearer to even where requests wait, and dear where a surge comes that nobody looked at. Where replicas can power
    down, all sites are open to the limit in both: what is awake says what they take.
    """
    rates = slices.rates(demand_rps)  # (S, V, D)
    order = slices.slope[:, :, 0].argsort(axis=1, kind="stable")  # (V, D)
    place = order.argsort(axis=1)
    exact = np.where(slices.sleeps, 1.0, np.minimum(rates / np.maximum(slices.twin.capacity_rps, 1e-12), 1.0))
    is_used = rates > _UNUSED * rates.sum(axis=2, keepdims=True)
    last = np.where(is_used, place, 0).max(axis=2, keepdims=True)  # (S, V, 1)
    named = np.where(np.take_along_axis(slices.allowed, order, axis=1), order, -1)
    in_turn = np.broadcast_to(named, exact.shape).copy()
    shares, awake = _shares(slices, rates), slices.awake(rates)
    opened = np.where(place >= last, 1.0, exact)
    return Plans(shares, in_turn, opened, awake=awake), Plans(shares, in_turn, exact, awake=awake)


def _shares(slices: Slices, rates: FloatArray) -> FloatArray:
    """Rates (S, V, D) as shares; by capacity where there are none."""
    total = rates.sum(axis=2, keepdims=True)
    even = by_capacity(slices.twin.capacity_rps, slices.allowed)
    return np.asarray(np.where(total > 0, rates / np.where(total > 0, total, 1.0), even))

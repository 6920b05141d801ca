"""One epoch's optimum: how much of each model every site gets, and how many replicas stay awake for it.

Models do not meet in any cost, and sites meet in the demand alone, so that each model is divided by itself. The cost of
a rate at a site is the weighted sum of its metrics; where a pool can power down, every number of awake replicas between
"just enough" and "all" is tried, and the cheapest counts. To keep too few awake is not tried, be it that the others are
then filled beyond their limit or that those who wait wake the last replica: on small fleets that can be cheaper by a
percent, and the bound does not cover it.
Requests beyond the limit of their pool cost as well: the same penalty that every planner pays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.policy.oracle.allocation import Costs, divide, lower_bound
from marlin.policy.site_costs import cheapest_awake
from marlin.policy.trials import Objective
from marlin.simulator.fluid import capacity_rps
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


@dataclass(frozen=True, slots=True)
class Optimum:
    """What every site gets."""

    rate_rps: FloatArray  # (V, D)
    awake: FloatArray  # (V, D)
    cost: float
    """In units of the objective; energy that no plan changes is not in it."""


def optimum(twin: TwinState, objective: Objective, demand: FloatArray | None = None) -> Optimum:
    """The cheapest rates and awake replicas that carry ``demand`` (V,) requests per second; default: the twin's own."""
    wanted = demand_rps(twin) if demand is None else demand
    limits = limits_rps(twin)
    rates, awake, cost = np.zeros_like(limits), np.zeros_like(limits), 0.0
    for v in range(len(limits)):
        found = divide(_costs(twin, objective, v), float(wanted[v]), limits[v])
        rates[v] = found.amounts
        awake[v] = cheapest_awake(twin, objective, v, found.amounts[:, None])[1][:, 0]
        cost += found.cost
    return Optimum(rates, awake, cost)


def bound(twin: TwinState, objective: Objective, demand: FloatArray | None = None) -> float:
    """A cost that no rates and awake replicas for ``demand`` (V,) undercut; comparable with ``Optimum.cost``."""
    wanted = demand_rps(twin) if demand is None else demand
    return sum(
        lower_bound(_costs(twin, objective, v), float(wanted[v]), limit) for v, limit in enumerate(limits_rps(twin))
    )


def site_costs(twin: TwinState, objective: Objective, model: int, rates: FloatArray) -> FloatArray:
    """Costs (D, N) of rates (D, N) of a model at each site, with the awake replicas that make them cheapest."""
    return cheapest_awake(twin, objective, model, rates)[0]


def demand_rps(twin: TwinState) -> FloatArray:
    """(V,) requests per second to be served, those that wait included."""
    return np.asarray((twin.arriving + twin.backlog_requests.sum(axis=1)) / twin.epoch_s)


def limits_rps(twin: TwinState) -> FloatArray:
    """(V, D) requests per second each site may get."""
    return np.asarray(twin.allowed * capacity_rps(twin) * twin.max_utilization)


def _costs(twin: TwinState, objective: Objective, model: int) -> Costs:
    return lambda rates: site_costs(twin, objective, model, rates)

"""The fluid engine: what a plan does to a whole fleet in one epoch, for many plans and epochs at once.

Requests are a flow here, not individuals: each (model, site) gets a rate, the rate a utilisation, and the curves of its
replicas (``load_curves``) give time and power at it; equations (5) to (10) give the rest. ``simulate`` evaluates plans,
``step`` also carries queue and awake replicas into the next epoch, ``estimate`` is what a planner asks about one plan.

Two forms of the same formulas, held equal by a test: ``numpy_form`` for operator, demo and ``marlin plan``,
``numba_form`` for training and experiments. The sibling that follows every request is ``request_level``.
"""

from marlin.simulator.fluid.engine import (
    Form,
    awake_for,
    capacity_rps,
    estimate,
    per_request,
    plans_of,
    simulate,
    simulate_each,
    simulate_epochs,
    simulate_plan,
    stacked,
    step,
    totals_by_model,
)
from marlin.simulator.fluid.marginal import EnergyByLoad, energy_by_load, joules_per_token, marginal_metrics
from marlin.simulator.fluid.outcome import FluidResult, Plans
from marlin.simulator.fluid.quantiles import ttft_quantiles
from marlin.simulator.fluid.site_outcomes import SiteOutcomes, awake_carrying, site_outcomes

__all__ = [
    "EnergyByLoad",
    "FluidResult",
    "Form",
    "Plans",
    "SiteOutcomes",
    "awake_carrying",
    "awake_for",
    "capacity_rps",
    "energy_by_load",
    "estimate",
    "joules_per_token",
    "marginal_metrics",
    "per_request",
    "plans_of",
    "simulate",
    "simulate_each",
    "simulate_epochs",
    "simulate_plan",
    "site_outcomes",
    "stacked",
    "step",
    "totals_by_model",
    "ttft_quantiles",
]

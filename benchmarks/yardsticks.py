"""The yardsticks on recorded days: the best simple policy and what oracles add.

    python benchmarks/yardsticks.py DATA --load mean56 --scheme balanced --dispatch ordered

DATA is the folder of full data. The static order is learnt on days of 0 to 27, the best simple policy is chosen on days
of 28 to 34 with signals from 1 October, and the table is of days of 35 to 41 with signals from 16 November; nothing is
chosen on those. Values are weighted sums of the metrics over capacity-proportional's, which is 1, and late requests.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from marlin.api.plan import Dispatch, PlannerKind
from marlin.api.pool import PowerDown
from marlin.policy.forecasting.studying import predicted
from marlin.policy.objective import scheme_weights
from marlin.policy.oracle.planner import Oracle
from marlin.policy.planners import make_planner, scheme_of
from marlin.policy.sensitivity import with_power_down
from marlin.policy.yardsticks import best_simple_policy, captured_saving, clairvoyant, recovered_share, scored
from marlin.simulator.engines import FluidEngine
from marlin.simulator.experiment import Study
from marlin.simulator.fleet import Builder
from marlin.simulator.fluid import Form
from marlin.simulator.hourly_signals import hourly_signals
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.signals import SignalOptions
from marlin.simulator.workload.burstgpt import aggregates_from


def main(arguments: list[str]) -> int:
    """Prints the table, a row for each planner; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--fleet", default="paper-8")
    parser.add_argument("--load", default="mean56")
    parser.add_argument("--scheme", default="balanced")
    parser.add_argument("--dispatch", default="ordered", choices=["ordered", "shares"])
    parser.add_argument("--power-down", default="None")
    parser.add_argument("--days", type=int, default=1, help="days to learn, to choose and to report on, each")
    options = parser.parse_args(arguments)
    scheme, dispatch = scheme_of(options.scheme), Dispatch(options.dispatch.capitalize())
    train, tune, report = studies(options)
    engine = FluidEngine(Form.NUMBA)
    best = best_simple_policy(train, tune, scheme, dispatch, engine)
    weights = scheme_weights(scheme)
    candidates = {
        "best simple policy": best.planner,
        "capacity-proportional": make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES),
        "merit order": make_planner(PlannerKind.MERIT_ORDER, scheme=scheme, dispatch=dispatch),
        "forecast-limited oracle": Oracle(scheme, dispatch, weights),
    }
    found = {one.name: one for one in scored(report, candidates.items(), weights, engine)}
    bound = clairvoyant(report, scheme, engine)
    print(f"{options.fleet} {options.load} {options.scheme} {options.dispatch} power-down {options.power_down}")
    print(f"  best simple policy on the tuning days: {best.name} ({best.value:.4f} there)")
    for name, one in (*found.items(), (bound.name, bound)):
        print(
            f"  {name:23} {one.value:.4f}  captured {captured_saving(one.value, bound.value):7.1%}  recovered "
            f"{recovered_share(one.value, found['best simple policy'].value, bound.value):7.1%}  "
            f"served {one.summary.served_share:.3%}  late {one.summary.late_share:.3%}  "
            f"forecast error {one.summary.forecast_error:.0%}",
            flush=True,
        )
    return 0


def studies(options: argparse.Namespace) -> tuple[Study, Study, Study]:
    """The days to learn, to choose and to report on."""
    builder = Builder(scenario_documents(options.fleet), hourly_signals(options.data, SignalOptions()))
    base = Study(
        builder, days=options.days, load=options.load, trace=aggregates_from(options.data), forecaster=predicted
    )
    if options.power_down != "None":
        base = with_power_down(base, PowerDown(options.power_down))
    return (
        replace(base, first_day=20, first_date=datetime(2023, 6, 12, tzinfo=UTC)),
        replace(base, first_day=29, first_date=datetime(2023, 10, 2, tzinfo=UTC)),
        replace(base, first_day=36, first_date=datetime(2023, 11, 16, tzinfo=UTC)),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

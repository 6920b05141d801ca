"""How much each constant of the twin matters: every one swept over its range, all else as it is.

For each constant, at the low and the high end: what capacity-proportional routing then costs in each metric, and what
merit order then saves over it in carbon, water and cost, each under the scheme that minimises it. A saving that hangs
on an assumption is seen here. ``python -m marlin.policy.sensitivity`` prints the table of the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from marlin.api.documents import load_documents
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import PlannerKind, Scheme
from marlin.api.pool import PowerDown
from marlin.api.state import FleetState
from marlin.policy.deciding import AWAKE_UTILIZATION
from marlin.policy.planner import Planner
from marlin.policy.planners import make_planner
from marlin.simulator.constants import CONSTANTS, SWEPT, Balancer, Constant, Reading, Settings
from marlin.simulator.engines import FluidEngine
from marlin.simulator.experiment import Study, run, summarise
from marlin.simulator.fleet import Builder
from marlin.simulator.fluid import Form
from marlin.simulator.scenario import scenario_documents

SAVED: Final = {"carbon_gco2": Scheme.MIN_CARBON, "water_l": Scheme.MIN_WATER, "cost_usd": Scheme.MIN_COST}
"""Metric to the scheme whose saving is shown."""

Adjust = Callable[[FleetState], FleetState]


@dataclass(frozen=True, slots=True)
class Effect:
    """One constant at one end of its range."""

    constant: str
    value: float
    metrics: tuple[float, ...]
    """(4,) capacity-proportional's, in the order of METRIC_NAMES."""
    savings: tuple[float, ...]
    """(3,) of merit order in carbon, water and cost, as parts of capacity-proportional's."""
    served_share: float
    """The least that any of the planners served."""


def effects(study: Study, names: Sequence[str] = tuple(CONSTANTS), form: Form = Form.NUMPY) -> Iterator[Effect]:
    """The base case first (its constant is empty), then both ends of each constant that can be swept.

    Args:
        study: fleet, days and load.
        names: which constants.
        form: of the fluid engine.
    """
    yield _effect(study, "", 0.0, form)
    for name in names:
        known = CONSTANTS[name]
        for value in (known.low, known.high):
            swept = at(study, known, value)
            if swept is not None:
                yield _effect(swept, name, value, form)
            elif name == "awake_utilization":  # the planners' own, not the fleet's
                yield _effect(study, name, value, form, awake_utilization=value)


def at(study: Study, constant: Constant, value: float) -> Study | None:
    """The study with one constant at another value; none where the constant has no part in it."""
    if constant.name in SWEPT:
        changed: dict[str, Any] = {constant.name: value}
        return replace(study, settings=replace(study.settings, **changed))
    change = _IN_THE_STATE.get(constant.name)
    if change is None:
        return None

    def adjust(state: FleetState) -> FleetState:
        return change(state if study.adjust is None else study.adjust(state), constant.value, value)

    return replace(study, adjust=adjust)


def with_power_down(study: Study, power_down: PowerDown) -> Study:
    """The same study with every pool able to do this when it has no work."""

    def adjust(state: FleetState) -> FleetState:
        state = state if study.adjust is None else study.adjust(state)
        return state.model_copy(
            update={"pools": tuple(pool.model_copy(update={"power_down": power_down}) for pool in state.pools)}
        )

    return replace(study, adjust=adjust)


def _effect(
    study: Study, name: str, value: float, form: Form, *, awake_utilization: float = AWAKE_UTILIZATION
) -> Effect:
    def one(kind: PlannerKind, scheme: Scheme) -> tuple[tuple[float, ...], float]:
        return _run(study, make_planner(kind, scheme=scheme, awake_utilization=awake_utilization), form)

    base, served = one(PlannerKind.CAPACITY_PROPORTIONAL, Scheme.BALANCED)
    savings, least = [], served
    for metric, scheme in SAVED.items():
        planned, planned_served = one(PlannerKind.MERIT_ORDER, scheme)
        i = METRIC_NAMES.index(metric)
        savings.append(1.0 - planned[i] / base[i])
        least = min(least, planned_served)
    return Effect(name, value, base, tuple(savings), least)


def _run(study: Study, planner: Planner, form: Form) -> tuple[tuple[float, ...], float]:
    summary = summarise(list(run(study, lambda state: planner.decide(state).plan, FluidEngine(form))))
    return (summary.ttft_s, summary.carbon_gco2, summary.water_l, summary.cost_usd), summary.served_share


def _sites(state: FleetState, **changes: Callable[[Any], Any]) -> FleetState:
    sites = tuple(
        site.model_copy(update={name: change(getattr(site, name)) for name, change in changes.items()})
        for site in state.datacenters
    )
    return state.model_copy(update={"datacenters": sites})


def _network(state: FleetState, change: Callable[[float], float]) -> FleetState:
    return state.model_copy(update={"rtt_ms": tuple(tuple(change(rtt) for rtt in row) for row in state.rtt_ms)})


def _same_zone(state: FleetState, change: Callable[[float], float]) -> FleetState:
    """Other round trips between an origin and the site in the same zone; built-in fleets name both after it."""
    sites = [site.name for site in state.datacenters]
    rows = tuple(
        tuple(change(rtt) if site == origin else rtt for site, rtt in zip(sites, row, strict=True))
        for origin, row in zip(state.origins, state.rtt_ms, strict=True)
    )
    return state.model_copy(update={"rtt_ms": rows})


_IN_THE_STATE: Final[dict[str, Callable[[FleetState, float, float], FleetState]]] = {
    "infrastructure_overhead": lambda state, old, new: _sites(state, infrastructure_overhead=lambda _: new),
    "cycles_of_concentration": lambda state, old, new: _sites(state, cycles_of_concentration=lambda _: new),
    "price_adder_usd_per_kwh": lambda state, old, new: _sites(state, price_usd_per_kwh=lambda p: p + new - old),
    "default_pue": lambda state, old, new: _sites(state, pue=lambda _: new, cooling_cop=lambda _: None),
    "same_zone_rtt_ms": lambda state, old, new: _same_zone(state, lambda rtt: rtt + new - old),
    "last_mile_rtt_ms": lambda state, old, new: _network(state, lambda rtt: rtt + new - old),
    "max_utilization": lambda state, old, new: state.model_copy(update={"max_utilization": new}),
}
"""Constants that a fleet's state carries: how to put another value (new) in the place of the table's (old)."""


def table(rows: Sequence[Effect]) -> str:
    """Markdown: each end of each constant against the base case, which is the first of ``rows``."""
    base = rows[0]
    lines = [
        "| constant | at | TTFT | carbon | water | cost | saves carbon | saves water | saves cost | served |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| (as it is) | | "
        + " | ".join(f"{value:.4g}" for value in base.metrics)
        + " | "
        + " | ".join(f"{saving:.1%}" for saving in base.savings)
        + f" | {base.served_share:.2%} |",
    ]
    for row in rows[1:]:
        changes = " | ".join(f"{new / old - 1:+.1%}" for new, old in zip(row.metrics, base.metrics, strict=True))
        savings = " | ".join(f"{saving:.1%}" for saving in row.savings)
        mark = " (assumed)" if CONSTANTS[row.constant].is_assumption else ""
        value = f"{row.value:g} {CONSTANTS[row.constant].unit.removesuffix('1')}".rstrip()
        lines.append(f"| {row.constant}{mark} | {value} | {changes} | {savings} | {row.served_share:.2%} |")
    return "\n".join(lines)


@click.command()
@click.option("--scenario", default="paper-8", show_default=True, help="A built-in fleet.")
@click.option("--fleet", metavar="FILE", help="Datacenter and InferencePool documents instead of a built-in fleet.")
@click.option("--load", default="peak95", show_default=True, help="How the day is scaled to the fleet.")
@click.option(
    "--power-down",
    type=click.Choice([p.value for p in PowerDown]),
    default=PowerDown.NONE.value,
    show_default=True,
    help="What idle replicas can do.",
)
@click.option(
    "--balancer",
    type=click.Choice([b.value for b in Balancer]),
    default=Balancer.SPREAD.value,
    show_default=True,
    help="How a site spreads requests over replicas.",
)
@click.option(
    "--blowdown",
    type=click.Choice([r.value for r in Reading]),
    default=Reading.OURS.value,
    show_default=True,
    help="Which reading of the cooling water's blowdown.",
)
@click.option("--only", multiple=True, type=click.Choice(list(CONSTANTS)), help="This constant; may be repeated.")
def main(
    scenario: str, fleet: str | None, load: str, power_down: str, balancer: str, blowdown: str, only: tuple[str, ...]
) -> None:
    """Sweep each constant of the twin over its range and print what it changes, as Markdown.

    \b
    Example:
      python -m marlin.policy.sensitivity --scenario 8x12 --load mean56 --only idle_accelerator_w
    """  # noqa: D301 the backslash is click's mark for a block to keep
    settings = Settings(balancer=Balancer(balancer), blowdown=Reading(blowdown))
    documents = scenario_documents(scenario) if fleet is None else load_documents(Path(fleet).read_text("utf-8"), fleet)
    study = Study(Builder(documents), load=load, settings=settings)
    study = with_power_down(study, PowerDown(power_down))
    rows = []
    for row in effects(study, only or tuple(CONSTANTS)):
        rows.append(row)
        click.echo(f"{row.constant or 'base'} {row.value:g}", err=True)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()

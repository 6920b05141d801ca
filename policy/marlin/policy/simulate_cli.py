"""``marlin simulate``: a planner in the digital twin, over days."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from marlin.simulator.experiment import Epoch, Summary

# Everything that needs NumPy or pydantic is imported inside the functions, so that --help answers at once.


@click.command()
@click.option("--scenario", default=None, help="A built-in fleet, e.g. paper-8 or 8x12. Default: paper-8.")
@click.option(
    "--fleet", "fleet_file", type=click.Path(path_type=Path), help="File of Datacenter and InferencePool documents."
)
@click.option("--planner", default="capacity-proportional", show_default=True, help="The planner.")
@click.option("--scheme", default="balanced", show_default=True, help="What it leans towards.")
@click.option("--dispatch", type=click.Choice(["ordered", "shares"]), default="ordered", show_default=True)
@click.option("--load", default="peak95", show_default=True, help="peak95, mean30, mean56 or mean80.")
@click.option("--days", default=1, show_default=True, type=click.IntRange(1, 365), help="Days of the trace.")
@click.option("--first-day", default=0, show_default=True, type=click.IntRange(min=0), help="Day to begin with.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of full data: every day of BurstGPT, and signals hour by hour. Default: the shipped tables.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the workload.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="CSV with a row per epoch and datacenter.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def simulate(  # noqa: PLR0913, PLR0917 each is an option, and click passes them by name
    scenario: str | None,
    fleet_file: Path | None,
    planner: str,
    scheme: str,
    dispatch: str,
    load: str,
    days: int,
    first_day: int,
    data: Path | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a planner in the digital twin.

    Replays BurstGPT days, scaled to the fleet, in epochs of 15 minutes: each plan is made from a forecast and carried
    out on the arrivals that really come. Prints time to first token, carbon, water and cost, and the share of requests
    that were served.

    \b
    Examples:
      marlin simulate --planner capacity-proportional
      marlin simulate --scenario paper-8 --planner merit-order --scheme min-carbon --days 6
      marlin simulate --fleet fleet.yaml --planner nearest --dispatch shares --out day.csv
      marlin simulate --scenario 8x12 --load mean56 --json
      marlin simulate --data full-data --first-day 28 --days 7
    """  # noqa: D301 the backslash is click's mark for a block to keep
    if scenario and fleet_file:
        raise click.UsageError("give either --scenario or --fleet")
    from marlin.api.documents import load_documents  # noqa: PLC0415
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.api.plan import Dispatch  # noqa: PLC0415
    from marlin.policy.planners import make_planner, planner_kind, scheme_of  # noqa: PLC0415
    from marlin.simulator.experiment import Study, run, summarise  # noqa: PLC0415
    from marlin.simulator.fleet import Builder  # noqa: PLC0415
    from marlin.simulator.hourly_signals import hourly_signals  # noqa: PLC0415
    from marlin.simulator.scenario import scenario_documents  # noqa: PLC0415
    from marlin.simulator.signals import zone_signals  # noqa: PLC0415
    from marlin.simulator.workload.burstgpt import aggregates_from  # noqa: PLC0415

    if fleet_file is None:
        documents = scenario_documents(scenario or "paper-8")
    else:
        try:
            documents = load_documents(fleet_file.read_text(encoding="utf-8"), str(fleet_file))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{fleet_file}: cannot be read: {error}") from error
    builder = Builder(documents, zone_signals if data is None else hourly_signals(data))
    trace = None if data is None else aggregates_from(data)
    maker = make_planner(planner_kind(planner), scheme=scheme_of(scheme), dispatch=Dispatch(dispatch.capitalize()))
    study = Study(builder, days=days, first_day=first_day, load=load, seed=seed, trace=trace)
    steps = run(study, lambda state: maker.decide(state).plan)
    epochs = _with_progress(steps, days * 96)
    for warning in builder.warnings:
        click.echo(f"warning: {warning}", err=True)
    if out is not None:
        _write(out, epochs)
    summary = summarise(epochs)
    if as_json:
        json.dump(asdict(summary) | {"planner": planner, "load": load, "days": days, "seed": seed}, sys.stdout)
        click.echo()
        return
    _print(summary, f"{planner}, {load}, {days} day{'s' if days > 1 else ''}")


def _with_progress(steps: object, total: int) -> list[Epoch]:
    """Collects the epochs; a bar on a terminal, a line per simulated day otherwise."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_terminal:
        return list(track(steps, total=total, description="simulating", console=console))  # type: ignore[arg-type]
    epochs: list[Epoch] = []
    for epoch in steps:  # type: ignore[attr-defined]
        epochs.append(epoch)
        if len(epochs) % 96 == 0:
            click.echo(f"simulated day {len(epochs) // 96} of {total // 96}", err=True)
    return epochs


def _write(out: Path, epochs: list[Epoch]) -> None:
    from marlin.api.errors import MarlinError  # noqa: PLC0415

    try:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["start_time", "datacenter", "served", "energy_kwh", "carbon_gco2", "water_l", "cost_usd"])
            for epoch in epochs:
                result = epoch.outcome
                for d, name in enumerate(epoch.plan.datacenters):
                    arrays = (result.energy_kwh, result.carbon_gco2, result.water_l, result.cost_usd)
                    writer.writerow(
                        [epoch.start_time.isoformat(), name, round(float(result.served[:, d].sum()), 3)]
                        + [f"{float(array[d]):.6g}" for array in arrays]
                    )
    except OSError as error:
        raise MarlinError(f"{out}: cannot be written: {error.strerror}") from error


def _print(summary: Summary, title: str) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("time to first token, mean, s", f"{summary.ttft_s:.3f}"),
        ("carbon, kgCO2", f"{summary.carbon_gco2 / 1000:,.1f}"),
        ("water, L", f"{summary.water_l:,.0f}"),
        ("cost, USD", f"{summary.cost_usd:,.2f}"),
        ("requests", f"{summary.requests:,.0f}"),
        ("served", f"{summary.served_share:.2%}"),
        ("forecast error", f"{summary.forecast_error:.0%}"),
    ):
        table.add_row(name, value)
    Console().print(table)

"""What ``marlin simulate`` shows: progress while it runs, and what it amounted to.

Progress goes to standard error, so that standard output holds the result alone. A saving is never shown without the
share of the requests that was served, because the easiest way to save is not to serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from marlin.api.metrics import METRIC_NAMES
from marlin.policy.planners import FILLED_IN_TURN, planner_kind
from marlin.policy.simulating import Experiment, Watch
from marlin.simulator.experiment import EPOCHS_PER_DAY, Epoch, Summary, Tally
from marlin.simulator.scenario_file import DEFAULT_BASE


def _number(form: str) -> Callable[[float], str]:
    return lambda value: f"{value:{form}}"


def _whole_only_if_whole(share: float) -> str:
    """A share in percent, cut instead of rounded: 100.000% is said only where nobody was left out."""
    return f"{math.floor(share * 1e5 + 1e-7) / 1e5:.3%}"


_Row = tuple[str, Callable[[Summary], float], Callable[[float], str]]
_COMPARED: Final[tuple[_Row, ...]] = (
    ("TTFT mean, s", lambda s: s.ttft_s, _number(".3f")),
    ("TTFT p50, s", lambda s: s.ttft_p50_s, _number(".3f")),
    ("TTFT p95, s", lambda s: s.ttft_p95_s, _number(".3f")),
    ("TTFT p99, s", lambda s: s.ttft_p99_s, _number(".3f")),
    ("carbon, kgCO2eq", lambda s: s.carbon_gco2 / 1000, _number(",.1f")),
    ("water, L", lambda s: s.water_l, _number(",.0f")),
    ("cost, USD", lambda s: s.cost_usd, _number(",.2f")),
    ("energy, kWh", lambda s: s.energy_kwh, _number(",.0f")),
)
_STATED: Final[tuple[_Row, ...]] = (
    ("requests", lambda s: s.requests, _number(",.0f")),
    ("served", lambda s: s.served_share, _whole_only_if_whole),
    ("rejected", lambda s: s.rejected, _number(",.0f")),
    ("too late", lambda s: s.late_share, _number(".3%")),
    ("replicas awake", lambda s: s.awake_share, _number(".1%")),
    ("forecast error", lambda s: s.forecast_error, _number(".0%")),
)


@contextmanager
def progress(what: str, epochs: int, *, quiet: bool) -> Iterator[list[Watch]]:
    """Watchers that show how far a run is: a bar on a terminal, a line per simulated day otherwise."""
    console = Console(stderr=True)
    if quiet:
        yield []
    elif not console.is_terminal:
        yield [lambda epoch, tally: _day_line(console, what, epoch, tally)]
    else:
        columns = (
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            # What does not fit a narrow terminal is cut off here, instead of squeezing the bar.
            TextColumn("{task.fields[now]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        with Progress(*columns, console=console, transient=True, expand=True) as bar:
            task = bar.add_task(what, total=epochs, now="")

            def show(epoch: Epoch, tally: Tally) -> None:
                bar.update(task, completed=tally.epochs, now=f"{epoch.start_time:%Y-%m-%d %H:%M}  {_running(tally)}")

            yield [show]


def _day_line(console: Console, what: str, epoch: Epoch, tally: Tally) -> None:
    if not epoch.is_run_out and tally.epochs % EPOCHS_PER_DAY == 0:
        day = tally.epochs // EPOCHS_PER_DAY
        console.print(
            f"{what}, day {day}, {epoch.start_time:%Y-%m-%d}: {_running(tally)}", highlight=False, soft_wrap=True
        )


def _running(tally: Tally) -> str:
    s = tally.summary()
    return (
        f"TTFT {s.ttft_s:.3f} s, {s.carbon_gco2 / 1000:,.0f} kgCO2eq, {s.water_l:,.0f} L, {s.cost_usd:,.0f} USD, "
        f"{s.served_share:.2%} served"
    )


def identity(experiment: Experiment) -> dict[str, str]:
    """What an experiment was, for the metadata of a file."""
    return {
        "marlin.version": version("marlin"),
        "marlin.scenario": experiment.scenario.model_dump_json(by_alias=True, exclude_none=True),
        "marlin.scenario_sha256": experiment.sha256(),
        "marlin.seed": str(experiment.scenario.seed),
        "marlin.planner": experiment.scenario.planner,
    }


def as_json(experiment: Experiment, summary: Summary, against: Summary | None) -> dict[str, Any]:
    """Everything, for a script. ``change`` is relative: -0.2 is a fifth less than the baseline."""
    scenario = experiment.scenario
    found: dict[str, Any] = asdict(summary)
    found |= {name: getattr(scenario, name) for name in ("planner", "scheme", "load", "days", "seed", "engine", "form")}
    found |= {"dispatch": experiment.dispatch.value.lower(), "version": version("marlin")}
    found |= {"scenario": scenario.to_document(), "scenario_sha256": experiment.sha256()}
    found |= {"bad_rows": experiment.bad_rows, "notes": experiment.notes()}
    if against is not None:
        found["baseline"] = asdict(against)
        found["change"] = changes(summary, against)
    return found


def changes(summary: Summary, against: Summary) -> Mapping[str, float | None]:
    """Relative change of the four metrics and the energy; None where the baseline is not positive."""
    ours, theirs = asdict(summary), asdict(against)
    return {
        name: ours[name] / theirs[name] - 1.0 if theirs[name] > 0 else None for name in (*METRIC_NAMES, "energy_kwh")
    }


def heading(experiment: Experiment) -> str:
    """What was simulated, in a line."""
    scenario = experiment.scenario
    leaning = scenario.scheme if scenario.weights is None else scenario.weights
    scheme = f" {leaning}" if planner_kind(scenario.planner) in FILLED_IN_TURN else ""
    days = f"{scenario.days} day{'s' if scenario.days > 1 else ''}"
    where = scenario.fleet or scenario.base or DEFAULT_BASE
    return f"{where}, {scenario.load}, {days}: {scenario.planner}{scheme}, {experiment.dispatch.value.lower()}"


def table(experiment: Experiment, summary: Summary, against: Summary | None) -> Table:
    """The summary, with capacity-proportional beside it where it was run."""
    drawn = Table(show_header=against is not None)
    drawn.add_column("")
    drawn.add_column(experiment.scenario.planner, justify="right")
    if against is not None:
        drawn.add_column("capacity-proportional", justify="right")
        drawn.add_column("difference", justify="right")
    for name, value_of, form in (*_COMPARED, *_STATED):
        cells = [form(value_of(summary))]
        if against is not None:
            cells.append(form(value_of(against)))
            is_compared = any(name == compared for compared, *_ in _COMPARED)
            cells.append(_percent(value_of(summary), value_of(against)) if is_compared else "")
        drawn.add_row(name, *cells)
    return drawn


def shown(drawn: Table) -> str:
    """A table as it goes to standard output, in colours on a terminal."""
    console = Console()
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()


def _percent(value: float, against: float) -> str:
    # With a negative price a ratio would say nothing, or the contrary.
    return f"{value / against - 1:+.1%}" if against > 0 else "no ratio"

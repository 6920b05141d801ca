"""``marlin simulate``: a planner in the digital twin, over days.

This module holds the options only. ``simulator.scenario_text`` reads a scenario file, ``simulator.scenario_file``
checks what it says together with the options, ``simulating`` runs the experiment, ``simulate_report`` shows it,
``simulator.results`` writes it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from marlin.policy.planner import Planner
    from marlin.policy.simulating import Watch
    from marlin.simulator.scenario_file import Scenario, Where

# Everything that needs NumPy or pydantic is imported inside the functions, so that --help answers at once.

_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "What is simulated": ("scenario", "fleet", "trace", "load", "days", "first_day", "first_date", "origins", "seed"),
    "Who plans": (
        *("planner", "scheme", "weights", "artifact", "best_of", "late_weight"),
        *("dispatch", "origin_aware", "forecast", "no_compare"),
    ),
    "What happens to the fleet": ("power_down", "balancer", "drain", "fail", "absent"),
    "How it is counted": ("carbon", "price", "data", "skip_bad_rows", "engine", "form", "settings"),
    "Where it goes": ("out", "detail", "plot", "history", "as_json", "quiet"),
}


def _print_schema(context: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        from marlin.simulator.scenario_file import scenario_schema  # noqa: PLC0415

        click.echo(scenario_schema(), nl=False)
        context.exit()


class _Grouped(click.Command):
    """A command whose help lists its options by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section for each group, and the rest under Options."""
        grouped = {name for names in _GROUPS.values() for name in names}
        rest = tuple(parameter.name or "" for parameter in self.get_params(ctx) if parameter.name not in grouped)
        by_name = {parameter.name: parameter for parameter in self.get_params(ctx)}
        for title, names in {**_GROUPS, "Options": rest}.items():
            records = [record for name in names if (record := by_name[name].get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(records)


@click.command(cls=_Grouped)
@click.option(
    "--scenario", metavar="NAME|FILE", help="A built-in fleet, or a scenario file (- reads it). Default: paper-8."
)
@click.option("--fleet", metavar="FILE", help="Datacenter and InferencePool documents instead of a built-in fleet.")
@click.option(
    "--trace",
    metavar="NAME|FILE",
    help="Whose arrivals, e.g. azure2024, a file, mmpp:burst_ratio=20. Default: burstgpt.",
)
@click.option("--load", metavar="LOAD", help="peak95, mean30, mean56 or mean80. Default: peak95.")
@click.option("--days", type=int, help="How many. Default: 1.")
@click.option("--first-day", type=int, help="Day of the trace to begin with. Default: 0.")
@click.option("--first-date", metavar="DATE", help="Date whose signals the first day gets. Default: 2023-06-12.")
@click.option(
    "--origins", metavar="HOW", help="uniform, or local-hour: more requests where it is day. Default: uniform."
)
@click.option("--seed", type=int, help="Of everything that is drawn. Default: 0.")
@click.option("--planner", metavar="NAME", help="The planner. Default: capacity-proportional.")
@click.option(
    "--scheme",
    metavar="NAME",
    help="What it leans towards: balanced, min-ttft, min-carbon, min-water or min-cost. Default: balanced.",
)
@click.option("--weights", metavar="WEIGHTS", help="Weights instead of a scheme, e.g. carbon=2,cost=1.")
@click.option(
    "--artifact", metavar="FOLDER", help="The trained policy, for marlin. Default: the one shipped with the package."
)
@click.option(
    "--best-of",
    type=int,
    metavar="N",
    help="For marlin: samples that are tried beside each agent's own proposal. Default: 8.",
)
@click.option(
    "--late-weight",
    type=float,
    metavar="WEIGHT",
    help="For marlin: what late requests cost beside the objective; more keeps more replicas awake. Default: 1.",
)
@click.option(
    "--dispatch",
    metavar="HOW",
    help="ordered: one site filled after the other; or shares. "
    "Default: ordered for marlin, merit-order and oracle, else shares.",
)
@click.option(
    "--origin-aware", is_flag=True, help="Plans also say where each origin's requests go; needs --dispatch shares."
)
@click.option(
    "--forecast",
    metavar="HOW",
    help="What plans are made from: smoothed, predictor, or perfect: the arrivals that will come. Default: smoothed.",
)
@click.option("--no-compare", is_flag=True, help="Do not run capacity-proportional beside it.")
@click.option(
    "--power-down",
    metavar="HOW",
    help="What idle replicas of all pools can do: None, IdlePState, Sleep or "
    "ScaleToZero. Default: what each pool says.",
)
@click.option(
    "--balancer", metavar="HOW", help="How a site spreads requests over replicas: spread or pack. Default: spread."
)
@click.option(
    "--drain",
    multiple=True,
    metavar="SITE[@EPOCHS]",
    help="A site that gets nothing, all the time or e.g. sg@8-20; planners know. May be repeated.",
)
@click.option(
    "--fail",
    multiple=True,
    metavar="SITE[@EPOCHS]",
    help="A site that fails: the first epoch's plan still counts on it. May be repeated.",
)
@click.option(
    "--absent",
    multiple=True,
    metavar="SITE[@EPOCHS]",
    help="A site that is not there: sg@0-47 joins in epoch 48. May be repeated.",
)
@click.option("--carbon", metavar="HOW", help="direct: at the power plant; or lifecycle. Default: direct.")
@click.option("--price", metavar="HOW", help="tariff or wholesale. Default: tariff.")
@click.option(
    "--data",
    metavar="FOLDER",
    help="Full data: every day of BurstGPT, signals hour by hour. Default: the shipped tables.",
)
@click.option("--skip-bad-rows", is_flag=True, help="Leave bad rows of data files out, and count them.")
@click.option(
    "--engine", metavar="NAME", help="fluid, or request-level: each request followed, for small fleets. Default: fluid."
)
@click.option("--form", metavar="NAME", help="Of the fluid engine: numpy, or numba for months. Default: numpy.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A constant of the twin, e.g. patience_s=30. May be repeated.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="A row per epoch and datacenter: .parquet or .csv."
)
@click.option("--detail", is_flag=True, help="Beside --out also a row per epoch, per pool, per pool and datacenter.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Figures: arrivals, costs over time, sites, savings by power-down (which runs those too).",
)
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The epochs as marlin adapt reads them, one a line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON schema of scenario files, for an editor.",
)
def simulate(
    out: Path | None,
    plot: Path | None,
    history: Path | None,
    *,
    detail: bool,
    as_json: bool,
    quiet: bool,
    no_compare: bool,
    **given: Any,
) -> None:
    """Run a planner in the digital twin.

    Replays days of a trace, scaled to the fleet, in epochs of 15 minutes: each plan is made from a forecast and carried
    out on the arrivals that really come. Prints time to first token, carbon, water, cost and the share of requests
    that were served, with capacity-proportional routing of the same requests beside them. Options change what a
    scenario file says.

    \b
    Examples:
      marlin simulate --planner merit-order --scheme min-carbon
      marlin simulate --planner marlin --weights carbon=2,cost=1 --forecast predictor
      marlin simulate --scenario paper-8 --planner merit-order --days 6 --out run.parquet
      marlin simulate --scenario 8x12 --load mean56 --power-down Sleep --set patience_s=30 --json
      marlin simulate --fleet fleet.yaml --planner merit-order --drain sg --fail gb@40-56
      marlin simulate --scenario my-study.yaml --seed 1 --out run.csv --detail --plot figures
      marlin simulate --data full-data --first-day 28 --days 7
    """  # noqa: D301 the backslash is click's mark for a block to keep
    if detail and out is None:
        raise click.UsageError("--detail needs --out: its tables lie beside that file")
    from marlin.policy.figures import FigureFolder, Recording  # noqa: PLC0415
    from marlin.policy.history import Recorder  # noqa: PLC0415
    from marlin.policy.simulate_plot import Ran  # noqa: PLC0415
    from marlin.policy.simulate_plot import plot as write_figures  # noqa: PLC0415
    from marlin.policy.simulate_report import as_json as summary_json  # noqa: PLC0415
    from marlin.policy.simulate_report import heading, identity, progress, shown, table  # noqa: PLC0415
    from marlin.policy.simulating import prepare  # noqa: PLC0415
    from marlin.simulator.results import ResultsWriter  # noqa: PLC0415

    scenario, where = scenario_of(given | ({"compare": False} if no_compare else {}))
    experiment = prepare(scenario, where)
    if (forewarning := experiment.forewarning()) is not None:
        click.echo(f"warning: {forewarning}", err=True)
    click.get_current_context().with_resource(_ended_in_order())
    figures = None if plot is None else FigureFolder(plot)
    writer = None if out is None else ResultsWriter(out, identity(experiment), detail=detail)

    def watched(name: str) -> AbstractContextManager[list[Watch]]:
        return progress(name, experiment.study.epochs, quiet=quiet)

    def run(planner: Planner, name: str, *also: Watch) -> Ran:
        recording = Recording()
        with watched(name) as watch:
            recorded = [recording] if figures is not None else []
            return Ran(recording, experiment.run(planner, [*watch, *recorded, *also]))

    planner: Planner = experiment.planner
    also: list[Watch] = []
    if history is not None:
        recorder = Recorder(planner, history)
        planner, also = recorder, [recorder.watch]
    if writer is None:
        ran = run(planner, scenario.planner, *also)
    else:
        with writer:
            ran = run(planner, scenario.planner, lambda epoch, tally: writer.add(epoch), *also)
    against = None if experiment.baseline is None else run(experiment.baseline, "capacity-proportional")
    files = [*([] if writer is None else writer.files), *([] if history is None else [history])]
    if figures is not None:
        files += write_figures(experiment, ran, against, figures, watched)
    for note in experiment.notes():
        click.echo(f"warning: {note}", err=True)
    beside = None if against is None else against.summary
    if as_json:
        click.echo(json.dumps(summary_json(experiment, ran.summary, beside)))
        return
    click.echo(heading(experiment))
    click.echo(shown(table(experiment, ran.summary, beside)), nl=False)
    if files:
        click.echo(f"wrote {', '.join(map(str, files))}")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A job that is told to end (SIGTERM) ends as on Ctrl-C: no half-written files stay behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def scenario_of(given: Mapping[str, Any]) -> tuple[Scenario, Where]:
    """What the options say, over what a scenario file says; and which of them said it, for messages."""
    from pydantic.alias_generators import to_camel  # noqa: PLC0415

    from marlin.simulator.scenario_file import checked  # noqa: PLC0415

    written = {to_camel(name): value for name, value in given.items() if _is_given(name, value)}
    named = written.pop("scenario", None)
    in_file: dict[str, Any] = {}
    in_file_where: Where = lambda location: str(location[0])  # noqa: E731 replaced where there is a file
    if named is not None and _is_file(named):
        in_file, in_file_where = _read(named)
    elif named is not None and "fleet" in written:
        raise click.UsageError("give either --scenario or --fleet")
    elif named is not None:
        written["base"] = named
    if "fleet" in written:
        in_file.pop("base", None)
    if "settings" in written:
        written["settings"] = in_file.get("settings", {}) | _settings(written["settings"])

    def where(location: tuple[int | str, ...]) -> str:
        key = str(location[0])
        if key not in written:
            return in_file_where(location)
        if key == "settings":
            return " ".join(["--set", *map(str, location[1:])])
        return {"base": "--scenario"}.get(key, "--" + "".join(f"-{c.lower()}" if c.isupper() else c for c in key))

    return checked(in_file | written, where), where


def _is_given(name: str, value: object) -> bool:
    """Whether an option was written: a number may be 0, but a switch that is off says nothing."""
    return value is not None and value != () and (value is not False or name == "compare")


def _is_file(named: str) -> bool:
    return named == "-" or named.endswith((".yaml", ".yml", ".json")) or "/" in named


def _read(named: str) -> tuple[dict[str, Any], Where]:
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.simulator.scenario_text import load_scenario  # noqa: PLC0415

    if named == "-":
        return load_scenario(sys.stdin.read(), "standard input")
    try:
        text = Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{named}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return load_scenario(text, named)


def _settings(texts: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, e.g. patience_s=30", param_hint="--set")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> object:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text

"""``marlin train``: from scenarios to an artifact. Options only; ``training`` does the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from marlin.policy.artifact import Artifact
    from marlin.policy.training.job import Round, Watch

# Everything that needs NumPy, torch or pydantic is imported inside the functions, so that --help answers at once.

_REDUCED: Final = {
    "scenarios": ("8x120",),
    "load": "mean56",
    "dispatch": "ordered",
    "days": 30,
    "tune_days": 2,
    "random_fleets": 8,
    "rounds": 3,
}
"""What the shipped artifact was trained on and is judged by, with half the fleets and few rounds."""


def _reduced(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Changes the defaults of other options; what is given beside it still counts."""
    if is_asked:
        context.default_map = _REDUCED


@click.command()
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME|FILE",
    help="A built-in fleet, or a scenario file; several are trained on in turn. Default: paper-8.",
)
@click.option("--load", metavar="LOAD", help="peak95, mean30, mean56 or mean80. Default: what the scenario says.")
@click.option("--dispatch", type=click.Choice(["ordered", "shares"]), default="shares", show_default=True)
@click.option("--power-down", metavar="HOW", help="None, IdlePState, Sleep or ScaleToZero, for all pools.")
@click.option("--data", metavar="FOLDER", help="Full data: every day of BurstGPT, signals hour by hour.")
@click.option("--first-day", type=int, help="Day of the trace to begin with. Default: 0.")
@click.option("--days", type=click.IntRange(2), default=7, show_default=True, help="How many, tuning days included.")
@click.option("--tune-days", type=click.IntRange(1), default=2, show_default=True, help="The last so many judge.")
@click.option(
    "--random-fleets",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Learn on so many fleets drawn at random instead; the scenarios then only judge.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=40, show_default=True, help="Each is a day of some of the fleets."
)
@click.option(
    "--reduced",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_reduced,
    help="Short, for comparisons: other defaults, namely 3 rounds on 8 random fleets, judged by 8x120 at mean56, "
    "ordered, on days 28 and 29 of the full data. Give --data as well.",
)
@click.option("--lanes", type=click.IntRange(1), default=8, show_default=True, help="Days that are played at once.")
@click.option("--patience", type=click.IntRange(1), default=12, show_default=True, help="Rounds without progress.")
@click.option(
    "--network",
    type=click.Choice(["any-fleet", "flat"]),
    default="any-fleet",
    show_default=True,
    help="Networks that serve any fleet, or the paper's plain ones, which know the scenario's alone.",
)
@click.option(
    "--teacher",
    type=click.Choice(["groups", "critics", "both"]),
    default="groups",
    show_default=True,
    help="What actors follow: their own samples, compared in the twin; their critics, as in the paper; or both.",
)
@click.option("--conditioning", type=click.Choice(["film", "paper"]), default="film", show_default=True)
@click.option(
    "--critic-rate",
    type=click.FloatRange(0.0, min_open=True),
    default=3e-4,
    show_default=True,
    help="How fast critics learn. At the paper's 1e-3 a third of their units goes off for good.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Train so many times, from --seed on; FOLDER then holds seed-0, seed-1 and so on.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes, for several seeds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The artifact. Beside it, in FOLDER.training, lie checkpoint and log.",
)
@click.option(
    "--bound",
    is_flag=True,
    help="Also work out what the clairvoyant oracle saves on the tuning days, and show it beside; some minutes.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, with more rounds if you like.")
@click.option("--json", "as_json", is_flag=True, help="Print what the agents save as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train(
    out: Path, *, bound: bool, resume: bool, as_json: bool, quiet: bool, seeds: int, jobs: int, seed: int, **given: Any
) -> None:
    """Train MARLIN's agents in the digital twin.

    Agents begin as a sort (merit order) and learn what to do better. After every round they are judged, each alone and
    without chance, on days that are not trained on: what it saves of its own metric, and of all, against
    capacity-proportional routing. Of each agent the best round becomes the artifact. A training that is killed goes on
    with --resume, to the same end.

    \b
    Examples:
      marlin train --scenario 8x12 --load mean56 --out policy
      marlin train --scenario paper-4 --scenario paper-8 --data full-data --days 35 --tune-days 7 --out policy
      marlin train --scenario 8x12 --load mean56 --out policy --resume
      marlin train --scenario 8x12 --load mean56 --out policies --seeds 10 --jobs 2
      marlin train --random-fleets 24 --data full-data --days 35 --tune-days 7 --out any-fleet
      marlin train --reduced --data full-data --seeds 10 --jobs 2 --out reduced
    """  # noqa: D301 the backslash is click's mark for a block to keep
    from marlin.policy.networks.conditioning import Conditioning  # noqa: PLC0415
    from marlin.policy.training.job import Job  # noqa: PLC0415
    from marlin.policy.training.run import Teacher, TrainSettings  # noqa: PLC0415
    from marlin.policy.training.sac import SacSettings  # noqa: PLC0415
    from marlin.policy.training.seeds import folder_of, train_each  # noqa: PLC0415

    if given["tune_days"] >= given["days"]:
        raise click.UsageError("--tune-days must be fewer than --days: the others are trained on")
    settings = TrainSettings(
        rounds=given.pop("rounds"),
        lanes=given.pop("lanes"),
        patience=given.pop("patience"),
        conditioning=Conditioning(given.pop("conditioning")),
        is_flat=given.pop("network") == "flat",
        teacher=Teacher(given.pop("teacher")),
        sac=SacSettings(critic_rate=given.pop("critic_rate")),
    )
    if bound and seeds > 1:
        raise click.UsageError("--bound is for one seed: it is the same for all of them")
    job = Job.prepared(out, settings, seed, given, is_folder=seeds > 1)
    if seeds > 1:
        say_seed: Callable[[str], None] = (lambda _: None) if quiet else (lambda line: click.echo(line, err=True))
        trained = train_each(job, range(seed, seed + seeds), say_seed, jobs=jobs, resume=resume)
        made = {folder_of(out, which): artifact for which, artifact in trained.items()}
    else:
        with _watched(settings.rounds, quiet=quiet) as (say, watch):
            made = {out: job.run(say, resume=resume, watch=watch, bound=bound)}
    if as_json:
        rows = [
            {"artifact": str(folder), "seed": one.card.seed, "evaluation": list(one.card.evaluation)}
            for folder, one in made.items()
        ]
        click.echo(json.dumps({"artifacts": rows}))
        return
    _print(made)


def _print(made: Mapping[Path, Artifact]) -> None:
    """What each agent of each artifact saves on the days that judge, beside the sort it began as."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from marlin.api.metrics import METRIC_NAMES  # noqa: PLC0415
    from marlin.policy.objective import OPTION_NAMES  # noqa: PLC0415

    console, agents = Console(), dict(zip(METRIC_NAMES, OPTION_NAMES, strict=True))
    columns = {
        "saves of its own": "agent_saves",
        "as it began": "sort_saves",
        "saves of all": "agent_saves_balanced",
        "of all, as it began": "sort_saves_balanced",
    }
    for folder, artifact in made.items():
        judged = artifact.card.evaluation
        days = judged[0]["days"]
        table = Table(title=f"{folder.name}, judged on {days} day{'s' if days != 1 else ''}", title_justify="left")
        table.add_column("agent")
        for heading in columns:
            table.add_column(heading, justify="right")
        for row in judged:
            table.add_row(agents[row["metric"]], *(f"{row[name]:+.1%}" for name in columns.values()))
        console.print(table)
    folders = " ".join(f"--artifact {folder}" for folder in made)
    click.echo(f"judge it beside everybody: marlin evaluate {folders} --scheme balanced --brief")


@contextmanager
def _watched(rounds: int, *, quiet: bool) -> Iterator[tuple[Callable[[str], None], Watch | None]]:
    """A bar with the four metrics on a terminal, a line per round otherwise; both on standard error."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if quiet:
        yield lambda line: None, lambda done: None
        return
    if not console.is_terminal:
        yield lambda line: click.echo(line, err=True), None
        return
    columns = (TextColumn("train"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console) as bar:
        task = bar.add_task("train", total=rounds, now="")

        def watch(done: Round) -> None:
            bar.update(task, completed=done.number, now="best so far" if done.is_best else "")
            bar.console.print(f"round {done.number}: {done.in_words()}", highlight=False)

        yield lambda line: bar.console.print(line, highlight=False), watch

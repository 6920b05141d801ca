"""``marlin evaluate``: MARLIN beside its yardsticks, on days that nothing was chosen on. Options only."""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from marlin.policy.evaluation.frameworks import Leaning
    from marlin.policy.evaluation.scoring import Chosen, Score
    from marlin.policy.evaluation.work import Evaluation

# Everything that needs NumPy or pydantic is imported inside the functions, so that --help answers at once.

_WIDE: Final = 240
"""Columns of what is printed into a pipe: a row of Markdown must not be broken."""


@click.command()
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The trained policy; several (other seeds of one training) are taken together. Default: the shipped one.",
)
@click.option("--scenario", metavar="NAME", help="A built-in fleet. Default: paper-8.")
@click.option("--fleet", metavar="FILE", help="Datacenter and InferencePool documents instead of a built-in fleet.")
@click.option(
    "--load",
    "loads",
    multiple=True,
    metavar="LOAD",
    help="peak95, mean30, mean56 or mean80. May be repeated. Default: peak95.",
)
@click.option(
    "--dispatch",
    "dispatches",
    multiple=True,
    type=click.Choice(["ordered", "shares"]),
    help="May be repeated. Default: ordered.",
)
@click.option(
    "--power-down",
    "power_downs",
    multiple=True,
    metavar="HOW",
    help="None, IdlePState, Sleep or ScaleToZero, for all pools. May be repeated. Default: as the fleet says.",
)
@click.option("--scheme", "schemes", multiple=True, metavar="NAME", help="May be repeated. Default: all five.")
@click.option(
    "--weights", "weights", multiple=True, metavar="WEIGHTS", help="Such as carbon=2,cost=1. May be repeated."
)
@click.option(
    "--random-weights",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="So many weight vectors, drawn evenly; the same ones each time.",
)
@click.option("--trace", default="", metavar="NAME", help="burstgpt or azure2024. Default: burstgpt.")
@click.option("--data", metavar="FOLDER", help="Full data. Default: the shipped week, to try the command with.")
@click.option("--days", metavar="FIRST-LAST", help="Days to score on, within those of --part. Default: all.")
@click.option("--weeks", type=int, help="Dates each day is paired with, a week apart. Default: 1.")
@click.option(
    "--part",
    type=click.Choice(["report", "tune"]),
    default="report",
    show_default=True,
    help="Whose days: tune is for development, and its figures are no result.",
)
@click.option(
    "--tune-days", type=click.IntRange(1), default=1, show_default=True, help="Days the simple policy is chosen on."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Draws of the requests.")
@click.option(
    "--best-of", default="1,8,64", show_default=True, metavar="N,...", help="Samples, with and without learning."
)
@click.option("--ablate", is_flag=True, help="Also without search, with each rule of veto, with the twin as critic.")
@click.option("--brief", is_flag=True, help="Only capacity-proportional, the best simple policy, MARLIN and the bound.")
@click.option(
    "--claim",
    is_flag=True,
    help="All that MARLIN is meant to reach, judged line by line, what tells most first. Give --keep as well.",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Begin no further cell then. Default: all.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="What is done, so that a run that is killed goes on, and several runs share their work.",
)
@click.option("--engine", metavar="NAME", help="fluid, or request-level for fleets as small as 8x12. Default: fluid.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A row per score: .parquet or .csv.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FOLDER", help="A figure of captured savings.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def evaluate(
    *,
    artifacts: tuple[Path, ...],
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Score MARLIN beside its yardsticks.

    Every framework plans the same days from the predictor's forecasts and is scored on the requests that really came:
    capacity-proportional, merit order, the best simple policy (chosen on tuning days), the clairvoyant oracle, the
    actors alone, the best of N random or learnt proposals, and MARLIN as it is served. Values are weighted sums of the
    metrics over capacity-proportional's. Captured is the share of what the clairvoyant saves; recovered the share of
    what the best simple policy leaves. Intervals hold 95 %, draws resampled, frameworks paired.

    \b
    Examples:
      marlin evaluate --scenario 8x12 --scheme balanced --seeds 2
      marlin evaluate --data full-data --load mean56 --weeks 6 --jobs 2 --out scores.parquet --plot figures
      marlin evaluate --data full-data --load mean30 --load peak95 --power-down None --power-down Sleep --keep done
      marlin evaluate --data full-data --part tune --artifact policy --ablate --scheme balanced
      marlin evaluate --data full-data --claim --days 35-36 --keep done --minutes 60
    """  # noqa: D301 the backslash is click's mark for a block to keep
    from marlin.policy.evaluation import claim, report  # noqa: PLC0415
    from marlin.policy.evaluation.statistics import lines  # noqa: PLC0415
    from marlin.policy.evaluation.work import Evaluation, progress  # noqa: PLC0415
    from marlin.policy.figures import FigureFolder  # noqa: PLC0415

    if out is not None:
        report.check_file(out)
    folder = None if plot is None else FigureFolder(plot)
    is_claim, until_s = given.pop("claim"), time.monotonic() + 60.0 * (given.pop("minutes") or float("inf"))
    cells = _claimed(given) if is_claim else _cells(given)
    # Those of a claim one by one, when their turn comes: to read the data for each takes a second or two.
    first = Evaluation.prepared(artifacts, *cells[0])
    evaluations = [first] if is_claim else [first, *(Evaluation.prepared(artifacts, *cell) for cell in cells[1:])]
    _forewarn(evaluations)
    scores: list[Score] = []
    chosen: dict[tuple[str, str], Chosen] = {}
    steps = sum(len(leanings) * (1 + len(first.pairs) * first.seeds) for leanings, _ in cells)
    with progress(steps, quiet=quiet) as say:
        for i, cell in enumerate(cells):
            if i and time.monotonic() > until_s:
                say(f"time was up: {len(cells) - i} of {len(cells)} cells were not begun")
                break
            if i == len(evaluations):
                evaluations.append(Evaluation.prepared(artifacts, *cell))
            one = evaluations[i]
            of_cell, best = one.run(say, jobs=given["jobs"])
            scores += of_cell
            chosen |= {(one.question.cell, scheme): policy for scheme, policy in best.items()}
    found = lines(scores)
    files: Sequence[Path] = []
    if out is not None:
        report.write(scores, out)
        files = [out]
    if folder is not None:
        files = [*files, *folder.write({"captured": report.figure(found)})]
    judged = claim.judged(scores) if is_claim else []
    if as_json:
        document = report.as_json(found, chosen, [one.about() for one in evaluations])
        click.echo(json.dumps(document | ({"claim": [one.to_document() for one in judged]} if is_claim else {})))
        return
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    for one in evaluations:
        console.print(one.heading(), highlight=False)
    is_terminal = console.is_terminal
    shown = [
        report.overview(found, chosen, is_terminal=is_terminal),
        report.claim_table(judged, is_terminal=is_terminal),
    ]
    for part in shown if is_claim else report.tables(found, chosen, is_terminal=is_terminal):
        console.print(part, highlight=False)
    if files:
        click.echo(f"wrote {', '.join(map(str, files))}")


def _forewarn(evaluations: Iterable[Evaluation]) -> None:
    for said in dict.fromkeys(one.forewarning() for one in evaluations):
        if said is not None:
            click.echo(f"warning: {said}", err=True)


Cell = tuple["tuple[Leaning, ...]", dict[str, Any]]
"""What everybody is to lean towards, and options."""


def _claimed(given: dict[str, Any]) -> list[Cell]:
    """The cells of the claim; of a trace with days of its own as many as were asked for.

    Raises:
        InputError: an option is given that the claim itself decides.
    """
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.policy.evaluation import claim, days  # noqa: PLC0415

    own = ("scenario", "fleet", "loads", "dispatches", "power_downs", "schemes", "weights", "random_weights", "trace")
    for name in (*own, "engine", "brief", "ablate"):
        if given[name]:
            raise InputError(f"--claim: decides itself about --{name.rstrip('s').replace('_', '-')}; leave it out")
    usual = days.split_of("", has_data=given["data"] is not None)
    many = len({pair.day for pair in days.chosen(getattr(usual, given["part"]), given["days"], given["weeks"])})
    found = []
    for cell in claim.cells():
        part = getattr(days.split_of(cell.trace, has_data=given["data"] is not None), given["part"])
        wanted = days.first_of(part, many) if cell.trace else given["days"]
        found.append((cell.leanings, given | cell.options() | {"days": wanted}))
    return found


def _cells(given: dict[str, Any]) -> list[Cell]:
    """What may be repeated, each with each of the others."""
    from marlin.policy.evaluation.frameworks import BASELINE, CLAIRVOYANT, MARLIN, SIMPLE  # noqa: PLC0415

    leanings = _leanings(given["schemes"], given["weights"], given["random_weights"])
    given = given | {"only": (BASELINE, SIMPLE, MARLIN, CLAIRVOYANT) if given["brief"] else ()}
    names = {"loads": "load", "power_downs": "power_down", "dispatches": "dispatch"}
    usual: dict[str, tuple[str | None, ...]] = {"load": (None,), "power_down": (None,), "dispatch": ("ordered",)}
    every = [dict.fromkeys(given[option]) or dict.fromkeys(usual[name]) for option, name in names.items()]
    return [(leanings, given | dict(zip(names.values(), values, strict=True))) for values in product(*every)]


def _leanings(schemes: tuple[str, ...], weights: tuple[str, ...], many: int = 0) -> tuple[Leaning, ...]:
    from marlin.api.plan import Scheme  # noqa: PLC0415
    from marlin.policy.evaluation.frameworks import Leaning, random_leanings  # noqa: PLC0415
    from marlin.policy.objective import parse_weights  # noqa: PLC0415
    from marlin.policy.planners import scheme_of  # noqa: PLC0415

    if not schemes and not weights and not many:
        return tuple(Leaning(scheme) for scheme in Scheme if scheme is not Scheme.CUSTOM)
    return (
        *(Leaning(scheme_of(name)) for name in schemes),
        *(Leaning(Scheme.CUSTOM, parse_weights(text)) for text in weights),
        *random_leanings(many),
    )

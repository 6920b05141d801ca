"""``marlin adapt``: from a fleet's own epochs to an artifact that may take over. Options only; ``training`` does it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from marlin.policy.training.adapting import Verdict

# Everything that needs NumPy, torch or pydantic is imported inside the functions, so that --help answers at once.


@click.command()
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Recorded epochs, one a line, as marlin simulate --history writes them.",
)
@click.option(
    "--artifact",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The trained policy that serves now. Default: the one shipped with the package.",
)
@click.option(
    "--scheme", metavar="NAME", help="What the fleet leans towards: balanced, min-ttft ... Default: balanced."
)
@click.option("--weights", metavar="WEIGHTS", help="Weights instead of a scheme, e.g. carbon=2,cost=1.")
@click.option(
    "--negotiation",
    metavar="NAME=NUMBER,...",
    help="The game, as spec.negotiation of a MarlinPolicy has it: gradientSteps, vetoCapitalThreshold, "
    "vetoMaxPullPercent. Default: as there.",
)
@click.option(
    "--late-weight",
    type=click.FloatRange(0.0, 100.0),
    default=1.0,
    show_default=True,
    help="What late requests cost beside the objective, as lateWeight of a MarlinPolicy has it.",
)
@click.option("--dispatch", type=click.Choice(["ordered", "shares"]), default="ordered", show_default=True)
@click.option(
    "--held-back", type=click.IntRange(1), default=96, show_default=True, help="Epochs at the end that only judge."
)
@click.option(
    "--newest", type=click.IntRange(1), metavar="EPOCHS", help="How many at the end of the file are read. Default: all."
)
@click.option(
    "--cpu-seconds",
    type=click.FloatRange(1.0),
    default=120.0,
    show_default=True,
    help="Processor time for learning; compiling and judging come on top.",
)
@click.option(
    "--margin",
    type=click.FloatRange(-1.0, 1.0),
    default=0.001,
    show_default=True,
    help="Part of the objective by which it must be better to take over; a negative one bears with worse.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--nice", type=click.IntRange(0, 19), default=10, show_default=True, help="How far it stands back.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The adapted artifact; not touched where nothing takes over.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def adapt(  # noqa: PLR0913, PLR0917 each is an option, and click passes them by name
    history: Path,
    artifact: Path | None,
    scheme: str | None,
    weights: str | None,
    negotiation: str | None,
    late_weight: float,
    dispatch: str,
    held_back: int,
    newest: int | None,
    cpu_seconds: float,
    margin: float,
    seed: int,
    nice: int,
    out: Path,
    as_json: bool,
) -> None:
    """Let a trained policy learn on from a fleet's own epochs.

    Learns from what really came, in the twin of the fleet as it was, within the processor time it is given. The last
    epochs are held back: the policy that serves and the adapted one plan them both, and the twin carries both out. The
    adapted one is written only if it is better there; otherwise it is thrown away. Either is a success: the verdict
    says which.

    \b
    Examples:
      marlin simulate --planner marlin --days 4 --history epochs.jsonl
      marlin adapt --history epochs.jsonl --out adapted
      marlin plan --scenario paper-8 --planner marlin --artifact adapted
    """  # noqa: D301 the backslash is click's mark for a block to keep
    if scheme is not None and weights is not None:
        raise click.UsageError("give either --scheme or --weights")
    from marlin.api.errors import InputError, MarlinError  # noqa: PLC0415
    from marlin.api.plan import Dispatch, Scheme  # noqa: PLC0415
    from marlin.policy import history as histories  # noqa: PLC0415
    from marlin.policy.agents import shipped  # noqa: PLC0415
    from marlin.policy.agents.stated import game_of, parse_negotiation  # noqa: PLC0415
    from marlin.policy.artifact import CARD_FILE  # noqa: PLC0415
    from marlin.policy.objective import parse_weights  # noqa: PLC0415
    from marlin.policy.planners import scheme_of  # noqa: PLC0415

    wanted = None if weights is None else parse_weights(weights)
    leaning = Scheme.CUSTOM if wanted else scheme_of(scheme or Scheme.BALANCED.option)
    game = game_of(parse_negotiation(negotiation)) if negotiation is not None else None
    if out.exists() and not (out / CARD_FILE).is_file():
        raise InputError(f"{out}: is there and is no artifact; name another folder")
    if not out.absolute().parent.is_dir():
        raise MarlinError(f"{out}: cannot be written: there is no folder {out.absolute().parent}")
    epochs, frozen = histories.read(history, newest), shipped.load(artifact)
    from marlin.policy.training.adapting import AdaptSettings  # noqa: PLC0415
    from marlin.policy.training.adapting import adapt as learn_on  # noqa: PLC0415

    if nice:
        os.nice(nice)
    settings = AdaptSettings(
        scheme=leaning,
        weights=wanted,
        late_weight=late_weight,
        dispatch=Dispatch(dispatch.capitalize()),
        held_back=held_back,
        cpu_s=cpu_seconds,
        margin=margin,
        seed=seed,
    )
    if game is not None:
        settings = replace(settings, game=game)
    verdict = learn_on(frozen, epochs, settings, out)
    click.echo(json.dumps(verdict.document()) if as_json else _in_words(verdict, out))


def _in_words(verdict: Verdict, out: Path) -> str:
    change = verdict.adapted_value / verdict.frozen_value - 1.0
    seen = (
        f"{verdict.adapted_value:.4f} against {verdict.frozen_value:.4f} ({change:+.2%}; less is better) on "
        f"{verdict.held_back} epochs held back, after {verdict.updates} updates on {verdict.learnt_from} epochs; "
        f"{verdict.learnt_cpu_s:.0f} s of processor time to learn, {verdict.judged_cpu_s:.0f} to judge"
    )
    return f"takes over: {seen}; wrote {out}" if verdict.adopted else f"is thrown away: {seen}"

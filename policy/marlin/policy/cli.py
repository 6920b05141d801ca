"""``marlin plan``: one epoch's plan for a fleet, and why."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from marlin.api.policy import MarlinPolicy, MarlinPolicySpec
    from marlin.api.state import FleetState
    from marlin.policy.agents import MarlinSettings
    from marlin.policy.planner import Decision

# Everything that needs NumPy or pydantic is imported inside the functions, so that --help answers at once.


@click.command()
@click.option(
    "--fleet",
    "fleet_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File of Datacenter, InferencePool and MarlinPolicy documents; - is standard input.",
)
@click.option("--scenario", help="A built-in fleet instead, e.g. demo-3 or paper-8.")
@click.option("--planner", default=None, help="The planner, e.g. merit-order. Default: the policy's own, else marlin.")
@click.option(
    "--scheme",
    default=None,
    help="What it leans towards: balanced, min-ttft, min-carbon, min-water, "
    "min-cost. Default: the policy's own, else balanced.",
)
@click.option("--weights", help="Weights instead of a scheme, e.g. carbon=2,cost=1.")
@click.option(
    "--artifact",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the trained policy, for marlin. Default: the one shipped with the package.",
)
@click.option(
    "--best-of",
    type=click.IntRange(0, 4096),
    default=None,
    help="For marlin: samples that are tried beside each agent's own proposal. Default: 8.",
)
@click.option(
    "--late-weight",
    type=click.FloatRange(0.0, 100.0),
    default=None,
    help="For marlin: what late requests cost beside the objective; more keeps more replicas awake. Default: the "
    "policy's own, else 1.",
)
@click.option(
    "--dispatch",
    type=click.Choice(["ordered", "shares"]),
    default=None,
    help="How the plan is carried out. Default: the policy's own, else ordered.",
)
@click.option("--origin-aware", is_flag=True, help="Also say where each origin's requests go; needs --dispatch shares.")
@click.option(
    "--at",
    "at_text",
    help="Start of the epoch, e.g. 2023-06-15T12:00Z. Default: now; the built-in signals "
    "are those of that hour and month.",
)
@click.option(
    "--load",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.0, 2.0),
    help="Forecast, as a part of each pool's capacity.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of full data: built-in signals are then those of the very hour. Default: the shipped means.",
)
@click.option("--explain", is_flag=True, help="Also print the planner's own account.")
@click.option("--json", "as_json", is_flag=True, help="Print plan, estimates and account as JSON.")
def plan(  # noqa: PLR0913, PLR0917 each is an option, and click passes them by name
    fleet_file: Path | None,
    scenario: str | None,
    planner: str | None,
    scheme: str | None,
    weights: str | None,
    artifact: Path | None,
    best_of: int | None,
    late_weight: float | None,
    dispatch: str | None,
    origin_aware: bool,
    at_text: str | None,
    load: float,
    data: Path | None,
    explain: bool,
    as_json: bool,
) -> None:
    """Decide one epoch's plan for a fleet and say why.

    Reads a fleet, asks the planner, and prints each pool's shares with what the twin expects of them against
    capacity-proportional routing. Nothing is applied.

    \b
    Examples:
      marlin plan --scenario demo-3
      marlin plan --fleet fleet.yaml --scheme min-carbon --explain
      marlin plan --fleet fleet.yaml --weights carbon=2,cost=1 --at 2023-06-15T12:00Z
      marlin plan --fleet fleet.yaml --artifact policy --weights carbon=2,cost=1 --explain
      marlin plan --scenario paper-8 --planner nearest --json | jq .plan.pools
    """  # noqa: D301 the backslash is click's mark for a block to keep
    if (fleet_file is None) == (scenario is None):
        raise click.UsageError("give either --fleet FILE or --scenario NAME")
    if scheme is not None and weights is not None:
        raise click.UsageError("give either --scheme or --weights")
    from marlin.api.plan import Dispatch, PlannerKind, Scheme  # noqa: PLC0415
    from marlin.policy.objective import parse_weights  # noqa: PLC0415
    from marlin.policy.planners import make_planner, planner_kind, scheme_of  # noqa: PLC0415

    state, warnings, policy = _state(fleet_file, scenario, _time(at_text), load, data)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    # A built-in scenario is a fleet; the policy that comes with it is nobody's wish.
    own = policy.spec if policy is not None and fleet_file is not None else None
    custom = parse_weights(weights) if weights else None
    own_scheme = own.planner.scheme if own is not None and own.planner.scheme is not Scheme.CUSTOM else Scheme.BALANCED
    how = Dispatch(dispatch.capitalize()) if dispatch else own.dispatch if own else Dispatch.ORDERED
    of_agents = {"--artifact": artifact, "--best-of": best_of, "--late-weight": late_weight}
    given = [option for option, value in of_agents.items() if value is not None]
    # Who says how the agents decide wants them to.
    kind = PlannerKind.MARLIN if given or own is None else own.planner.kind
    if planner is not None:
        kind = planner_kind(planner)
    if given and kind is not PlannerKind.MARLIN:
        raise click.UsageError(f"{' and '.join(given)}: for planner marlin alone, not for {kind.option}")
    agents = _agents(best_of, late_weight, own) if kind is PlannerKind.MARLIN else None
    maker = make_planner(
        kind,
        scheme=Scheme.CUSTOM if custom else scheme_of(scheme) if scheme else own_scheme,
        dispatch=how,
        weights=custom or None,
        artifact=artifact,
        agents=agents,
    )
    if origin_aware:
        from marlin.policy.origins import origin_aware as with_origins  # noqa: PLC0415

        maker = with_origins(maker, how)
    decision = maker.decide(state)
    if as_json:
        json.dump(_as_json(decision), sys.stdout, indent=2)
        click.echo()
        return
    _print(decision, explain=explain)


def _agents(best_of: int | None, late_weight: float | None, own: MarlinPolicySpec | None) -> MarlinSettings:
    """How agents decide: as the options say, else the policy, else by default."""
    from marlin.policy.agents import MarlinSettings  # noqa: PLC0415 a sort needs no networks

    agents = MarlinSettings()
    if best_of is not None:
        agents = replace(agents, best_of=best_of)
    if late_weight is None and own is not None:
        late_weight = own.planner.late_weight
    return agents if late_weight is None else replace(agents, late_weight=late_weight)


def _time(text: str | None) -> datetime:
    from marlin.simulator.scenario_file import FIRST_DATE, LAST_DATE  # noqa: PLC0415

    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time such as 2023-06-15T12:00Z", param_hint="--at") from None
    if not FIRST_DATE < moment.date() <= LAST_DATE:  # the first not: it is a day before in some time zones
        raise click.BadParameter(f"{text!r} is not between {FIRST_DATE} and {LAST_DATE}", param_hint="--at")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _as_json(decision: Decision) -> dict[str, Any]:
    return {
        "plan": decision.plan.to_document(),
        "estimate": decision.estimate.to_document(),
        "baselineEstimate": decision.baseline_estimate.to_document(),
        "record": dict(decision.record),
    }


def _state(
    fleet_file: Path | None, scenario: str | None, at: datetime, load: float, data: Path | None
) -> tuple[FleetState, list[str], MarlinPolicy | None]:
    """The fleet in the epoch that ``at`` lies in, what had to be assumed about it, and its policy."""
    from marlin.api.documents import load_documents  # noqa: PLC0415
    from marlin.api.errors import InputError  # noqa: PLC0415
    from marlin.simulator.fleet import Builder, loaded_state  # noqa: PLC0415
    from marlin.simulator.hourly_signals import hourly_signals  # noqa: PLC0415
    from marlin.simulator.scenario import scenario_documents  # noqa: PLC0415
    from marlin.simulator.signals import zone_signals  # noqa: PLC0415

    if fleet_file is None:
        documents = scenario_documents(scenario or "")
    else:
        try:
            text = sys.stdin.read() if str(fleet_file) == "-" else fleet_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{fleet_file}: cannot be read: {error}") from error
        documents = load_documents(text, str(fleet_file))
    builder = Builder(documents, zone_signals if data is None else hourly_signals(data))
    return loaded_state(builder, at, load), builder.warnings, builder.policy


def _print(decision: Decision, *, explain: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from marlin.policy.plan_tables import plan_of, why  # noqa: PLC0415

    console = Console()
    console.print(f"[bold]{decision.plan.explanation}[/bold]", highlight=False)
    for part in (*plan_of(decision), *(why(decision) if explain else ())):
        console.print(part, highlight=False)

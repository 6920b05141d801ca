"""A decision's account as tables for a terminal: what each agent wanted, what it was worth, who gave way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from marlin.api.metrics import METRIC_NAMES
from marlin.policy.agents.record import key_of

_FIRST_SITES = 3


def account_of(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The parts, in the order of what happened; ``record`` is that of a decision by the agents."""
    yield from (f"not known: {gap}" for gap in record["gaps"])
    yield f"rung: {record['rung']}"
    yield _proposals(record)
    if (game := record["game"]) is not None:
        yield _game(record, game)
        yield from _vetoes(game)
    if (coalition := record["coalition"]) is not None and coalition["gained"] > 0:
        members = ", ".join(name for name, weight in coalition["weights"].items() if weight > 0)
        yield f"agreed by {members} alone: worth {coalition['gained']:.4f} more than by all"
    settled = record["settled"]
    if settled["gained"] > 0:
        of_pools = "; ".join(
            f"{pool} prewarmed for {many:g} of its upper forecast, {settled['eased'][pool]:.0%} eased"
            for pool, many in settled["prewarmed"].items()
        )
        yield f"settled: {of_pools}; {settled['moves']} single moves: worth {settled['gained']:.4f}"
    if record["guard"] is not None:
        yield f"guard: {record['guard']} is published, which is expected to do better"
    expected = record["expected"]
    under_shares = "".join(
        f"{name} {expected[key]:.4f}, "
        for name in ("nearest", "by capacity", "model by model")
        if (key := f"{key_of(name)}_value") in expected
    )
    yield (
        f"by these weights what was agreed is worth {expected['value']:.4f}, merit order "
        f"{expected['merit_order_value']:.4f}, even margins {expected['even_margins_value']:.4f}, {under_shares}"
        f"capacity-proportional {expected['capacity_proportional_value']:.4f} "
        "(less is better; over the demands that may come)"
    )
    late = record["late"]
    yield (
        f"late: {late['share']:.2%} of requests are expected to be, under capacity-proportional "
        f"{late['capacity_proportional_share']:.2%}; weighed {late['weight']:g}"
    )


def _proposals(record: Mapping[str, Any]) -> Table:
    base = record["expected"]["capacity_proportional"]
    table = Table(title="what each agent proposes, and what the twin expects of it", title_justify="left")
    for heading in ("agent", "candidate", "TTFT", "carbon", "water", "cost", "first pool"):
        table.add_column(heading, justify="left" if heading in {"agent", "first pool"} else "right")
    rows = [
        *record["proposals"].items(),
        ("agreed", {"expected": record["expected"]["plan"], "pools": record["pools"]}),
    ]
    for name, proposal in rows:
        candidate = f"{proposal['candidate'] + 1} of {proposal['of']}" if "of" in proposal else ""
        changes = [_change(proposal["expected"][metric], base[metric]) for metric in METRIC_NAMES]
        table.add_row(name, candidate, *changes, _first(proposal["pools"][0]["sites"]))
    return table


def _game(record: Mapping[str, Any], game: Mapping[str, Any]) -> Table:
    table = Table(title="who counts how much", title_justify="left")
    for heading in ("agent", "user's weight", "utility", "capital", "first", "after ascent", "after vetoes", "worth"):
        table.add_column(heading, justify="left" if heading == "agent" else "right")
    after = record["capital"]["after"]
    for name, weight in record["weights"].items():
        table.add_row(
            name,
            f"{weight:.2f}",
            f"{game['utility'][name]:.4f}",
            f"{game['capital'][name]:.1f} > {after[name]:.1f}",
            f"{game['first_weights'][name]:.3f}",
            f"{game['weights'][name]:.3f}",
            f"{game['final_weights'][name]:.3f}",
            f"{game['worth'][name]:+.4f}",
        )
    return table


def _vetoes(game: Mapping[str, Any]) -> Iterator[str]:
    for veto in game["vetoes"]:
        lost, asked, pull = veto["loss"], veto["asked"], veto["pull"]
        yield f"veto of {veto['agent']}: lost {lost:.0%} of its utility, asked for a pull of {asked:.2f}: {pull:.2f}"
    if game["unsatisfied"]:
        yield f"below their bound in the end: {', '.join(game['unsatisfied'])}"


def _first(sites: list[dict[str, Any]]) -> str:
    return ", ".join(f"{s['datacenter']} {s['share']:.0%}" for s in sites[:_FIRST_SITES])


def _change(value: float, base: float) -> str:
    return f"{value / base - 1.0:+.1%}" if base > 0 else f"{value:,.3f}"

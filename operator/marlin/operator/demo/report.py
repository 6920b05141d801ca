"""What a replay amounts to: the table at the end of the demo, and the same as JSON.

Each figure says how it was come by. Counts and times to first token are measured on this machine; carbon, water and
cost are modelled by the twin from the requests that each site really served.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from marlin.operator.demo.load import Outcome


@dataclass(frozen=True, slots=True)
class Column:
    """One planner's replay."""

    planner: str
    sent: int
    answered: int
    failed: int
    """Ended with a clear error."""
    lost: int
    """Sent, and neither answered nor failed. Always 0, or something is broken."""
    ttft_p50_s: float
    """Median time to first token of the streamed requests, s of fleet time."""
    ttft_p95_s: float
    energy_kwh: float
    carbon_gco2: float
    water_l: float
    cost_usd: float
    served: dict[str, int]
    """Requests answered by each site."""
    first_error: str | None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def make_column(
    planner: str,
    sent: int,
    outcomes: Sequence[Outcome],
    footprint: tuple[float, float, float, float],
    *,
    sites: Sequence[str],
    compression: float,
) -> Column:
    """Sums a replay up.

    Args:
        planner: the column's heading.
        sent: requests that left the client.
        outcomes: what became of them.
        footprint: kWh, gCO2, L and USD as the twin models them.
        sites: names of the sites, in the order to show them.
        compression: seconds of fleet time in one second on this machine.
    """
    answered = [outcome for outcome in outcomes if outcome.error is None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    ttft_s = [o.ttft_s * compression for o in answered if o.request.is_stream and o.ttft_s is not None]
    energy_kwh, carbon_gco2, water_l, cost_usd = footprint
    return Column(
        planner=planner,
        sent=sent,
        answered=len(answered),
        failed=len(failed),
        lost=sent - len(outcomes),
        ttft_p50_s=percentile(ttft_s, 0.50),
        ttft_p95_s=percentile(ttft_s, 0.95),
        energy_kwh=energy_kwh,
        carbon_gco2=carbon_gco2,
        water_l=water_l,
        cost_usd=cost_usd,
        served={site: sum(outcome.datacenter == site for outcome in answered) for site in sites},
        first_error=failed[0].error if failed else None,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: its name, how the figure was come by, and one text per column."""

    name: str
    basis: str
    cells: tuple[str, ...]


def rows(columns: Sequence[Column], reference: str) -> list[Row]:
    """The lines of the table. Metrics carry their difference to the column called ``reference``."""

    def metric(name: str, basis: str, attribute: str, form: str) -> Row:
        base = next((getattr(c, attribute) for c in columns if c.planner == reference), math.nan)
        cells = []
        for column in columns:
            value = getattr(column, attribute)
            shown = format(value, form)
            if column.planner != reference and base and math.isfinite(base) and math.isfinite(value):
                shown += f" ({(value - base) / base:+.0%})"
            cells.append(shown)
        return Row(name, basis, tuple(cells))

    def count(name: str, attribute: str) -> Row:
        return Row(name, "measured", tuple(str(getattr(column, attribute)) for column in columns))

    lines = [
        metric("TTFT p50, s", "measured", "ttft_p50_s", ".2f"),
        metric("TTFT p95, s", "measured", "ttft_p95_s", ".2f"),
        metric("carbon, gCO2", "modelled", "carbon_gco2", ",.0f"),
        metric("water, L", "modelled", "water_l", ",.1f"),
        metric("cost, USD", "modelled", "cost_usd", ".3f"),
        metric("energy, kWh", "modelled", "energy_kwh", ".2f"),
        count("sent", "sent"),
        count("answered", "answered"),
        count("failed", "failed"),
        count("lost", "lost"),
    ]
    for site in columns[0].served if columns else ():
        shares = tuple(f"{c.served[site] / c.answered:.0%}" if c.answered else "-" for c in columns)
        lines.append(Row(f"served by {site}", "measured", shares))
    return lines


def to_json(columns: Sequence[Column], **about: Any) -> dict[str, Any]:
    """The whole result for a script; a figure that does not exist is null."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        **about,
        "basis": {
            "measured": ["sent", "answered", "failed", "lost", "ttft_p50_s", "ttft_p95_s", "served"],
            "modelled": ["energy_kwh", "carbon_gco2", "water_l", "cost_usd"],
        },
        "columns": [{key: plain(value) for key, value in asdict(column).items()} for column in columns],
    }

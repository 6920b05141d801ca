"""A report as JSON, CSV or a page: the same figures in each."""

from __future__ import annotations

import csv
import html
import io
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from marlin.operator.report.method import Usage, by_pool, carbon_per_1000_tokens, counterfactual, saved_percent, total
from marlin.operator.report.prometheus import Seen

METHOD: Final = (
    "Energy, carbon, water and cost are the routers' estimates: tokens of replies, times the routing table's joules "
    "per token, times the site's signals at that moment, overhead (PUE) included.",
    "The counterfactual is the same tokens, spread over the sites that answered in proportion to their capacity, each "
    "at what a token there took in this interval. Idle power, and what machines save that are powered down, are on "
    "neither side.",
    "SCI (ISO/IEC 21031): operational carbon and the stated embodied carbon, per 1,000 tokens.",
    "Uncertainty: joules per token are a model's, not a meter's (see the page on validation); Prometheus extrapolates "
    "to the interval's ends, by up to one scrape; requests without an estimate are in no figure.",
)

_COLUMNS: Final = tuple(Usage.__dataclass_fields__)


def document(seen: Seen, start: datetime, end: datetime, embodied_gco2: float) -> dict[str, Any]:
    """Everything the report says, as plain values."""
    everything = total(seen.sites.values())
    other = counterfactual(seen.sites)
    sites = {f"{pool} / {site}": usage for (pool, site), usage in sorted(seen.sites.items())}
    groups = {
        "pools": by_pool(seen.sites, 0),
        "datacenters": by_pool(seen.sites, 1),
        "sites": sites,
        "tenants": dict(sorted(seen.tenants.items())),
    }
    return {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "total": _row(everything),
        "sciGco2PerThousandTokens": carbon_per_1000_tokens(everything, embodied_gco2),
        "embodiedGco2": embodied_gco2,
        "counterfactual": None if other is None else asdict(other),
        "savedPercent": saved_percent(seen.sites),
        "requestsWithoutEstimate": seen.without_estimate,
        **{group: {name: _row(usage) for name, usage in rows.items()} for group, rows in groups.items()},
        "method": list(METHOD),
    }


def as_json(report: dict[str, Any]) -> str:
    """For programs."""
    return json.dumps(report, indent=2) + "\n"


def as_csv(report: dict[str, Any]) -> str:
    """For spreadsheets: a row for each pool, datacenter, site and tenant, the total and the counterfactual."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ["level", "name", *_COLUMNS, "gco2_per_1000_tokens"], lineterminator="\n")
    writer.writeheader()
    for level in ("pools", "datacenters", "sites", "tenants"):
        for name, row in report[level].items():
            writer.writerow({"level": level, "name": _plain(name), **row})
    writer.writerow({"level": "total", "name": "all", **report["total"]})
    if report["counterfactual"] is not None:
        figures = {name: value for name, value in report["counterfactual"].items() if name in _COLUMNS}
        writer.writerow({"level": "counterfactual", "name": "by capacity", **figures})
    return file.getvalue()


def as_html(report: dict[str, Any]) -> str:
    """For people: one page that needs nothing else."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>MARLIN report</title>",
        "<style>body{font:15px/1.5 system-ui;margin:2em auto;max-width:75em}"
        "table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child"
        "{text-align:left}</style>",
        f"<h1>{html.escape(report['from'])} to {html.escape(report['to'])}</h1>",
    ]
    sci = report["sciGco2PerThousandTokens"]
    parts.append(f"<p>SCI: <b>{_number(sci)}</b> gCO2eq per 1,000 tokens.</p>")
    rows = {"as routed": report["total"]}
    if report["counterfactual"] is not None:
        rows["by capacity, estimated"] = report["counterfactual"]
        rows["saved, %"] = report["savedPercent"]
    parts.append(_table("All", rows))
    if report["counterfactual"] is not None:
        parts.append(f"<p>The comparison covers {100 * report['counterfactual']['covered']:.0f} % of capacity.</p>")
    levels = ("pools", "datacenters", "sites", "tenants")
    parts += [_table(level.capitalize(), report[level]) for level in levels if report[level]]
    parts.append(f"<p>{_number(report['requestsWithoutEstimate'])} requests have no estimate.</p><h2>Method</h2><ul>")
    parts += [f"<li>{html.escape(line)}</li>" for line in report["method"]]
    return "\n".join([*parts, "</ul>"]) + "\n"


def _table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    columns = [name for name in (*_COLUMNS, "gco2_per_1000_tokens") if any(name in row for row in rows.values())]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *columns))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{_number(row.get(c))}</td>" for c in columns) + "</tr>"
        for name, row in rows.items()
    )
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _row(usage: Usage) -> dict[str, Any]:
    return asdict(usage) | {"gco2_per_1000_tokens": carbon_per_1000_tokens(usage)}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _plain(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@"} else name

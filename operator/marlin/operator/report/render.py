"""A report as JSON, CSV or a page: the same figures in each."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from marlin.operator.report.method import Usage, by_pool, carbon_per_1000_tokens, total
from marlin.operator.report.seen import Seen

_COLUMNS: Final = tuple(name for name in Usage.__dataclass_fields__ if name != "timed")
_TITLES: Final = {
    "requests": "requests",
    "failed": "failed",
    "tokens": "tokens",
    "energy_kwh": "energy, kWh",
    "carbon_gco2": "carbon, gCO2eq",
    "water_l": "water, L",
    "cost_usd": "cost, USD",
    "capacity_requests": "capacity",
    "ttft_mean_s": "TTFT mean, s",
    "ttft_p50_s": "p50, s",
    "ttft_p95_s": "p95, s",
    "ttft_p99_s": "p99, s",
    "gco2_per_1000_tokens": "gCO2eq / 1,000 tokens",
}
_LEVELS: Final = {
    "pools": "By pool",
    "datacenters": "By datacenter",
    "sites": "By pool and datacenter",
    "tenants": "By tenant",
}
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;margin:2.5em auto;max-width:88em;padding:0 1.5em}"
    "h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.1em;margin:2em 0 .4em}.when{color:#5b6b7b;margin-top:.2em}"
    ".cards{display:flex;flex-wrap:wrap;gap:1em;margin:1.5em 0}.card{border:1px solid #d7dee5;border-radius:6px;"
    "padding:.7em 1.1em;min-width:9em}.card b{display:block;font-size:1.6em;line-height:1.2}.card span{color:#5b6b7b}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}"
    "td,th{padding:.3em .6em;border-bottom:1px solid #e3e8ed;text-align:right;white-space:nowrap}"
    "th{color:#5b6b7b;font-weight:600}td:first-child,th:first-child{text-align:left}li{margin:.4em 0;max-width:65em}"
)


def document(seen: Seen, start: datetime, end: datetime, embodied_gco2: float) -> dict[str, Any]:
    """Everything the report says, as plain values."""
    everything = total([*seen.sites.values(), seen.unreached])
    if seen.all_ttft:
        everything = replace(everything, **seen.all_ttft)
    groups: dict[str, dict[str, Usage]] = {
        "pools": _with(by_pool(seen.sites, 0), seen.pools_ttft),
        "datacenters": _with(by_pool(seen.sites, 1), seen.datacenters_ttft),
        "sites": {f"{pool} / {site}": usage for (pool, site), usage in sorted(seen.sites.items())},
        "tenants": dict(sorted(seen.tenants.items())),
    }
    return {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "total": _row(everything),
        "reachedNoDatacenter": {"requests": seen.unreached.requests, "failed": seen.unreached.failed},
        "sciGco2PerThousandTokens": carbon_per_1000_tokens(everything, embodied_gco2),
        "embodiedGco2": embodied_gco2,
        "counterfactual": None if seen.other is None else asdict(seen.other),
        "savedPercent": None if seen.saved_percent is None else dict(seen.saved_percent),
        "requestsWithoutEstimate": seen.without_estimate,
        **{group: {name: _row(usage) for name, usage in rows.items()} for group, rows in groups.items()},
        "method": list(seen.method),
        "unknown": list(seen.unknown),
    }


def as_json(report: dict[str, Any]) -> str:
    """For programs."""
    return json.dumps(report, indent=2) + "\n"


def as_csv(report: dict[str, Any]) -> str:
    """For spreadsheets: a row for each pool, datacenter, site and tenant, the total and the counterfactual."""
    file = io.StringIO()
    columns = ["level", "name", *_COLUMNS, "gco2_per_1000_tokens"]
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for level in _LEVELS:
        for name, row in report[level].items():
            writer.writerow({"level": level, "name": _plain(name), **row})
    writer.writerow({"level": "none", "name": "reached no datacenter", **report["reachedNoDatacenter"]})
    writer.writerow({"level": "total", "name": "all", **report["total"]})
    if report["counterfactual"] is not None:
        writer.writerow({"level": "counterfactual", "name": "by capacity", **report["counterfactual"]})
        writer.writerow({"level": "saved", "name": "percent", **report["savedPercent"]})
    return file.getvalue()


def as_html(report: dict[str, Any]) -> str:
    """For people: one page that needs nothing else."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><title>MARLIN report</title>",
        f"<style>{_STYLE}</style>",
        "<h1>What the interval took</h1>",
        f"<p class=when>{html.escape(report['from'])} to {html.escape(report['to'])}</p>",
        _cards(report),
    ]
    rows = {"as routed": report["total"]}
    other = report["counterfactual"]
    if other is not None:
        rows["by capacity, estimated"] = other
        rows["saved, %"] = report["savedPercent"]
    parts.append(_table("All", rows))
    if other is not None:
        said = f"The comparison covers {100 * other['covered']:.0f} % of capacity"
        if other["assumed"]:
            said += f"; {100 * other['assumed']:.0f} % is of sites that answered nothing, for which the table speaks"
        parts.append(f"<p>{said}.</p>")
    nowhere = report["reachedNoDatacenter"]
    parts.append(
        f"<p>{_number(nowhere['requests'])} requests reached no datacenter, {_number(nowhere['failed'])} of them by a "
        f"failure; {_number(report['requestsWithoutEstimate'])} that were answered have no estimate.</p>"
    )
    parts += [_table(title, report[level]) for level, title in _LEVELS.items() if report[level]]
    for title, lines in (("Method and uncertainty", report["method"]), ("What is not known", report["unknown"])):
        parts.append(f"<h2>{title}</h2><ul>")
        parts += [f"<li>{html.escape(line)}</li>" for line in lines]
        parts.append("</ul>")
    return "\n".join(parts) + "\n"


def _cards(report: dict[str, Any]) -> str:
    """What a reader looks for first."""
    everything, saved = report["total"], report["savedPercent"] or {}
    carbon = saved.get("carbon_gco2")
    found = {
        "gCO2eq per 1,000 tokens (SCI)": _number(report["sciGco2PerThousandTokens"]),
        "carbon saved against routing by capacity": "" if carbon is None else f"{carbon:z.1f} %",
        "kWh": _number(everything["energy_kwh"]),
        "requests": _number(everything["requests"]),
        "of them failed": _share(everything["failed"], everything["requests"]),
        "s to the first token, p95": _number(everything["ttft_p95_s"]),
    }
    cards = (f"<div class=card><b>{html.escape(value or 'not known')}</b><span>{html.escape(name)}</span></div>"
             for name, value in found.items())  # fmt: skip
    return f"<div class=cards>{''.join(cards)}</div>"


def _table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    columns = [name for name in _TITLES if any(row.get(name) is not None for row in rows.values())]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *(_TITLES[c] for c in columns)))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{_number(row.get(c))}</td>" for c in columns) + "</tr>"
        for name, row in rows.items()
    )
    return f"<h2>{html.escape(title)}</h2><div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _with(rows: dict[str, Usage], percentiles: Mapping[str, Mapping[str, float]]) -> dict[str, Usage]:
    return {name: replace(usage, **percentiles.get(name, {})) for name, usage in sorted(rows.items())}


def _row(usage: Usage) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(usage).items() if name in _COLUMNS}
    return fields | {"gco2_per_1000_tokens": carbon_per_1000_tokens(usage)}


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2g} %" if whole else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _plain(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@"} else name

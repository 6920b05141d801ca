"""The routers' counters over an interval, out of a Prometheus: the one module of the report that asks anybody.

Totals are asked of the whole interval at once. The counterfactual needs it in windows of an hour, so that a token that
was moved is priced by what held when it came; sites that answered nothing have what routers export of their table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp

from marlin.api.errors import MarlinError
from marlin.api.footprint import JOULES_PER_KWH, Footprint, Intensity, footprint_of
from marlin.operator.report.method import FIGURES, Key, Usage, Window, counterfactual
from marlin.operator.report.seen import Seen

TIMEOUT_S: Final = 60.0
WINDOW_S: Final = 3600.0
MOST_WINDOWS: Final = 1000
"""Of a longer interval windows are longer."""

METHOD: Final = (
    "Energy, carbon, water and cost are the routers' estimates: tokens of replies, times the routing table's joules "
    "per token at the load that the site had then, times its signals at that moment. Joules per token hold the part of "
    "the host, of what idles or sleeps beside, and of cooling (PUE).",
    "The counterfactual is the same tokens, hour by hour, spread over sites in proportion to their capacity. Tokens "
    "that are moved take at each site what the routing table says of moderate load (60 %), on both sides: what a token "
    "takes at a site with little to do is mostly what idles there, which routing does not move. Where the table's "
    "figures were not exported, a site takes per token what it took in that hour. Both sides are taken to power down "
    "alike; what machines draw while nobody asks is on neither.",
    "SCI (ISO/IEC 21031): operational carbon and the stated embodied carbon, per 1,000 tokens.",
    "Times to first token are of event streams, from the router's view; percentiles are interpolated in the "
    "histogram's buckets, so that they may be off by a bucket's width (a factor of 2 to 2.5).",
    "Uncertainty: joules per token are a model's, not a meter's: within 22 % of what was published of models that it "
    "was not fitted on, and publications differ by 1.4 to 1.7 x (docs/explanation/validation-measurements.md). They "
    "follow the load within 10 % of the twin where routers' tables hold a curve (energyByLoad: those of the operator), "
    "else they are those of 60 % load. Prometheus extrapolates to the interval's ends, by up to one scrape, and takes "
    "a price below zero for a restart of that counter. Errors that both sides share cancel in what was saved.",
)
UNKNOWN: Final = (
    "Meters: none was read.",
    "Tenants have a mean time to first token and no percentiles.",
    "Requests without an estimate (no usage in the reply, no energy figures, expired signals): counted, in no figure.",
)

_SITE: Final = ("pool", "datacenter")
_TENANT: Final = ("tenant",)
_PER_KWH: Final = ("carbon_grams", "water_liters", "cost_usd")
_PERCENTILES: Final = {"ttft_p50_s": 0.5, "ttft_p95_s": 0.95, "ttft_p99_s": 0.99}


class PrometheusError(MarlinError):
    """It cannot be reached, or does not understand."""


def sums(prefix: str, selector: str, span: str) -> dict[str, str]:
    """Field of ``Usage`` to the expression that sums it.

    Args:
        prefix: marlin_router or marlin_router_tenant.
        selector: label matchers.
        span: a duration as Prometheus spells it, e.g. 3600s.
    """

    def grown(name: str, extra: str = "") -> str:
        matchers = ",".join(part for part in (selector, extra) if part)
        return f"increase({prefix}_{name}{{{matchers}}}[{span}])"

    estimated = "" if prefix.endswith("tenant") else "estimated_"
    return {
        "requests": grown("requests_total"),
        "failed": grown("requests_total", 'code=~"5.."'),
        "tokens": grown("tokens_total"),
        "energy_kwh": f"{grown(f'{estimated}energy_joules_total')} / {JOULES_PER_KWH:.0f}",
        "carbon_gco2": grown(f"{estimated}carbon_grams_total"),
        "water_l": grown(f"{estimated}water_liters_total"),
        "cost_usd": grown(f"{estimated}cost_usd"),
        "timed": grown("ttft_seconds_count"),
    }


def capacity(selector: str, span: str) -> str:
    """Mean capacity by site. Every pod of a router states the whole router's part: routers are added up, not pods."""
    return (
        "sum by (pool, datacenter) (max by (namespace, job, pool, datacenter) "
        f"(avg_over_time(marlin_router_capacity_requests{{{selector}}}[{span}])))"
    )


def mean(name: str, selector: str, span: str, labels: tuple[str, ...]) -> str:
    """What all routers state alike."""
    return f"avg by ({', '.join(labels)}) (avg_over_time(marlin_router_{name}{{{selector}}}[{span}]))"


@dataclass(frozen=True, slots=True)
class _Asker:
    session: aiohttp.ClientSession
    url: str
    selector: str
    start: datetime
    end: datetime

    @property
    def span(self) -> str:
        """The whole interval."""
        return f"{max(1, round((self.end - self.start).total_seconds()))}s"

    async def now(self, expression: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """At the interval's end."""
        answer = await self._ask("query", {"query": expression, "time": str(self.end.timestamp())})
        found = {_key(one, labels): float(one["value"][1]) for one in answer}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    async def windows(
        self, expression: str, labels: tuple[str, ...], window_s: float, count: int
    ) -> dict[tuple[str, ...], dict[int, float]]:
        """At the end of each window, by its number."""
        first = self.start + timedelta(seconds=window_s)
        times = {"start": str(first.timestamp()), "end": str(self.end.timestamp()), "step": f"{window_s:.3f}"}
        found: dict[tuple[str, ...], dict[int, float]] = {}
        for one in await self._ask("query_range", {"query": expression, **times}):
            row = found.setdefault(_key(one, labels), {})
            for at_s, text in one["values"]:
                number = round((float(at_s) - first.timestamp()) / window_s)
                if 0 <= number < count and math.isfinite(float(text)):
                    row[number] = float(text)
        return found

    async def _ask(self, what: str, params: dict[str, str]) -> list[dict[str, Any]]:
        try:
            async with self.session.post(f"{self.url.rstrip('/')}/api/v1/{what}", data=params) as response:
                answer = await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise PrometheusError(f"--prometheus: {self.url} cannot be asked ({type(error).__name__})") from None
        if not isinstance(answer, dict) or answer.get("status") != "success":
            said = answer.get("error", "no answer of a Prometheus") if isinstance(answer, dict) else "no Prometheus"
            raise PrometheusError(f"--prometheus: {self.url}: {said}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


async def read(url: str, start: datetime, end: datetime, selector: str) -> Seen:
    """Asks for everything.

    Args:
        url: base address of the Prometheus.
        start: of the interval.
        end: of it.
        selector: label matchers of the routers to count, e.g. ``job="marlin-router-metrics"``; the first hop's only,
            because a member router counts the same requests again.

    Raises:
        PrometheusError: it cannot be reached, or refuses a query.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        asker = _Asker(session, url, selector, start, end)
        sites = await _usages(asker, "marlin_router", _SITE)
        tenants = await _usages(asker, "marlin_router_tenant", _TENANT)
        for key, value in (await asker.now(capacity(selector, asker.span), _SITE)).items():
            sites[key] = replace(sites.get(key, Usage()), capacity_requests=value)
        for key, percentiles in (await _percentiles(asker, _SITE)).items():
            sites[key] = replace(sites.get(key, Usage()), **percentiles)
        pools, datacenters = await _percentiles(asker, ("pool",)), await _percentiles(asker, ("datacenter",))
        everything = await _percentiles(asker, ())
        lost = f"sum(increase(marlin_router_requests_without_estimate_total{{{selector}}}[{asker.span}]))"
        without = (await asker.now(lost, ())).get((), 0.0)
        compared = counterfactual(await _windows(asker))
    unreached = Usage()
    for key, usage in sites.items():
        if not all(key):  # requests that no datacenter answered
            unreached = unreached.plus(usage)
    return Seen(
        sites={(key[0], key[1]): usage for key, usage in sites.items() if all(key)},
        method=METHOD,
        unknown=UNKNOWN,
        tenants={key[0]: usage for key, usage in tenants.items()},
        unreached=unreached,
        without_estimate=without,
        pools_ttft={key[0]: row for key, row in pools.items()},
        datacenters_ttft={key[0]: row for key, row in datacenters.items()},
        all_ttft=everything.get((), {}),
        other=None if compared is None else compared[0],
        saved_percent=None if compared is None else compared[1],
    )


async def _usages(asker: _Asker, prefix: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], Usage]:
    found: dict[tuple[str, ...], Usage] = {}
    by = ", ".join(labels)
    for field, expression in sums(prefix, asker.selector, asker.span).items():
        for key, value in (await asker.now(f"sum by ({by}) ({expression})", labels)).items():
            found[key] = replace(found.get(key, Usage()), **{field: value})
    waited = f"sum by ({by}) (increase({prefix}_ttft_seconds_sum{{{asker.selector}}}[{asker.span}]))"
    for key, seconds in (await asker.now(waited, labels)).items():
        if key in found and found[key].timed > 0:
            found[key] = replace(found[key], ttft_mean_s=seconds / found[key].timed)
    return found


async def _percentiles(asker: _Asker, labels: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, float]]:
    grown = f"increase(marlin_router_ttft_seconds_bucket{{{asker.selector}}}[{asker.span}])"
    buckets = f"sum by ({', '.join((*labels, 'le'))}) ({grown})"
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for field, part in _PERCENTILES.items():
        for key, value in (await asker.now(f"histogram_quantile({part}, {buckets})", labels)).items():
            found.setdefault(key, {})[field] = value
    return found


async def _windows(asker: _Asker) -> list[Window]:
    seconds = max(1.0, (asker.end - asker.start).total_seconds())
    count = min(MOST_WINDOWS, math.ceil(seconds / WINDOW_S))
    window_s = seconds / count
    span = f"{round(window_s * 1000)}ms"

    async def asked(expression: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], dict[int, float]]:
        return await asker.windows(expression, labels, window_s, count)

    usages: list[dict[Key, Usage]] = [{} for _ in range(count)]
    wanted = {
        field: f"sum by (pool, datacenter) ({expression})"
        for field, expression in sums("marlin_router", asker.selector, span).items()
        if field in {"tokens", *FIGURES}
    }
    for field, expression in (wanted | {"capacity_requests": capacity(asker.selector, span)}).items():
        for key, row in (await asked(expression, _SITE)).items():
            for number, value in row.items():
                if all(key):
                    here = usages[number]
                    here[key[0], key[1]] = replace(here.get((key[0], key[1]), Usage()), **{field: value})
    kinds = f"sum by (pool, kind) (increase(marlin_router_tokens_total{{{asker.selector}}}[{span}]))"
    tokens = await asked(kinds, ("pool", "kind"))
    joules = await asked(mean("joules_per_token", asker.selector, span, (*_SITE, "kind")), (*_SITE, "kind"))
    per_kwh = await asked(mean("per_kwh", asker.selector, span, ("datacenter", "figure")), ("datacenter", "figure"))
    return [
        Window(here, _stated(*({key: row[number] for key, row in table.items() if number in row} for table in tables)))
        for number, here in enumerate(usages)
        for tables in [(tokens, joules, per_kwh)]
    ]


def _stated(
    tokens: Mapping[tuple[str, ...], float],
    joules: Mapping[tuple[str, ...], float],
    per_kwh: Mapping[tuple[str, ...], float],
) -> dict[Key, Footprint]:
    """What a token takes at each site, mixed of prompt and output as the pool's tokens were; nothing of who is unknown.

    Args:
        tokens: by pool and kind.
        joules: per token, by pool, datacenter and kind.
        per_kwh: by datacenter and figure: carbon_grams, water_liters, cost_usd.
    """
    found = {}
    for pool, site in {key[:2] for key in joules}:
        weights = [tokens.get((pool, kind), 0.0) for kind in ("prompt", "output")]
        brought = [per_kwh[site, figure] for figure in _PER_KWH if (site, figure) in per_kwh]
        if not sum(weights) or len(brought) < len(_PER_KWH):
            continue
        each = [joules.get((pool, site, kind), 0.0) for kind in ("prompt", "output")]
        kwh = sum(w * j for w, j in zip(weights, each, strict=True)) / sum(weights) / JOULES_PER_KWH
        found[pool, site] = footprint_of(kwh, Intensity(*brought))
    return found


def _key(one: Mapping[str, Any], labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one["metric"].get(label, "") for label in labels)

"""The routers' counters over an interval, out of a Prometheus: the one module of the report that asks anybody."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import aiohttp

from marlin.api.errors import MarlinError
from marlin.operator.report.method import Usage

TIMEOUT_S: Final = 60.0

_SITE: Final = ("pool", "datacenter")
_TENANT: Final = ("tenant",)
_PERCENTILES: Final = {"ttft_p50_s": 0.5, "ttft_p95_s": 0.95, "ttft_p99_s": 0.99}


class PrometheusError(MarlinError):
    """It cannot be reached, or does not understand."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was counted."""

    sites: dict[tuple[str, str], Usage]
    """By (pool, datacenter)."""
    tenants: dict[str, Usage]
    without_estimate: float
    """Requests that no figure speaks of."""


def sums(prefix: str, selector: str, seconds: int) -> dict[str, str]:
    """Field of ``Usage`` to the expression that sums it; ``prefix`` is marlin_router or marlin_router_tenant."""

    def grown(name: str, extra: str = "") -> str:
        matchers = ",".join(part for part in (selector, extra) if part)
        return f"increase({prefix}_{name}{{{matchers}}}[{seconds}s])"

    estimated = "" if prefix.endswith("tenant") else "estimated_"
    return {
        "requests": grown("requests_total"),
        "failed": grown("requests_total", 'code=~"5.."'),
        "tokens": grown("tokens_total"),
        "energy_kwh": f"{grown(f'{estimated}energy_joules_total')} / 3.6e6",
        "carbon_gco2": grown(f"{estimated}carbon_grams_total"),
        "water_l": grown(f"{estimated}water_liters_total"),
        "cost_usd": grown(f"{estimated}cost_usd"),
    }


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
    seconds = max(1, round((end - start).total_seconds()))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:

        async def ask(expression: str, labels: tuple[str, ...]) -> dict[tuple[str, ...], float]:
            return await _ask(session, url, expression, end, labels)

        sites: dict[tuple[str, ...], Usage] = {}
        tenants: dict[tuple[str, ...], Usage] = {}
        for found, labels, prefix in (
            (sites, _SITE, "marlin_router"),
            (tenants, _TENANT, "marlin_router_tenant"),
        ):
            for field, expression in sums(prefix, selector, seconds).items():
                for key, value in (await ask(f"sum by ({', '.join(labels)}) ({expression})", labels)).items():
                    found[key] = replace(found.get(key, Usage()), **{field: value})
        # Every pod of a router states the whole router's part: pods are not added up, routers are.
        mean = (
            "sum by (pool, datacenter) (max by (namespace, job, pool, datacenter) "
            f"(avg_over_time(marlin_router_capacity_requests{{{selector}}}[{seconds}s])))"
        )
        extra = {"capacity_requests": mean}
        buckets = (
            f"sum by (pool, datacenter, le) (increase(marlin_router_ttft_seconds_bucket{{{selector}}}[{seconds}s]))"
        )
        extra |= {field: f"histogram_quantile({q}, {buckets})" for field, q in _PERCENTILES.items()}
        for field, expression in extra.items():
            for key, value in (await ask(expression, _SITE)).items():
                sites[key] = replace(sites.get(key, Usage()), **{field: value})
        lost = f"sum(increase(marlin_router_requests_without_estimate_total{{{selector}}}[{seconds}s]))"
        without = (await ask(lost, ())).get((), 0.0)
    return Seen(
        # Requests that never reached a site have no datacenter; they are in no table of sites.
        sites={(key[0], key[1]): usage for key, usage in sites.items() if all(key)},
        tenants={key[0]: usage for key, usage in tenants.items()},
        without_estimate=without,
    )


async def _ask(
    session: aiohttp.ClientSession, url: str, expression: str, at: datetime, labels: tuple[str, ...]
) -> dict[tuple[str, ...], float]:
    params = {"query": expression, "time": str(at.timestamp())}
    try:
        async with session.get(f"{url.rstrip('/')}/api/v1/query", params=params) as response:
            answer = await response.json(content_type=None)
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise PrometheusError(f"--prometheus: {url} cannot be asked ({type(error).__name__})") from None
    if not isinstance(answer, dict) or answer.get("status") != "success":
        said = answer.get("error", "no answer of a Prometheus") if isinstance(answer, dict) else "no Prometheus"
        raise PrometheusError(f"--prometheus: {url}: {said}")
    found = {}
    for one in answer["data"]["result"]:
        value = float(one["value"][1])
        if math.isfinite(value):
            found[tuple(one["metric"].get(label, "") for label in labels)] = value
    return found

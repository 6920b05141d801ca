"""What is counted, under documented names (docs/reference/router.md); read at /metrics.

Workers count (``tally``); here their reports are added up and put into words, when somebody scrapes. What is a state
rather than an event (in flight, up or down, plan, shares) is read from the reports and the table at that moment, so
that it cannot drift. Labels hold names from the table only, never what a client sent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from marlin.api.footprint import JOULES_PER_KWH
from marlin.router.messages import Report
from marlin.router.tally import SECONDS, Cell, Spending, Times, add_cells, add_spendings
from marlin.router.view import Datacenter, Table

_PREFIX: Final = "marlin_router_"
_SITE: Final = ("pool", "datacenter")


class Metrics:
    """The router's metrics.

    Args:
        table: the table in force.
        clock: Unix time, s.
    """

    def __init__(self, table: Callable[[], Table], clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock
        self._reloads: Counter[str] = Counter()
        self.is_table_watched: Callable[[], bool] | None = None
        """Whether the API server is listened to for the table; None: it comes from a file."""
        self._tenant_reloads: Counter[str] = Counter()

    def count_reload(self, result: str) -> None:
        """Counts a reading of the table."""
        self._reloads[result] += 1

    def count_tenant_reload(self, result: str) -> None:
        """Counts a reading of the list of tenants."""
        self._tenant_reloads[result] += 1

    def exposition(self, reports: Sequence[Report]) -> bytes:
        """The text that Prometheus reads."""
        registry = CollectorRegistry()
        registry.register(_Exposition(self._families(reports)))
        return generate_latest(registry)

    def _families(self, reports: Sequence[Report]) -> Iterator[Metric]:
        sums: dict[tuple[str, str], Cell] = {}
        for report in reports:
            add_cells(sums, report.cells)
        cells = list(sums.values())
        yield from _events(cells)
        reloads = _counter("table_reloads_total", "Readings of a changed table.", ("result",))
        for result, count in self._reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        if self.is_table_watched is not None:
            text = "1 while the API server is listened to for the table."
            yield _value("table_watch_up", text, float(self.is_table_watched()))
        yield from self._tenants(reports)
        workers = GaugeMetricFamily(f"{_PREFIX}workers", "Processes that serve requests and answered this scrape.")
        workers.add_metric([], sum(report.number > 0 for report in reports))
        yield workers
        yield from self._load(reports)
        yield from self._rates()
        yield from self._plan()
        yield self._realised(sums)

    def _tenants(self, reports: Sequence[Report]) -> Iterator[Metric]:
        """Nothing where there are no tenants."""
        sums: dict[tuple[str, str, str], Spending] = {}
        for report in reports:
            add_spendings(sums, report.spendings)
        if sums:
            yield from _spendings(list(sums.values()))
        if self._tenant_reloads:
            reloads = _counter("tenant_reloads_total", "Readings of a changed list of tenants.", ("result",))
            for result, count in self._tenant_reloads.items():
                reloads.add_metric([result], count)
            yield reloads

    def _load(self, reports: Sequence[Report]) -> Iterator[Metric]:
        in_flight = _gauge("in_flight", "Requests at backends now.")
        up = _gauge("backend_up", "Whether a backend is used: 1 or 0.", "backend")
        concurrency = _gauge("capacity_requests", "Requests in flight at full capacity, stated or by Little's law.")
        energy = _gauge("energy_factor", "What a token takes at a site now, over joules_per_token.")
        known: dict[tuple[str, str, str], list[float]] = {}
        for report in reports:
            for b in report.backends:
                values = known.setdefault((b.pool, b.name, b.url), [0.0, 0.0, 0.0, 1.0])
                values[0] += b.in_flight
                values[1] = max(values[1], float(b.is_usable))
                values[2] = max(values[2], b.concurrency)
                values[3] = b.energy_factor  # all workers see the same
        for pool in self._table().pools:
            for site in pool.sites:
                names = [pool.name, site.name]
                found = [known.get(backend.key, [0.0, 0.0, 0.0, 1.0]) for backend in site.backends]
                in_flight.add_metric(names, sum(values[0] for values in found))
                concurrency.add_metric(names, math.fsum(values[2] for values in found))
                if any(b.energy_in_flight for b in site.backends):
                    # Of several backends a mean: they share the site's tokens by their capacities.
                    weights = [b.capacity_rps for b in site.backends]
                    total = math.fsum(w * values[3] for w, values in zip(weights, found, strict=True))
                    energy.add_metric(names, total / math.fsum(weights) if any(weights) else 1.0)
                for backend, values in zip(site.backends, found, strict=True):
                    up.add_metric([*names, backend.name], values[1])
        yield from (in_flight, up, concurrency, energy)

    def _rates(self) -> Iterator[Metric]:
        """What requests take, sites that get none included: for what would have come of other routing."""
        joules = _gauge("joules_per_token", "What a token takes at a site at moderate load, by the table.", "kind")
        per_kwh = GaugeMetricFamily(
            f"{_PREFIX}per_kwh", "What a kWh brings with it at a site, by the table.", labels=["datacenter", "figure"]
        )
        table, sites = self._table(), dict[str, Datacenter]()
        for pool in table.pools:
            for site in pool.sites:
                sites[site.name] = site.datacenter
                known = [b for b in site.backends if b.joules_per_prompt_token or b.joules_per_output_token]
                weight = math.fsum(b.capacity_rps for b in known)
                if not weight:
                    continue
                for kind, total in (
                    ("prompt", math.fsum(b.capacity_rps * b.joules_per_prompt_token for b in known)),
                    ("output", math.fsum(b.capacity_rps * b.joules_per_output_token for b in known)),
                ):
                    joules.add_metric([pool.name, site.name, kind], total / weight)
        now_s = self._clock()
        for name, datacenter in sites.items():
            if datacenter.signals_valid_until_s is None or now_s < datacenter.signals_valid_until_s:
                intensity = datacenter.intensity
                per_kwh.add_metric([name, "carbon_grams"], intensity.carbon_gco2_per_kwh)
                per_kwh.add_metric([name, "water_liters"], intensity.water_l_per_kwh)
                per_kwh.add_metric([name, "cost_usd"], intensity.price_usd_per_kwh)
        yield from (joules, per_kwh)

    def _realised(self, cells: Mapping[tuple[str, str], Cell]) -> Metric:
        """Shares in both units: a site that gets the long requests carries more than its share of requests says."""
        family = _gauge("realised_share", "Share of a pool's requests or tokens that a site had.", "unit")
        for pool in self._table().pools:
            found = [cells.get((pool.name, site.name), Cell()) for site in pool.sites]
            for unit, counts in (
                ("requests", [sum(cell.codes.values()) for cell in found]),
                ("tokens", [cell.prompt_tokens + cell.output_tokens for cell in found]),
            ):
                if total := sum(counts):
                    for site, count in zip(pool.sites, counts, strict=True):
                        family.add_metric([pool.name, site.name, unit], count / total)
        return family

    def _plan(self) -> Iterator[Metric]:
        table, now_s = self._table(), self._clock()
        share = _gauge("plan_share", "Share of a pool's requests that is planned; by capacity where no plan is.")
        for pool in table.pools:
            for site, value in zip(pool.sites, pool.shares, strict=True):
                share.add_metric([pool.name, site.name], value)
        yield share
        plan = table.plan
        # NaN, not 0, where there is no plan: an alert on age must not take "none" for "new".
        yield _value("plan_epoch", "Epoch of the plan in force; NaN without.", math.nan if plan is None else plan.epoch)
        yield _value(
            "plan_age_seconds",
            "Since the plan in force was decided; NaN without.",
            math.nan if plan is None else now_s - plan.decided_s,
        )
        yield _value(
            "plan_overdue_seconds",
            "Since the next plan should have taken over; 0 in time, NaN without.",
            math.nan if plan is None else max(0.0, now_s - plan.valid_until_s),
        )
        yield _value("table_generation", "Generation of the table in force.", table.generation)


class _Exposition(Collector):
    """Families that were made for one scrape."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        """Nothing: names are not checked against one another."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield from self._families


def _events(cells: Sequence[Cell]) -> Iterator[Metric]:
    requests = _counter("requests_total", "Requests ended, by status code.", (*_SITE, "code"))
    errors = _counter("upstream_errors_total", "Failures of backends.", (*_SITE, "reason"))
    retries = _counter("retries_total", "Requests sent to another backend.", (*_SITE, "reason"))
    tokens = _counter("tokens_total", "Tokens that replies reported.", (*_SITE, "kind"))
    unknown = _counter("requests_without_estimate_total", "2xx replies without an estimate.", (*_SITE, "reason"))
    for cell in cells:
        site = [cell.pool, cell.datacenter]
        for family, counts in (
            (requests, {str(code): count for code, count in cell.codes.items()}),
            (errors, cell.upstream_errors),
            (retries, cell.retries),
            (unknown, cell.no_estimate),
        ):
            for label, count in counts.items():
                family.add_metric([*site, label], count)
        if cell.prompt_tokens or cell.output_tokens:
            tokens.add_metric([*site, "prompt"], cell.prompt_tokens)
            tokens.add_metric([*site, "output"], cell.output_tokens)
    yield from (requests, errors, retries, tokens, unknown)
    yield _histogram(
        "ttft_seconds",
        "To the first byte of a 2xx reply's body.",
        cells,
        lambda cell: cell.ttft,
    )
    yield _histogram("request_duration_seconds", "To the end of a request.", cells, lambda cell: cell.duration)
    energy = _counter("estimated_energy_joules_total", "Energy of requests, estimated.", _SITE)
    carbon = _counter("estimated_carbon_grams_total", "CO2eq of requests, estimated.", _SITE)
    water = _counter("estimated_water_liters_total", "Water of requests, estimated.", _SITE)
    cost = _gauge(
        "estimated_cost_usd",
        "Energy cost of requests, estimated, summed; a gauge because prices may be negative.",
    )
    for cell in cells:
        if cell.energy_kwh:
            site = [cell.pool, cell.datacenter]
            energy.add_metric(site, cell.energy_kwh * JOULES_PER_KWH)
            carbon.add_metric(site, cell.carbon_gco2)
            water.add_metric(site, cell.water_l)
            cost.add_metric(site, cell.cost_usd)
    yield from (energy, carbon, water, cost)


def _spendings(spendings: Sequence[Spending]) -> Iterator[Metric]:
    labels = ("tenant", *_SITE)
    requests = _counter("tenant_requests_total", "Requests ended, by tenant.", (*labels, "code"))
    refused = _counter("tenant_refused_total", "Requests not admitted, by tenant.", ("tenant", "reason"))
    tokens = _counter("tenant_tokens_total", "Tokens charged to a tenant.", (*labels, "kind"))
    energy = _counter("tenant_energy_joules_total", "Energy of a tenant's requests, estimated.", labels)
    carbon = _counter("tenant_carbon_grams_total", "CO2eq of a tenant's requests, estimated.", labels)
    water = _counter("tenant_water_liters_total", "Water of a tenant's requests, estimated.", labels)
    cost = GaugeMetricFamily(f"{_PREFIX}tenant_cost_usd", "Energy cost of a tenant's requests, summed.", labels=labels)
    ttft = SummaryMetricFamily(
        f"{_PREFIX}tenant_ttft_seconds", "To the first byte of a tenant's event streams.", labels=labels
    )
    for spending in spendings:
        names = [spending.tenant, spending.pool, spending.datacenter]
        for code, count in spending.codes.items():
            requests.add_metric([*names, str(code)], count)
        for reason, count in spending.refused.items():
            refused.add_metric([spending.tenant, reason], count)
        if spending.prompt_tokens or spending.output_tokens:
            tokens.add_metric([*names, "prompt"], spending.prompt_tokens)
            tokens.add_metric([*names, "output"], spending.output_tokens)
        if spending.energy_kwh:
            energy.add_metric(names, spending.energy_kwh * JOULES_PER_KWH)
            carbon.add_metric(names, spending.carbon_gco2)
            water.add_metric(names, spending.water_l)
            cost.add_metric(names, spending.cost_usd)
        if spending.streams:
            ttft.add_metric(names, spending.streams, spending.ttft_sum_s)
    yield from (requests, refused, tokens, energy, carbon, water, cost, ttft)


def _histogram(name: str, text: str, cells: Sequence[Cell], times_of: Callable[[Cell], Times]) -> Metric:
    family = HistogramMetricFamily(f"{_PREFIX}{name}", text, labels=_SITE)
    bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
    for cell in cells:
        times = times_of(cell)
        buckets = list(zip(bounds, accumulate(times.buckets), strict=True))
        if buckets[-1][1]:
            family.add_metric([cell.pool, cell.datacenter], buckets, times.sum_s)
    return family


def _counter(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name.removesuffix("_total"), text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, labels=[*_SITE, *labels])


def _value(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)

"""What is counted, under documented names (docs/reference/router.md); read at /metrics.

``proxy`` hands over each request when it has ended (``observe``); what is a state rather than an event (in flight, up
or down, plan, shares) is read from the balancer and the table when somebody scrapes, so that it cannot drift. Labels
hold names from the table only, never what a client sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marlin.api.footprint import JOULES_PER_KWH, Footprint, footprint_of, request_energy_kwh
from marlin.router.balancer import Balancer
from marlin.router.exchange import Exchange
from marlin.router.usage import Usage
from marlin.router.view import Backend, Datacenter, Table

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The router's metrics, in a registry of their own.

    Args:
        table: the table in force.
        balancer: knows what is in flight and what is up.
        clock: Unix time, s.
    """

    def __init__(self, table: Callable[[], Table], balancer: Balancer, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        self.registry.register(_State(table, balancer, clock))
        site = ("pool", "datacenter")

        def counter(name: str, text: str, labels: tuple[str, ...] = site) -> Counter:
            return Counter(f"marlin_router_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"marlin_router_{name}", text, site, buckets=_SECONDS, registry=self.registry)

        self._requests = counter("requests_total", "Requests ended, by status code.", (*site, "code"))
        self._ttft = histogram("ttft_seconds", "From the request's head to the first byte of a 2xx reply's body.")
        self._duration = histogram("request_duration_seconds", "From a request's head to its end.")
        self._upstream_errors = counter("upstream_errors_total", "Failures of backends.", (*site, "reason"))
        self._reloads = counter("table_reloads_total", "Readings of a changed table.", ("result",))
        self._tokens = counter("tokens_total", "Tokens that replies reported.", (*site, "kind"))
        self._no_estimate = counter(
            "requests_without_estimate_total", "2xx replies without an estimate.", (*site, "reason")
        )
        self._energy = counter("estimated_energy_joules_total", "Energy of requests, estimated.")
        self._carbon = counter("estimated_carbon_grams_total", "CO2eq of requests, estimated.")
        self._water = counter("estimated_water_liters_total", "Water of requests, estimated.")
        self._cost = Gauge(
            "marlin_router_estimated_cost_usd",
            "Energy cost of requests, estimated, summed; a gauge because prices may be negative.",
            site,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def count_reload(self, result: str) -> None:
        """Counts a reading of the table."""
        self._reloads.labels(result).inc()

    def count_upstream_error(self, backend: Backend, reason: str) -> None:
        """Counts a backend's failure."""
        self._upstream_errors.labels(backend.pool, backend.datacenter, reason).inc()

    def observe(self, exchange: Exchange) -> None:
        """Counts a request that has ended."""
        site = (exchange.pool, exchange.datacenter)
        self._requests.labels(*site, str(exchange.status)).inc()
        self._duration.labels(*site).observe(exchange.duration_s)
        if exchange.ttft_s is not None and exchange.status < 300:
            self._ttft.labels(*site).observe(exchange.ttft_s)

    def observe_footprint(self, backend: Backend, datacenter: Datacenter, usage: Usage | None) -> None:
        """Counts what a 2xx reply cost, or why that is not known."""
        site = (backend.pool, datacenter.name)
        if usage is not None:
            self._tokens.labels(*site, "prompt").inc(usage.prompt_tokens)
            self._tokens.labels(*site, "output").inc(usage.output_tokens)
        estimate = estimate_of(backend, datacenter, usage, self._clock())
        if isinstance(estimate, str):
            self._no_estimate.labels(*site, estimate).inc()
            return
        self._energy.labels(*site).inc(estimate.energy_kwh * JOULES_PER_KWH)
        self._carbon.labels(*site).inc(estimate.carbon_gco2)
        self._water.labels(*site).inc(estimate.water_l)
        self._cost.labels(*site).inc(estimate.cost_usd)


def estimate_of(backend: Backend, datacenter: Datacenter, usage: Usage | None, now_s: float) -> Footprint | str:
    """What a request cost, or in one word why nobody knows.

    Args:
        backend: holds the joules per token.
        datacenter: holds what a kWh brings with it, and until when.
        usage: the tokens; None where the reply did not say.
        now_s: Unix time, s.
    """
    if usage is None:
        return "no_usage"
    if backend.joules_per_prompt_token == 0 and backend.joules_per_output_token == 0:
        return "no_energy_figures"
    if datacenter.signals_valid_until_s is not None and now_s >= datacenter.signals_valid_until_s:
        return "signals_expired"
    energy_kwh = request_energy_kwh(
        usage.prompt_tokens, usage.output_tokens, backend.joules_per_prompt_token, backend.joules_per_output_token
    )
    return footprint_of(energy_kwh, datacenter.intensity)


class _State(Collector):
    """What is read at the moment of the scrape."""

    def __init__(self, table: Callable[[], Table], balancer: Balancer, clock: Callable[[], float]) -> None:
        self._table = table
        self._balancer = balancer
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: names are not checked against one another before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families."""
        table, now_s = self._table(), self._clock()
        yield from self._load(table)
        share = _family("plan_share", "Share of a pool's requests that is planned; by capacity where no plan is.")
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

    def _load(self, table: Table) -> Iterator[Metric]:
        in_flight = _family("in_flight", "Requests at backends now.")
        up = _family("backend_up", "Whether a backend is used: 1 or 0.", "backend")
        concurrency = _family("capacity_requests", "Requests in flight at full capacity, stated or by Little's law.")
        counts = self._balancer.in_flight()
        for pool in table.pools:
            for site in pool.sites:
                names = [pool.name, site.name]
                in_flight.add_metric(names, sum(counts.get((pool.name, b.name), 0) for b in site.backends))
                concurrency.add_metric(names, math.fsum(self._balancer.concurrency(b) for b in site.backends))
                for backend in site.backends:
                    up.add_metric([*names, backend.name], float(self._balancer.is_usable(backend)))
        yield from (in_flight, up, concurrency)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"marlin_router_{name}", text, labels=["pool", "datacenter", *labels])


def _value(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"marlin_router_{name}", text, value=value)

"""What is so now, as samples: pure, out of the last round's report, the ledger and what routers saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from marlin.api.conditions import Condition, ConditionStatus
from marlin.api.metrics import MetricsText
from marlin.api.policy import MarlinPolicyStatus
from marlin.api.values import SHARE_SCALE
from marlin.operator.arrivals.history import Ended
from marlin.operator.core.observed import Key
from marlin.operator.core.report import PolicyReport, Report, SiteReport
from marlin.operator.signals.ladder import FIELDS
from marlin.operator.telemetry.catalogue import MEASURES, PREFIX, RUNGS
from marlin.operator.telemetry.ledger import Last

_TRUTH = {ConditionStatus.TRUE: 1.0, ConditionStatus.FALSE: 0.0, ConditionStatus.UNKNOWN: math.nan}

Sample = tuple[str, tuple[str, ...], float]
"""Name of a measure, its labels' values, the value."""


@dataclass(frozen=True, slots=True)
class Levels:
    """All that the samples are read out of."""

    report: Report = field(default_factory=Report)
    last: Mapping[Key, Last] = field(default_factory=dict)
    ended: Mapping[Key, Ended] = field(default_factory=dict)
    """Policy to what its routers saw of the newest epoch that is over."""

    def families(self, now: datetime) -> list[Metric]:
        """All of it, by measure; measures without a sample are missing."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, labels, value in self._samples(now):
            family = families.get(name)
            if family is None:
                measure = MEASURES[name]
                family = families[name] = GaugeMetricFamily(f"{PREFIX}{name}", measure.help, labels=measure.labels)
            family.add_metric(labels, value)
        return list(families.values())

    def _samples(self, now: datetime) -> Iterator[Sample]:
        for policy in self.report.policies:
            yield from _conditions("policy_condition", policy.key, policy.status.conditions)
            is_paused = any(c.type == "Planned" and c.reason == "Paused" for c in policy.status.conditions)
            yield "paused", policy.key, float(is_paused)
            yield from _plan(policy, now)
            yield from _estimates(policy.key, policy.status)
            yield from _adapting(policy.key, policy.status)
            for agent in policy.status.agents:
                yield "agent_capital", (*policy.key, agent.name), float(agent.capital)
            if (last := self.last.get(policy.key)) is not None:
                yield from _decision(policy.key, last)
                if (ended := self.ended.get(policy.key)) is not None:
                    yield from _predicted(policy.key, last, ended)
            if (ended := self.ended.get(policy.key)) is not None:
                yield from _observed(policy.key, ended)
        for pool in self.report.pools:
            yield from _conditions("pool_condition", pool.key, pool.status.conditions)
        for site in self.report.sites:
            yield from _conditions("datacenter_condition", (site.name,), site.status.conditions)
            yield from _signals(site, now)


def _conditions(name: str, labels: tuple[str, ...], conditions: tuple[Condition, ...]) -> Iterator[Sample]:
    for condition in conditions:
        yield name, (*labels, condition.type), _TRUTH[condition.status]


def _plan(policy: PolicyReport, now: datetime) -> Iterator[Sample]:
    plan, key = policy.status.plan, policy.key
    if plan is None:
        return
    yield "plan_info", (*key, policy.mode, plan.planner.value, plan.scheme.value), 1.0
    yield "plan_epoch", key, float(plan.epoch)
    yield "plan_age_seconds", key, max(0.0, (now - plan.decided_time).total_seconds())
    yield "plan_overdue_seconds", key, max(0.0, (now - plan.valid_until).total_seconds())
    if policy.status.forecast_requests is not None:
        yield "forecast_requests", key, float(policy.status.forecast_requests)
    for row in plan.pools:
        for site, weight in zip(plan.datacenters, row.weights, strict=True):
            if weight:
                yield "plan_share", (*key, row.name, site), weight / SHARE_SCALE
        for site, replicas in zip(plan.datacenters, row.replicas, strict=False):  # there may be none
            yield "plan_replicas", (*key, row.name, site), float(replicas)


def _estimates(key: Key, status: MarlinPolicyStatus) -> Iterator[Sample]:
    shadow = status.shadow.estimate if status.shadow is not None else None
    for of, text in (("plan", status.estimate), ("baseline", status.baseline_estimate), ("shadow", shadow)):
        if text is not None:
            yield from (_estimate(key, of, name, value) for name, value in _numbers(text))


def _adapting(key: Key, status: MarlinPolicyStatus) -> Iterator[Sample]:
    found = next((c for c in status.conditions if c.type == "Adapting" and c.reason != "NotNeeded"), None)
    if found is None:
        return
    yield "adapt_running", key, float(found.reason == "Learning")
    if (last := status.adaptation) is not None:
        yield "adapt_value", (*key, "serving"), float(last.serving_value)
        yield "adapt_value", (*key, "adapted"), float(last.adapted_value)


def _numbers(text: MetricsText) -> tuple[tuple[str, float], ...]:
    return (
        ("estimate_ttft_seconds", float(text.time_to_first_token_milliseconds) / 1000.0),
        ("estimate_carbon_grams", float(text.carbon_grams)),
        ("estimate_water_liters", float(text.water_liters)),
        ("estimate_cost_usd", float(text.cost_usd)),
    )


def _estimate(key: Key, of: str, name: str, value: float) -> Sample:
    return name, (*key, of), value


def _decision(key: Key, last: Last) -> Iterator[Sample]:
    yield "last_decision_seconds", key, last.took_s
    planned = last.planned
    if planned is None:
        return
    yield "held_pools", key, float(len(planned.held))
    yield "assumed_pools", key, float(len(planned.assumed))
    if (game := planned.negotiation) is None:
        return
    for name, values in (
        ("agent_utility", game.utility),
        ("agent_worth", game.worth),
        ("agent_weight", game.weights),
    ):
        for agent, value in values.items():
            yield name, (*key, agent), value
    for agent in game.utility:
        yield "agent_veto_pull", (*key, agent), game.pulls.get(agent, 0.0)


def _predicted(key: Key, last: Last, ended: Ended) -> Iterator[Sample]:
    for pool, prediction in last.predicted(ended.epoch).items():
        yield "predicted_ttft_seconds", (*key, pool), prediction.ttft_s
        yield "predicted_requests", (*key, pool), prediction.requests
        yield "predicted_tokens_per_second", (*key, pool), prediction.output_tokens_per_s


def _observed(key: Key, ended: Ended) -> Iterator[Sample]:
    for pool, ttft_s in ended.ttft_s.items():
        yield "observed_ttft_seconds", (*key, pool), ttft_s
    for pool, requests in ended.requests.items():
        yield "observed_requests", (*key, pool), requests
    for pool, tokens_per_s in ended.output_tokens_per_s.items():
        yield "observed_tokens_per_second", (*key, pool), tokens_per_s


def _signals(site: SiteReport, now: datetime) -> Iterator[Sample]:
    if site.readings is None:
        return
    for signal, reading in zip(FIELDS, site.readings.all(), strict=True):
        yield "signal_value", (site.name, signal, reading.unit), reading.value
        yield "signal_rung", (site.name, signal), float(RUNGS.index(reading.quality.value))
        yield "signal_age_seconds", (site.name, signal), max(0.0, (now - reading.observed).total_seconds())

"""The status of each kind, from what was observed and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from marlin.api.conditions import Condition, ConditionStatus
from marlin.api.datacenter import (
    Datacenter,
    DatacenterStatus,
    NodeGroupStatus,
    SampleQuality,
    ServiceState,
    SignalSamples,
)
from marlin.api.metrics import MetricsText
from marlin.api.plan import RoutingPlan
from marlin.api.policy import MarlinPolicyStatus, Mode, ShadowStatus
from marlin.api.pool import BackendStatus, InferencePoolStatus
from marlin.operator.core.acceptance import Verdict
from marlin.operator.core.adapting import NOT_LOOKED_AT, NOT_WANTED, Adapting, learning_roles
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.calibrating import Calibration, calibration_of
from marlin.operator.core.observed import ObservedPolicy, ObservedPool, ObservedSite
from marlin.operator.core.planning import Planned, Refusal, is_paused
from marlin.operator.core.savings import estimate_basis
from marlin.operator.core.statements import Statement, conditions
from marlin.operator.core.tables import unresolved_backends
from marlin.operator.members.sighting import BackendSight, Finding, Sighting
from marlin.operator.signals.values import SiteReadings

_MOST_MESSAGE = 1024


def site_status(
    site: ObservedSite, readings: SiteReadings | None, now: datetime, sighting: Sighting | None = None
) -> DatacenterStatus:
    """What is known of a site.

    Args:
        site: the site, as it was stated.
        readings: its signals; None where its spec cannot be read.
        now: the time.
        sighting: what was seen of its cluster and router; None: it was not looked at yet.
    """
    if site.model is None or readings is None:
        statements = [Statement("Ready", False, "InvalidSpec", site.problem)]
        return DatacenterStatus(
            observed_generation=site.generation,
            message=site.problem[:_MOST_MESSAGE],
            conditions=_conditions("Datacenter", site, statements, now),
        )
    fresh = _signals_fresh(readings)
    reach = _reach(site, site.model, sighting)
    statements = [*reach, fresh]
    statements.append(_site_ready(site.model, fresh, {statement.type: statement for statement in reach}))
    before = site.status or DatacenterStatus()
    groups = None if sighting is None else sighting.groups
    return DatacenterStatus(
        observed_generation=site.generation,
        cluster_id=before.cluster_id if sighting is None else sighting.cluster_id or None,
        kubernetes_version=before.kubernetes_version if sighting is None else sighting.version or None,
        ready_accelerators=before.ready_accelerators
        if groups is None
        else sum(group.ready_nodes * group.accelerators_per_node for group in groups),
        node_groups=before.node_groups
        if groups is None
        else tuple(NodeGroupStatus(name=group.name, ready_nodes=group.ready_nodes) for group in groups[:32]),
        signals=SignalSamples(
            carbon_intensity=readings.carbon.to_sample(),
            water_intensity=readings.water.to_sample(),
            energy_price=readings.price.to_sample(),
        ),
        message=statements[-1].message[:_MOST_MESSAGE] or None,
        conditions=_conditions("Datacenter", site, statements, now),
    )


@dataclass(frozen=True, slots=True)
class Programmed:
    """What became of a pool's plan."""

    plan: RoutingPlan | None = None
    """The plan its policy enforces; None where none is enforced."""
    is_published: bool = False
    """Whether a table with its addresses is there for routers."""
    wanted: Mapping[str, int] = field(default_factory=dict)
    """Backend to the replicas the policy's plan wants awake, enforced or not; empty where scaling is off."""


def pool_status(
    pool: ObservedPool,
    sites: Mapping[str, Datacenter],
    programmed: Programmed,
    now: datetime,
    sightings: Mapping[str, Sighting] | None = None,
    calibration: Calibration | None = None,
) -> InferencePoolStatus:
    """What is known of a pool.

    Args:
        pool: the pool.
        sites: the sites there are.
        programmed: what became of its plan.
        now: the time.
        sightings: site to what was seen in its cluster.
        calibration: how fast it is taken to be; None: its engines are not read.
    """
    if pool.model is None:
        statements = [
            Statement("Accepted", False, "InvalidSpec", pool.problem),
            Statement("Ready", False, "NotAccepted", pool.problem),
        ]
        return InferencePoolStatus(
            observed_generation=pool.generation,
            message=pool.problem[:_MOST_MESSAGE],
            conditions=_conditions("InferencePool", pool, statements, now),
        )
    backends = pool.model.spec.backends
    missing = sorted({b.datacenter_name for b in backends if b.datacenter_name not in sites})
    unresolved = unresolved_backends(pool.model, sites)
    sights = _sights(pool, sightings or {})
    not_scaled = [f"backend {name} is not scaled: {s.scale_problem}" for name, s in sights.items() if s.scale_problem]
    not_found = [f"backend {name}: {sight.problem}" for name, sight in sights.items() if sight.problem]
    accepted = (
        Statement("Accepted", False, "DatacenterNotFound", f"there is no Datacenter {', '.join(missing[:5])}")
        if missing
        else Statement("Accepted", True, "Accepted")
    )
    resolved = (
        Statement("ResolvedRefs", False, "KindNotSupported", "; ".join(list(unresolved.values())[:3]))
        if unresolved
        else Statement("ResolvedRefs", False, "BackendNotFound", "; ".join(not_found[:3]))
        if not_found
        else Statement("ResolvedRefs", True, "ResolvedRefs")
    )
    published = (
        Statement("Programmed", True, "Programmed", "a routing table with its addresses is published")
        if programmed.is_published
        else Statement("Programmed", False, "NotPlanned", "no accepted MarlinPolicy plans this pool")
    )
    calibration = calibration or calibration_of(pool, None)
    profile = Statement("ProfileCalibrated", calibration.holds, calibration.reason, calibration.message)
    usable = [b for b in backends if b.datacenter_name in sites and b.name not in unresolved]
    alive = [b for b in usable if b.name not in sights or sights[b.name].ready_endpoints > 0]
    if usable and not alive:
        ready = Statement("Ready", False, "NoReadyBackend", "no backend has a ready endpoint")
    elif usable:
        said = f"{len(usable)} of {len(backends)} backends have an address"
        if sights:
            said += (
                f"; {sum(s.ready_endpoints > 0 for s in sights.values())} of {len(sights)} seen have ready endpoints"
            )
        ready = Statement("Ready", True, "Ready", said)
    else:
        ready = Statement("Ready", False, "NoReadyBackend", "no backend has an address in a known Datacenter")
    plan = programmed.plan
    row = plan.pool(pool.name) if plan is not None else None
    weights = dict(zip(plan.datacenters, row.weights, strict=True)) if plan is not None and row is not None else {}
    return InferencePoolStatus(
        observed_generation=pool.generation,
        fitted_profile=calibration.fitted,
        ready_backends=sum(sight.ready_endpoints > 0 for sight in sights.values()) if sights else None,
        backends=tuple(
            BackendStatus(
                name=b.name,
                datacenter_name=b.datacenter_name,
                weight=_part(b.name, b.datacenter_name, pool, weights),
                ready_endpoints=sights[b.name].ready_endpoints if b.name in sights else None,
                desired_replicas=programmed.wanted.get(b.name),
            )
            for b in backends
        ),
        message="; ".join([ready.message or accepted.message, *not_scaled][:3])[:_MOST_MESSAGE] or None,
        conditions=_conditions("InferencePool", pool, [accepted, resolved, published, profile, ready], now),
    )


def _sights(pool: ObservedPool, sightings: Mapping[str, Sighting]) -> dict[str, BackendSight]:
    """Backend to what was seen of it."""
    return {name: sight for one in sightings.values() for (key, name), sight in one.backends.items() if key == pool.key}


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known of a policy beside its plan."""

    artifacts: Mapping[str, ArtifactUse] = field(default_factory=dict)
    """Role to its artifact, for planners of kind Marlin."""
    observed: Finding | None = None
    """Whether its routers can be read; None: it names none."""
    adapting: Adapting | None = None
    """Its learning on; None: nothing is known of it."""


def policy_status(
    policy: ObservedPolicy,
    verdict: Verdict,
    outcome: Planned | Refusal | None,
    *,
    applied_problem: str,
    write_problem: str,
    now: datetime,
    beside: Beside | None = None,
) -> MarlinPolicyStatus:
    """What is known of a policy.

    Args:
        policy: the policy, with its last status.
        verdict: whether it is accepted.
        outcome: what planning gave; None: the plan in the status still holds.
        applied_problem: why its tables could not be made; empty when they were.
        write_problem: why they could not be written last time; empty when they were.
        now: the time.
        beside: what is known beside its plan. Default: nothing.
    """
    beside = beside or Beside()
    before = policy.status or MarlinPolicyStatus()
    agents = before.agents
    plan = before.plan if verdict.is_accepted else None
    estimate, baseline, shadow = before.estimate, before.baseline_estimate, before.shadow
    forecast = before.forecast_requests
    if isinstance(outcome, Planned):
        plan = outcome.plan
        estimate = None if outcome.estimate is None else MetricsText.of(outcome.estimate)
        baseline = None if outcome.baseline_estimate is None else MetricsText.of(outcome.baseline_estimate)
        forecast = round(outcome.forecast_requests)
        shadow = _shadow_status(outcome)
        agents = outcome.agents or agents
    accepted = Statement("Accepted", verdict.is_accepted, verdict.reason, verdict.message)
    planned = _planned(policy, verdict, outcome, plan, now)
    applied = (
        Statement("Applied", False, "PartiallyApplied", write_problem)
        if write_problem and not applied_problem
        else _applied(policy, plan, applied_problem, now)
    )
    degraded = _degraded(policy, outcome)
    ready = _policy_ready(policy, accepted, planned, applied)
    learns = policy.model is not None and bool(learning_roles(policy.model))
    adapts = (beside.adapting or NOT_LOOKED_AT) if learns else NOT_WANTED
    status = [
        accepted,
        _artifact(beside.artifacts),
        Statement("Adapting", adapts.finding.holds, adapts.finding.reason, adapts.finding.message),
        _observed(beside.observed),
        planned,
        applied,
        degraded,
        ready,
    ]
    if not verdict.is_accepted:
        estimate = baseline = shadow = forecast = None
    return MarlinPolicyStatus(
        observed_generation=policy.generation,
        plan=plan,
        forecast_requests=forecast,
        estimate=estimate,
        baseline_estimate=baseline,
        estimate_basis=(estimate_basis(verdict.pools)[:_MOST_MESSAGE] or None) if estimate is not None else None,
        shadow=shadow,
        agents=agents,
        adaptation=before.adaptation if learns and beside.adapting is None else adapts.last,
        message=_story(plan, status)[:_MOST_MESSAGE] or None,
        conditions=_conditions("MarlinPolicy", policy, status, now),
    )


def _conditions(
    kind: str,
    observed: ObservedSite | ObservedPool | ObservedPolicy,
    statements: Sequence[Statement],
    now: datetime,
) -> tuple[Condition, ...]:
    before = observed.status.conditions if observed.status is not None else ()
    return conditions(kind, statements, before, now=now, generation=observed.generation)


def _reach(site: ObservedSite, model: Datacenter, sighting: Sighting | None) -> list[Statement]:
    """Credentials, cluster and router. Until the first look, what the status says stands: nothing is known better."""
    if sighting is not None:
        found = (sighting.credentials, sighting.cluster, sighting.router)
        types = ("CredentialsValid", "ClusterReachable", "RouterReachable")
        return [Statement(t, f.holds, f.reason, f.message) for t, f in zip(types, found, strict=True)]
    known = {c.type: c for c in (site.status.conditions if site.status is not None else ())}
    statements = []
    for type_, configured in (
        ("CredentialsValid", model.spec.cluster),
        ("ClusterReachable", model.spec.cluster),
        ("RouterReachable", model.spec.router),
    ):
        before = known.get(type_)
        if configured is None:
            statements.append(Statement(type_, None, "NotConfigured"))
        elif before is not None and before.reason != "NotConfigured":
            statements.append(Statement(type_, _truth(before.status), before.reason, before.message))
        else:
            statements.append(Statement(type_, None, "NotChecked", "it was not looked at yet"))
    return statements


def _truth(status: ConditionStatus) -> bool | None:
    return None if status is ConditionStatus.UNKNOWN else status is ConditionStatus.TRUE


def _signals_fresh(readings: SiteReadings) -> Statement:
    qualities = {reading.quality for reading in readings.all()}
    problem = readings.problems[0] if readings.problems else None
    if SampleQuality.FALLBACK in qualities:
        return Statement("SignalsFresh", False, "FallbackInUse", problem.message if problem else "never read so far")
    if SampleQuality.HISTORY in qualities:
        return Statement("SignalsFresh", False, "Stale", problem.message if problem else "the last value is too old")
    if problem is not None:
        # Still fresh: the last value has not grown too old, or the forecast covers now.
        return Statement("SignalsFresh", True, "Fresh", f"last attempt: {problem.message}")
    return Statement("SignalsFresh", True, "Fresh")


def _site_ready(site: Datacenter, fresh: Statement, reach: Mapping[str, Statement]) -> Statement:
    if site.spec.service_state is ServiceState.DRAINED:
        return Statement("Ready", False, "Drained", "spec.serviceState is Drained")
    for type_, reason in (
        ("RouterReachable", "RouterUnreachable"),
        ("CredentialsValid", "CredentialsInvalid"),
        ("ClusterReachable", "ClusterUnreachable"),
    ):
        if reach[type_].holds is False:
            return Statement("Ready", False, reason, reach[type_].message)
    if fresh.holds is False:
        return Statement("Ready", False, "SignalsStale", fresh.message)
    return Statement("Ready", True, "Ready")


def _part(name: str, site: str, pool: ObservedPool, weights: Mapping[str, int]) -> int | None:
    """The backend's part of its site's weight, by replicas."""
    if site not in weights or pool.model is None:
        return None
    here = [b for b in pool.model.spec.backends if b.datacenter_name == site]
    replicas = {b.name: b.capacity.replicas if b.capacity else 0 for b in here}
    total = sum(replicas.values())
    return round(weights[site] * replicas[name] / total) if total else 0


def _artifact(uses: Mapping[str, ArtifactUse]) -> Statement:
    if not uses:
        return Statement("ArtifactAccepted", None, "NotNeeded", "the planner uses no artifact")
    for role, use in uses.items():
        if use.problem:
            kept = "; the one before it stays in use" if use.folder is not None else ""
            return Statement("ArtifactAccepted", False, "ArtifactRejected", f"{role}: {use.problem}{kept}")
    return Statement("ArtifactAccepted", True, "Accepted")


def _observed(finding: Finding | None) -> Statement:
    if finding is None:
        said = "spec.observation names no routers: half of each pool's capacity is assumed to be asked for"
        return Statement("Observed", None, "NotConfigured", said)
    return Statement("Observed", finding.holds, finding.reason, finding.message)


def _planned(
    policy: ObservedPolicy, verdict: Verdict, outcome: Planned | Refusal | None, plan: RoutingPlan | None, now: datetime
) -> Statement:
    if not verdict.is_accepted or policy.model is None:
        return Statement("Planned", False, "NotAccepted", verdict.message)
    if isinstance(outcome, Refusal):
        kept = "; the last plan stays" if plan is not None else "; routers go by capacity"
        return Statement("Planned", False, outcome.reason, f"{outcome.message}{kept}")
    if is_paused(policy.model, now):
        return Statement("Planned", False, "Paused", "no new plans while paused")
    if plan is None:
        return Statement("Planned", None, "InsufficientData", "no plan was made yet")
    return Statement("Planned", True, "Planned", plan.explanation)


def _applied(policy: ObservedPolicy, plan: RoutingPlan | None, problem: str, now: datetime) -> Statement:
    if problem:
        return Statement("Applied", False, "TableRejected", problem)
    if policy.model is not None:
        if is_paused(policy.model, now):
            return Statement("Applied", False, "Paused", "the last plan stays in the routing tables")
        if policy.model.spec.mode is Mode.DRY_RUN:
            return Statement("Applied", False, "DryRun", "spec.mode is DryRun: the plan is shown, not carried out")
    if plan is None:
        return Statement("Applied", False, "NotPlanned", "there is no plan")
    return Statement("Applied", True, "Applied", "published in the routing tables; routers are not asked")


def _degraded(policy: ObservedPolicy, outcome: Planned | Refusal | None) -> Statement:
    if isinstance(outcome, Refusal):
        reason = "SignalsStale" if outcome.reason == "InsufficientData" else "FallbackInUse"
        return Statement("Degraded", True, reason, outcome.message)
    if isinstance(outcome, Planned):
        if outcome.fallbacks:
            return Statement("Degraded", True, "SignalsStale", f"signals lost: {', '.join(outcome.fallbacks[:5])}")
        if outcome.shadow_problem:
            return Statement("Degraded", False, "AsExpected", f"shadow: {outcome.shadow_problem}")
        return Statement("Degraded", False, "AsExpected")
    if policy.status is not None:
        for condition in policy.status.conditions:
            if condition.type == "Degraded" and condition.reason in {"SignalsStale", "FallbackInUse", "AsExpected"}:
                return Statement("Degraded", condition.status.value == "True", condition.reason, condition.message)
    return Statement("Degraded", False, "AsExpected")


def _policy_ready(policy: ObservedPolicy, accepted: Statement, planned: Statement, applied: Statement) -> Statement:
    if not accepted.holds:
        return Statement("Ready", False, "NotAccepted", accepted.message)
    if not planned.holds and planned.reason != "Paused":
        return Statement("Ready", False, "NotPlanned", planned.message)
    if not applied.holds and applied.reason not in {"DryRun", "Paused"}:
        return Statement("Ready", False, "NotApplied", applied.message)
    return Statement("Ready", True, "Ready", applied.message if not applied.holds else "")


def _shadow_status(planned: Planned) -> ShadowStatus | None:
    if planned.shadow is None:
        return None
    estimate = planned.shadow_estimate
    return ShadowStatus(plan=planned.shadow, estimate=None if estimate is None else MetricsText.of(estimate))


def _story(plan: RoutingPlan | None, statements: Sequence[Statement]) -> str:
    """One line: what is wrong, else what the plan does."""
    by_type = {statement.type: statement for statement in statements}
    for name in ("Accepted", "Planned"):
        if not by_type[name].holds:
            return by_type[name].message
    said = plan.explanation if plan is not None else ""
    mode = by_type["Applied"]
    return said if mode.holds else f"{mode.reason}: {said}" if said else mode.message

"""Everything the operator decides, in one function: a ``World`` in, ``Actions`` out.

Level-based: it looks at what is there, not at what happened, so it may be called at any time, twice in a row, after a
restart or a failover, and writes only what is not there yet. What has to outlive the process is in the objects: the
plan in the policy's status, the routing table in its ConfigMap.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from marlin.api.datacenter import Datacenter, DatacenterStatus
from marlin.api.errors import MarlinError
from marlin.api.plan import RoutingPlan
from marlin.api.policy import MarlinPolicyStatus, Mode
from marlin.api.pool import InferencePoolStatus, ScalingMode
from marlin.api.values import API_VERSION, ApiModel
from marlin.operator.core.acceptance import Verdict, verdicts
from marlin.operator.core.adapting import Adapting
from marlin.operator.core.applies import Apply, EventNote, apply_status, apply_table
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.calibrating import EngineSight, calibration_of, pool_as_calibrated
from marlin.operator.core.fleet import Forecast, Load, fleet_of
from marlin.operator.core.found import pool_as_found, site_as_found
from marlin.operator.core.memory import Memory
from marlin.operator.core.negotiation import newly_told
from marlin.operator.core.observed import Key, ObservedPolicy, ObservedPool, ObservedSite
from marlin.operator.core.planning import Planned, Refusal, Task, is_paused, make_plan
from marlin.operator.core.published import PublishedTable, TableTooLargeError
from marlin.operator.core.report import PolicyReport, PoolReport, Report, SiteReport
from marlin.operator.core.scaling import ScaleOrder, replicas_in_use, scale_orders, wanted_replicas
from marlin.operator.core.statements import changed
from marlin.operator.core.statuses import Beside, Programmed, policy_status, pool_status, site_status
from marlin.operator.core.tables import table_names, table_parts
from marlin.operator.engines.fitting import Fit
from marlin.operator.engines.wanted import Wanted, wanted_engines
from marlin.operator.epochs import epoch_at, epoch_to_plan, is_planned, next_due
from marlin.operator.members.sighting import BackendKey, Finding, Sighting
from marlin.operator.signals.ladder import site_readings
from marlin.operator.signals.values import Feed, SiteReadings

_log: Final = logging.getLogger(__name__)

LONGEST_REST: Final = timedelta(seconds=60)
"""Everything is looked at at least this often, whatever a watch may have missed."""


@dataclass(frozen=True, slots=True)
class World:
    """All that is known at a moment."""

    now: datetime
    sites: tuple[ObservedSite, ...] = ()
    pools: tuple[ObservedPool, ...] = ()
    policies: tuple[ObservedPolicy, ...] = ()
    feeds: Mapping[tuple[str, str], Feed] = field(default_factory=dict)
    """(site, signal) to what is known of a live signal."""
    forecasts: Mapping[Key, Forecast] = field(default_factory=dict)
    """(namespace, pool) to what is expected of it in the epoch to plan."""
    tables: Mapping[Key, PublishedTable] = field(default_factory=dict)
    """The routing tables that are published, those that can be read."""
    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    """Site to what was seen of its cluster and router; sites that were never looked at are missing."""
    artifacts: Mapping[tuple[Key, str], ArtifactUse] = field(default_factory=dict)
    """(policy, role) to the artifact of a planner of kind Marlin."""
    adapting: Mapping[Key, Adapting] = field(default_factory=dict)
    """Policy to what is known of its learning on; policies that are not to are missing."""
    in_flight: Mapping[Key, Mapping[tuple[str, str], float]] = field(default_factory=dict)
    """Policy to requests by (pool, site) now; policies of which that is not known are missing."""
    engines: Mapping[Key, EngineSight] = field(default_factory=dict)
    """(namespace, pool) to what is known of its engines; pools whose engines are not read are missing."""
    observed: Mapping[Key, Finding] = field(default_factory=dict)
    """Policy to whether its routers can be read; policies that name none are missing."""
    write_problems: Mapping[Key, str] = field(default_factory=dict)
    """(namespace, policy) to why its tables could not be written last time."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What is to be done about it."""

    applies: tuple[Apply, ...]
    """In this order: routing tables before the statuses that say they are published."""
    events: tuple[EventNote, ...]
    wake_at: datetime
    """When to look again at the latest."""
    report: Report = field(default_factory=Report)
    """What was seen and decided, for metrics."""
    scales: Mapping[BackendKey, ScaleOrder] = field(default_factory=dict)
    """Backend to what its workload is to be scaled to."""
    engines: Mapping[Key, Wanted] = field(default_factory=dict)
    """(namespace, pool) to the engines that are to be read."""


def reconcile(world: World, memory: Memory | None = None) -> Actions:
    """What is to be written about the world as it is.

    Args:
        world: all that is known.
        memory: of the rounds before, which makes this one quicker. Default: none.
    """
    memory = memory or Memory()
    now = world.now
    readings = _readings(world, now)
    found = tuple(site_as_found(site, world.sightings) for site in world.sites)
    sites = {site.name: site.model for site in found if site.model is not None}
    pools = tuple(_pool_as_found(world, memory, pool, sites) for pool in world.pools)
    accepted = verdicts(world.policies, pools, found)
    applies: list[Apply] = []
    events: list[EventNote] = []
    enforced: dict[Key, RoutingPlan] = {}
    shown: dict[Key, RoutingPlan] = {}
    scales: dict[BackendKey, ScaleOrder] = {}
    planned_by: dict[Key, Key] = {}
    wake = [now + LONGEST_REST]
    policy_reports: list[PolicyReport] = []
    pool_reports: list[PoolReport] = []
    site_reports: list[SiteReport] = []
    for policy in world.policies:
        result = _policy(world, memory, policy, accepted[policy.key], readings)
        applies += result.applies
        events += result.events
        policy_reports.append(result.report)
        planned_by.update(dict.fromkeys(result.programmed, policy.key))
        if (shown_plan := result.report.status.plan) is not None:
            shown.update(dict.fromkeys(result.programmed, shown_plan))
        if result.enforced is not None:
            enforced.update(dict.fromkeys(result.programmed, result.enforced))
        if policy.model is not None:
            wake.append(next_due(now, policy.model.spec.epoch_seconds))
    for pool in world.pools:
        owner = planned_by.get(pool.key)
        refused = world.write_problems.get(owner, "") if owner is not None else ""
        plan = enforced.get(pool.key)
        if plan is not None and owner is not None and not refused:
            scales |= _scale_orders(world, memory, pool, plan, owner)
        wanted = {} if pool.key not in shown or pool.model is None else wanted_replicas(pool.model, shown[pool.key])
        is_published = owner is not None and not refused
        status, document = _pool_status(world, memory, pool, sites, Programmed(plan, is_published, wanted))
        pool_reports.append(PoolReport(pool.key, status))
        _write("InferencePool", pool, status, document, applies, events, None if refused else owner)
    for site in world.sites:
        of_site = readings.get(site.name)
        site_now, document = _site_status(world, memory, site, of_site)
        site_reports.append(SiteReport(site.name, site_now, of_site))
        _write("Datacenter", site, site_now, document, applies, events)
    memory.sweep()
    report = Report(tuple(policy_reports), tuple(pool_reports), tuple(site_reports))
    return Actions(tuple(applies), tuple(events), min(wake), report, scales, _engines(world, accepted, sites))


def _engines(world: World, accepted: Mapping[Key, Verdict], sites: Mapping[str, Datacenter]) -> dict[Key, Wanted]:
    """The engines that are to be read, by pool."""
    stated = {pool.key: pool.model for pool in world.pools}
    wanted: dict[Key, Wanted] = {}
    for policy in world.policies:
        if policy.model is None or not accepted[policy.key].is_accepted:
            continue
        keys = ((policy.key[0], pool.metadata.name) for pool in accepted[policy.key].pools)
        pools = (model for key in keys if (model := stated[key]) is not None)
        wanted |= wanted_engines(policy.model, pools, sites, world.sightings)
    return wanted


@dataclass(frozen=True, slots=True)
class _Result:
    applies: list[Apply]
    events: list[EventNote]
    programmed: set[Key]
    enforced: RoutingPlan | None
    report: PolicyReport


def _pool_as_found(world: World, memory: Memory, pool: ObservedPool, sites: Mapping[str, Datacenter]) -> ObservedPool:
    if pool.model is None:
        return pool
    here, seen, around = _around(world, pool, sites)

    def make() -> ObservedPool:
        return pool_as_calibrated(pool_as_found(pool, here, seen), calibration_of(pool, world.engines.get(pool.key)))

    return memory.pools.get(pool.key, (pool, around), make)


def _speed(world: World, pool: ObservedPool) -> tuple[Fit | None, str, str] | None:
    """What is known of its engines but for what they have to do now."""
    sight = world.engines.get(pool.key)
    return None if sight is None else (sight.fit, sight.reason, sight.message)


AnyStatus = TypeVar("AnyStatus", DatacenterStatus, InferencePoolStatus, MarlinPolicyStatus)


def _documented(
    observed: ObservedSite | ObservedPool | ObservedPolicy, status: AnyStatus
) -> tuple[AnyStatus, Mapping[str, Any]]:
    """A status and the same as a document: those that are there already where they say the same, to hold them once."""
    document = status.to_document()
    if document == observed.raw_status and observed.status == status:
        return observed.status, observed.raw_status
    return status, document


def _site_status(
    world: World, memory: Memory, site: ObservedSite, readings: SiteReadings | None
) -> tuple[DatacenterStatus, Mapping[str, Any]]:
    """A site's status and the same as a document; ``now`` is in it only where something else changed."""
    sighting = world.sightings.get(site.name)
    of_site = (site.model, site.generation, site.problem, readings, sighting)
    return memory.site_statuses.get(
        site.key,
        (*of_site, site.status),
        lambda: _documented(site, site_status(site, readings, world.now, sighting)),
        lambda made: (*of_site, made[0]),
    )


def _pool_status(
    world: World,
    memory: Memory,
    pool: ObservedPool,
    sites: Mapping[str, Datacenter],
    programmed: Programmed,
) -> tuple[InferencePoolStatus, Mapping[str, Any]]:
    """A pool's status and the same as a document; ``now`` is in it only where something else changed."""
    here, seen, around = _around(world, pool, sites)
    plan = programmed.plan and programmed.plan.hash
    of_plan = (plan, programmed.is_published, programmed.wanted)
    of_pool = (pool.model, pool.generation, pool.problem, around)

    def make() -> tuple[InferencePoolStatus, Mapping[str, Any]]:
        calibration = None if pool.model is None else calibration_of(pool, world.engines.get(pool.key))
        return _documented(pool, pool_status(pool, here, programmed, world.now, seen, calibration))

    return memory.pool_statuses.get(
        pool.key,
        (*of_pool, of_plan, pool.status),
        make,
        lambda made: (*of_pool, of_plan, made[0]),
    )


def _around(
    world: World, pool: ObservedPool, sites: Mapping[str, Datacenter]
) -> tuple[dict[str, Datacenter], dict[str, Sighting], tuple[Any, ...]]:
    """The sites that a pool's backends are in, what was seen there, and all of it that its status depends on."""
    names = {backend.datacenter_name: None for backend in pool.model.spec.backends} if pool.model is not None else {}
    here = {name: sites[name] for name in names if name in sites}
    seen = {name: world.sightings[name] for name in names if name in world.sightings}
    of_sites = (tuple(here), tuple(site.spec for site in here.values()))
    return here, seen, (*of_sites, tuple(seen), tuple(seen.values()), _speed(world, pool))


def _scale_orders(
    world: World, memory: Memory, pool: ObservedPool, plan: RoutingPlan, owner: Key
) -> dict[BackendKey, ScaleOrder]:
    if pool.model is None or pool.model.spec.scaling.mode is not ScalingMode.SCALE:
        return {}
    flying, sight = world.in_flight.get(owner), world.engines.get(pool.key)
    here = None
    if flying is not None:
        here = {site: requests for (name, site), requests in flying.items() if name == pool.name}
    elif sight is not None and sight.is_whole:
        here = {s: sight.running.get(s, 0.0) + sight.waiting.get(s, 0.0) for s in {*sight.running, *sight.waiting}}
    in_use = None
    if here is not None:
        policy = next(p.model for p in world.policies if p.key == owner)
        routers = 1 if policy is None else len(policy.spec.origins)
        published = world.tables.get((owner[0], f"marlin-{owner[1]}"))
        table = None if published is None else memory.unpacked.get(owner, (published.digest,), lambda: published.table)
        in_use = replicas_in_use(pool.model, table, here, routers)
    return {(pool.key, name): order for name, order in scale_orders(pool.model, plan, in_use).items()}


def _policy(
    world: World, memory: Memory, policy: ObservedPolicy, verdict: Verdict, readings: Mapping[str, SiteReadings]
) -> _Result:
    applies: list[Apply] = []
    events: list[EventNote] = []
    outcome = _plan_if_due(world, policy, verdict)
    before = policy.status.plan if policy.status is not None else None
    plan = outcome.plan if isinstance(outcome, Planned) else before
    programmed: set[Key] = set()
    problem = ""
    enforced = None
    if verdict.is_accepted and policy.model is not None:
        enforced = _plan_for_routers(world, policy, plan)
        try:
            applies += _tables(world, memory, policy, verdict, readings, enforced)
            programmed = {(policy.key[0], pool.metadata.name) for pool in verdict.pools}
        except TableTooLargeError as error:
            problem = str(error)
        except ValidationError as error:  # two pools of one model name: a router could not tell them apart
            problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        except MarlinError as error:
            # The same error that planning met: a capacity or a profile is missing. It is in Planned already.
            problem = "" if isinstance(outcome, Refusal) else str(error)
        except Exception as error:  # noqa: BLE001 a defect costs one policy its tables, never the loop
            _log.exception("the tables of MarlinPolicy %s/%s failed", *policy.key)
            problem = f"{type(error).__name__} in the operator; its log has the trace"
    refused = world.write_problems.get(policy.key, "")
    uses = {role: use for (key, role), use in world.artifacts.items() if key == policy.key}

    beside = Beside(uses, world.observed.get(policy.key), world.adapting.get(policy.key))

    def make() -> tuple[MarlinPolicyStatus, Mapping[str, Any]]:
        status = policy_status(
            policy,
            verdict,
            outcome,
            applied_problem=problem,
            write_problem=refused,
            now=world.now,
            beside=beside,
        )
        return _documented(policy, status)

    paused = policy.model is not None and is_paused(policy.model, world.now)
    inputs = (policy, verdict, problem, refused, paused, beside)
    # A decision is of its own round.
    status, document = make() if outcome is not None else memory.policy_statuses.get(policy.key, inputs, make)
    # With a refusal to tell, the status does not wait for the tables: it is what says that they are not there.
    _write("MarlinPolicy", policy, status, document, applies, events, None if refused else policy.key)
    if isinstance(outcome, Planned):
        events.append(_note("MarlinPolicy", policy, "Normal", "PlanPublished", _published(outcome, policy)))
        events += _vetoes(outcome, policy)
    mode = "" if policy.model is None else policy.model.spec.mode.value
    return _Result(applies, events, programmed, enforced, PolicyReport(policy.key, mode, status, outcome))


def _plan_if_due(world: World, policy: ObservedPolicy, verdict: Verdict) -> Planned | Refusal | None:
    """A new plan where the one in the status is not that of the epoch, or of the spec, as it is now."""
    if not verdict.is_accepted or policy.model is None:
        return None
    epoch = epoch_to_plan(world.now, policy.model.spec.epoch_seconds)
    if is_paused(policy.model, epoch.start) or is_paused(policy.model, world.now):
        return None
    before = policy.status.plan if policy.status is not None else None
    seen = policy.status.observed_generation if policy.status is not None else None
    if is_planned(epoch, before) and seen == policy.generation:
        return None
    # Tables are written before statuses: whoever was stopped in between left a newer plan in force than it told of.
    published = world.tables.get((policy.key[0], f"marlin-{policy.name}"))
    if published is not None and published.plan is not None and _is_newer(published.plan, before):
        before = published.plan
    return make_plan(
        Task(
            policy=policy.model,
            pools=verdict.pools,
            sites=verdict.sites,
            readings=_readings_of(world, verdict.sites, epoch.start),
            forecasts=world.forecasts,
            epoch=epoch,
            before=before,
            now=world.now,
            down=frozenset(name for name, sighting in world.sightings.items() if sighting.is_router_down),
            artifacts={role: use for (key, role), use in world.artifacts.items() if key == policy.key},
            agents=policy.status.agents if policy.status is not None else (),
            loads=_loads(world, policy, verdict),
        )
    )


def _loads(world: World, policy: ObservedPolicy, verdict: Verdict) -> dict[Key, Load]:
    """Pool to what its engines have to do now: as they say, else what is in flight at the routers."""
    found: dict[Key, Load] = {}
    flying = world.in_flight.get(policy.key)
    for pool in verdict.pools:
        key = (policy.key[0], pool.metadata.name)
        sight = world.engines.get(key)
        if sight is not None and sight.is_whole:
            found[key] = Load(sight.running, sight.waiting)
        elif flying is not None:
            found[key] = Load({site: requests for (name, site), requests in flying.items() if name == key[1]})
    return found


def _is_newer(plan: RoutingPlan, other: RoutingPlan | None) -> bool:
    return other is None or (plan.epoch, plan.valid_from) > (other.epoch, other.valid_from)


def _plan_for_routers(world: World, policy: ObservedPolicy, plan: RoutingPlan | None) -> RoutingPlan | None:
    """The plan that routing tables carry: none in DryRun; while paused the one that is there."""
    assert policy.model is not None
    if is_paused(policy.model, world.now):
        published = world.tables.get((policy.key[0], f"marlin-{policy.name}"))
        return published.plan if published is not None else None
    return plan if policy.model.spec.mode is Mode.ENFORCE else None


def _tables(
    world: World,
    memory: Memory,
    policy: ObservedPolicy,
    verdict: Verdict,
    readings: Mapping[str, SiteReadings],
    plan: RoutingPlan | None,
) -> list[Apply]:
    """The tables that are not published yet as they should be."""
    model = policy.model
    assert model is not None
    of_sites = {site.metadata.name: readings[site.metadata.name] for site in verdict.sites}
    keys = [(policy.key[0], pool.metadata.name) for pool in verdict.pools]
    expected = {key: world.forecasts[key] for key in keys if key in world.forecasts}
    tokens = {key: (f.mean_prompt_tokens, f.mean_output_tokens) for key, f in expected.items()}
    values = tuple(reading.value for site in of_sites.values() for reading in site.all())

    def make() -> dict[str, PublishedTable]:
        fleet = fleet_of(
            model,
            verdict.pools,
            verdict.sites,
            readings=of_sites,
            unusable=frozenset(),
            forecasts=expected,
            epoch=epoch_at(world.now, model.spec.epoch_seconds),
        )
        parts = table_parts(model, verdict.pools, verdict.sites, fleet.state, of_sites, plan)
        made = parts.tables(plan)
        return {name: made[origin] for name, origin in table_names(model).items()}

    # Of what is expected only the tokens of a request are in a table: they are in its capacities.
    over = (tuple(of_sites), tuple(s.spec for s in verdict.sites), keys, tuple(p.spec for p in verdict.pools))
    inputs = (model.spec, over, values, tokens, plan and plan.hash)
    tables = memory.tables.get(policy.key, inputs, make)
    owner = {"apiVersion": API_VERSION, "kind": "MarlinPolicy", "name": policy.name, "uid": policy.uid}
    applies = []
    for name, table in tables.items():
        key = (policy.key[0], name)
        published = world.tables.get(key)
        if (following := table.succeeding(published)) is not published:
            applies.append(apply_table(key, following, owner, policy.key))
    return applies


def _readings(world: World, at: datetime) -> dict[str, SiteReadings]:
    """Site to its signals at a moment, for the sites that can be read."""
    return _readings_of(world, (site.model for site in world.sites if site.model is not None), at)


def _readings_of(world: World, sites: Iterable[Datacenter], at: datetime) -> dict[str, SiteReadings]:
    """The same, of some of them."""
    feeds: dict[str, dict[str, Feed]] = defaultdict(dict)
    for (name, signal), feed in world.feeds.items():
        feeds[name][signal] = feed
    return {site.metadata.name: site_readings(site, feeds.get(site.metadata.name, {}), at, world.now) for site in sites}


def _write(
    kind: str,
    observed: ObservedSite | ObservedPool | ObservedPolicy,
    status: ApiModel,
    document: Mapping[str, Any],
    applies: list[Apply],
    events: list[EventNote],
    policy: Key | None = None,
) -> None:
    """The status, where it is not there yet, and an Event for each condition that changed for the worse or back."""
    if document == observed.raw_status:
        return
    applies.append(apply_status(observed, kind, status, document, policy))
    before = observed.status.conditions if observed.status is not None else ()
    known = {condition.type for condition in before}
    for condition in changed(before, getattr(status, "conditions", ())):
        is_bad = (condition.status.value == "True") == (condition.type == "Degraded")
        # A first visit tells only what is wrong; that all is well is what everybody expects.
        if condition.status.value == "Unknown" or (condition.type not in known and not is_bad):
            continue
        if condition.type == "Ready":
            continue  # it repeats another
        text = f"{condition.type}: {condition.message}" if condition.message else condition.type
        events.append(_note(kind, observed, "Warning" if is_bad else "Normal", condition.reason, text))


def _note(
    kind: str, observed: ObservedSite | ObservedPool | ObservedPolicy, level: str, reason: str, message: str
) -> EventNote:
    return EventNote(kind, observed.key, observed.uid, level, reason, message)


def _vetoes(outcome: Planned, policy: ObservedPolicy) -> list[EventNote]:
    """An Event where agents begin to veto; one that goes on is told of once."""
    if outcome.negotiation is None:
        return []
    before = policy.status or MarlinPolicyStatus()
    pulls = newly_told(outcome.negotiation, before.agents, before.plan)
    if not pulls:
        return []
    said = ", ".join(f"{name} pulled the plan {pull:.0%} of the way to its own" for name, pull in pulls.items())
    return [_note("MarlinPolicy", policy, "Normal", "Vetoed", f"epoch {outcome.plan.epoch}: {said}")]


def _published(outcome: Planned, policy: ObservedPolicy) -> str:
    assert policy.model is not None
    mode = policy.model.spec.mode.value
    return f"epoch {outcome.plan.epoch} ({mode}): {outcome.plan.explanation}"

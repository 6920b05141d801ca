"""Everything the operator decides, in one function: a ``World`` in, ``Actions`` out.

Level-based: it looks at what is there, not at what happened, so it may be called at any time, twice in a row, after a
restart or a failover, and writes only what is not there yet. What has to outlive the process is in the objects: the
plan in the policy's status, the routing table in its ConfigMap.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from marlin.api.errors import MarlinError
from marlin.api.plan import RoutingPlan
from marlin.api.policy import Mode
from marlin.api.table import RoutingTable
from marlin.api.values import API_VERSION, ApiModel
from marlin.operator.core.acceptance import Verdict, verdicts
from marlin.operator.core.applies import Apply, EventNote, apply_config_map, apply_status
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.fleet import Forecast, fleet_of
from marlin.operator.core.found import pool_as_found, site_as_found
from marlin.operator.core.observed import Key, ObservedPolicy, ObservedPool, ObservedSite
from marlin.operator.core.planning import Planned, Refusal, Task, is_paused, make_plan
from marlin.operator.core.report import PolicyReport, PoolReport, Report, SiteReport
from marlin.operator.core.statements import changed
from marlin.operator.core.statuses import policy_status, pool_status, site_status
from marlin.operator.core.tables import TableTooLargeError, content, routing_table, succeeding, table_names
from marlin.operator.epochs import epoch_at, epoch_to_plan, is_planned, next_due
from marlin.operator.members.sighting import Sighting
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
    tables: Mapping[Key, RoutingTable] = field(default_factory=dict)
    """The routing tables that are published, those that can be read."""
    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    """Site to what was seen of its cluster and router; sites that were never looked at are missing."""
    artifacts: Mapping[tuple[Key, str], ArtifactUse] = field(default_factory=dict)
    """(policy, role) to the artifact of a planner of kind Marlin."""
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


def reconcile(world: World) -> Actions:
    """What is to be written about the world as it is."""
    now = world.now
    readings = _readings(world, now)
    found = tuple(site_as_found(site, world.sightings) for site in world.sites)
    sites = {site.name: site.model for site in found if site.model is not None}
    pools = tuple(pool_as_found(pool, sites, world.sightings) for pool in world.pools)
    accepted = verdicts(world.policies, pools, found)
    applies: list[Apply] = []
    events: list[EventNote] = []
    enforced: dict[Key, RoutingPlan] = {}
    planned_by: dict[Key, Key] = {}
    wake = [now + LONGEST_REST]
    policy_reports: list[PolicyReport] = []
    pool_reports: list[PoolReport] = []
    site_reports: list[SiteReport] = []
    for policy in world.policies:
        result = _policy(world, policy, accepted[policy.key], readings)
        applies += result.applies
        events += result.events
        policy_reports.append(result.report)
        planned_by.update(dict.fromkeys(result.programmed, policy.key))
        if result.enforced is not None:
            enforced.update(dict.fromkeys(result.programmed, result.enforced))
        if policy.model is not None:
            wake.append(next_due(now, policy.model.spec.epoch_seconds))
    for pool in world.pools:
        owner = planned_by.get(pool.key)
        refused = world.write_problems.get(owner, "") if owner is not None else ""
        status = pool_status(
            pool, sites, enforced.get(pool.key), owner is not None and not refused, now, world.sightings
        )
        pool_reports.append(PoolReport(pool.key, status))
        _write("InferencePool", pool, status, applies, events, None if refused else owner)
    for site in world.sites:
        site_now = site_status(site, readings.get(site.name), now, world.sightings.get(site.name))
        site_reports.append(SiteReport(site.name, site_now, readings.get(site.name)))
        _write("Datacenter", site, site_now, applies, events)
    report = Report(tuple(policy_reports), tuple(pool_reports), tuple(site_reports))
    return Actions(tuple(applies), tuple(events), min(wake), report)


@dataclass(frozen=True, slots=True)
class _Result:
    applies: list[Apply]
    events: list[EventNote]
    programmed: set[Key]
    enforced: RoutingPlan | None
    report: PolicyReport


def _policy(world: World, policy: ObservedPolicy, verdict: Verdict, readings: Mapping[str, SiteReadings]) -> _Result:
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
            applies += _tables(world, policy, verdict, readings, enforced)
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
    status = policy_status(
        policy, verdict, outcome, applied_problem=problem, write_problem=refused, now=world.now, artifacts=uses
    )
    # With a refusal to tell, the status does not wait for the tables: it is what says that they are not there.
    _write("MarlinPolicy", policy, status, applies, events, None if refused else policy.key)
    if isinstance(outcome, Planned):
        events.append(_note("MarlinPolicy", policy, "Normal", "PlanPublished", _published(outcome, policy)))
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
            readings=_readings(world, epoch.start),
            forecasts=world.forecasts,
            epoch=epoch,
            before=before,
            now=world.now,
            down=frozenset(name for name, sighting in world.sightings.items() if sighting.is_router_down),
            artifacts={role: use for (key, role), use in world.artifacts.items() if key == policy.key},
            agents=policy.status.agents if policy.status is not None else (),
        )
    )


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
    policy: ObservedPolicy,
    verdict: Verdict,
    readings: Mapping[str, SiteReadings],
    plan: RoutingPlan | None,
) -> list[Apply]:
    assert policy.model is not None
    epoch = epoch_at(world.now, policy.model.spec.epoch_seconds)
    fleet = fleet_of(
        policy.model,
        verdict.pools,
        verdict.sites,
        readings=readings,
        unusable=frozenset(),
        forecasts=world.forecasts,
        epoch=epoch,
    )
    owner = {
        "apiVersion": API_VERSION,
        "kind": "MarlinPolicy",
        "name": policy.name,
        "uid": policy.uid,
    }
    applies = []
    for name, origin in table_names(policy.model).items():
        key = (policy.key[0], name)
        table = routing_table(
            policy.model, verdict.pools, verdict.sites, fleet.state, readings=readings, plan=plan, origin=origin
        )
        published = world.tables.get(key)
        if (following := succeeding(table, published)) is not published:
            applies.append(apply_config_map(key, content(following), owner, policy.key))
    return applies


def _readings(world: World, at: datetime) -> dict[str, SiteReadings]:
    """Site to its signals at a moment, for the sites that can be read."""
    result = {}
    for site in world.sites:
        if site.model is not None:
            feeds = {field: feed for (name, field), feed in world.feeds.items() if name == site.name}
            result[site.name] = site_readings(site.model, feeds, at, world.now)
    return result


def _write(
    kind: str,
    observed: ObservedSite | ObservedPool | ObservedPolicy,
    status: ApiModel,
    applies: list[Apply],
    events: list[EventNote],
    policy: Key | None = None,
) -> None:
    """The status, where it is not there yet, and an Event for each condition that changed for the worse or back."""
    document = status.to_document()
    if document == observed.raw_status:
        return
    applies.append(apply_status(kind, observed.key, document, policy, observed.uid))
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


def _published(outcome: Planned, policy: ObservedPolicy) -> str:
    assert policy.model is not None
    mode = policy.model.spec.mode.value
    return f"epoch {outcome.plan.epoch} ({mode}): {outcome.plan.explanation}"

"""One epoch's plan for one policy: which planner, over what, inside which guardrails.

An exception of the planner becomes a ``Refusal`` with a reason; nothing that a policy says can end the loop. The plan
that comes out is valid as it stands: its times are those at which it can be in force.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from marlin.api.datacenter import Datacenter, SampleQuality, ServiceState
from marlin.api.errors import InputError, MarlinError
from marlin.api.metrics import Metrics
from marlin.api.plan import PlannerKind, RoutingPlan, Scheme
from marlin.api.policy import AgentStatus, MarlinPolicy, Mode, OverrideMode, PlannerSpec, StaleSignalPolicy
from marlin.api.pool import InferencePool
from marlin.api.state import FleetState
from marlin.operator.core.artifact_use import ArtifactUse
from marlin.operator.core.fleet import Fleet, Forecast, Load, fleet_of
from marlin.operator.core.guardrails import within_change
from marlin.operator.core.negotiation import Negotiation, negotiation_of
from marlin.operator.core.observed import Key
from marlin.operator.core.predicting import Prediction, predictions
from marlin.operator.core.residency import settled, within_residency
from marlin.operator.core.standing import agents_after, standing_document
from marlin.operator.epochs import Epoch, takes_effect
from marlin.operator.signals.values import SiteReadings
from marlin.policy.agents import MarlinSettings
from marlin.policy.agents.stated import game_of
from marlin.policy.objective import Weights, scheme_weights
from marlin.policy.origins import origin_aware, with_rows
from marlin.policy.planner import Decision
from marlin.policy.planners import FILLED_IN_TURN, make_planner
from marlin.policy.trials import LATE_WEIGHT

_log: Final = logging.getLogger(__name__)

_MOST_EXPLANATION: Final = 512

DEADLINE_S: Final = 5.0
"""Time that a planner may take for one policy: plans are due half a minute after they were begun, one by one."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be planned."""

    policy: MarlinPolicy
    pools: tuple[InferencePool, ...]
    sites: tuple[Datacenter, ...]
    readings: Mapping[str, SiteReadings]
    """Site to its signals in the epoch."""
    forecasts: Mapping[Key, Forecast]
    epoch: Epoch
    before: RoutingPlan | None
    """The plan in force."""
    now: datetime
    down: Set[str] = frozenset()
    """Sites whose router does not answer."""
    artifacts: Mapping[str, ArtifactUse] = field(default_factory=dict)
    """Role to its artifact, for planners of kind Marlin."""
    agents: tuple[AgentStatus, ...] = ()
    """The agents' standing, as the status keeps it."""
    loads: Mapping[Key, Load] = field(default_factory=dict)
    """(namespace, pool) to what its engines have to do now; pools of which that is not known are missing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and what is known of it."""

    plan: RoutingPlan
    estimate: Metrics | None
    """What the twin expects of what the planner wanted, before it was held back; None where no pool's speed is known.
    Pools of unknown speed are in none of the estimates."""
    baseline_estimate: Metrics | None
    forecast_requests: float
    assumed: tuple[str, ...] = ()
    """Pools whose demand is assumed."""
    by_capacity: tuple[str, ...] = ()
    """Pools that were planned by capacity, because their speed is not known."""
    fallbacks: tuple[str, ...] = ()
    """Sites that stand on the last rung of a signal's ladder."""
    held: tuple[str, ...] = ()
    """Pools whose row was held back."""
    shadow: RoutingPlan | None = None
    shadow_estimate: Metrics | None = None
    shadow_problem: str = ""
    agents: tuple[AgentStatus, ...] = ()
    """The agents' standing after it; empty where no planner of kind Marlin decided."""
    negotiation: Negotiation | None = None
    """How the agents came to it; None where none did."""
    predicted: Mapping[str, Prediction] = field(default_factory=dict)
    """Pool to what the twin expects of the plan as it is published."""
    state: FleetState | None = None
    """The fleet as it was planned; None where the speed of one of its pools is not known."""
    took_s: float = 0.0
    """Time that the decision took, s."""
    began_s: float = 0.0
    """When it began, s on a clock that only grows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no new plan."""

    reason: str
    """Of the condition Planned."""
    message: str
    took_s: float = 0.0
    """Time that the attempt took, s."""
    began_s: float = 0.0
    """When it began, s on a clock that only grows."""


def active_override(policy: MarlinPolicy, at: datetime) -> OverrideMode | None:
    """The override in whose window ``at`` lies; of several the first in the list."""
    for override in policy.spec.overrides:
        if override.start_time <= at < override.end_time:
            return override.mode
    return None


def is_paused(policy: MarlinPolicy, at: datetime) -> bool:
    """Whether no plan is to be made for an epoch that starts at ``at``."""
    return policy.spec.mode is Mode.PAUSED or active_override(policy, at) is OverrideMode.PAUSED


def make_plan(task: Task) -> Planned | Refusal:
    """The plan of one epoch, and how long it took: a stopwatch, which nothing is decided by."""
    began_s = time.monotonic()
    outcome = _made(task)
    return replace(outcome, began_s=began_s, took_s=time.monotonic() - began_s)


def _made(task: Task) -> Planned | Refusal:
    try:
        return _planned(task)
    except MarlinError as error:
        return Refusal("PlannerError", " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 a planner's defect costs one epoch of one policy, never the loop
        _log.exception("planning of MarlinPolicy %s failed", task.policy.metadata.name)
        return Refusal("PlannerError", f"{type(error).__name__} in the planner; the operator's log has the trace")


def _planned(task: Task) -> Planned | Refusal:
    policy = task.policy
    lost = tuple(name for name in sorted(task.readings) if _is_lost(task.readings[name]))
    lost = tuple(name for name in lost if name in {site.metadata.name for site in task.sites})
    unusable = {site.metadata.name for site in task.sites if site.spec.service_state is ServiceState.DRAINED}
    names = {site.metadata.name for site in task.sites}
    if not names <= unusable | task.down:  # with nobody left to plan for, hope is better than nothing
        unusable |= names & task.down
    spec = _planner_spec(policy, task.epoch.start)
    if lost:
        rule = policy.spec.guardrails.stale_signal_policy
        if rule is StaleSignalPolicy.KEEP_LAST_PLAN and task.before is not None:
            return Refusal("InsufficientData", f"signals of {_listed(lost)} are lost; the last plan is kept")
        if rule is StaleSignalPolicy.EXCLUDE_DATACENTER and len(lost) < len(task.sites):
            unusable |= set(lost)
        else:
            # Nothing to keep, or everything lost: what needs no signal.
            spec = PlannerSpec(kind=PlannerKind.CAPACITY_PROPORTIONAL)
    known = tuple(pool for pool in task.pools if pool.spec.profile is not None)
    unknown = tuple(pool for pool in task.pools if pool.spec.profile is None)
    fleet = _fleet(task, known or unknown, unusable)
    if not known:
        spec = PlannerSpec(kind=PlannerKind.CAPACITY_PROPORTIONAL)
    decision = _decide(task, spec, "planner", fleet.state)
    wanted, usable = decision.plan, _usable_sites(fleet.state)
    if known and unknown:
        beside = _fleet(task, unknown, unusable)
        by_capacity = _decide(task, PlannerSpec(kind=PlannerKind.CAPACITY_PROPORTIONAL), "planner", beside.state)
        rows = tuple(sorted((*wanted.pools, *by_capacity.plan.pools), key=lambda row: row.name))
        wanted = wanted.model_copy(update={"pools": rows, "hash": None}).sealed()
        usable |= _usable_sites(beside.state)
    plan, held = within_change(wanted, task.before, policy.spec.guardrails.max_weight_change_percent, usable)
    plan = within_residency(plan, fleet.state, policy)  # a row that was held back is of the plan before
    if known and unknown:
        plan = within_residency(plan, beside.state, policy)
    if policy.spec.origin_aware:  # rows that were held back have lost theirs
        plan = with_rows(plan, fleet.state)
        if known and unknown:
            plan = with_rows(plan, beside.state)
    starts = takes_effect(task.epoch, task.now)
    by_capacity_only = tuple(pool.metadata.name for pool in unknown)
    assumed = tuple(name for name in fleet.assumed if name not in by_capacity_only)
    explanation = _explanation(plan.explanation, held, lost, assumed, by_capacity_only)
    plan = plan.model_copy(update={"valid_from": starts, "explanation": explanation, "hash": None}).sealed()
    shadow, shadow_problem = _shadow(task, fleet.state) if known else (None, "")
    standing = next((d for d in (decision, shadow) if d is not None and d.carried is not None), None)
    return Planned(
        plan=plan,
        estimate=decision.estimate if known else None,
        baseline_estimate=decision.baseline_estimate if known else None,
        forecast_requests=_forecast_requests(task, fleet.state),
        assumed=assumed,
        by_capacity=by_capacity_only,
        fallbacks=lost,
        held=held,
        shadow=None if shadow is None else shadow.plan,
        shadow_estimate=None if shadow is None else shadow.estimate,
        shadow_problem=shadow_problem,
        agents=() if standing is None else agents_after(standing, task.agents, task.now),
        negotiation=None if standing is None else negotiation_of(standing),
        predicted=predictions(fleet.state, _rows_of(plan, known)) if known else {},
        state=fleet.state if known and not unknown else None,
    )


def _fleet(task: Task, pools: tuple[InferencePool, ...], unusable: Set[str]) -> Fleet:
    return fleet_of(
        task.policy,
        pools,
        task.sites,
        readings=task.readings,
        unusable=unusable,
        forecasts=task.forecasts,
        epoch=task.epoch,
        loads=task.loads,
    )


def _rows_of(plan: RoutingPlan, pools: tuple[InferencePool, ...]) -> RoutingPlan:
    """The plan with the rows of some pools alone."""
    names = {pool.metadata.name for pool in pools}
    rows = tuple(row for row in plan.pools if row.name in names)
    return plan if len(rows) == len(plan.pools) else plan.model_copy(update={"pools": rows, "hash": None})


def _forecast_requests(task: Task, state: FleetState) -> float:
    """Of all pools; of one of unknown speed where arrivals were counted: half of an assumed capacity is nothing."""
    namespace = task.policy.metadata.namespace or ""
    expected = {pool.name: sum(pool.forecast_requests) for pool in state.pools}
    for pool in task.pools:
        name = pool.metadata.name
        if pool.spec.profile is None:
            forecast = task.forecasts.get((namespace, name))
            expected[name] = 0.0 if forecast is None else forecast.requests
    return sum(expected.values())


def _planner_spec(policy: MarlinPolicy, at: datetime) -> PlannerSpec:
    """The planner that holds at a moment: the policy's own, or that of an override."""
    match active_override(policy, at):
        case OverrideMode.LATENCY_ONLY:
            return PlannerSpec(kind=PlannerKind.MERIT_ORDER, scheme=Scheme.MIN_TTFT)
        case OverrideMode.CAPACITY_PROPORTIONAL:
            return PlannerSpec(kind=PlannerKind.CAPACITY_PROPORTIONAL)
        case _:
            return policy.spec.planner


def _decide(task: Task, spec: PlannerSpec, role: str, state: FleetState) -> Decision:
    policy = task.policy
    weights = _custom_weights(policy) if spec.scheme is Scheme.CUSTOM else None
    artifact, agents, carried = None, None, None
    if spec.kind is PlannerKind.MARLIN:
        use = task.artifacts.get(role, ArtifactUse())
        if not use.is_usable:
            raise InputError(f"planner marlin: {use.problem}")
        late_weight = LATE_WEIGHT if spec.late_weight is None else spec.late_weight
        artifact, agents = use.folder, MarlinSettings(game=game_of(policy.spec.negotiation), late_weight=late_weight)
        carried = standing_document(task.agents, state.epoch, task.before)
    planner = make_planner(
        spec.kind,
        scheme=spec.scheme,
        dispatch=policy.spec.dispatch,
        weights=weights,
        artifact=artifact,
        agents=agents,
        carried=carried,
    )
    if policy.spec.origin_aware:
        planner = origin_aware(planner, policy.spec.dispatch)
    decision = planner.decide(state, now=task.now, deadline_s=DEADLINE_S)
    return settled(
        decision, state, policy, scheme_weights(spec.scheme, weights) if spec.kind in FILLED_IN_TURN else None
    )


def _shadow(task: Task, state: FleetState) -> tuple[Decision | None, str]:
    """The second planner's decision; what is wrong with it concerns nobody but itself."""
    spec = task.policy.spec.shadow
    if spec is None:
        return None, ""
    try:
        return _decide(task, spec, "shadow", state), ""
    except MarlinError as error:
        return None, " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001 a shadow's defect costs nobody a plan
        _log.exception("the shadow of MarlinPolicy %s failed", task.policy.metadata.name)
        return None, f"{type(error).__name__} in the planner; the operator's log has the trace"


def _custom_weights(policy: MarlinPolicy) -> Weights:
    stated = policy.spec.objectives
    assert stated is not None, "a rule of the CRD holds objectives and Custom together"
    return scheme_weights(
        Scheme.CUSTOM,
        (
            float(stated.time_to_first_token.weight),
            float(stated.carbon.weight),
            float(stated.water.weight),
            float(stated.cost.weight),
        ),
    )


def _usable_sites(state: FleetState) -> dict[str, Set[str]]:
    """Pool to the sites that may serve it: up, allowed, and with replicas."""
    usable: dict[str, Set[str]] = {}
    for pool in state.pools:
        allowed = pool.allowed or (True,) * len(state.datacenters)
        deployed = {deployment.datacenter for deployment in pool.deployments if deployment.replicas > 0}
        usable[pool.name] = {
            site.name
            for site, may in zip(state.datacenters, allowed, strict=True)
            if may and site.is_available and site.name in deployed
        }
    return usable


def _is_lost(readings: SiteReadings) -> bool:
    return any(reading.quality is SampleQuality.FALLBACK for reading in readings.all())


def _explanation(
    text: str, held: tuple[str, ...], lost: tuple[str, ...], assumed: tuple[str, ...], by_capacity: tuple[str, ...]
) -> str:
    parts = [text]
    if by_capacity:
        parts.append(f"by capacity, their speed is not known: {_listed(by_capacity)}")
    if held:
        parts.append(f"held back by maxWeightChangePercent: {_listed(held)}")
    if lost:
        parts.append(f"signals lost: {_listed(lost)}")
    if assumed:
        parts.append(f"no arrivals observed, half of capacity assumed: {_listed(assumed)}")
    return "; ".join(part for part in parts if part)[:_MOST_EXPLANATION]


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

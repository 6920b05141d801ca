"""The ``MarlinPolicy`` kind: what to balance, how far a plan may go, and the plan in force.

Namespaced; it plans pools of its own namespace only. ``DryRun`` is the default mode: plan and savings are shown,
nothing is applied until somebody says ``Enforce``.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from marlin.api.conditions import Conditions
from marlin.api.datacenter import Coordinates
from marlin.api.metrics import MetricsText
from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.api.values import (
    API_VERSION,
    LIST_SET,
    MAP_ATOMIC,
    MAX_DATACENTERS,
    MAX_ORIGINS,
    MAX_POOLS,
    ApiModel,
    Count,
    DecimalText,
    HttpUrl,
    KeyName,
    Label,
    LabelSelector,
    ObjectMeta,
    ObjectName,
    Percent,
    Rule,
    SecretKeyRef,
    Sha256,
    Text,
    Tls,
    Verification,
    ZoneCode,
    list_map,
)


class Mode(StrEnum):
    """What becomes of a plan."""

    ENFORCE = "Enforce"
    DRY_RUN = "DryRun"
    PAUSED = "Paused"


class PoolRef(ApiModel):
    """A pool in the policy's namespace."""

    name: ObjectName = Field(description="Name of the InferencePool.")


class ConfigMapArtifact(ApiModel):
    """An artifact in a ConfigMap's binaryData."""

    name: ObjectName = Field(description="ConfigMap in the operator's namespace.")
    key: KeyName = Field(default="artifact.tar", description="Key that holds the archive. Default: artifact.tar.")


class VolumeArtifact(ApiModel):
    """An artifact on a volume that is mounted into the operator."""

    claim_name: ObjectName = Field(description="PersistentVolumeClaim in the operator's namespace.")
    path: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^/.][^\s]*$")] = Field(
        description="Path of the artifact's folder on the volume, relative, without dots at its start."
    )


class UrlArtifact(ApiModel):
    """An artifact to fetch."""

    url: HttpUrl = Field(description="Address of the archive.")
    sha256: Sha256 = Field(description="Digest the archive must have.")
    tls: Tls = Field(default_factory=Tls, description="How the server's certificate is verified.")
    token_secret_ref: SecretKeyRef | None = Field(default=None, description="Bearer token. Default: none is sent.")


class BuiltInArtifact(ApiModel):
    """The artifact shipped with the operator."""


class ArtifactRef(ApiModel):
    """Where a trained policy lies. Exactly one source; it is validated before use and never unpickled."""

    built_in: BuiltInArtifact | None = Field(default=None, description="The one shipped with the operator.")
    config_map_ref: ConfigMapArtifact | None = Field(
        default=None,
        description="One in a ConfigMap, which holds at most 1 MiB. A larger one (the size that is shipped has 4 MB) "
        "needs a volume or an address.",
    )
    persistent_volume_claim: VolumeArtifact | None = Field(default=None, description="One on a volume.")
    http: UrlArtifact | None = Field(default=None, description="One to fetch, with its digest.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.builtIn), has(self.configMapRef), has(self.persistentVolumeClaim), has(self.http)]"
            ".filter(x, x).size() == 1",
            "set exactly one of builtIn, configMapRef, persistentVolumeClaim, http",
            lambda a: (
                sum(x is not None for x in (a.built_in, a.config_map_ref, a.persistent_volume_claim, a.http)) == 1
            ),
        ),
    )


class Learning(StrEnum):
    """Whether a trained policy goes on learning."""

    FROZEN = "Frozen"
    ADAPT = "Adapt"


class PlannerSpec(ApiModel):
    """Who plans, and what it leans towards."""

    kind: PlannerKind = Field(default=PlannerKind.MARLIN, description="The planner. Default: Marlin.")
    scheme: Scheme = Field(
        default=Scheme.BALANCED,
        description="Balanced, one metric first (MinTTFT, MinCarbon, MinWater, MinCost), or Custom with the weights "
        "of objectives. Default: Balanced.",
    )
    artifact_ref: ArtifactRef | None = Field(
        default=None, description="The trained policy, for kind Marlin. Default: the built-in one."
    )
    late_weight: Annotated[int, Field(ge=0, le=100, json_schema_extra={"format": "int32"})] | None = Field(
        default=None,
        description="For kind Marlin: what late requests cost beside the objective, of which capacity-proportional "
        "routing is 1: at 3 one percent of late requests costs what three percent of the objective do. More keeps "
        "more replicas awake. Default: 1.",
    )
    learning: Learning = Field(
        default=Learning.FROZEN,
        description="Frozen: as trained. Adapt: goes on learning in the background from the epochs that the operator "
        "records, and takes over only where it does better. Default: Frozen.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.artifactRef) || self.kind == 'Marlin'",
            "artifactRef is for kind Marlin only",
            lambda p: p.artifact_ref is None or p.kind is PlannerKind.MARLIN,
        ),
        Rule(
            "!has(self.lateWeight) || self.kind == 'Marlin'",
            "lateWeight is for kind Marlin only",
            lambda p: p.late_weight is None or p.kind is PlannerKind.MARLIN,
        ),
    )


class Objective(ApiModel):
    """How much one metric counts."""

    weight: Annotated[int, Field(ge=0, le=1000, json_schema_extra={"format": "int32"})] = Field(
        default=0, description="Weight against the other objectives; only ratios matter. Default: 0."
    )


class Objectives(ApiModel):
    """The weights of scheme Custom; each metric is taken relative to capacity-proportional routing."""

    time_to_first_token: Objective = Field(default_factory=Objective, description="Time to first token.")
    carbon: Objective = Field(default_factory=Objective, description="Carbon emitted.")
    water: Objective = Field(default_factory=Objective, description="Water consumed.")
    cost: Objective = Field(default_factory=Objective, description="Cost of energy.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.timeToFirstToken.weight + self.carbon.weight + self.water.weight + self.cost.weight > 0",
            "at least one objective needs a weight above 0",
            lambda o: (o.time_to_first_token.weight + o.carbon.weight + o.water.weight + o.cost.weight) > 0,
        ),
    )


class StaleSignalPolicy(StrEnum):
    """What to do when a signal has gone stale and no rung of its ladder is left."""

    KEEP_LAST_PLAN = "KeepLastPlan"
    CAPACITY_PROPORTIONAL = "CapacityProportional"
    EXCLUDE_DATACENTER = "ExcludeDatacenter"


class Guardrails(ApiModel):
    """How far a plan may go."""

    max_weight_change_percent: Annotated[int, Field(ge=1, le=100, json_schema_extra={"format": "int32"})] = Field(
        default=25,
        description=(
            "Most of a pool's requests that may move in one epoch, %: half the L1 distance between two rows. Leaving a "
            "datacenter that is unready, drained or excluded does not count. Default: 25."
        ),
    )
    max_utilization_percent: Annotated[int, Field(ge=1, le=100, json_schema_extra={"format": "int32"})] = Field(
        default=95, description="Load a plan may put on a datacenter, % of its capacity. Default: 95."
    )
    stale_signal_policy: StaleSignalPolicy = Field(
        default=StaleSignalPolicy.KEEP_LAST_PLAN,
        description="What to do when a signal is lost for good: KeepLastPlan, CapacityProportional or "
        "ExcludeDatacenter. Default: KeepLastPlan.",
    )


class Origin(ApiModel):
    """Where requests come from: a router names itself with --origin."""

    name: Label = Field(description="Name of the origin, as routers are started with.")
    zone: ZoneCode | None = Field(default=None, description="Zone whose measured latencies apply. Default: none.")
    coordinates: Coordinates | None = Field(
        default=None, description="Used to estimate latency where no zone is given. Default: the zone's."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.zone) || has(self.coordinates)",
            "set zone or coordinates, so that distances are known",
            lambda o: o.zone is not None or o.coordinates is not None,
        ),
    )


class ResidencyRule(ApiModel):
    """Requests of some pools or origins stay inside some regions."""

    name: Label = Field(description="Name of the rule.")
    pools: Annotated[tuple[ObjectName, ...], Field(max_length=MAX_POOLS)] = Field(
        default=(), json_schema_extra=LIST_SET, description="Pools it holds for. Default: all."
    )
    origins: Annotated[tuple[Label, ...], Field(max_length=MAX_ORIGINS)] = Field(
        default=(), json_schema_extra=LIST_SET, description="Origins it holds for. Default: all."
    )
    allowed_regions: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_DATACENTERS)] = Field(
        json_schema_extra=LIST_SET, description="Regions the requests may be served in."
    )


class OverrideMode(StrEnum):
    """What holds during an override."""

    LATENCY_ONLY = "LatencyOnly"
    CAPACITY_PROPORTIONAL = "CapacityProportional"
    PAUSED = "Paused"


class Override(ApiModel):
    """A time window in which something else holds."""

    name: Label = Field(description="Name of the override.")
    start_time: datetime = Field(description="When it begins.")
    end_time: datetime = Field(description="When it ends.")
    mode: OverrideMode = Field(description="LatencyOnly, CapacityProportional or Paused.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.startTime < self.endTime",
            "startTime must precede endTime",
            lambda o: o.start_time < o.end_time,
        ),
    )


class Negotiation(ApiModel):
    """Settings of the game between the four agents (MARLIN paper, Algorithm 2)."""

    gradient_steps: Annotated[int, Field(ge=1, le=1000, json_schema_extra={"format": "int32"})] = Field(
        default=5, description="Gradient steps on the blend's weights. Default: 5."
    )
    veto_capital_threshold: Annotated[int, Field(ge=0, le=100_000, json_schema_extra={"format": "int32"})] = Field(
        default=150, description="Capital an agent needs to veto, 0 to 300 is its range. Default: 150."
    )
    veto_max_pull_percent: Percent = Field(
        default=50, description="Furthest a veto pulls the plan towards the agent's own, %. Default: 50."
    )


class RouterSource(ApiModel):
    """Routers whose counters say what was asked for."""

    name: Label = Field(description="Name of the entry.")
    origin: Label | None = Field(
        default=None, description="Origin whose requests they take, as their --origin says. Default: not known."
    )
    metrics_url: HttpUrl = Field(
        description="Address of /metrics on their admin port. A headless Service's name stands for all its routers. "
        "First hops only: a member router would count a request a second time."
    )
    tls: Tls = Field(default_factory=Tls, description="How their certificate is verified. Default: by the system.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metricsUrl.startsWith('https://') || self.tls.verification == 'Disabled'",
            "plain http needs tls.verification: Disabled to be set explicitly",
            lambda r: r.metrics_url.startswith("https://") or r.tls.verification is Verification.DISABLED,
        ),
    )


class EngineReading(StrEnum):
    """Whose engines are read."""

    NONE = "None"
    UNPROFILED = "Unprofiled"
    ALL = "All"


class Matcher(ApiModel):
    """A label that series must have."""

    label: Annotated[str, Field(max_length=63, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")] = Field(
        description="Name of the label."
    )
    value: Annotated[str, Field(max_length=253)] = Field(description="Its value, exactly.")


class PrometheusObservation(ApiModel):
    """A Prometheus that scrapes routers and engines."""

    url: HttpUrl = Field(description="Base address of the Prometheus server.")
    tls: Tls = Field(default_factory=Tls, description="How its certificate is verified. Default: by the system.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Bearer token, in the operator's namespace. Default: none is sent."
    )
    matchers: Annotated[tuple[Matcher, ...], Field(max_length=16)] = Field(
        default=(),
        json_schema_extra=list_map("label"),
        description="Labels that all series must have. Default: none; pools and models are matched by their names.",
    )
    origin_label: Annotated[str, Field(max_length=63, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")] | None = Field(
        default=None,
        description="Label of the routers' series that names their origin. Default: origins are not known.",
    )
    datacenter_label: Annotated[str, Field(max_length=63, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")] = Field(
        default="datacenter",
        description="Label of the engines' series that names their Datacenter; series without it count for the "
        "pool's speed only. Default: datacenter.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.url.startsWith('https://') || self.tls.verification == 'Disabled'",
            "plain http needs tls.verification: Disabled to be set explicitly",
            lambda p: p.url.startswith("https://") or p.tls.verification is Verification.DISABLED,
        ),
    )


class Observation(ApiModel):
    """Where routers and engines are read."""

    routers: Annotated[tuple[RouterSource, ...], Field(max_length=64)] = Field(
        default=(),
        json_schema_extra=list_map("name"),
        description="The routers that clients send to. Default: those that prometheus knows, else none.",
    )
    prometheus: PrometheusObservation | None = Field(
        default=None,
        description="A Prometheus to ask, for engines, and for routers where none are named. Default: routers and "
        "engines are asked themselves.",
    )
    engines: EngineReading = Field(
        default=EngineReading.UNPROFILED,
        description="Whose vLLM metrics are read. Unprofiled: of pools without spec.profile, to fit one. All: of every "
        "pool, whose requests in flight and waiting then count for plans. None: of none. Default: Unprofiled.",
    )


class MarlinPolicySpec(ApiModel):
    """What a person wants."""

    mode: Mode = Field(
        default=Mode.DRY_RUN,
        description="DryRun: plan and savings are shown only. Enforce: routers carry the plan out. Paused: no new "
        "plan. Default: DryRun.",
    )
    pool_refs: Annotated[tuple[PoolRef, ...], Field(min_length=1, max_length=MAX_POOLS)] | None = Field(
        default=None, json_schema_extra=list_map("name"), description="The pools to plan, by name."
    )
    pool_selector: LabelSelector | None = Field(
        default=None, json_schema_extra=MAP_ATOMIC, description="The pools to plan, by label; at most 64."
    )
    datacenter_selector: LabelSelector | None = Field(
        default=None,
        json_schema_extra=MAP_ATOMIC,
        description="The datacenters to plan over, by label; at most 64. Default: all that the pools have backends in.",
    )
    epoch_seconds: Annotated[int, Field(ge=60, le=86_400, json_schema_extra={"format": "int32"})] = Field(
        default=900, description="Length of an epoch, in seconds, aligned to the clock. Default: 900."
    )
    planner: PlannerSpec = Field(default_factory=PlannerSpec, description="Who plans.")
    shadow: PlannerSpec | None = Field(
        default=None,
        description="A second planner whose plan and estimate appear in status only. Default: none.",
    )
    dispatch: Dispatch = Field(
        default=Dispatch.ORDERED,
        description="Ordered: fill datacenters in turn, live. Shares: fixed fractions with spill-over. "
        "Default: Ordered.",
    )
    origin_aware: bool = Field(
        default=False,
        description="For dispatch Shares: plans also say where each origin's requests go, at the least network time "
        "for the shares. Default: false, all alike.",
    )
    objectives: Objectives | None = Field(default=None, description="Weights, for scheme Custom.")
    guardrails: Guardrails = Field(default_factory=Guardrails, description="How far a plan may go.")
    origins: Annotated[tuple[Origin, ...], Field(max_length=MAX_ORIGINS)] = Field(
        default=(),
        json_schema_extra=list_map("name"),
        description="Where requests come from. Default: every region alike.",
    )
    residency: Annotated[tuple[ResidencyRule, ...], Field(max_length=32)] = Field(
        default=(), json_schema_extra=list_map("name"), description="What must stay where. Default: nothing."
    )
    overrides: Annotated[tuple[Override, ...], Field(max_length=32)] = Field(
        default=(),
        json_schema_extra=list_map("name"),
        description="Time windows with another rule. Default: none.",
    )
    observation: Observation | None = Field(
        default=None,
        description="Where arrivals are counted, so that the next epoch is forecast from them, and engines are read. "
        "Default: half of each pool's capacity is assumed, and engines of pools without spec.profile are read.",
    )
    negotiation: Negotiation = Field(default_factory=Negotiation, description="Settings of the game.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.poolRefs) != has(self.poolSelector)",
            "set exactly one of poolRefs and poolSelector",
            lambda s: (s.pool_refs is None) != (s.pool_selector is None),
        ),
        Rule(
            "(self.planner.scheme == 'Custom' || (has(self.shadow) && self.shadow.scheme == 'Custom')) "
            "== has(self.objectives)",
            "objectives go with scheme Custom, and only with it",
            lambda s: (
                (s.planner.scheme is Scheme.CUSTOM or (s.shadow is not None and s.shadow.scheme is Scheme.CUSTOM))
                == (s.objectives is not None)
            ),
        ),
        Rule(
            "!self.originAware || self.dispatch == 'Shares'",
            "originAware needs dispatch Shares: filled in turn, the order decides request by request",
            lambda s: not s.origin_aware or s.dispatch is Dispatch.SHARES,
        ),
        Rule(
            # One that is written otherwise than in origins would hold for nobody, and nothing would say so.
            "!has(self.residency) || self.residency.all(r, !has(r.origins) || r.origins.all(o, "
            "has(self.origins) && self.origins.exists(n, n.name == o)))",
            "origins of residency rules must be listed in origins",
            lambda s: all(o in {n.name for n in s.origins} for r in s.residency for o in r.origins),
        ),
    )


class AgentStatus(ApiModel):
    """One agent's standing in the game."""

    name: Annotated[str, Field(max_length=32)] = Field(description="ttft, carbon, water or cost.")
    capital: DecimalText = Field(description="Its capital before the next epoch, 0 to 300.")
    capital_before: DecimalText | None = Field(
        default=None,
        description="Its capital before the plan's epoch, from which that epoch is decided if it is decided again.",
    )
    last_veto_time: datetime | None = Field(default=None, description="When it last vetoed.")


class ShadowStatus(ApiModel):
    """What the second planner would do."""

    plan: RoutingPlan = Field(description="Its plan.")
    estimate: MetricsText | None = Field(default=None, description="What the twin expects of it.")


class AdaptDecision(StrEnum):
    """What became of a policy that had learnt on."""

    TOOK_OVER = "TookOver"
    DISCARDED = "Discarded"


class AdaptationStatus(ApiModel):
    """The last decision about a policy that had learnt on from recorded epochs."""

    decision: AdaptDecision = Field(description="TookOver: it serves since. Discarded: it was no better.")
    decided_time: datetime = Field(description="When that was decided.")
    serving_value: DecimalText = Field(
        description="Objective of the one that served, on the epochs held back: over capacity-proportional routing, "
        "less is better."
    )
    adapted_value: DecimalText = Field(description="The same of the one that had learnt on.")
    learnt_from_epochs: Count = Field(description="Epochs that it had learnt from.")
    held_back_epochs: Count = Field(description="Epochs that both were judged on.")
    artifact_sha256: Sha256 = Field(description="Digest of the weights that serve since.")


class MarlinPolicyStatus(ApiModel):
    """The plan in force and what is expected of it."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="metadata.generation this status was made of."
    )
    plan: RoutingPlan | None = Field(default=None, description="The last plan decided.")
    applied_time: datetime | None = Field(default=None, description="When routers had all taken it.")
    forecast_requests: Count | None = Field(default=None, description="Requests forecast for the plan's epoch.")
    estimate: MetricsText | None = Field(default=None, description="What the twin expects of the plan.")
    baseline_estimate: MetricsText | None = Field(
        default=None, description="What it expects of capacity-proportional routing with the same power-down."
    )
    estimate_basis: Text | None = Field(
        default=None,
        description="What idle machines do in both estimates, as the pools' powerDown says: savings are of that and no "
        "more.",
    )
    shadow: ShadowStatus | None = Field(default=None, description="The second planner's plan and estimate.")
    agents: Annotated[tuple[AgentStatus, ...], Field(max_length=8)] = Field(
        default=(),
        json_schema_extra=list_map("name"),
        description="The agents' standing, where planner or shadow is of kind Marlin.",
    )
    adaptation: AdaptationStatus | None = Field(
        default=None, description="The last decision of learning: Adapt. Default: none was made."
    )
    message: Text | None = Field(default=None, description="What a person should know, in one line.")
    conditions: Conditions = ()


class MarlinPolicy(ApiModel):
    """What to balance, how far a plan may go, and the plan in force."""

    api_version: Literal["marlin.dev/v1alpha1"] = Field(default=API_VERSION, description="Always marlin.dev/v1alpha1.")
    kind: Literal["MarlinPolicy"] = Field(default="MarlinPolicy", description="Always MarlinPolicy.")
    metadata: ObjectMeta = Field(description="Name, namespace, labels and annotations.")
    spec: MarlinPolicySpec = Field(description="What a person wants.")
    status: MarlinPolicyStatus | None = Field(default=None, description="The plan in force.")

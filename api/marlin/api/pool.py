"""The ``InferencePool`` kind: one model, and the backends that serve it in each datacenter.

Namespaced. The kind's name is shared with the upstream inference extension, so everything that selects it names the
group too: ``inferencepools.marlin.dev`` (short: ``mpool``).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from marlin.api.conditions import Conditions
from marlin.api.values import (
    API_VERSION,
    ApiModel,
    Count,
    DecimalText,
    HttpUrl,
    Label,
    ObjectMeta,
    ObjectName,
    Percent,
    PositiveQuantity,
    QuantityBounds,
    Rule,
    SecretKeyRef,
    Share,
    Text,
    Tls,
    Verification,
    list_map,
)

ModelName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^\s\x00-\x1f]+$")]
"""A model as requests name it in their ``model`` field."""


class ServiceLevel(ApiModel):
    """How soon a request should be answered."""

    time_to_first_token_milliseconds: Annotated[int, Field(ge=1, le=600_000, json_schema_extra={"format": "int32"})] = (
        Field(default=5000, description="Time to first token that should hold, ms. Default: 5000.")
    )
    percentile: Literal[50, 90, 95, 99] = Field(
        default=95, description="Percentile of requests it should hold for. Default: 95."
    )


class PowerDown(StrEnum):
    """What the machines of a pool can do when they have no work."""

    NONE = "None"
    IDLE_P_STATE = "IdlePState"
    SLEEP = "Sleep"
    SCALE_TO_ZERO = "ScaleToZero"


class Profile(ApiModel):
    """How fast a replica is and what it draws: a built-in profile, or the user's own figures."""

    built_in: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="Name of a shipped profile, e.g. Llama-2-7b or Llama-2-70b."
    )
    prefill_tokens_per_second: PositiveQuantity | None = Field(
        default=None, description="Prompt tokens one replica reads per second."
    )
    decode_tokens_per_second: PositiveQuantity | None = Field(
        default=None,
        description="Output tokens one replica writes per second at maxBatch, all requests together.",
    )
    single_stream_tokens_per_second: PositiveQuantity | None = Field(
        default=None,
        description="Output tokens per second of a lone request. Default: that of the full batch, "
        "divided by a quarter of maxBatch.",
    )
    max_batch: Annotated[int, Field(ge=1, le=4096, json_schema_extra={"format": "int32"})] | None = Field(
        default=None, description="Requests one replica runs at once. Default: 64."
    )
    kv_capacity_tokens: Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"})] | None = Field(
        default=None,
        description="Tokens that fit into one replica's KV cache. Default: from modelMemory and GPU.",
    )
    watts: PositiveQuantity | None = Field(default=None, description="Power of one replica's GPUs at maxBatch, W.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.builtIn) != has(self.prefillTokensPerSecond)",
            "set either builtIn or prefillTokensPerSecond with decodeTokensPerSecond",
            lambda p: (p.built_in is None) != (p.prefill_tokens_per_second is None),
        ),
        Rule(
            "has(self.prefillTokensPerSecond) == has(self.decodeTokensPerSecond)",
            "prefillTokensPerSecond and decodeTokensPerSecond go together",
            lambda p: (p.prefill_tokens_per_second is None) == (p.decode_tokens_per_second is None),
        ),
    )


class ScalingMode(StrEnum):
    """Whether the plan's wanted replicas are acted upon."""

    OFF = "Off"
    RECOMMEND = "Recommend"
    SCALE = "Scale"


class Scaling(ApiModel):
    """What becomes of the number of replicas a plan wants."""

    mode: ScalingMode = Field(
        default=ScalingMode.OFF,
        description="Off: nothing. Recommend: shown in status. Scale: written to each backend's scaleTargetRef. "
        "Default: Off.",
    )
    min_replicas: Annotated[int, Field(ge=0, le=10_000, json_schema_extra={"format": "int32"})] = Field(
        default=1, description="Fewest replicas per backend. Default: 1."
    )
    max_replicas: Annotated[int, Field(ge=1, le=10_000, json_schema_extra={"format": "int32"})] = Field(
        default=10_000, description="Most replicas per backend. Default: 10000."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas",
            lambda s: s.min_replicas <= s.max_replicas,
        ),
    )


class ServiceRef(ApiModel):
    """A Service in the datacenter's cluster."""

    namespace: Label = Field(description="Namespace of the Service.")
    name: Label = Field(description="Name of the Service.")
    port: Annotated[int, Field(ge=1, le=65_535, json_schema_extra={"format": "int32"})] = Field(
        description="Port of the Service."
    )


class UpstreamKind(StrEnum):
    """Kinds of other projects that stand for a set of endpoints."""

    INFERENCE_POOL = "InferencePool"
    INFERENCE_POOL_IMPORT = "InferencePoolImport"
    LLM_INFERENCE_SERVICE = "LLMInferenceService"


class UpstreamPoolRef(ApiModel):
    """A pool of the upstream inference extension, or of KServe, in the datacenter's cluster."""

    group: Annotated[str, Field(max_length=253)] = Field(
        default="inference.networking.k8s.io",
        description="API group of the object. Default: inference.networking.k8s.io.",
    )
    kind: UpstreamKind = Field(
        default=UpstreamKind.INFERENCE_POOL, description="Kind of the object. Default: InferencePool."
    )
    namespace: Label = Field(description="Namespace of the object.")
    name: ObjectName = Field(description="Name of the object.")


class ScaleTargetRef(ApiModel):
    """A workload with a scale subresource in the datacenter's cluster."""

    api_version: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        default="apps/v1", description="Its API version. Default: apps/v1."
    )
    kind: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        default="Deployment", description="Its kind. Default: Deployment."
    )
    namespace: Label = Field(description="Its namespace.")
    name: ObjectName = Field(description="Its name.")


class BackendCapacity(ApiModel):
    """The machines behind one backend."""

    node_group: Label = Field(description="Node group of the datacenter the replicas run on.")
    replicas: Annotated[int, Field(ge=0, le=1_000_000, json_schema_extra={"format": "int32"})] = Field(
        description="Replicas (engines), each with its own copy of the weights."
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=64, json_schema_extra={"format": "int32"})] = Field(
        default=1, description="GPUs one replica spans. Default: 1."
    )


class Backend(ApiModel):
    """One deployment of the model in one datacenter. A datacenter may hold several."""

    name: Label = Field(description="Name of the backend, unique in the pool.")
    datacenter_name: Label = Field(description="The Datacenter it is in.")
    url: HttpUrl | None = Field(
        default=None, description="Base address, without /v1. Exactly one of url, serviceRef, poolRef."
    )
    service_ref: ServiceRef | None = Field(default=None, description="A Service whose ready endpoints are used.")
    pool_ref: UpstreamPoolRef | None = Field(default=None, description="An upstream pool whose endpoints are used.")
    tls: Tls = Field(default_factory=Tls, description="How the backend's certificate is verified.")
    credentials_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="API key the backend asks for, sent as a bearer token. Default: the client's own is passed on.",
    )
    capacity: BackendCapacity | None = Field(
        default=None, description="The machines behind it. Default: found out from the cluster."
    )
    scale_target_ref: ScaleTargetRef | None = Field(
        default=None, description="The workload to scale with scaling.mode Scale. Default: none."
    )
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1_000_000, json_schema_extra={"format": "int32"})] | None = (
        Field(default=None, description="Most requests in flight to this backend. Default: no limit of ours.")
    )
    min_share_percent: Percent = Field(
        default=0,
        description="Least share of the pool's requests this backend gets while it is ready, %. Default: 0.",
    )
    max_share_percent: Percent = Field(default=100, description="Largest share it gets, %. Default: 100.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.url), has(self.serviceRef), has(self.poolRef)].filter(x, x).size() == 1",
            "set exactly one of url, serviceRef, poolRef",
            lambda b: sum(ref is not None for ref in (b.url, b.service_ref, b.pool_ref)) == 1,
        ),
        Rule(
            "self.minSharePercent <= self.maxSharePercent",
            "minSharePercent must not exceed maxSharePercent",
            lambda b: b.min_share_percent <= b.max_share_percent,
        ),
        Rule(
            "!has(self.url) || self.url.startsWith('https://') || self.tls.verification == 'Disabled'",
            "plain http needs tls.verification: Disabled to be set explicitly",
            lambda b: b.url is None or b.url.startswith("https://") or b.tls.verification is Verification.DISABLED,
        ),
        Rule(
            "!has(self.scaleTargetRef) || has(self.serviceRef) || has(self.poolRef)",
            "scaleTargetRef needs serviceRef or poolRef: a bare url names no cluster to scale in",
            lambda b: b.scale_target_ref is None or b.url is None,
        ),
    )


class InferencePoolSpec(ApiModel):
    """What a person says about a model and where it runs."""

    model_name: ModelName = Field(
        json_schema_extra={
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "modelName is immutable"}]
        },
        description="The model as requests name it. Immutable.",
    )
    model_memory: Annotated[int | str, QuantityBounds(minimum="0", exclusive_minimum=True)] | None = Field(
        default=None,
        description="Size of the weights, in bytes, e.g. 13Gi. Default: that of the built-in profile.",
    )
    service_level: ServiceLevel = Field(default_factory=ServiceLevel, description="How soon it should answer.")
    profile: Profile | None = Field(
        default=None, description="How fast a replica is. Default: fitted from what vLLM reports."
    )
    power_down: PowerDown = Field(
        default=PowerDown.NONE,
        description=(
            "What idle machines can do. None: stay as they are. IdlePState: clock down. Sleep: the engine's process "
            "ends. ScaleToZero: the node is given back. Savings are stated for this and nothing better. Default: None."
        ),
    )
    scaling: Scaling = Field(default_factory=Scaling, description="What becomes of the wanted replicas.")
    backends: Annotated[tuple[Backend, ...], Field(min_length=1, max_length=256)] = Field(
        json_schema_extra=list_map("name"), description="The deployments that serve the model."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backends.map(b, b.minSharePercent).sum() <= 100",
            "the minimum shares exceed 100 percent",
            lambda s: sum(b.min_share_percent for b in s.backends) <= 100,
        ),
    )


class BackendStatus(ApiModel):
    """A backend as observed."""

    name: Label = Field(description="Name of the backend.")
    datacenter_name: Label = Field(description="Its datacenter.")
    weight: Share | None = Field(default=None, description="Share it is meant to get now, out of 10,000.")
    ready_endpoints: Count | None = Field(default=None, description="Endpoints that answer.")
    desired_replicas: Count | None = Field(default=None, description="Replicas the plan wants awake.")
    last_applied_time: datetime | None = Field(default=None, description="When a router last took its weight.")
    conditions: Conditions = ()


class FittedProfile(ApiModel):
    """A profile fitted from what vLLM reports."""

    prefill_tokens_per_second: DecimalText = Field(description="Prompt tokens one replica reads per second.")
    decode_tokens_per_second: DecimalText = Field(
        description="Output tokens one replica writes per second at maxBatch, all requests together."
    )
    single_stream_tokens_per_second: DecimalText | None = Field(
        default=None, description="Output tokens per second of a lone request."
    )
    max_batch: Count | None = Field(
        default=None, description="Requests one replica is taken to run at once: 64, or the most that were seen."
    )
    kv_capacity_tokens: Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="Tokens that fit into one replica's KV cache, as vLLM says."
    )
    samples: Count = Field(description="Windows of observation it was fitted from.")
    residual_percent: DecimalText | None = Field(
        default=None, description="How far it is off what was observed, %: root of the mean square."
    )
    observed_batch: DecimalText | None = Field(
        default=None, description="Largest mean batch it was seen at; beyond that it is extrapolated."
    )


class InferencePoolStatus(ApiModel):
    """What the operator observed of a pool."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="metadata.generation this status was made of."
    )
    ready_backends: Count | None = Field(default=None, description="Backends with at least one ready endpoint.")
    fitted_profile: FittedProfile | None = Field(default=None, description="The profile as fitted from metrics.")
    backends: Annotated[tuple[BackendStatus, ...], Field(max_length=256)] = Field(
        default=(), json_schema_extra=list_map("name"), description="Backends as observed."
    )
    message: Text | None = Field(default=None, description="What a person should know, in one line.")
    conditions: Conditions = ()


class InferencePool(ApiModel):
    """One model, and the backends that serve it."""

    api_version: Literal["marlin.dev/v1alpha1"] = Field(default=API_VERSION, description="Always marlin.dev/v1alpha1.")
    kind: Literal["InferencePool"] = Field(default="InferencePool", description="Always InferencePool.")
    metadata: ObjectMeta = Field(description="Name, namespace, labels and annotations.")
    spec: InferencePoolSpec = Field(description="What a person says about the model.")
    status: InferencePoolStatus | None = Field(default=None, description="What the operator observed.")

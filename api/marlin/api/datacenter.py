"""The ``Datacenter`` kind: one site that serves requests.

Cluster-scoped. It says where the site is, how the hub reaches its cluster and its member router, what hardware it
has, and where its three signals (carbon intensity, water intensity, energy price) come from. Secrets are named, never
held, and are looked up in the operator's namespace only.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from marlin.api.conditions import Conditions
from marlin.api.signals import Signals
from marlin.api.values import (
    API_VERSION,
    ApiModel,
    Count,
    DecimalText,
    HttpUrl,
    KeyName,
    Label,
    ObjectMeta,
    ObjectName,
    Percent,
    QuantityBounds,
    Rule,
    SecretKeyRef,
    SecretRef,
    Text,
    Tls,
    Verification,
    ZoneCode,
    list_map,
)


class ServiceState(StrEnum):
    """What a site may be used for."""

    ACTIVE = "Active"
    CORDONED = "Cordoned"
    DRAINED = "Drained"


class Coordinates(ApiModel):
    """A point on Earth. Plain decimals: nobody should have to quote a latitude."""

    latitude: Annotated[float, Field(ge=-90, le=90)] = Field(description="Degrees north, -90 to 90.")
    longitude: Annotated[float, Field(ge=-180, le=180)] = Field(description="Degrees east, -180 to 180.")


class Location(ApiModel):
    """Where the site is: for network distance, residency and the grid it draws from."""

    region: Label = Field(description="Region of the site, as residency constraints name it, e.g. eu-central.")
    zone: ZoneCode | None = Field(
        default=None,
        description=(
            "Grid zone in Electricity Maps' spelling, e.g. DE-LU; the default of every signal provider that needs "
            "one, and the key into the built-in tables. Default: none."
        ),
    )
    coordinates: Coordinates | None = Field(
        default=None,
        description="Used to estimate network latency where no measurement exists. Default: the zone's, if known.",
    )


class InCluster(ApiModel):
    """The cluster the operator itself runs in."""


class ClusterProfileRef(ApiModel):
    """A ClusterProfile of the multicluster inventory API."""

    namespace: Label = Field(description="Namespace of the ClusterProfile.")
    name: ObjectName = Field(description="Name of the ClusterProfile.")


class KubeconfigRef(SecretKeyRef):
    """A kubeconfig; it is refused when it names commands, plugins or files, or skips TLS verification."""

    key: KeyName = Field(default="kubeconfig", description="Key inside the Secret. Default: kubeconfig.")


def _count_set(*values: object) -> int:
    return sum(value is not None for value in values)


class ClusterAccess(ApiModel):
    """How the hub reads the site's cluster. Exactly one method."""

    in_cluster: InCluster | None = Field(default=None, description="The cluster the operator runs in.")
    server: Annotated[str, Field(max_length=512, pattern=r"^https://")] | None = Field(
        default=None, description="Address of the API server; needed with tokenSecretRef, ignored otherwise."
    )
    kubeconfig_secret_ref: KubeconfigRef | None = Field(default=None, description="Secret that holds a kubeconfig.")
    token_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with keys token and ca.crt, for server."
    )
    cluster_profile_ref: ClusterProfileRef | None = Field(
        default=None, description="ClusterProfile whose access provider is used."
    )
    request_timeout_seconds: Annotated[int, Field(ge=1, le=300, json_schema_extra={"format": "int32"})] = Field(
        default=30,
        description="Longest wait for one answer of that cluster's API, in seconds. Default: 30.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.inCluster), has(self.kubeconfigSecretRef), has(self.tokenSecretRef), "
            "has(self.clusterProfileRef)].filter(x, x).size() == 1",
            "set exactly one of inCluster, kubeconfigSecretRef, tokenSecretRef, clusterProfileRef",
            lambda c: _count_set(c.in_cluster, c.kubeconfig_secret_ref, c.token_secret_ref, c.cluster_profile_ref) == 1,
        ),
        Rule(
            "!has(self.tokenSecretRef) || has(self.server)",
            "server is required with tokenSecretRef",
            lambda c: c.token_secret_ref is None or c.server is not None,
        ),
    )


class MemberRouter(ApiModel):
    """The router inside the site's cluster, the second hop of a request from elsewhere."""

    url: HttpUrl = Field(description="Base address of the member router, without /v1.")
    tls: Tls = Field(default_factory=Tls, description="How its certificate is verified. Default: by the system.")
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Bearer token it asks for. Default: none is sent."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.url.startsWith('https://') || self.tls.verification == 'Disabled'",
            "plain http needs tls.verification: Disabled to be set explicitly",
            lambda r: r.url.startswith("https://") or r.tls.verification is Verification.DISABLED,
        ),
    )


class Facility(ApiModel):
    """What the building adds to the energy and water of the machines in it."""

    power_usage_effectiveness: Annotated[int | str, QuantityBounds(minimum="1", maximum="5")] | None = Field(
        default=None,
        description=(
            'PUE: all energy over IT energy, quoted, e.g. "1.2". Excludes coolingPerformance, because a published '
            'PUE already holds cooling and infrastructure. Default with neither set: "1.3".'
        ),
    )
    cooling_performance: Annotated[int | str, QuantityBounds(minimum="500m", maximum="100")] | None = Field(
        default=None,
        description=(
            "COP of the cooling: heat moved per unit of energy. Cooling energy is then 3 / COP of the IT energy "
            "(MARLIN paper, 3.3) and infrastructure comes on top. Default: none."
        ),
    )
    infrastructure_overhead_percent: Percent = Field(
        default=13,
        description="Energy of power distribution and supplies, % of IT energy; only with coolingPerformance. "
        "Default: 13.",
    )
    cycles_of_concentration: Annotated[int | str, QuantityBounds(minimum="1", exclusive_minimum=True)] = Field(
        default="4",
        description="How often cooling water circulates before it is drained: blowdown is evaporation / (cycles - 1). "
        'Default: "4".',
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.powerUsageEffectiveness) != has(self.coolingPerformance)",
            "set either powerUsageEffectiveness or coolingPerformance",
            lambda f: (f.power_usage_effectiveness is None) != (f.cooling_performance is None),
        ),
    )


class NodeGroup(ApiModel):
    """Nodes of one kind."""

    name: Label = Field(description="Name of the group, unique in this datacenter.")
    accelerator: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="GPU type, e.g. A100-80GB or H100-80GB; types with a built-in profile need no power figures."
    )
    accelerators_per_node: Annotated[int, Field(ge=1, le=64, json_schema_extra={"format": "int32"})] = Field(
        description="GPUs in one node."
    )
    nodes: Annotated[int, Field(ge=0, le=100_000, json_schema_extra={"format": "int32"})] = Field(
        description="Nodes in the group, whether ready or not."
    )
    node_power_watts: Annotated[int, Field(ge=1, le=200_000, json_schema_extra={"format": "int32"})] | None = Field(
        default=None,
        description="Power of a node at full load, W. Default: from the accelerator's data sheet.",
    )
    idle_accelerator_watts: Annotated[int, Field(ge=0, le=2_000, json_schema_extra={"format": "int32"})] | None = Field(
        default=None, description="Power of one idle GPU with a model in memory, W. Default: 80."
    )


class DatacenterSpec(ApiModel):
    """What a person says about a site."""

    display_name: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Name for people, on dashboards. Default: metadata.name."
    )
    service_state: ServiceState = Field(
        default=ServiceState.ACTIVE,
        description=(
            "Active: may get requests. Cordoned: keeps the sessions it has, gets no new ones. Drained: gets nothing. "
            "Default: Active."
        ),
    )
    location: Location = Field(description="Where the site is.")
    cluster: ClusterAccess | None = Field(
        default=None, description="How the hub reads the site's cluster. Default: it does not."
    )
    router: MemberRouter | None = Field(
        default=None, description="The member router to forward to. Default: backends are reached directly."
    )
    facility: Facility | None = Field(default=None, description="Cooling and overhead. Default: a PUE of 1.3.")
    node_groups: Annotated[tuple[NodeGroup, ...], Field(max_length=32)] = Field(
        default=(),
        json_schema_extra=list_map("name"),
        description="The accelerator nodes of the site. Default: found out from the cluster.",
    )
    signals: Signals = Field(default_factory=Signals, description="Where carbon, water and price come from.")


class SampleQuality(StrEnum):
    """How good a signal's value is: the rungs of the fallback ladder."""

    MEASURED = "Measured"
    ESTIMATED = "Estimated"
    FORECAST = "Forecast"
    HISTORY = "History"
    FALLBACK = "Fallback"


class Sample(ApiModel):
    """A signal's value as last seen."""

    value: DecimalText = Field(description="The value, in unit.")
    unit: Annotated[str, Field(max_length=32)] = Field(description="gCO2eq/kWh, L/kWh or USD/kWh.")
    source: Annotated[str, Field(max_length=63)] = Field(description="Provider it came from.")
    quality: SampleQuality = Field(description="Which rung of the fallback ladder it stands on.")
    observed_time: datetime = Field(description="When it was true.")
    valid_until_time: datetime | None = Field(default=None, description="Until when it may be used.")


class SignalSamples(ApiModel):
    """The three signals' values."""

    carbon_intensity: Sample | None = Field(default=None, description="In gCO2eq/kWh.")
    water_intensity: Sample | None = Field(default=None, description="In L/kWh.")
    energy_price: Sample | None = Field(default=None, description="In USD/kWh.")


class NodeGroupStatus(ApiModel):
    """A node group as observed."""

    name: Label = Field(description="Name of the group.")
    ready_nodes: Count = Field(description="Nodes that can serve now.")


class DatacenterStatus(ApiModel):
    """What the operator observed of a site."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="metadata.generation this status was made of."
    )
    cluster_id: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Stable identity of the cluster: the UID of its kube-system namespace."
    )
    kubernetes_version: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Version its API server reports."
    )
    ready_accelerators: Count | None = Field(default=None, description="GPUs on nodes that can serve now.")
    node_groups: Annotated[tuple[NodeGroupStatus, ...], Field(max_length=32)] = Field(
        default=(), json_schema_extra=list_map("name"), description="Node groups as observed."
    )
    signals: SignalSamples | None = Field(default=None, description="Signals as last seen.")
    message: Text | None = Field(default=None, description="What a person should know, in one line.")
    conditions: Conditions = ()


class Datacenter(ApiModel):
    """One site that serves requests."""

    api_version: Literal["marlin.dev/v1alpha1"] = Field(default=API_VERSION, description="Always marlin.dev/v1alpha1.")
    kind: Literal["Datacenter"] = Field(default="Datacenter", description="Always Datacenter.")
    metadata: ObjectMeta = Field(description="Name, labels and annotations.")
    spec: DatacenterSpec = Field(description="What a person says about the site.")
    status: DatacenterStatus | None = Field(default=None, description="What the operator observed.")

"""The ``Datacenter`` kind: one site that serves requests.

Cluster-scoped. It says where the site is, how the hub reaches its cluster and its member router, what hardware it
has, and where its three signals (carbon intensity, water intensity, energy price) come from. Secrets are named, never
held, and are looked up in the operator's namespace only.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from marlin.api.conditions import Conditions
from marlin.api.values import (
    API_VERSION,
    AnyQuantity,
    ApiModel,
    Count,
    DecimalText,
    HttpUrl,
    KeyName,
    Label,
    NonNegativeQuantity,
    ObjectMeta,
    ObjectName,
    Percent,
    PositiveQuantity,
    QuantityBounds,
    Rule,
    SecretKeyRef,
    SecretRef,
    Text,
    Tls,
    Verification,
    ZoneCode,
    list_map,
    quantity_value,
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


# --- signals ----------------------------------------------------------------------------------------------------


class StaticSource(ApiModel):
    """A constant."""

    value: AnyQuantity = Field(description="The value, in the signal's unit, quoted when it has decimals.")


class ScheduleEntry(ApiModel):
    """A value from an hour of the day on."""

    from_hour: Annotated[int, Field(ge=0, le=23, json_schema_extra={"format": "int32"})] = Field(
        description="Local hour from which the value holds, until the next entry."
    )
    value: AnyQuantity = Field(description="The value, in the signal's unit.")


class ScheduleSource(ApiModel):
    """A value for each part of the day, as a tariff has it."""

    time_zone: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$")] = Field(
        default="UTC",
        description="IANA time zone of the hours; daylight saving is followed. Default: UTC.",
    )
    entries: Annotated[tuple[ScheduleEntry, ...], Field(min_length=1, max_length=24)] = Field(
        description="At most one entry per hour; the last of the day holds until the first of the next.",
        json_schema_extra=list_map("fromHour"),
    )


class ConfigMapSource(ApiModel):
    """A value or forecast that something else writes into a ConfigMap."""

    name: ObjectName = Field(description="ConfigMap in the operator's namespace.")
    key: KeyName = Field(default="value", description="Key that holds the number or forecast. Default: value.")


class PrometheusSource(ApiModel):
    """The result of an instant query."""

    url: HttpUrl = Field(description="Base address of the Prometheus server.")
    query: Annotated[str, Field(min_length=1, max_length=2048)] = Field(
        description="PromQL that yields one number in the signal's unit."
    )
    tls: Tls = Field(default_factory=Tls, description="How its certificate is verified.")
    token_secret_ref: SecretKeyRef | None = Field(default=None, description="Bearer token. Default: none is sent.")


class BuiltInSource(ApiModel):
    """The shipped table of the zone: the mean of each hour of the day in each month of 2023."""

    zone: ZoneCode | None = Field(default=None, description="Zone of the table. Default: location.zone.")


class ElectricityMapsSource(ApiModel):
    """The Electricity Maps API."""

    zone: ZoneCode | None = Field(default=None, description="Its zone. Default: location.zone.")
    token_secret_ref: SecretKeyRef = Field(description="API token.")
    url: HttpUrl = Field(
        default="https://api.electricitymaps.com", description="Base address. Default: the public service."
    )


class WattTimeSource(ApiModel):
    """The WattTime API."""

    region: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Its region, e.g. CAISO_NORTH.")
    credentials_secret_ref: SecretRef = Field(description="Secret with keys username and password.")
    url: HttpUrl = Field(default="https://api.watttime.org", description="Base address. Default: the public service.")


class CarbonAwareSdkSource(ApiModel):
    """A Carbon Aware SDK web API."""

    url: HttpUrl = Field(description="Base address of the web API.")
    location: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Location as it is set up there.")
    tls: Tls = Field(default_factory=Tls, description="How its certificate is verified.")


class EntsoeSource(ApiModel):
    """Day-ahead prices of the ENTSO-E transparency platform."""

    area: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Bidding zone's EIC code.")
    token_secret_ref: SecretKeyRef = Field(description="Security token.")
    url: HttpUrl = Field(
        default="https://web-api.tp.entsoe.eu", description="Base address. Default: the public service."
    )


class CarbonProvider(StrEnum):
    """Where a carbon intensity may come from."""

    STATIC = "Static"
    SCHEDULE = "Schedule"
    CONFIG_MAP = "ConfigMap"
    PROMETHEUS = "Prometheus"
    BUILT_IN = "BuiltIn"
    ELECTRICITY_MAPS = "ElectricityMaps"
    WATT_TIME = "WattTime"
    CARBON_AWARE_SDK = "CarbonAwareSDK"


class WaterProvider(StrEnum):
    """Where a water intensity may come from."""

    STATIC = "Static"
    SCHEDULE = "Schedule"
    CONFIG_MAP = "ConfigMap"
    PROMETHEUS = "Prometheus"
    BUILT_IN = "BuiltIn"


class PriceProvider(StrEnum):
    """Where an energy price may come from."""

    STATIC = "Static"
    SCHEDULE = "Schedule"
    CONFIG_MAP = "ConfigMap"
    PROMETHEUS = "Prometheus"
    BUILT_IN = "BuiltIn"
    ENTSOE = "ENTSOE"


_MEMBER_OF: Final = {
    "Static": "static",
    "Schedule": "schedule",
    "ConfigMap": "configMap",
    "Prometheus": "prometheus",
    "BuiltIn": "builtIn",
    "ElectricityMaps": "electricityMaps",
    "WattTime": "wattTime",
    "CarbonAwareSDK": "carbonAwareSdk",
    "ENTSOE": "entsoe",
}
"""Provider to the field that configures it."""

_OPTIONAL_MEMBERS: Final = frozenset({"BuiltIn"})


def _union_rules(providers: type[StrEnum]) -> tuple[Rule, ...]:
    """The discriminated union: the field of the named provider is set, and none of another."""
    rules = []
    for provider in providers:
        field = _MEMBER_OF[provider]
        attribute = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)

        def is_consistent(signal: Any, provider: str = provider, attribute: str = attribute) -> bool:
            given = getattr(signal, attribute) is not None
            if signal.provider == provider:
                return given or provider in _OPTIONAL_MEMBERS
            return not given

        if provider in _OPTIONAL_MEMBERS:
            cel = f"self.provider == '{provider}' || !has(self.{field})"
        else:
            cel = f"(self.provider == '{provider}') == has(self.{field})"
        rules.append(Rule(cel, f"{field} goes with provider {provider}, and only with it", is_consistent))
    return tuple(rules)


_REFRESH_RULE: Final = Rule(
    "self.refreshPeriodSeconds < self.staleAfterSeconds",
    "refreshPeriodSeconds must be below staleAfterSeconds",
    lambda s: s.refresh_period_seconds < s.stale_after_seconds,
)


_NOT_NEGATIVE: Final = Rule(
    "!has(self.static) || quantity(string(self.static.value)).compareTo(quantity('0')) >= 0",
    "static.value must be at least 0",
    lambda s: s.static is None or quantity_value(s.static.value) >= 0,
)


class Signal(ApiModel):
    """What all signals have in common: the simple sources, and how old a value may grow."""

    static: StaticSource | None = Field(default=None, description="With provider Static: a constant.")
    schedule: ScheduleSource | None = Field(default=None, description="With provider Schedule: a value by hour.")
    config_map: ConfigMapSource | None = Field(default=None, description="With provider ConfigMap.")
    prometheus: PrometheusSource | None = Field(default=None, description="With provider Prometheus.")
    built_in: BuiltInSource | None = Field(
        default=None, description="With provider BuiltIn: whose table. Default: that of location.zone."
    )
    refresh_period_seconds: Annotated[int, Field(ge=60, le=86_400, json_schema_extra={"format": "int32"})] = Field(
        default=300, description="How often the provider is asked, in seconds. Default: 300."
    )
    stale_after_seconds: Annotated[int, Field(ge=120, le=604_800, json_schema_extra={"format": "int32"})] = Field(
        default=3600,
        description="Age from which a value no longer counts as current, in seconds. Default: 3600.",
    )


class CarbonUnit(StrEnum):
    """Units a source of carbon intensity may speak; all are converted to gCO2eq/kWh."""

    G_PER_KWH = "gCO2eq/kWh"
    KG_PER_MWH = "kgCO2eq/MWh"
    LB_PER_MWH = "lbCO2eq/MWh"


class EmissionFactor(StrEnum):
    """Whether a carbon intensity counts plant construction and fuel supply too."""

    DIRECT = "Direct"
    LIFECYCLE = "Lifecycle"


class CarbonSignal(Signal):
    """Carbon emitted per unit of energy drawn."""

    provider: CarbonProvider = Field(description="Where the value comes from.")
    unit: CarbonUnit = Field(default=CarbonUnit.G_PER_KWH, description="Unit of the source. Default: gCO2eq/kWh.")
    emission_factor: EmissionFactor = Field(
        default=EmissionFactor.DIRECT,
        description="Direct: at the power plant. Lifecycle: fuel supply and construction too. Default: Direct.",
    )
    electricity_maps: ElectricityMapsSource | None = Field(default=None, description="With provider ElectricityMaps.")
    watt_time: WattTimeSource | None = Field(default=None, description="With provider WattTime.")
    carbon_aware_sdk: CarbonAwareSdkSource | None = Field(default=None, description="With provider CarbonAwareSDK.")
    fallback_value: NonNegativeQuantity | None = Field(
        default=None,
        description="Used when nothing better is known, in gCO2eq/kWh. Default: the zone's mean, or 475.",
    )
    rules: ClassVar[tuple[Rule, ...]] = (*_union_rules(CarbonProvider), _REFRESH_RULE, _NOT_NEGATIVE)


class WaterUnit(StrEnum):
    """Units a source of water intensity may speak; all are converted to L/kWh."""

    L_PER_KWH = "L/kWh"
    M3_PER_MWH = "m3/MWh"
    GAL_PER_MWH = "gal/MWh"


class WaterSignal(Signal):
    """Water consumed in power generation per unit of energy drawn; cooling on site is computed, not signalled."""

    provider: WaterProvider = Field(description="Where the value comes from.")
    unit: WaterUnit = Field(default=WaterUnit.L_PER_KWH, description="Unit of the source. Default: L/kWh.")
    fallback_value: NonNegativeQuantity | None = Field(
        default=None,
        description='Used when nothing better is known, in L/kWh. Default: the zone\'s mean, or "1.8".',
    )
    rules: ClassVar[tuple[Rule, ...]] = (*_union_rules(WaterProvider), _REFRESH_RULE, _NOT_NEGATIVE)


class PriceUnit(StrEnum):
    """Energy a source of prices counts by; all are converted to kWh."""

    PER_KWH = "PerKWh"
    PER_MWH = "PerMWh"


class PriceSignal(Signal):
    """Price of energy. It may be negative, as wholesale prices are at times."""

    provider: PriceProvider = Field(description="Where the value comes from.")
    unit: PriceUnit = Field(default=PriceUnit.PER_KWH, description="Energy the price is for. Default: PerKWh.")
    currency: Annotated[str, Field(min_length=3, max_length=3, pattern=r"^[A-Z]{3}$")] = Field(
        default="USD", description="ISO 4217 code of the source's currency. Default: USD."
    )
    usd_per_currency_unit: PositiveQuantity | None = Field(
        default=None, description='Exchange rate, quoted, e.g. "1.08"; needed unless currency is USD.'
    )
    entsoe: EntsoeSource | None = Field(default=None, description="With provider ENTSOE.")
    fallback_value: AnyQuantity | None = Field(
        default=None,
        description='Used when nothing better is known, in USD/kWh. Default: the zone\'s mean, or "0.1".',
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        *_union_rules(PriceProvider),
        _REFRESH_RULE,
        Rule(
            "self.currency == 'USD' || has(self.usdPerCurrencyUnit)",
            "usdPerCurrencyUnit is required unless currency is USD",
            lambda s: s.currency == "USD" or s.usd_per_currency_unit is not None,
        ),
    )


class Signals(ApiModel):
    """The three signals that make one site better than another."""

    carbon_intensity: CarbonSignal | None = Field(default=None, description="Default: the zone's built-in table.")
    water_intensity: WaterSignal | None = Field(default=None, description="Default: the zone's built-in value.")
    energy_price: PriceSignal | None = Field(default=None, description="Default: the zone's built-in table.")


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

"""Where a site's carbon intensity, water intensity and energy price come from.

A signal names its provider and configures the member that belongs to it; which providers there are differs by signal,
and rules refuse the member of another. A source may speak its own unit; whoever reads it converts.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from marlin.api.values import (
    AnyQuantity,
    ApiModel,
    HttpUrl,
    KeyName,
    NonNegativeQuantity,
    ObjectName,
    PositiveQuantity,
    Rule,
    SecretKeyRef,
    SecretRef,
    Tls,
    ZoneCode,
    list_map,
    quantity_value,
)


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

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        # Only here, not in CEL: an API server has no time zone database.
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{name!r} is not an IANA time zone such as Europe/Berlin") from None
        return name


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
    credentials_secret_ref: SecretRef = Field(
        description="Secret with keys username, password and send-to, which has to list the service's address."
    )
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

"""Providers: a signal's source asked once, behind one protocol.

``provider_for`` makes one out of a signal's spec. Secrets and ConfigMaps are looked up in the operator's namespace at
each fetch, so that a rotated key is used at once and none is kept.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from marlin.api.signals import (
    CarbonAwareSdkSource,
    CarbonSignal,
    ConfigMapSource,
    ElectricityMapsSource,
    EmissionFactor,
    EntsoeSource,
    PriceSignal,
    PriceUnit,
    PrometheusSource,
    WattTimeSource,
)
from marlin.api.values import Tls
from marlin.operator.sending import Credentials, destination, tls_context
from marlin.operator.signals import answers
from marlin.operator.signals.http import Http, RefusedError, Request, SignalError
from marlin.operator.signals.ladder import AnySignal
from marlin.operator.signals.values import Answer
from marlin.simulator.site_signals import canonical_factor

_WATT_TIME_TOKEN_LIFE: Final = timedelta(minutes=25)
"""A token lives for 30 minutes."""

_WATT_TIME_HORIZON_HOURS: Final = "24"


class Namespace(Credentials, Protocol):
    """The operator's own namespace."""

    async def config_map(self, name: str, key: str) -> str:
        """A key of a ConfigMap.

        Raises:
            SignalError: there is none.
        """


class Provider(Protocol):
    """One source of one signal."""

    async def fetch(self, now: datetime) -> Answer:
        """Asks it.

        Raises:
            SignalError: there was no usable answer.
        """


@dataclass(frozen=True, slots=True)
class _Tools:
    http: Http
    namespace: Namespace

    async def get(self, request: Request, tls: Tls) -> bytes:
        """A request with the TLS settings of its source."""
        if tls.client_certificate_secret_ref is not None:
            raise SignalError("tls.clientCertificateSecretRef is not supported for signals")
        context = await tls_context(tls, self.namespace)
        return await self.http.get(replace(request, context=context, server_name=tls.server_name))


@dataclass(frozen=True, slots=True)
class ConfigMapProvider:
    """A number or a forecast that something else writes into a ConfigMap."""

    tools: _Tools
    source: ConfigMapSource
    factor: float

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        text = await self.tools.namespace.config_map(self.source.name, self.source.key)
        return answers.config_map(text, self.factor, now)


@dataclass(frozen=True, slots=True)
class PrometheusProvider:
    """An instant query."""

    tools: _Tools
    source: PrometheusSource
    factor: float

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        headers = {}
        if (ref := self.source.token_secret_ref) is not None:
            to = destination(self.source.url, self.source.tls)
            headers["Authorization"] = f"Bearer {await self.tools.namespace.credential(ref.name, ref.key, to)}"
        request = Request(f"{_base(self.source.url)}/api/v1/query", {"query": self.source.query}, headers)
        return answers.prometheus(await self.tools.get(request, self.source.tls), self.factor)


@dataclass(frozen=True, slots=True)
class ElectricityMapsProvider:
    """The value now and, where the account has it, the forecast."""

    tools: _Tools
    source: ElectricityMapsSource
    zone: str
    emission_factor: EmissionFactor

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        ref = self.source.token_secret_ref
        to = destination(self.source.url, Tls())
        headers = {"auth-token": await self.tools.namespace.credential(ref.name, ref.key, to)}
        params = {"zone": self.zone, "emissionFactorType": self.emission_factor.value.lower()}
        base = f"{_base(self.source.url)}/v3/carbon-intensity"
        latest = answers.electricity_maps_latest(
            await self.tools.get(Request(f"{base}/latest", params, headers), Tls()), self.zone
        )
        try:
            body = await self.tools.get(Request(f"{base}/forecast", params, headers), Tls())
            return replace(latest, forecast=answers.electricity_maps_forecast(body, self.zone))
        except SignalError:
            return latest  # a forecast is a paid extra there; the value now is what counts


@dataclass(slots=True)
class WattTimeProvider:
    """Marginal emissions: the forecast, whose point for now is the current value."""

    tools: _Tools
    source: WattTimeSource
    token: str = ""
    token_until: datetime | None = None

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        fresh = not self.token or self.token_until is None or now >= self.token_until
        if fresh:
            await self._log_in(now)
        try:
            return await self._forecast(now)
        except RefusedError:
            if fresh:
                raise
            await self._log_in(now)  # the token was taken back before its time
            return await self._forecast(now)

    async def _log_in(self, now: datetime) -> None:
        name = self.source.credentials_secret_ref.name
        to = destination(self.source.url, Tls())
        user = await self.tools.namespace.credential(name, "username", to)
        password = await self.tools.namespace.credential(name, "password", to)
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = Request(f"{_base(self.source.url)}/login", headers={"Authorization": f"Basic {basic}"})
        body = await self.tools.get(request, Tls())
        self.token, self.token_until = answers.watt_time_token(body), now + _WATT_TIME_TOKEN_LIFE

    async def _forecast(self, now: datetime) -> Answer:
        request = Request(
            f"{_base(self.source.url)}/v3/forecast",
            {"region": self.source.region, "signal_type": "co2_moer", "horizon_hours": _WATT_TIME_HORIZON_HOURS},
            {"Authorization": f"Bearer {self.token}"},
        )
        return answers.watt_time_forecast(await self.tools.get(request, Tls()), self.source.region, now)


@dataclass(frozen=True, slots=True)
class CarbonAwareSdkProvider:
    """Emissions of the last hour and, where its data source has one, the forecast."""

    tools: _Tools
    source: CarbonAwareSdkSource

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        base, location, tls = _base(self.source.url), self.source.location, self.source.tls
        window = {
            "location": location,
            "time": (now - timedelta(hours=1)).isoformat(),
            "toTime": now.isoformat(),
        }
        body = await self.tools.get(Request(f"{base}/emissions/bylocation", window), tls)
        current = answers.carbon_aware_emissions(body, location)
        try:
            body = await self.tools.get(Request(f"{base}/emissions/forecasts/current", {"location": location}), tls)
            return replace(current, forecast=answers.carbon_aware_forecast(body, location))
        except SignalError:
            return current


@dataclass(frozen=True, slots=True)
class EntsoeProvider:
    """Day-ahead prices of today and, once published, tomorrow."""

    tools: _Tools
    source: EntsoeSource
    currency: str
    usd_per_unit: float

    async def fetch(self, now: datetime) -> Answer:
        """See ``Provider``."""
        ref = self.source.token_secret_ref
        hour = now.replace(minute=0, second=0, microsecond=0)
        params = {
            "securityToken": await self.tools.namespace.credential(
                ref.name, ref.key, destination(self.source.url, Tls())
            ),
            "documentType": "A44",
            "in_Domain": self.source.area,
            "out_Domain": self.source.area,
            "periodStart": (hour - timedelta(hours=24)).strftime("%Y%m%d%H%M"),
            "periodEnd": (hour + timedelta(hours=36)).strftime("%Y%m%d%H%M"),
        }
        body = await self.tools.get(Request(f"{_base(self.source.url)}/api", params), Tls())
        return answers.entsoe_prices(body, self.currency, self.usd_per_unit, now)


def provider_for(signal: AnySignal, zone: str | None, http: Http, namespace: Namespace) -> Provider:
    """The provider that a live signal names.

    Args:
        signal: a signal whose provider is one of ``LIVE_PROVIDERS``.
        zone: ``location.zone``, where the source names none.
        http: the network.
        namespace: the operator's namespace.

    Raises:
        SignalError: something is missing that the spec alone cannot be checked for.
    """
    tools = _Tools(http, namespace)
    if signal.config_map is not None:
        return ConfigMapProvider(tools, signal.config_map, canonical_factor(signal))
    if signal.prometheus is not None:
        return PrometheusProvider(tools, signal.prometheus, canonical_factor(signal))
    if isinstance(signal, CarbonSignal):
        if signal.electricity_maps is not None:
            named = signal.electricity_maps.zone or zone
            if named is None:
                raise SignalError("electricityMaps.zone is needed, because location.zone is not set")
            return ElectricityMapsProvider(tools, signal.electricity_maps, named, signal.emission_factor)
        if signal.watt_time is not None:
            return WattTimeProvider(tools, signal.watt_time)
        if signal.carbon_aware_sdk is not None:
            return CarbonAwareSdkProvider(tools, signal.carbon_aware_sdk)
    if isinstance(signal, PriceSignal) and signal.entsoe is not None:
        per_unit = canonical_factor(signal.model_copy(update={"unit": PriceUnit.PER_KWH}))
        return EntsoeProvider(tools, signal.entsoe, signal.currency, per_unit)
    raise SignalError(f"provider {signal.provider.value} is not one that is asked")


def _base(url: str) -> str:
    return url.rstrip("/")

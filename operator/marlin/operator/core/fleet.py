"""A policy's objects and readings as a ``FleetState``, by the same ``Builder`` that training uses.

What was observed is written into copies of the documents first: a signal's reading as a constant, a site that may not
be used as drained. So there is one way from documents to a state, and a live fleet and a file of the same content make
the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from marlin.api.datacenter import Datacenter, SampleQuality, ServiceState
from marlin.api.documents import Documents
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import InferencePool
from marlin.api.signals import (
    CarbonProvider,
    CarbonSignal,
    PriceProvider,
    PriceSignal,
    Signals,
    StaticSource,
    WaterProvider,
    WaterSignal,
)
from marlin.api.state import FleetState
from marlin.operator.core.calibrating import ASSUMED
from marlin.operator.core.observed import Key
from marlin.operator.core.tables import address
from marlin.operator.epochs import Epoch
from marlin.operator.signals.values import Reading, SiteReadings
from marlin.simulator.fleet import MEAN_OUTPUT_TOKENS, MEAN_PROMPT_TOKENS, Builder, Demand
from marlin.simulator.fluid import capacity_rps
from marlin.simulator.twin_state import arrays_from

_STALE: Final = (SampleQuality.HISTORY, SampleQuality.FALLBACK)

ASSUMED_LOAD = 0.5
"""Part of its capacity that a pool is taken to be asked for while no arrivals were observed."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one pool is expected to be asked in an epoch."""

    requests: float
    upper_requests: float
    mean_prompt_tokens: float = MEAN_PROMPT_TOKENS
    mean_output_tokens: float = MEAN_OUTPUT_TOKENS
    origin_shares: Mapping[str, float] = field(default_factory=dict)
    """Origin to its share of the requests; the empty name stands for requests of which no origin is known."""
    parts: tuple[float, ...] = ()
    """(S,) means of the parts of ``FORECAST_CHANCES``; empty where nothing was observed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one pool's engines have to do now, by site."""

    running: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A policy's fleet in one epoch."""

    state: FleetState
    assumed: tuple[str, ...]
    """Pools whose demand is assumed, because nothing was observed of them."""
    warnings: tuple[str, ...]
    """What else had to be assumed."""


def fleet_of(
    policy: MarlinPolicy,
    pools: tuple[InferencePool, ...],
    sites: tuple[Datacenter, ...],
    *,
    readings: Mapping[str, SiteReadings],
    unusable: Set[str],
    forecasts: Mapping[Key, Forecast],
    epoch: Epoch,
    loads: Mapping[Key, Load] | None = None,
) -> Fleet:
    """The fleet as it is expected to be in ``epoch``.

    Args:
        policy: whose guardrails, origins and residency hold.
        pools: the pools it plans.
        sites: the sites it plans over.
        readings: site to its signals in that epoch.
        unusable: sites that may not get requests.
        forecasts: (namespace, pool) to what is expected of it; half of its capacity is taken where it is missing.
        epoch: the epoch.
        loads: (namespace, pool) to what its engines have to do now; pools of which that is not known are missing.

    A pool of unknown speed is taken to be as fast as ``ASSUMED``: what follows for how its sites compare holds.

    Raises:
        InputError: a capacity or a place is missing; the message names object and field.
    """
    loads = loads or {}
    namespace = policy.metadata.namespace or ""
    by_name = {site.metadata.name: site for site in sites}
    builder = Builder(
        Documents(
            datacenters=tuple(_as_observed(site, readings[site.metadata.name], unusable) for site in sites),
            pools=tuple(_within(_of_some_speed(pool), by_name) for pool in pools),
            policies=(policy,),
        )
    )
    origins = builder.origins()

    def state(expected: Mapping[str, Forecast]) -> FleetState:
        demand = {
            name: Demand(
                _by_origin(forecast, origins),
                forecast.mean_prompt_tokens,
                forecast.mean_output_tokens,
                upper_requests=forecast.upper_requests,
                parts=forecast.parts,
                **_at_sites(loads.get((namespace, name)), sites),
            )
            for name, forecast in expected.items()
        }
        return builder.state(epoch.start, demand, epoch=epoch.number, epoch_s=epoch.length_s, start_time=epoch.start)

    order = [pool.metadata.name for pool in builder.pools]
    known = {name: forecasts[namespace, name] for name in order if (namespace, name) in forecasts}
    missing = tuple(name for name in order if name not in known)
    if missing:
        capacity = capacity_rps(arrays_from(state({n: known.get(n, Forecast(0.0, 0.0)) for n in order}))).sum(axis=1)
        for name, rps in zip(order, capacity, strict=True):  # (V,)
            if name not in known:
                known[name] = Forecast(ASSUMED_LOAD * float(rps) * epoch.length_s, float(rps) * epoch.length_s)
    return Fleet(_marked(state(known), readings), missing, tuple(builder.warnings))


def _marked(state: FleetState, readings: Mapping[str, SiteReadings]) -> FleetState:
    """The state with what it holds of no reading of its own epoch named: the lower rungs of a signal's ladder."""
    sites = []
    for site in state.datacenters:
        of_site = readings[site.name]
        each = (("carbon", of_site.carbon), ("water", of_site.water), ("price", of_site.price))
        stale = tuple(name for name, reading in each if reading.quality in _STALE)
        sites.append(site.model_copy(update={"stale_signals": stale}))
    return state.model_copy(update={"datacenters": tuple(sites)})


def _by_origin(forecast: Forecast, origins: tuple[str, ...]) -> tuple[float, ...]:
    """(R,) requests; those of no known origin are spread evenly."""
    shares = [max(0.0, forecast.origin_shares.get(name, 0.0)) for name in origins]
    unknown = max(0.0, 1.0 - sum(shares)) / len(origins)
    total = sum(shares) + unknown * len(origins)
    return tuple(forecast.requests * (share + unknown) / total for share in shares)


def _as_observed(site: Datacenter, readings: SiteReadings, unusable: Set[str]) -> Datacenter:
    signals = Signals(
        carbon_intensity=CarbonSignal(provider=CarbonProvider.STATIC, static=_constant(readings.carbon, least=0.0)),
        water_intensity=WaterSignal(provider=WaterProvider.STATIC, static=_constant(readings.water, least=0.0)),
        energy_price=PriceSignal(provider=PriceProvider.STATIC, static=_constant(readings.price)),
    )
    state = ServiceState.DRAINED if site.metadata.name in unusable else site.spec.service_state
    return site.model_copy(update={"spec": site.spec.model_copy(update={"signals": signals, "service_state": state})})


def _constant(reading: Reading, least: float | None = None) -> StaticSource:
    value = reading.value if least is None else max(least, reading.value)
    return StaticSource(value=f"{value:.6f}")


def _of_some_speed(pool: InferencePool) -> InferencePool:
    if pool.spec.profile is not None:
        return pool
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"profile": ASSUMED})})


def _at_sites(load: Load | None, sites: tuple[Datacenter, ...]) -> dict[str, tuple[float, ...]]:
    """(D,) requests waiting and running at each site, as the state has them."""
    if load is None:
        return {}
    names = [site.metadata.name for site in sites]
    return {
        "backlog_requests": tuple(load.waiting.get(name, 0.0) for name in names),
        "in_flight_requests": tuple(load.running.get(name, 0.0) for name in names),
    }


def _within(pool: InferencePool, sites: Mapping[str, Datacenter]) -> InferencePool:
    """The pool with those backends only that are in ``sites`` and that a router can reach."""
    backends = tuple(b for b in pool.spec.backends if b.datacenter_name in sites and address(b, sites))
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"backends": backends})})

"""Which engines are to be read, and where: pure, out of accepted policies and what was seen in the clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from marlin.api.datacenter import Datacenter
from marlin.api.policy import EngineReading, MarlinPolicy, Observation, PrometheusObservation
from marlin.api.pool import Backend, InferencePool
from marlin.api.values import Tls, Verification
from marlin.operator.core.observed import Key
from marlin.operator.members.sighting import Sighting

_PLAIN: Final = Tls(verification=Verification.DISABLED)


@dataclass(frozen=True, slots=True)
class Address:
    """A page to read."""

    site: str
    url: str
    tls: Tls = _PLAIN


@dataclass(frozen=True, slots=True)
class Wanted:
    """One pool's engines."""

    model_name: str
    addresses: tuple[Address, ...] = ()
    prometheus: PrometheusObservation | None = None
    """Who is asked instead."""
    out_of_reach: tuple[str, ...] = ()
    """Backends whose engines cannot be read directly."""
    sites: tuple[str, ...] = ()
    """Those of its backends."""


def wanted_engines(
    policy: MarlinPolicy,
    pools: Iterable[InferencePool],
    sites: Mapping[str, Datacenter],
    sightings: Mapping[str, Sighting],
) -> dict[Key, Wanted]:
    """Pool to its engines, for the pools of a policy whose engines are to be read.

    Args:
        policy: whose ``spec.observation`` says which.
        pools: its pools, as they were stated.
        sites: the sites there are.
        sightings: what was seen in their clusters.
    """
    observation = policy.spec.observation or Observation()
    if observation.engines is EngineReading.NONE:
        return {}
    found = {}
    for pool in pools:
        if observation.engines is EngineReading.UNPROFILED and pool.spec.profile is not None:
            continue
        key = (pool.metadata.namespace or "", pool.metadata.name)
        found[key] = _wanted(key, pool, observation, sites, sightings)
    return found


def _wanted(
    key: Key,
    pool: InferencePool,
    observation: Observation,
    sites: Mapping[str, Datacenter],
    sightings: Mapping[str, Sighting],
) -> Wanted:
    names = tuple(dict.fromkeys(backend.datacenter_name for backend in pool.spec.backends))
    if observation.prometheus is not None:
        return Wanted(pool.spec.model_name, prometheus=observation.prometheus, sites=names)
    addresses: list[Address] = []
    away = []
    for backend in pool.spec.backends:
        here = _addresses(key, backend, sites.get(backend.datacenter_name), sightings)
        if here is None:
            away.append(backend.name)
        else:
            addresses += here
    return Wanted(pool.spec.model_name, tuple(addresses), None, tuple(away), names)


def _addresses(
    key: Key, backend: Backend, site: Datacenter | None, sightings: Mapping[str, Sighting]
) -> list[Address] | None:
    """Pages of a backend's engines; None where there is no way to them."""
    name = backend.datacenter_name
    if backend.url is not None:
        return [Address(name, f"{backend.url.rstrip('/')}/metrics", backend.tls)]
    if site is None or site.spec.cluster is None or site.spec.cluster.in_cluster is None:
        return None  # addresses of pods in another cluster lead nowhere from here
    seen = sightings.get(name)
    sight = None if seen is None else seen.backends.get((key, backend.name))
    return [] if sight is None else [Address(name, f"http://{host}/metrics") for host in sight.addresses]

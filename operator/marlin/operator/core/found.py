"""Documents with what was found in the clusters written in, so that planning knows one kind of document.

What a person stated goes first. Node groups and capacities that nobody stated are taken from the cluster; where it was
never seen, the backend is left out until it is. Stated replicas are taken to be no more than those that are ready,
unless the pool can power down: what sleeps is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from marlin.api.datacenter import Datacenter, NodeGroup
from marlin.api.pool import Backend, BackendCapacity, InferencePool, PowerDown
from marlin.operator.core.observed import ObservedPool, ObservedSite
from marlin.operator.members.sighting import BackendSight, Sighting


def site_as_found(site: ObservedSite, sightings: Mapping[str, Sighting]) -> ObservedSite:
    """The site with the node groups of its cluster, where it states none."""
    model, sighting = site.model, sightings.get(site.name)
    if model is None or model.spec.node_groups or sighting is None or not sighting.groups:
        return site
    groups = tuple(
        NodeGroup(
            name=group.name,
            accelerator=group.accelerator,
            accelerators_per_node=group.accelerators_per_node,
            nodes=group.nodes,
        )
        for group in sighting.groups
    )
    return replace(site, model=model.model_copy(update={"spec": model.spec.model_copy(update={"node_groups": groups})}))


def pool_as_found(
    pool: ObservedPool, sites: Mapping[str, Datacenter], sightings: Mapping[str, Sighting]
) -> ObservedPool:
    """The pool with capacities as they were found; backends whose capacity is to be found and was not are left out."""
    if pool.model is None:
        return pool
    backends = []
    for backend in pool.model.spec.backends:
        sighting = sightings.get(backend.datacenter_name)
        sight = None if sighting is None else sighting.backends.get((pool.key, backend.name))
        site = sites.get(backend.datacenter_name)
        can_be_found = backend.url is None and site is not None and site.spec.cluster is not None
        found = _as_found(backend, sight, pool.model, can_be_found=can_be_found)
        if found is not None:
            backends.append(found)
    if not backends:
        return pool  # planning says what is missing
    spec = pool.model.spec.model_copy(update={"backends": tuple(backends)})
    return replace(pool, model=pool.model.model_copy(update={"spec": spec}))


def _as_found(
    backend: Backend, sight: BackendSight | None, pool: InferencePool, *, can_be_found: bool
) -> Backend | None:
    stated = backend.capacity
    if stated is None:
        if sight is None or not sight.node_group:
            return None if can_be_found else backend
        found = BackendCapacity(
            node_group=sight.node_group, replicas=sight.ready_endpoints, tensor_parallel=sight.tensor_parallel
        )
        return backend.model_copy(update={"capacity": found})
    if sight is None or sight.problem or pool.spec.power_down in {PowerDown.SLEEP, PowerDown.SCALE_TO_ZERO}:
        return backend
    replicas = min(stated.replicas, sight.ready_endpoints)
    return backend.model_copy(update={"capacity": stated.model_copy(update={"replicas": replicas})})

"""Plan to ``RoutingTable``: what each router may know, as the ConfigMap it watches.

A policy has one table per origin it names (``marlin-<policy>-<origin>``), because round trips differ by origin, and
one without origin (``marlin-<policy>``). A table is there in every mode, because a router needs addresses and
capacities to serve at all; the plan is in it only with ``Enforce``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from marlin.api.datacenter import Datacenter
from marlin.api.plan import RoutingPlan
from marlin.api.policy import MarlinPolicy
from marlin.api.pool import Backend, InferencePool
from marlin.api.state import FleetState
from marlin.api.table import EnergyByLoad, RoutingTable, TableBackend, TableDatacenter, TablePool
from marlin.api.values import SecretKeyRef, Tls, Verification
from marlin.operator.core.published import PublishedTable
from marlin.operator.core.residency import allowed_regions, rules_for
from marlin.operator.signals.values import SiteReadings
from marlin.simulator.fluid import EnergyByLoad as EnergyCurves
from marlin.simulator.fluid import capacity_rps, energy_by_load, joules_per_token, plans_of
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from


def table_names(policy: MarlinPolicy) -> dict[str, str | None]:
    """Names of the policy's ConfigMaps, each with its origin; None for the one without."""
    base = f"marlin-{policy.metadata.name}"
    return {base: None} | {f"{base}-{origin.name}": origin.name for origin in policy.spec.origins}


def unresolved_backends(pool: InferencePool, sites: Mapping[str, Datacenter]) -> dict[str, str]:
    """Backends without an address a router can use, with the reason: of the condition ResolvedRefs."""
    problems = {}
    for backend in pool.spec.backends:
        site = sites.get(backend.datacenter_name)
        if site is not None and site.spec.router is None and backend.pool_ref is not None:
            problems[backend.name] = (
                f"backend {backend.name}: poolRef needs spec.router of Datacenter {backend.datacenter_name}"
            )
    return problems


@dataclass(frozen=True, slots=True)
class TableParts:
    """What the tables of a policy's origins have in common: everything but round trips."""

    datacenters: tuple[TableDatacenter, ...]
    pools: tuple[TablePool, ...]
    """With round trips of 0."""
    rtt_ms: Mapping[str | None, Mapping[str, float]]
    """Origin to site to round trip, ms; None, who knows of none, has no sites."""
    regions: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Origin to pool to the regions that may serve its requests, where a residency rule names the origin."""

    def tables(self, plan: RoutingPlan | None) -> dict[str | None, PublishedTable]:
        """The table of the routers of each origin, with generation 0.

        They differ in round trips and residency alone, so one is made of objects, and the others of its document.

        Args:
            plan: the plan in force, or None.

        Raises:
            ValidationError: two pools serve one model.
            TableTooLargeError: one does not fit into a ConfigMap.
        """
        document = RoutingTable(datacenters=self.datacenters, pools=self.pools, plan=plan).to_document()
        return {
            origin: PublishedTable.of_document(
                _of_origin(document, rtt_ms, {} if origin is None else self.regions.get(origin, {})), plan
            )
            for origin, rtt_ms in self.rtt_ms.items()
        }


def table_parts(
    policy: MarlinPolicy,
    pools: tuple[InferencePool, ...],
    sites: tuple[Datacenter, ...],
    state: FleetState,
    readings: Mapping[str, SiteReadings],
    plan: RoutingPlan | None = None,
) -> TableParts:
    """Everything that a policy's tables say but the plan.

    What a token takes depends on how many replicas are awake: the plan says that, and is in the policy's status, so
    that an operator that was started anew makes the same table.

    Args:
        policy: the policy.
        pools: its pools.
        sites: its sites, in the order of ``state.datacenters``.
        state: the fleet, for capacities and energy per token.
        readings: site to its signals now.
        plan: the plan in force; None, or one of another fleet: all replicas are taken to be awake.
    """
    twin = arrays_from(state)
    capacity = capacity_rps(twin)  # (V, D)
    per_prompt, per_output = joules_per_token(twin)  # (V, D) each
    curves = energy_by_load(twin, _awake(twin, plan))
    concurrency = (twin.replicas * twin.batch_limit).sum(axis=2)  # (V, D)
    sharing = max(1, len(policy.spec.origins))
    position = {site.name: d for d, site in enumerate(state.datacenters)}
    by_name = {site.metadata.name: site for site in sites}
    documents = {pool.metadata.name: pool for pool in pools}
    rows = []
    for v, pool in enumerate(state.pools):
        document = documents[pool.name]
        usable = [b for b in document.spec.backends if b.datacenter_name in position and address(b, by_name)]
        total: dict[str, int] = defaultdict(int)
        for backend in usable:
            total[backend.datacenter_name] += _replicas(backend)
        backends = []
        for backend in usable:
            d = position[backend.datacenter_name]
            # Several backends of one site share its capacity by their replicas.
            is_known = document.spec.profile is not None
            part = _replicas(backend) / total[backend.datacenter_name] if total[backend.datacenter_name] else 0.0
            site = by_name[backend.datacenter_name]
            member = site.spec.router
            secret = member.token_secret_ref if member else backend.credentials_secret_ref
            backends.append(
                TableBackend(
                    name=backend.name,
                    datacenter=backend.datacenter_name,
                    url=address(backend, by_name),
                    is_member_router=member is not None,
                    tls=_tls(backend, site),
                    credentials_mount=_mount(secret),
                    capacity_rps=float(capacity[v, d]) * part,
                    concurrency_at_capacity=float(concurrency[v, d]) * part / sharing or None,
                    max_concurrent_requests=backend.max_concurrent_requests,
                    # Of a pool of unknown speed the capacities say how its sites compare; its energy is not known.
                    joules_per_prompt_token=float(per_prompt[v, d]) if is_known else 0.0,
                    joules_per_output_token=float(per_output[v, d]) if is_known else 0.0,
                    energy_by_load=energy_curve(curves, v, d, part) if is_known and part else None,
                )
            )
        rows.append(
            TablePool(
                name=pool.name,
                model_name=document.spec.model_name,
                service_level=document.spec.service_level,
                allowed_regions=_regions(policy, pool.name, state) if pool.allowed and not all(pool.allowed) else (),
                backends=tuple(backends),
            )
        )
    origins = [origin for origin in table_names(policy).values() if origin is not None]
    names = [site.name for site in state.datacenters]
    return TableParts(
        datacenters=tuple(
            TableDatacenter(
                name=site.metadata.name,
                region=site.spec.location.region,
                service_state=site.spec.service_state,
                carbon_gco2_per_kwh=max(0.0, readings[site.metadata.name].carbon.value),
                water_l_per_kwh=max(0.0, readings[site.metadata.name].water.value),
                price_usd_per_kwh=readings[site.metadata.name].price.value,
            )
            for site in sites
        ),
        pools=tuple(rows),
        rtt_ms={None: {}}
        | {o: dict(zip(names, map(float, state.rtt_ms[state.origins.index(o)]), strict=True)) for o in origins},
        regions={origin: _regions_of(policy, origin, state) for origin in origins},
    )


def energy_curve(curves: EnergyCurves, v: int, d: int, part: float = 1.0) -> EnergyByLoad | None:
    """The curve of a backend that is ``part`` of model ``v`` at site ``d``, in three digits; None: none is known."""
    in_flight, factor = (
        tuple(float(f"{x:.3g}") for x in row[v, d]) for row in (curves.in_flight * part, curves.factor)
    )
    if not all(low < high for low, high in pairwise((0.0, *in_flight))):
        return None
    return EnergyByLoad(in_flight=in_flight, factor=factor)


def _awake(twin: TwinState, plan: RoutingPlan | None) -> FloatArray | None:
    """(V, D) replicas that a plan keeps awake; None: all."""
    is_ours = plan is not None and (plan.datacenters, tuple(p.name for p in plan.pools)) == (
        twin.datacenter_names,
        twin.pool_names,
    )
    kept = plans_of(twin, plan).awake if plan is not None and is_ours else None
    return None if kept is None else kept[0]


def _of_origin(
    document: Mapping[str, Any], rtt_ms: Mapping[str, float], regions: Mapping[str, tuple[str, ...]]
) -> Mapping[str, Any]:
    """The document with an origin's round trips and regions, which are there already: nothing is checked again."""
    if not rtt_ms:
        return document
    return {
        **document,
        "pools": [
            pool
            | {"backends": [b | {"rttMs": rtt_ms[b["datacenter"]]} for b in pool["backends"]]}
            | ({"allowedRegions": list(regions[pool["name"]])} if pool["name"] in regions else {})
            for pool in document["pools"]
        ],
    }


def _regions_of(policy: MarlinPolicy, origin: str, state: FleetState) -> dict[str, tuple[str, ...]]:
    """Pool to the regions that may serve an origin's requests, where a rule names the origin."""
    found = {}
    regions = [site.region for site in state.datacenters]
    for pool in state.pools:
        if any(origin in rule.origins for rule in rules_for(policy, pool.name)):
            found[pool.name] = allowed_regions(policy, pool.name, regions, origin) or ()
    return found


def address(backend: Backend, sites: Mapping[str, Datacenter]) -> str:
    """Where a first-hop router sends the backend's requests; empty where that is not known."""
    site = sites.get(backend.datacenter_name)
    if site is not None and site.spec.router is not None:
        return site.spec.router.url
    if backend.url is not None:
        return backend.url
    if backend.service_ref is not None:
        ref = backend.service_ref
        return f"http://{ref.name}.{ref.namespace}.svc:{ref.port}"
    return ""


def _tls(backend: Backend, site: Datacenter) -> Tls:
    if site.spec.router is not None:
        return site.spec.router.tls
    if backend.url is None:
        return Tls(verification=Verification.DISABLED)  # a Service inside the cluster is plain http
    return backend.tls


def _mount(secret: SecretKeyRef | None) -> str | None:
    return None if secret is None else f"{secret.name}/{secret.key}"


def _replicas(backend: Backend) -> int:
    return backend.capacity.replicas if backend.capacity is not None else 0


def _regions(policy: MarlinPolicy, pool: str, state: FleetState) -> tuple[str, ...]:
    """The regions that every residency rule for all origins of a pool allows."""
    return allowed_regions(policy, pool, (site.region for site in state.datacenters)) or ()

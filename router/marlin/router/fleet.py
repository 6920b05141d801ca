"""A ``RoutingTable`` out of the documents that people write, for a router that runs without an operator.

What the operator would compute from a model of the machines is estimated here from what the documents state, and
where they state nothing it is left out (0), never invented:

- capacity: replicas x ``decodeTokensPerSecond`` / ``MEAN_OUTPUT_TOKENS``; one request per second for each replica
  where the profile states no speed. Shares need only ratios; ``Ordered`` needs the magnitude, unless a backend states
  ``maxConcurrentRequests``.
- energy: ``watts`` x PUE over the profile's speeds.
- carbon, water, price: the last sample in ``status``, else a Static source in ``spec``.
"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from marlin.api.datacenter import Datacenter, Facility, Sample, SignalSamples
from marlin.api.documents import DocumentError, Documents, describe
from marlin.api.plan import RoutingPlan
from marlin.api.policy import MarlinPolicy, Mode
from marlin.api.pool import Backend, InferencePool, Profile
from marlin.api.signals import Signal
from marlin.api.table import RoutingTable, TableBackend, TableDatacenter, TablePool
from marlin.api.values import quantity_value

MEAN_OUTPUT_TOKENS: Final = 256.0
"""Output tokens of a mean request, where nothing says more."""

DEFAULT_PUE: Final = 1.3
"""As the Datacenter kind has it."""


def table_of_fleet(documents: Documents, source: str, origin: str | None, namespace: str | None) -> RoutingTable:
    """The table that a fleet's documents make.

    Raises:
        DocumentError: a document that is needed is missing, or they do not fit together.
    """
    pools = [p for p in documents.pools if namespace is None or (p.metadata.namespace or "default") == namespace]
    policies = [p for p in documents.policies if namespace is None or (p.metadata.namespace or "default") == namespace]
    if not documents.datacenters or not pools:
        missing = "Datacenter" if not documents.datacenters else "InferencePool"
        where = f" in namespace {namespace}" if namespace is not None and missing == "InferencePool" else ""
        raise DocumentError(f"{source}: holds no RoutingTable and no {missing}{where}; give one or the other")
    sites = {d.metadata.name: d for d in documents.datacenters}
    table = {
        "datacenters": [_table_datacenter(d) for d in documents.datacenters],
        "pools": [_table_pool(pool, sites, policies, origin, source) for pool in pools],
        "plan": _plan_in_force(policies, source),
    }
    try:
        return RoutingTable.model_validate(table)
    except ValidationError as error:
        raise DocumentError(f"{source}: {describe(error, RoutingTable, table)}") from None


def _plan_in_force(policies: list[MarlinPolicy], source: str) -> RoutingPlan | None:
    planned = [
        p for p in policies if p.spec.mode is Mode.ENFORCE and p.status is not None and p.status.plan is not None
    ]
    if len(planned) > 1:
        names = ", ".join(policy.metadata.name for policy in planned)
        raise DocumentError(f"{source}: MarlinPolicies {names} all have a plan to enforce; choose with --namespace")
    return planned[0].status.plan if planned and planned[0].status is not None else None


def _table_datacenter(datacenter: Datacenter) -> TableDatacenter:
    spec = datacenter.spec
    seen = (datacenter.status.signals if datacenter.status is not None else None) or SignalSamples()
    used = [s for s in (seen.carbon_intensity, seen.water_intensity, seen.energy_price) if s is not None]
    expiries = [sample.valid_until_time for sample in used if sample.valid_until_time is not None]
    return TableDatacenter(
        name=datacenter.metadata.name,
        region=spec.location.region,
        service_state=spec.service_state,
        carbon_gco2_per_kwh=max(0.0, _signal(seen.carbon_intensity, spec.signals.carbon_intensity)),
        water_l_per_kwh=max(0.0, _signal(seen.water_intensity, spec.signals.water_intensity)),
        price_usd_per_kwh=_signal(seen.energy_price, spec.signals.energy_price),
        signals_valid_until=min(expiries, default=None),
    )


def _signal(sample: Sample | None, source: Signal | None) -> float:
    if sample is not None:
        return float(sample.value)
    return quantity_value(source.static.value) if source is not None and source.static is not None else 0.0


def _table_pool(
    pool: InferencePool, sites: dict[str, Datacenter], policies: list[MarlinPolicy], origin: str | None, source: str
) -> TablePool:
    backends = []
    for backend in pool.spec.backends:
        if backend.datacenter_name not in sites:
            raise DocumentError(
                f"{source}: InferencePool {pool.metadata.name}: backend {backend.name} is in unknown datacenter "
                f"{backend.datacenter_name}"
            )
        backends.append(_table_backend(pool, backend, sites[backend.datacenter_name], source))
    return TablePool(
        name=pool.metadata.name,
        model_name=pool.spec.model_name,
        service_level=pool.spec.service_level,
        allowed_regions=_allowed_regions(pool, policies, sites, origin, source),
        backends=tuple(backends),
    )


def _allowed_regions(
    pool: InferencePool,
    policies: list[MarlinPolicy],
    sites: dict[str, Datacenter],
    origin: str | None,
    source: str,
) -> tuple[str, ...]:
    """Regions that every rule for this pool and origin allows; empty when there is no rule."""
    rules = [
        rule
        for policy in policies
        if policy.metadata.namespace == pool.metadata.namespace
        for rule in policy.spec.residency
        if (not rule.pools or pool.metadata.name in rule.pools) and (not rule.origins or origin in rule.origins)
    ]
    if not rules:
        return ()
    regions = {site.spec.location.region for site in sites.values()}
    for rule in rules:
        regions &= set(rule.allowed_regions)
    if not regions:
        # An empty list would allow every region.
        names = ", ".join(rule.name for rule in rules)
        raise DocumentError(f"{source}: residency {names} leaves no datacenter for pool {pool.metadata.name}")
    return tuple(sorted(regions))


def _table_backend(pool: InferencePool, backend: Backend, site: Datacenter, source: str) -> TableBackend:
    profile, facility = pool.spec.profile, site.spec.facility
    url, tls, credentials = backend.url, backend.tls, backend.credentials_secret_ref
    if (router := site.spec.router) is not None:
        # The site's own router knows its endpoints; this one only has to find the site.
        url, tls, credentials = router.url, router.tls, router.token_secret_ref
    if url is None:
        raise DocumentError(
            f"{source}: InferencePool {pool.metadata.name}: backend {backend.name} has no url; "
            "serviceRef and poolRef are resolved by the operator"
        )
    joules_per_prompt_token, joules_per_output_token = _joules_per_token(profile, facility)
    return TableBackend(
        name=backend.name,
        datacenter=backend.datacenter_name,
        url=url,
        is_member_router=router is not None,
        tls=tls,
        credentials_mount=None if credentials is None else f"{credentials.name}/{credentials.key}",
        capacity_rps=_capacity_rps(backend, profile),
        max_concurrent_requests=backend.max_concurrent_requests,
        joules_per_prompt_token=joules_per_prompt_token,
        joules_per_output_token=joules_per_output_token,
    )


def _capacity_rps(backend: Backend, profile: Profile | None) -> float:
    replicas = 1.0 if backend.capacity is None else float(backend.capacity.replicas)
    if profile is None or profile.decode_tokens_per_second is None:
        return replicas
    return replicas * quantity_value(profile.decode_tokens_per_second) / MEAN_OUTPUT_TOKENS


def _joules_per_token(profile: Profile | None, facility: Facility | None) -> tuple[float, float]:
    """Joules per prompt token and per output token, overhead of the facility included; 0 where unknown."""
    if profile is None or profile.watts is None:
        return 0.0, 0.0
    if profile.prefill_tokens_per_second is None or profile.decode_tokens_per_second is None:
        return 0.0, 0.0
    watts = quantity_value(profile.watts) * _pue(facility)
    return watts / quantity_value(profile.prefill_tokens_per_second), watts / quantity_value(
        profile.decode_tokens_per_second
    )


def _pue(facility: Facility | None) -> float:
    if facility is None:
        return DEFAULT_PUE
    if facility.power_usage_effectiveness is not None:
        return quantity_value(facility.power_usage_effectiveness)
    if facility.cooling_performance is None:
        return DEFAULT_PUE
    # MARLIN paper, 3.3: cooling energy is 3 / COP of the IT energy.
    return 1 + 3 / quantity_value(facility.cooling_performance) + facility.infrastructure_overhead_percent / 100

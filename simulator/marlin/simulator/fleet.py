"""Documents to a ``FleetState``: the same YAML that people apply to a cluster, as the twin sees it.

What a site's signals say is read by ``site_signals``. Nothing is read from disk; whoever calls this parsed the
documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from marlin.api.datacenter import Datacenter, Facility, ServiceState
from marlin.api.documents import Documents
from marlin.api.errors import InputError
from marlin.api.policy import MarlinPolicy, Origin
from marlin.api.pool import InferencePool, PowerDown
from marlin.api.references import selected_pools
from marlin.api.state import DatacenterState, FleetState, NodeGroupState, PoolDeployment, PoolState
from marlin.api.values import quantity_value
from marlin.simulator.constants import constant
from marlin.simulator.fluid import capacity_rps
from marlin.simulator.network import Coordinates, round_trip_ms, zone_coordinates
from marlin.simulator.profiles import own_figures_name
from marlin.simulator.signals import SignalSource, zone_signals
from marlin.simulator.site_signals import SiteSignals
from marlin.simulator.twin_state import arrays_from

MEAN_PROMPT_TOKENS = 621.0
MEAN_OUTPUT_TOKENS = 126.0
"""Published means of successful BurstGPT requests, where nothing was observed."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of one pool in an epoch."""

    requests: tuple[float, ...]
    """(R,) expected, by origin."""
    mean_prompt_tokens: float
    mean_output_tokens: float
    upper_requests: float | None = None
    parts: tuple[float, ...] = ()
    """(S,) means of the parts of ``FORECAST_CHANCES``; empty: not known."""
    backlog_requests: tuple[float, ...] = ()
    """(D,) still waiting from before; empty: none."""
    in_flight_requests: tuple[float, ...] = ()
    """(D,) being answered now; empty: none."""
    awake_replicas: tuple[float, ...] = ()
    """(D,) awake when the epoch starts; empty: all."""


@dataclass(slots=True)
class Builder:
    """Makes states of one set of documents."""

    documents: Documents
    signals: SignalSource = zone_signals
    """What provider BuiltIn means: the shipped means, or full data."""
    warnings: list[str] = field(default_factory=list)
    """What had to be assumed; filled while states are made, each line once."""
    _node_groups: dict[str, tuple[NodeGroupState, ...]] = field(default_factory=dict, init=False, repr=False)
    _deployments: dict[str, tuple[PoolDeployment, ...]] = field(default_factory=dict, init=False, repr=False)
    _rtt_ms: tuple[tuple[float, ...], ...] = field(default=(), init=False, repr=False)
    """What the documents alone decide, made once: an experiment asks for a state every epoch."""

    @property
    def pools(self) -> tuple[InferencePool, ...]:
        """The pools that are planned: those of the first policy, or all."""
        if self.documents.policies:
            return selected_pools(self.documents.policies[0], self.documents.pools)
        return self.documents.pools

    @property
    def policy(self) -> MarlinPolicy | None:
        """The first policy, or none."""
        return self.documents.policies[0] if self.documents.policies else None

    def origins(self) -> tuple[str, ...]:
        """Names of the origins: the policy's, or one per site's region."""
        stated = self._stated_origins()
        return tuple(origin.name for origin in stated) if stated else tuple(self._regions())

    def origin_zones(self) -> tuple[str, ...]:
        """Grid zone of each origin, for its local hour.

        Raises:
            InputError: an origin, or the site that stands for its region, has coordinates only.
        """
        stated = self._stated_origins()
        pairs = (
            [(origin.name, origin.zone) for origin in stated]
            if stated
            else [(name, zone) for name, (zone, _) in self._regions().items()]
        )
        for name, zone in pairs:
            if zone is None:
                raise InputError(f"origin {name} has no zone, so its local hour is not known; use uniform origins")
        return tuple(zone for _, zone in pairs if zone is not None)

    def places(self) -> dict[str, Coordinates]:
        """Where each datacenter is.

        Raises:
            InputError: a site has neither zone nor coordinates.
        """
        return {site.metadata.name: _place(site) for site in self.documents.datacenters}

    def state(
        self, at: datetime, demand: Mapping[str, Demand], *, epoch: int, epoch_s: float, start_time: datetime
    ) -> FleetState:
        """The fleet in one epoch.

        Args:
            at: the moment whose signals hold.
            demand: pool name to what is asked of it.
            epoch: number of the epoch.
            epoch_s: its length, s.
            start_time: when it starts.

        Raises:
            InputError: a backend's capacity is missing or unknown, or a site's place is not known.
        """
        sites = self.documents.datacenters
        if not sites or not self.pools:
            raise InputError("a fleet needs at least one Datacenter and one InferencePool")
        guardrails = self.policy.spec.guardrails if self.policy else None
        self._rtt_ms = self._rtt_ms or self._round_trips()
        return FleetState(
            epoch=epoch,
            start_time=start_time,
            epoch_s=epoch_s,
            origins=self.origins(),
            datacenters=tuple(self._site(site, at) for site in sites),
            pools=tuple(self._pool(pool, demand[pool.metadata.name]) for pool in self.pools),
            rtt_ms=self._rtt_ms,
            max_utilization=(guardrails.max_utilization_percent / 100 if guardrails else constant("max_utilization")),
        )

    def _site(self, site: Datacenter, at: datetime) -> DatacenterState:
        spec, name = site.spec, site.metadata.name
        signals, here = spec.signals, SiteSignals(name, spec.location.zone, at, self.signals, self._warn)
        facility = spec.facility or Facility(power_usage_effectiveness=str(constant("default_pue")))
        pue, cop = facility.power_usage_effectiveness, facility.cooling_performance
        if not spec.node_groups:
            raise InputError(f"Datacenter {name}: nodeGroups are needed here, because there is no cluster to ask")
        return DatacenterState(
            name=name,
            region=spec.location.region,
            is_available=spec.service_state is ServiceState.ACTIVE,
            carbon_gco2_per_kwh=here.carbon_gco2_per_kwh(signals.carbon_intensity),
            water_l_per_kwh=here.water_l_per_kwh(signals.water_intensity),
            price_usd_per_kwh=here.price_usd_per_kwh(signals.energy_price),
            pue=None if pue is None else quantity_value(pue),
            cooling_cop=None if cop is None else quantity_value(cop),
            infrastructure_overhead=facility.infrastructure_overhead_percent / 100,
            cycles_of_concentration=quantity_value(facility.cycles_of_concentration),
            node_groups=self._groups_of(site),
        )

    def _groups_of(self, site: Datacenter) -> tuple[NodeGroupState, ...]:
        name = site.metadata.name
        if name not in self._node_groups:
            self._node_groups[name] = tuple(
                NodeGroupState(
                    name=group.name,
                    accelerator=group.accelerator,
                    accelerators_per_node=group.accelerators_per_node,
                    nodes=group.nodes,
                    node_power_w=group.node_power_watts,
                    idle_accelerator_w=group.idle_accelerator_watts,
                )
                for group in site.spec.node_groups
            )
        return self._node_groups[name]

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)

    def _pool(self, pool: InferencePool, demand: Demand) -> PoolState:
        spec, name = pool.spec, pool.metadata.name
        return PoolState(
            name=name,
            profile=profile_name(pool),
            forecast_requests=demand.requests,
            forecast_upper_requests=demand.upper_requests,
            forecast_parts=demand.parts,
            mean_prompt_tokens=demand.mean_prompt_tokens,
            mean_output_tokens=demand.mean_output_tokens,
            ttft_limit_s=spec.service_level.time_to_first_token_milliseconds / 1000,
            backlog_requests=demand.backlog_requests,
            in_flight_requests=demand.in_flight_requests,
            awake_replicas=demand.awake_replicas,
            weights_bytes=None if spec.model_memory is None else quantity_value(spec.model_memory),
            allowed=self._allowed(name),
            power_down=PowerDown(spec.power_down),
            deployments=self._deployments_of(pool),
        )

    def _deployments_of(self, pool: InferencePool) -> tuple[PoolDeployment, ...]:
        name = pool.metadata.name
        if name in self._deployments:
            return self._deployments[name]
        deployments = []
        for backend in pool.spec.backends:
            if backend.capacity is None:
                raise InputError(
                    f"InferencePool {name}: backend {backend.name}: capacity is needed here, because there is no "
                    "cluster to ask"
                )
            deployments.append(
                PoolDeployment(
                    datacenter=backend.datacenter_name,
                    node_group=backend.capacity.node_group,
                    replicas=backend.capacity.replicas,
                    tensor_parallel=backend.capacity.tensor_parallel,
                )
            )
        self._deployments[name] = tuple(deployments)
        return self._deployments[name]

    def _allowed(self, pool: str) -> tuple[bool, ...]:
        """(D,) sites that every residency rule for all origins of this pool allows."""
        rules = self.policy.spec.residency if self.policy else ()
        mine = [rule for rule in rules if not rule.origins and (not rule.pools or pool in rule.pools)]
        return tuple(
            all(site.spec.location.region in rule.allowed_regions for rule in mine)
            for site in self.documents.datacenters
        )

    def _round_trips(self) -> tuple[tuple[float, ...], ...]:
        sites = [(site.spec.location.zone, _place(site)) for site in self.documents.datacenters]
        stated = self._stated_origins()
        if stated:
            origins = [(origin.zone, _place_of_origin(origin)) for origin in stated]
        else:
            origins = list(self._regions().values())
        return tuple(tuple(round_trip_ms(*origin, *site) for site in sites) for origin in origins)

    def _stated_origins(self) -> Sequence[Origin]:
        return self.policy.spec.origins if self.policy else ()

    def _regions(self) -> dict[str, tuple[str | None, Coordinates]]:
        """Region to the zone and place of its first site: where users are taken to be when nothing is stated."""
        regions: dict[str, tuple[str | None, Coordinates]] = {}
        for site in self.documents.datacenters:
            regions.setdefault(site.spec.location.region, (site.spec.location.zone, _place(site)))
        return regions


def profile_name(pool: InferencePool) -> str:
    """The serving profile of a pool: a shipped one, or the user's own figures as a name.

    Raises:
        InputError: the pool states none.
    """
    profile = pool.spec.profile
    if profile is None:
        raise InputError(f"InferencePool {pool.metadata.name}: spec.profile is needed here, e.g. builtIn: Llama-2-70b")
    if profile.built_in is not None:
        return profile.built_in
    assert profile.prefill_tokens_per_second is not None
    assert profile.decode_tokens_per_second is not None
    single = profile.single_stream_tokens_per_second
    return own_figures_name(
        quantity_value(profile.prefill_tokens_per_second),
        quantity_value(profile.decode_tokens_per_second),
        single_stream_tokens_per_s=None if single is None else quantity_value(single),
        max_batch=profile.max_batch or 64,
        kv_capacity_tokens=profile.kv_capacity_tokens,
        watts=None if profile.watts is None else quantity_value(profile.watts),
    )


def _place(site: Datacenter) -> Coordinates:
    location = site.spec.location
    if location.coordinates is not None:
        return (location.coordinates.latitude, location.coordinates.longitude)
    if location.zone is None:
        raise InputError(f"Datacenter {site.metadata.name}: set location.zone or location.coordinates")
    return zone_coordinates(location.zone)


def _place_of_origin(origin: Origin) -> Coordinates:
    if origin.coordinates is not None:
        return (origin.coordinates.latitude, origin.coordinates.longitude)
    assert origin.zone is not None, origin.name
    return zone_coordinates(origin.zone)


def loaded_state(builder: Builder, at: datetime, load: float, *, epoch_s: float | None = None) -> FleetState:
    """The fleet in the epoch that ``at`` lies in, asked to carry ``load`` times its capacity of each pool.

    Args:
        builder: the documents.
        at: a moment with a time zone.
        load: requests expected, as a part of capacity.
        epoch_s: length of the epoch, s. Default: the policy's, else 900.
    """
    policy = builder.policy
    length_s = epoch_s or (policy.spec.epoch_seconds if policy else 900.0)
    epoch = int(at.timestamp() // length_s)
    start = datetime.fromtimestamp(epoch * length_s, tz=at.tzinfo)
    origins = len(builder.origins())

    def state(requests: Mapping[str, float]) -> FleetState:
        demand = {
            name: Demand((count / origins,) * origins, MEAN_PROMPT_TOKENS, MEAN_OUTPUT_TOKENS)
            for name, count in requests.items()
        }
        return builder.state(at, demand, epoch=epoch, epoch_s=length_s, start_time=start)

    names = [pool.metadata.name for pool in builder.pools]
    capacity = capacity_rps(arrays_from(state(dict.fromkeys(names, 0.0)))).sum(axis=1)  # (V,)
    return state({name: load * float(rps) * length_s for name, rps in zip(names, capacity, strict=True)})

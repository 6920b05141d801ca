"""The routing table as the hot path reads it: plain frozen values, nothing to parse and nothing to look up twice.

``tables`` builds a ``Table`` from a validated ``RoutingTable``; ``choice`` and ``proxy`` read it. A table is replaced
as a whole, so a request that began with one ends with it. Values are what msgspec can write and read: the control
process hands them to workers that import neither pydantic nor NumPy (``messages``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from marlin.api.footprint import Intensity


@dataclass(frozen=True, slots=True)
class BackendTls:
    """How a connection to a backend is secured. Paths, not contents: who connects reads them."""

    is_verified: bool = True
    server_name: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """An address that serves a pool in one datacenter."""

    pool: str
    name: str
    datacenter: str
    url: str
    """Base address without a slash at its end and without credentials."""
    capacity_rps: float
    """Requests per second at the mean token sizes; where a pool states none at all, 1 for each backend."""
    concurrency_at_capacity: float | None = None
    """Requests in flight when it serves ``capacity_rps``, where the table states them."""
    max_concurrent_requests: int | None = None
    is_member_router: bool = False
    joules_per_prompt_token: float = 0.0
    joules_per_output_token: float = 0.0
    energy_in_flight: tuple[float, ...] = ()
    energy_factor: tuple[float, ...] = ()
    """(N,) each: mean requests at it, and there what a token takes over the two above; empty: that holds always."""
    rtt_s: float = 0.0
    """Network round trip from this router."""
    tls: BackendTls = BackendTls()
    authorization: str | None = field(default=None, repr=False)
    """Value of the Authorization header sent instead of the client's. A secret: never logged, never shown."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What its counters are kept under: another address is another backend."""
        return (self.pool, self.name, self.url)


@dataclass(frozen=True, slots=True)
class Datacenter:
    """A site, and what a kWh drawn there brings with it."""

    name: str
    region: str
    service_state: str
    intensity: Intensity
    signals_valid_until_s: float | None = None
    """Unix time until which ``intensity`` may be reported as current; None: for ever."""


@dataclass(frozen=True, slots=True)
class Site:
    """A datacenter as one pool sees it: Active, allowed by residency, with at least one backend."""

    datacenter: Datacenter
    backends: tuple[Backend, ...]

    @property
    def name(self) -> str:
        """Name of the datacenter."""
        return self.datacenter.name


class Shares(msgspec.Struct, frozen=True, tag=True):
    """Fixed fractions. Also what holds without a plan: then they are the shares of capacity."""

    weights: tuple[float, ...]
    """(S,) one for each site of the pool, adding up to 1."""


class Ordered(msgspec.Struct, frozen=True, tag=True):
    """Sites are filled in turn, each up to its cap, live."""

    order: tuple[int, ...]
    """Positions in the pool's sites, first to be filled first; one that is missing gets nothing."""
    caps: tuple[float, ...]
    """(S,) share of the site's live capacity, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A model, where it may be served, and how requests are divided."""

    name: str
    model_name: str
    sites: tuple[Site, ...]
    rule: Shares | Ordered
    shares: tuple[float, ...]
    """(S,) the shares planned or, with Ordered, expected; those of capacity where there is no plan."""
    is_planned: bool
    """Whether ``rule`` comes from the plan in force."""
    ttft_slo_s: float = math.inf
    """Time to first token that should hold."""


@dataclass(frozen=True, slots=True)
class PlanInfo:
    """The plan in force, but for its rows: those are in the pools."""

    epoch: int
    decided_s: float
    valid_from_s: float
    valid_until_s: float
    planner: str
    content_hash: str

    def is_overdue(self, now_s: float) -> bool:
        """Whether the next plan should have taken over by now."""
        return now_s >= self.valid_until_s


@dataclass(frozen=True, slots=True)
class Table:
    """All that the hot path knows."""

    generation: int
    pools: tuple[Pool, ...]
    datacenters: tuple[Datacenter, ...]
    plan: PlanInfo | None = None
    by_model: Mapping[str, Pool] = field(default_factory=dict, repr=False, compare=False)
    """Pools by the model name that requests carry."""

    @classmethod
    def of(
        cls, generation: int, pools: tuple[Pool, ...], datacenters: tuple[Datacenter, ...], plan: PlanInfo | None
    ) -> Table:
        """A table with its index."""
        return cls(generation, pools, datacenters, plan, {pool.model_name: pool for pool in pools})

    def backends(self) -> list[Backend]:
        """Every backend that may get a request."""
        return [backend for pool in self.pools for site in pool.sites for backend in site.backends]

"""``RoutingTable``: all that a router needs, and all that it may read.

The operator writes it (as a ConfigMap, and on its plan endpoint), the demo writes it to a file, the router reads it
and nothing else. Secrets are referred to by the name they are mounted under, never embedded. A router validates a new
table before it lets go of the old one.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from marlin.api.datacenter import ServiceState
from marlin.api.footprint import Intensity
from marlin.api.plan import RoutingPlan
from marlin.api.pool import ModelName, ServiceLevel
from marlin.api.values import (
    API_VERSION,
    MAX_DATACENTERS,
    MAX_POOLS,
    ApiModel,
    Count,
    HttpUrl,
    Label,
    ObjectName,
    Tls,
    list_map,
)

CONFIG_MAP_KEY: Final = "routing-table.json"
"""Key under which a ConfigMap carries the table."""

MAX_ENERGY_POINTS: Final = 16
"""Points of a curve of energy by load."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TableDatacenter(ApiModel):
    """A site as a router sees it."""

    name: Label = Field(description="Name of the Datacenter.")
    region: Label = Field(description="Its region, for residency.")
    service_state: ServiceState = Field(
        default=ServiceState.ACTIVE, description="Active, Cordoned (no new sessions) or Drained (nothing)."
    )
    carbon_gco2_per_kwh: NonNegative = Field(default=0.0, description="Carbon intensity now, gCO2eq/kWh.")
    water_l_per_kwh: NonNegative = Field(
        default=0.0, description="Water per kWh drawn, on site and at the power plant, L/kWh."
    )
    price_usd_per_kwh: Annotated[float, Field(allow_inf_nan=False)] = Field(
        default=0.0, description="Energy price now, USD/kWh; may be negative."
    )
    signals_valid_until: datetime | None = Field(
        default=None, description="Until when these three may be reported as current. Default: for ever."
    )

    def intensity(self) -> Intensity:
        """What a kWh drawn at this site brings with it."""
        return Intensity(self.carbon_gco2_per_kwh, self.water_l_per_kwh, self.price_usd_per_kwh)


Curve = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=2, max_length=MAX_ENERGY_POINTS)
]


class EnergyByLoad(ApiModel):
    """How a token's energy follows the requests that a backend holds; between points on logarithmic scales."""

    in_flight: Curve = Field(description="Mean requests at the backend, whoever sent them; growing.")
    factor: Curve = Field(description="What a token takes at each of them, over the figures for moderate load.")

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        if len(self.in_flight) != len(self.factor):
            raise ValueError(f"inFlight has {len(self.in_flight)} points, factor {len(self.factor)}")
        if any(a >= b for a, b in pairwise(self.in_flight)):
            raise ValueError("inFlight must grow from point to point")
        return self


class TableBackend(ApiModel):
    """An address that serves a pool in one datacenter."""

    name: Label = Field(description="Name of the backend, unique in its pool.")
    datacenter: Label = Field(description="The datacenter it is in.")
    url: HttpUrl = Field(description="Base address, without /v1: a vLLM, or the member router of that datacenter.")
    is_member_router: bool = Field(
        default=False,
        description="Whether the address is a member router, which gets x-marlin-hop: 1. Default: false.",
    )
    tls: Tls = Field(default_factory=Tls, description="How its certificate is verified.")
    credentials_mount: Annotated[str, Field(max_length=253, pattern=r"^[-._a-z0-9]+/[-._a-zA-Z0-9]+$")] | None = Field(
        default=None,
        description="secret/key below the router's mount of Secrets whose content is sent as bearer "
        "token. Default: the client's own is passed on.",
    )
    capacity_rps: NonNegative = Field(description="Requests per second it carries at the mean token sizes.")
    concurrency_at_capacity: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Requests this router may have in flight when the backend serves capacityRps: replicas times their "
        "largest batch, divided by the routers that share it. Ordered dispatch measures its caps in it. Default: "
        "estimated from how long requests take.",
    )
    max_concurrent_requests: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Most requests in flight to it. Default: no limit."
    )
    joules_per_prompt_token: NonNegative = Field(default=0.0, description="Energy per prompt token, J, PUE included.")
    joules_per_output_token: NonNegative = Field(default=0.0, description="Energy per output token, J, PUE included.")
    energy_by_load: EnergyByLoad | None = Field(
        default=None, description="How these two follow the load. Default: they hold at every load."
    )
    rtt_ms: NonNegative = Field(default=0.0, description="Network round trip from this router, ms. Default: 0.")


class TablePool(ApiModel):
    """A pool as a router sees it."""

    name: ObjectName = Field(description="Name of the InferencePool.")
    model_name: ModelName = Field(description="The model as requests name it.")
    service_level: ServiceLevel = Field(default_factory=ServiceLevel, description="How soon it should answer.")
    allowed_regions: tuple[Label, ...] = Field(
        default=(), description="Regions its requests may be served in. Default: all."
    )
    backends: Annotated[tuple[TableBackend, ...], Field(max_length=256)] = Field(
        json_schema_extra=list_map("name"), description="The addresses that serve it."
    )


class RoutingTable(ApiModel):
    """All that a router needs."""

    api_version: Literal["marlin.dev/v1alpha1"] = Field(default=API_VERSION, description="Always marlin.dev/v1alpha1.")
    kind: Literal["RoutingTable"] = Field(default="RoutingTable", description="Always RoutingTable.")
    generation: Count = Field(default=0, description="Grows with each table written; a router ignores older ones.")
    datacenters: Annotated[tuple[TableDatacenter, ...], Field(min_length=1, max_length=MAX_DATACENTERS)] = Field(
        json_schema_extra=list_map("name"), description="The sites."
    )
    pools: Annotated[tuple[TablePool, ...], Field(min_length=1, max_length=MAX_POOLS)] = Field(
        json_schema_extra=list_map("name"), description="The models and their backends."
    )
    plan: RoutingPlan | None = Field(
        default=None, description="The plan in force. Default: none, routers go by capacity."
    )

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        names = {datacenter.name for datacenter in self.datacenters}
        models = [pool.model_name for pool in self.pools]
        if len(set(models)) != len(models):
            raise ValueError("two pools serve the same modelName: a router could not tell them apart")
        for pool in self.pools:
            for backend in pool.backends:
                if backend.datacenter not in names:
                    raise ValueError(
                        f"pool {pool.name}: backend {backend.name} is in unknown datacenter {backend.datacenter}"
                    )
        return self

    def datacenter(self, name: str) -> TableDatacenter:
        """The site called ``name``.

        Raises:
            KeyError: there is none.
        """
        for datacenter in self.datacenters:
            if datacenter.name == name:
                return datacenter
        raise KeyError(name)

    def to_config_map(self, name: str, namespace: str) -> dict[str, Any]:
        """The table as the ConfigMap object that routers in a cluster watch."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {CONFIG_MAP_KEY: self.model_dump_json(by_alias=True, exclude_none=True)},
        }

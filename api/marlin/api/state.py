"""``FleetState``: all that a planner and the twin may know at the start of an epoch (the paper's ``State_e``).

The operator fills one from what it observes, the demo and the simulator from a scenario; the same value trains the
policy, so that nothing is written twice for "real" and "simulated". Units are in the names; a list over datacenters
follows the order of ``datacenters``, one over origins that of ``origins``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from marlin.api.pool import PowerDown
from marlin.api.values import MAX_DATACENTERS, MAX_POOLS, ApiModel, Label, ObjectName

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


FORECAST_CHANCES: Final = (0.15, 0.15, 0.15, 0.15, 0.12, 0.1, 0.07, 0.05, 0.025, 0.015, 0.01, 0.005, 0.005)
"""(S,) chances of the parts that all that may come in an epoch is divided into, from few requests to many. Finer the
farther they are: a surge that finds replicas asleep waits minutes, and decides what a day was worth."""


class NodeGroupState(ApiModel):
    """Nodes of one kind at one site."""

    name: Label = Field(description="Name of the group.")
    accelerator: str = Field(description="GPU type, e.g. A100-80GB.")
    accelerators_per_node: Annotated[int, Field(ge=1)] = Field(description="GPUs in one node.")
    nodes: Annotated[int, Field(ge=0)] = Field(description="Nodes that can serve in this epoch.")
    node_power_w: Positive | None = Field(
        default=None, description="Power of a node at full load, W. Default: data sheet."
    )
    idle_accelerator_w: NonNegative | None = Field(default=None, description="Power of an idle GPU, W. Default: 80.")


class DatacenterState(ApiModel):
    """One site."""

    name: Label = Field(description="Name of the site.")
    region: Label = Field(description="Its region, for residency.")
    is_available: bool = Field(default=True, description="Whether it may get requests: up, and not drained.")
    carbon_gco2_per_kwh: NonNegative = Field(description="Carbon intensity in this epoch, gCO2eq/kWh.")
    water_l_per_kwh: NonNegative = Field(description="Water intensity of the grid, L/kWh; on-site water is computed.")
    price_usd_per_kwh: Finite = Field(description="Energy price in this epoch, USD/kWh; may be negative.")
    pue: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="PUE stated by the facility; excludes cooling_cop."
    )
    cooling_cop: Positive | None = Field(default=None, description="COP of the cooling; excludes pue.")
    infrastructure_overhead: Fraction = Field(
        default=0.13, description="Infrastructure energy over IT energy, with COP."
    )
    cycles_of_concentration: Annotated[float, Field(gt=1)] = Field(default=4.0, description="Of the cooling water.")
    node_groups: tuple[NodeGroupState, ...] = Field(description="Its machines.")
    stale_signals: tuple[Literal["carbon", "water", "price"], ...] = Field(
        default=(), description="Signals whose value is not of this epoch but the last one known, or a usual one."
    )

    @model_validator(mode="after")
    def _has_one_cooling_model(self) -> Self:
        if (self.pue is None) == (self.cooling_cop is None):
            raise ValueError("give either pue or cooling_cop")
        return self


class PoolDeployment(ApiModel):
    """How one model is deployed at one site."""

    datacenter: Label = Field(description="Name of the site.")
    node_group: Label = Field(description="Node group its replicas run on.")
    replicas: NonNegative = Field(description="Replicas of the model there; a mean share of a group may be fractional.")
    tensor_parallel: Annotated[int, Field(ge=1)] = Field(default=1, description="GPUs one replica spans.")


class PoolState(ApiModel):
    """One model: what is asked of it, and where it runs."""

    name: ObjectName = Field(description="Name of the pool.")
    profile: str = Field(description="Name of the serving profile, e.g. Llama-2-70b.")
    forecast_requests: tuple[NonNegative, ...] = Field(description="(R,) requests expected in the epoch, by origin.")
    forecast_upper_requests: NonNegative | None = Field(
        default=None, description="Upper quantile of the total, for prewarming. Default: the forecast itself."
    )
    forecast_parts: tuple[NonNegative, ...] = Field(
        default=(),
        description="(S,) mean of the total in each part of FORECAST_CHANCES, not falling. Default: not known.",
    )
    mean_prompt_tokens: Positive = Field(description="Mean prompt length, tokens.")
    mean_output_tokens: Positive = Field(description="Mean output length, tokens.")
    ttft_limit_s: Positive = Field(default=5.0, description="Time to first token the service level allows, s.")
    backlog_requests: tuple[NonNegative, ...] = Field(
        default=(), description="(D,) requests still waiting from before. Default: none."
    )
    in_flight_requests: tuple[NonNegative, ...] = Field(
        default=(), description="(D,) requests being answered now, for least-loaded. Default: none."
    )
    awake_replicas: tuple[NonNegative, ...] = Field(
        default=(), description="(D,) replicas that are awake when the epoch starts. Default: all."
    )
    allowed: tuple[bool, ...] = Field(
        default=(), description="(D,) whether residency allows the site. Default: all are allowed."
    )
    weights_bytes: Positive | None = Field(
        default=None, description="Size of the model's weights, bytes. Default: that of the built-in profile."
    )
    power_down: PowerDown = Field(default=PowerDown.NONE, description="What idle machines of the pool can do.")
    deployments: tuple[PoolDeployment, ...] = Field(description="Where it runs.")


class FleetState(ApiModel):
    """The fleet at the start of an epoch."""

    epoch: Annotated[int, Field(ge=0)] = Field(description="Number of the epoch.")
    start_time: datetime = Field(description="When the epoch starts.")
    epoch_s: Positive = Field(default=900.0, description="Length of the epoch, s.")
    origins: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)] = Field(description="(R,) origins.")
    datacenters: Annotated[tuple[DatacenterState, ...], Field(min_length=1, max_length=MAX_DATACENTERS)] = Field(
        description="(D,) sites."
    )
    pools: Annotated[tuple[PoolState, ...], Field(min_length=1, max_length=MAX_POOLS)] = Field(
        description="(V,) models."
    )
    rtt_ms: tuple[tuple[NonNegative, ...], ...] = Field(
        description="(R, D) network round trip from each origin to each site, ms: twice the paper's LA_net."
    )
    max_utilization: Fraction = Field(default=0.95, description="Load a plan may put on a site, of its capacity.")

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        sites, origins = len(self.datacenters), len(self.origins)
        names = [datacenter.name for datacenter in self.datacenters]
        if len(set(names)) != sites:
            raise ValueError("datacenters must have different names")
        if len(self.rtt_ms) != origins or any(len(row) != sites for row in self.rtt_ms):
            raise ValueError(f"rtt_ms must be {origins} rows of {sites}")
        groups = {(site.name, group.name) for site in self.datacenters for group in site.node_groups}
        for pool in self.pools:
            if len(pool.forecast_requests) != origins:
                raise ValueError(f"pool {pool.name}: forecast_requests must have {origins} entries, one per origin")
            if pool.forecast_parts and len(pool.forecast_parts) != len(FORECAST_CHANCES):
                raise ValueError(f"pool {pool.name}: forecast_parts must have {len(FORECAST_CHANCES)} entries or none")
            for field in ("backlog_requests", "in_flight_requests", "awake_replicas", "allowed"):
                if (values := getattr(pool, field)) and len(values) != sites:
                    raise ValueError(f"pool {pool.name}: {field} must have {sites} entries, one per datacenter")
            for deployment in pool.deployments:
                if (deployment.datacenter, deployment.node_group) not in groups:
                    raise ValueError(
                        f"pool {pool.name}: no node group {deployment.node_group} in {deployment.datacenter}"
                    )
        return self

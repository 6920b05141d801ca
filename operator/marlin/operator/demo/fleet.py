"""The demo's fleet: the shipped documents, as states for the planner and as tables for the routers.

The documents are the same that people apply to a cluster. Two times meet here: the planner and the twin think in fleet
time, in which GPUs take as long as they were measured to; the routers live on this machine, where everything runs
``compression`` times as fast, so their table states capacities, delays and service levels of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Final

import numpy as np

from marlin.api.documents import Documents, load_documents
from marlin.api.plan import RoutingPlan
from marlin.api.pool import Backend, ServiceLevel
from marlin.api.state import FleetState
from marlin.api.table import RoutingTable
from marlin.operator.core.tables import energy_curve
from marlin.operator.demo.load import Outcome
from marlin.operator.demo.settings import DemoSettings
from marlin.simulator import tables
from marlin.simulator.fleet import Builder, Demand
from marlin.simulator.fluid import capacity_rps, energy_by_load, joules_per_token, simulate
from marlin.simulator.twin_state import arrays_from

DAY: Final = datetime(2023, 6, 15, tzinfo=UTC)
"""The day of the year whose carbon, water and price the demo goes through: shipped signals are means of 2023."""

TRACE_DAY: Final = 2
"""Day of the shipped BurstGPT week that is replayed, from midnight UTC on. Its busiest two hours hold twice its mean,
an ordinary day for this trace."""

TRACE_UTC_OFFSET_H: Final = 8
"""The trace's hours are local, and taken to be UTC+8 (an assumption: its calendar is not published)."""

BURSTGPT_MEAN_PROMPT_TOKENS: Final = 621
BURSTGPT_MEAN_OUTPUT_TOKENS: Final = 126
"""Published means of successful BurstGPT requests; the joint draws are scaled to them."""

MAX_OUTPUT_TOKENS: Final = 400
"""Longest answer of the demo. Longer ones would outlive the replay."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Sites, one model, origins, and the addresses of the emulated backends once they run."""

    documents: Documents
    addresses: Mapping[str, str]

    @classmethod
    def shipped(cls) -> Fleet:
        """The fleet of ``fleet.yaml``."""
        text = files("marlin.operator.demo").joinpath("fleet.yaml").read_text(encoding="utf-8")
        return cls(load_documents(text, "fleet.yaml"), {})

    def with_addresses(self, addresses: Mapping[str, str]) -> Fleet:
        """The same fleet with the base address of each site's backend."""
        return Fleet(self.documents, dict(addresses))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(site.metadata.name for site in self.documents.datacenters)

    @property
    def origins(self) -> tuple[str, ...]:
        """Names of the regions that requests come from."""
        return tuple(origin.name for origin in self.documents.policies[0].spec.origins)

    @property
    def model(self) -> str:
        """The model, as requests name it."""
        return self.documents.pools[0].spec.model_name

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The pool's backends, one per site."""
        return self.documents.pools[0].spec.backends

    def state(self, epoch: int, requests: Sequence[float], settings: DemoSettings) -> FleetState:
        """The fleet in one epoch.

        Args:
            epoch: number of the epoch in the replay.
            requests: (R,) requests in it, by origin.
            settings: lengths and times.
        """
        at = DAY + timedelta(hours=(epoch * settings.hours_per_epoch) % 24)
        demand = Demand(tuple(requests), BURSTGPT_MEAN_PROMPT_TOKENS, BURSTGPT_MEAN_OUTPUT_TOKENS)
        return Builder(self.documents).state(
            at,
            {self.documents.pools[0].metadata.name: demand},
            epoch=epoch,
            epoch_s=settings.epoch_fleet_s,
            start_time=at,
        )

    def table(
        self, state: FleetState, plan: RoutingPlan | None, origin: str, settings: DemoSettings, *, generation: int
    ) -> RoutingTable:
        """What the router of one origin may know."""
        twin = arrays_from(state)
        capacity = capacity_rps(twin)[0]  # (D,)
        # Each router sees its own requests only, so each gets its part of what a site can hold.
        concurrency = (twin.replicas * twin.batch_limit).sum(axis=2)[0] / len(self.origins)  # (D,)
        per_prompt, per_output = joules_per_token(twin)
        curves = energy_by_load(twin)
        rtt_ms = state.rtt_ms[state.origins.index(origin)]
        pool = self.documents.pools[0]
        sites = list(self.sites)
        return RoutingTable.model_validate(
            {
                "generation": generation,
                "datacenters": [
                    {
                        "name": site.name,
                        "region": site.region,
                        "carbon_gco2_per_kwh": site.carbon_gco2_per_kwh,
                        "water_l_per_kwh": site.water_l_per_kwh,
                        "price_usd_per_kwh": site.price_usd_per_kwh,
                    }
                    for site in state.datacenters
                ],
                "pools": [
                    {
                        "name": pool.metadata.name,
                        "model_name": pool.spec.model_name,
                        "service_level": _on_this_machine(pool.spec.service_level, settings.compression),
                        "backends": [
                            {
                                "name": backend.name,
                                "datacenter": backend.datacenter_name,
                                "url": self.addresses[backend.datacenter_name],
                                "tls": backend.tls,
                                "capacity_rps": capacity[d] * settings.compression,
                                "concurrency_at_capacity": concurrency[d],
                                "joules_per_prompt_token": per_prompt[0, d],
                                "joules_per_output_token": per_output[0, d],
                                "energy_by_load": energy_curve(curves, 0, d),
                                "rtt_ms": rtt_ms[d] / settings.compression,
                            }
                            for backend in self.backends
                            for d in [sites.index(backend.datacenter_name)]
                        ],
                    }
                ],
                "plan": plan,
            }
        )

    def requests_per_epoch(self, settings: DemoSettings) -> list[int]:
        """How many requests each epoch has, preceded by the epoch before the replay, which nobody sends.

        The shape is that of one day of the trace, cut into the replay's epochs; the busiest epoch is set to
        ``peak_utilization`` of the fleet's capacity.
        """
        rows = tables.rows("burstgpt_week_hourly.csv")
        hourly = np.array([float(r["conversation_requests"]) + float(r["api_requests"]) for r in rows])
        per_epoch = 24.0 / settings.epochs
        start = TRACE_DAY * 24.0 + TRACE_UTC_OFFSET_H - per_epoch
        edges = start + per_epoch * np.arange(settings.epochs + 2)
        cumulative = np.concatenate([[0.0], np.cumsum(hourly)])
        shape = np.diff(np.interp(edges, np.arange(len(cumulative)), cumulative))  # (E + 1,)
        state = self.state(0, (0.0,) * len(self.origins), settings)
        most = float(capacity_rps(arrays_from(state)).sum()) * settings.epoch_fleet_s * settings.peak_utilization
        return [round(count) for count in shape / shape[1:].max() * most]

    def token_sizes(self, settings: DemoSettings) -> tuple[tuple[int, int], ...]:
        """Joint prompt and output lengths to draw from, scaled to BurstGPT's published means."""
        pairs = np.array([(float(r["prompt_tokens"]), float(r["output_tokens"])) for r in tables.rows(_TOKENS)])
        scale = (BURSTGPT_MEAN_PROMPT_TOKENS, BURSTGPT_MEAN_OUTPUT_TOKENS) / pairs.mean(axis=0)
        return tuple((max(1, round(p)), min(MAX_OUTPUT_TOKENS, max(1, round(o)))) for p, o in pairs * scale)

    def emulator_arguments(self, site: str, settings: DemoSettings) -> tuple[str, ...]:
        """The ``marlin emulate`` call of a site."""
        backend = next(b for b in self.backends if b.datacenter_name == site)
        assert backend.capacity is not None, backend.name
        group = next(
            group
            for datacenter in self.documents.datacenters
            if datacenter.metadata.name == site
            for group in datacenter.spec.node_groups
            if group.name == backend.capacity.node_group
        )
        profile = self.documents.pools[0].spec.profile
        assert profile is not None
        state = self.state(0, (0.0,) * len(self.origins), settings)
        position = self.sites.index(site)
        latencies = ",".join(
            f"{origin}={row[position] / settings.compression:.2f}"
            for origin, row in zip(state.origins, state.rtt_ms, strict=True)
        )
        return (
            "emulate",
            *("--model", self.model, "--profile", str(profile.built_in), "--accelerator", group.accelerator),
            *("--tensor-parallel", str(backend.capacity.tensor_parallel), "--replicas", str(backend.capacity.replicas)),
            *("--time-compression", str(settings.compression), "--datacenter", site),
            *("--origin-latency-ms", latencies, "--max-model-len", "8192"),
        )

    def footprint(self, outcomes: Sequence[Outcome], settings: DemoSettings) -> tuple[float, float, float, float]:
        """Energy (kWh), carbon (gCO2), water (L) and cost (USD) of a replay, as the twin models it.

        Each epoch is simulated with the requests that its sites really served and the tokens these really had; all
        power of the fleet counts, idle sites included.
        """
        total = np.zeros(4)
        for epoch in range(settings.epochs):
            mine = [
                o
                for o in outcomes
                if o.error is None and int(o.request.at_s // settings.epoch_wall_s) == epoch and o.datacenter
            ]
            served = np.array([sum(o.datacenter == site for o in mine) for site in self.sites], dtype=np.float64)
            state = self.state(epoch, _by_origin(mine, self.origins), settings)
            if mine:
                pool = state.pools[0].model_copy(
                    update={
                        "mean_prompt_tokens": float(np.mean([o.prompt_tokens for o in mine])),
                        "mean_output_tokens": float(np.mean([o.output_tokens for o in mine])),
                    }
                )
                state = state.model_copy(update={"pools": (pool,), "max_utilization": 1.0})
            result = simulate(arrays_from(state), np.where(served.sum() > 0, served, 1.0)[None])
            total += [float(result.energy_kwh.sum()), *(float(x) for x in result.metrics[0, 1:])]
        return (float(total[0]), float(total[1]), float(total[2]), float(total[3]))


_TOKENS: Final = "token_quantiles.csv"


def _on_this_machine(level: ServiceLevel, compression: float) -> ServiceLevel:
    limit_ms = round(level.time_to_first_token_milliseconds / compression)
    return level.model_copy(update={"time_to_first_token_milliseconds": limit_ms})


def _by_origin(outcomes: Sequence[Outcome], origins: Sequence[str]) -> tuple[float, ...]:
    return tuple(float(sum(o.request.origin == origin for o in outcomes)) for origin in origins)

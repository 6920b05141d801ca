"""Small fleets for the policy tests; tests/support is on the import path."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from marlin.api.pool import PowerDown
from marlin.api.state import DatacenterState, FleetState, NodeGroupState, PoolDeployment, PoolState
from marlin.simulator.twin_state import arrays_from

START = datetime(2026, 1, 1, tzinfo=UTC)


def site(name: str, **changes: object) -> DatacenterState:
    """A site with one node of four A100s."""
    fields: dict[str, object] = {
        "name": name,
        "region": f"region-{name}",
        "carbon_gco2_per_kwh": 400.0,
        "water_l_per_kwh": 1.8,
        "price_usd_per_kwh": 0.1,
        "pue": 1.25,
        "node_groups": (NodeGroupState(name="a100x4", accelerator="A100-80GB", accelerators_per_node=4, nodes=2),),
    }
    return DatacenterState.model_validate(fields | changes)


def differing_site(
    rng: np.random.Generator,
    name: str,
    *,
    price: tuple[float, float] = (0.02, 0.3),
    pue: tuple[float, float] | None = None,
    **changes: object,
) -> DatacenterState:
    """A site whose signals are drawn: between ``price`` USD/kWh, and ``pue`` where it is given."""
    drawn: dict[str, object] = {
        "carbon_gco2_per_kwh": float(rng.uniform(20, 800)),
        "water_l_per_kwh": float(rng.uniform(0.2, 8)),
        "price_usd_per_kwh": float(rng.uniform(*price)),
    }
    if pue is not None:
        drawn["pue"] = float(rng.uniform(*pue))
    return site(name, **drawn | changes)


def fleet(*sites: DatacenterState, forecast: float = 900.0, **changes: Any) -> FleetState:
    """A fleet with one pool, deployed at every site; the forecast is spread over the origins alike."""
    origins = changes.setdefault("origins", ("here",))
    pool = PoolState(
        name="chat",
        profile="Llama-2-70b",
        forecast_requests=(forecast / len(origins),) * len(origins),
        mean_prompt_tokens=600,
        mean_output_tokens=120,
        deployments=tuple(
            PoolDeployment(datacenter=s.name, node_group="a100x4", replicas=2, tensor_parallel=4) for s in sites
        ),
    )
    fields: dict[str, object] = {
        "epoch": 7,
        "start_time": START,
        "datacenters": sites,
        "pools": (pool,),
        "rtt_ms": (tuple(20.0 for _ in sites),),
    }
    return FleetState.model_validate(fields | changes)


def varied(seed: int, *, sites: int = 5, power_down: PowerDown = PowerDown.NONE, closed: int = 1) -> FleetState:
    """A fleet of sites that differ in everything; the last ones are closed."""
    rng = np.random.default_rng(seed)
    base = fleet(
        *(
            differing_site(rng, f"s{d}", price=(-0.02, 0.3), pue=(1.1, 1.7), is_available=d < sites - closed)
            for d in range(sites)
        ),
        rtt_ms=(tuple(float(x) for x in rng.uniform(5, 200, sites)),),
    )
    capacity = float(arrays_from(base).capacity_rps[0, : sites - closed].sum()) * base.epoch_s
    wanted = float(rng.uniform(0.1, 0.9)) * capacity
    pool = base.pools[0].model_copy(
        update={"power_down": power_down, "forecast_requests": (wanted,), "forecast_upper_requests": 1.4 * wanted}
    )
    return base.model_copy(update={"pools": (pool,)})

"""Every constant of the twin in one table: value, unit, plausible range, source, and whether it is an assumption.

``Settings`` holds the ones an experiment may change, with the table's values as defaults; a sensitivity study sweeps
``CONSTANTS[name].low`` to ``.high``. Where the paper and this project differ, both readings are kept as a setting.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Final

JOULES_PER_KWH: Final = 3.6e6
"""Unit conversion, exact."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One number and what is known about it."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    source: str
    is_assumption: bool


_PAPER = "MARLIN paper (arXiv 2605.13496)"
_EPRI = "EPRI 1006787 (2002), Water & Sustainability vol. 4"

_TABLE: Final = (
    Constant("cooling_energy_factor", 3.0, "1", 2.0, 3.0, f"{_PAPER}, 3.3: chiller and auxiliaries as CRAC", False),
    Constant("infrastructure_overhead", 0.13, "1", 0.05, 0.15, f"{_PAPER}, 3.3", False),
    Constant("default_pue", 1.3, "1", 1.1, 1.7, "Datacenter.spec.facility: default", True),
    Constant("latent_heat_j_per_l", 2.45e6, "J/L", 2.40e6, 2.50e6, "water at about 20 degC, 1 kg per litre", False),
    Constant("cycles_of_concentration", 4.0, "1", 3.0, 7.0, "Datacenter.spec.facility: default", True),
    Constant("blowdown_threshold_paper", 0.25, "1", 0.0, 0.29, f"{_PAPER}, 3.4: phi; above 0.29 out of bound", True),
    Constant("potable_kwh_per_l", 3.71e-4, "kWh/L", 3.7e-4, 4.8e-4, f"{_EPRI}: surface water, 1406 kWh/Mgal", False),
    Constant("wastewater_kwh_per_l", 4.07e-4, "kWh/L", 2.5e-4, 5.1e-4, f"{_EPRI}: advanced, 1541 kWh/Mgal", False),
    Constant(
        "host_power_fraction", 0.6, "1", 0.3, 1.0, "share of a node's power beside its GPUs drawn all the time", True
    ),
    Constant("idle_accelerator_w", 80.0, "W", 50.0, 120.0, "gpu_idle_power.csv: scattered readings", True),
    Constant("low_pstate_accelerator_w", 65.0, "W", 50.0, 80.0, "model resident, clocks down: between the two", True),
    Constant("unloaded_accelerator_w", 50.0, "W", 25.0, 60.0, "gpu_idle_power.csv: no process on the GPU", True),
    Constant("off_node_w_per_accelerator", 3.0, "W", 0.0, 10.0, "management controller of a node that is off", True),
    Constant("storage_gb_per_s", 6.0, "GB/s", 2.0, 14.0, "one NVMe drive, sequential reads", True),
    Constant("engine_start_s", 60.0, "s", 30.0, 120.0, "start of a serving engine beside loading weights", True),
    Constant("node_boot_s", 180.0, "s", 60.0, 600.0, "a node that was given back until its engine may start", True),
    Constant("awake_utilization", 0.85, "1", 0.5, 0.95, "load for which replicas are kept awake (ECO, 3.2)", True),
    Constant("pack_utilization", 0.85, "1", 0.5, 0.95, "load to which pack fills one replica before the next", True),
    Constant("gpu_share_of_node_power", 0.52, "1", 0.45, 0.6, "mean of DGX A100 and H100, for other GPU types", True),
    Constant(
        "own_figures_single_power", 0.65, "1", 0.5, 0.8, "power of a lone request over full batch; both GPUs", True
    ),
    Constant("own_figures_full_power", 0.85, "1", 0.6, 1.0, "full batch over TDP, where no watts are given", True),
    Constant("patience_s", 60.0, "s", 10.0, 300.0, "a request that would wait longer is rejected", True),
    Constant("unserved_charge_factor", 4.0, "1", 2.9, 10.0, "above the largest ratio of a site to the mean", True),
    Constant("same_zone_rtt_ms", 4.0, "ms", 1.0, 10.0, "the measured matrix says 0 within a zone", True),
    Constant("last_mile_rtt_ms", 10.0, "ms", 5.0, 30.0, "between the user and the region's edge", True),
    Constant("one_way_ms_per_km", 0.0081, "ms/km", 0.0062, 0.0130, "zone_rtt_ms.csv: median of measured pairs", False),
    Constant("price_adder_usd_per_kwh", 0.04, "USD/kWh", 0.0, 0.10, "grid fees on top of the wholesale profile", True),
    Constant("max_utilization", 0.95, "1", 0.8, 1.0, "load a plan may put on a (model, site)", True),
)

CONSTANTS: Final = MappingProxyType({constant.name: constant for constant in _TABLE})


def constant(name: str) -> float:
    """The value of a constant.

    Raises:
        KeyError: the table has none of that name.
    """
    return CONSTANTS[name].value


class Balancer(StrEnum):
    """How a site spreads a model's requests over its awake replicas."""

    SPREAD = "spread"
    """Modified weighted round robin: in proportion to capacity, past replicas that are full (the paper)."""
    PACK = "pack"
    """One replica after the other, each up to ``pack_utilization``."""


class Reading(StrEnum):
    """Two readings of a formula: as the paper prints it, or as this project does it."""

    OURS = "ours"
    PAPER = "paper"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an experiment may change about the physics."""

    blowdown: Reading = Reading.OURS
    """Ours: evaporation / (cycles of concentration - 1). Paper: evaporation / (1 - phi)."""
    first_token: Reading = Reading.OURS
    """Ours: prefill and one decode step. Paper: total execution time / output tokens."""
    gpu_power: Reading = Reading.OURS
    """Ours: fractions of the GPUs' TDP, plus the host. Paper: equation (4), the same fractions of the node's TDP."""
    balancer: Balancer = Balancer.SPREAD
    wakes_on_demand: bool = True
    """Whether a site wakes more replicas than the plan keeps awake once requests have to wait."""
    cooling_energy_factor: float = constant("cooling_energy_factor")
    blowdown_threshold_paper: float = constant("blowdown_threshold_paper")
    latent_heat_j_per_l: float = constant("latent_heat_j_per_l")
    potable_kwh_per_l: float = constant("potable_kwh_per_l")
    wastewater_kwh_per_l: float = constant("wastewater_kwh_per_l")
    host_power_fraction: float = constant("host_power_fraction")
    idle_accelerator_w: float = constant("idle_accelerator_w")
    """For node groups that state none."""
    low_pstate_accelerator_w: float = constant("low_pstate_accelerator_w")
    unloaded_accelerator_w: float = constant("unloaded_accelerator_w")
    off_node_w_per_accelerator: float = constant("off_node_w_per_accelerator")
    storage_gb_per_s: float = constant("storage_gb_per_s")
    engine_start_s: float = constant("engine_start_s")
    node_boot_s: float = constant("node_boot_s")
    pack_utilization: float = constant("pack_utilization")
    patience_s: float = constant("patience_s")
    unserved_charge_factor: float = constant("unserved_charge_factor")
    gpu_share_of_node_power: float = constant("gpu_share_of_node_power")
    """For GPUs without a shipped data sheet."""
    own_figures_single_power: float = constant("own_figures_single_power")
    own_figures_full_power: float = constant("own_figures_full_power")
    """For models described by a user's own figures."""


SWEPT: Final = tuple(f.name for f in fields(Settings) if f.name in CONSTANTS)
"""The settings that a sensitivity study sweeps over their range."""

DEFAULT_SETTINGS: Final = Settings()

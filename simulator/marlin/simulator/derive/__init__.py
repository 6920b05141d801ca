"""Computes the shipped tables in ``data/`` from the public source files.

``python -m marlin.simulator.derive --data DIR --out DIR`` (or ``make data DATA=DIR``) writes them, ``--check`` compares
instead. Deterministic and standard library only, so that anyone with the sources gets the same bytes.
``docs/reference/data.md`` says what each table holds and where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from marlin.simulator.derive import grid, hardware, workload
from marlin.simulator.derive.files import manifest

MANIFEST: Final = "SHA256SUMS"

TABLES: Final[Mapping[str, Callable[[Path], bytes]]] = {
    "accelerators.csv": hardware.accelerators,
    "azure2024_hourly.csv": workload.azure_2024_hourly,
    "burstgpt_week_daily.csv": workload.week_daily,
    "burstgpt_week_hourly.csv": workload.week_hourly,
    "gpu_idle_power.csv": hardware.idle_power,
    "grid_profiles.csv": grid.grid_profiles,
    "hour_profile.csv": workload.hour_profile,
    "models.csv": hardware.models,
    "node_types.csv": hardware.node_types,
    "power_fraction.csv": hardware.power_fractions,
    "serving_profiles.csv": hardware.serving_profiles,
    "token_quantiles.csv": workload.token_quantiles,
    "workload_facts.csv": workload.facts,
    "zone_rtt_ms.csv": grid.zone_rtt,
    "zones.csv": grid.zones,
}


def derive(data: Path) -> dict[str, bytes]:
    """Every shipped table and the manifest of their digests, by file name.

    Args:
        data: the folder of the source files.

    Raises:
        InputError: a source file is missing.
    """
    contents = {name: compute(data) for name, compute in TABLES.items()}
    return {**contents, MANIFEST: manifest(contents)}

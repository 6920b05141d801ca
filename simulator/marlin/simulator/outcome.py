"""What one plan did in one epoch, whichever engine carried it out."""

from __future__ import annotations

from dataclasses import dataclass

from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """One epoch. Requests that wait at its end are counted when they are served or leave."""

    metrics: FloatArray  # (4,) in the order of METRIC_NAMES, charges for rejected requests included
    served: FloatArray  # (V, D) requests
    queued: FloatArray  # (V,) requests that wait at the end
    rejected: FloatArray  # (V,) requests that waited too long
    energy_kwh: FloatArray  # (D,) all energy, cooling and infrastructure included
    carbon_gco2: FloatArray  # (D,)
    water_l: FloatArray  # (D,)
    cost_usd: FloatArray  # (D,)
    ttft_s: FloatArray  # (V, D) mean of the requests served there, network included
    ttft_quantiles_s: FloatArray  # (3,) p50, p95 and p99 over all requests
    late_share: float
    """Requests beyond the limit of their pool, rejected ones included, over those served or rejected."""
    utilization: FloatArray  # (V, D) load over the capacity that is awake
    awake: FloatArray  # (V, D) replicas awake at the end
    awake_share: float
    """Share of all replicas that are awake at the end."""

    @property
    def counted(self) -> float:
        """Requests that were served or left."""
        return float(self.served.sum() + self.rejected.sum())

"""What goes into the fluid engine and what comes out of it, for B plans at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Plans:
    """B plans. With an ``order`` sites are filled in turn; without one the shares hold."""

    shares: FloatArray  # (B, V, D) parts of each model's requests; rows need not add up to one
    order: NDArray[np.int64] | None = None  # (B, V, D) positions of sites, first to be filled first; -1 ends a row
    cap: FloatArray | None = None  # (B, V, D) part of its capacity each site is filled to, in turn; None is the limit
    awake: FloatArray | None = None  # (B, V, D) replicas kept awake where the pool can power down; None is all
    rtt_s: FloatArray | None = None  # (B, V, D) mean round trip, where the origins' rows differ; None is the fleet's
    beyond_s: FloatArray | None = None
    """(B, V, D, D) mean round trip, to each site (last), of what the rows send to each: for what spills over."""

    by_origin: FloatArray | None = None  # (V, R, D) the origins' rows, of all plans; the fluid engine reads rtt_s

    def __len__(self) -> int:
        """B."""
        return len(self.shares)

    def take(self, piece: slice | list[int]) -> Plans:
        """Some of the plans."""
        return Plans(
            shares=self.shares[piece],
            order=None if self.order is None else self.order[piece],
            cap=None if self.cap is None else self.cap[piece],
            awake=None if self.awake is None else self.awake[piece],
            rtt_s=None if self.rtt_s is None else self.rtt_s[piece],
            beyond_s=None if self.beyond_s is None else self.beyond_s[piece],
            by_origin=self.by_origin,
        )

    def repeated(self, times: int) -> Plans:
        """Each of the plans so many times, side by side."""
        return Plans(
            shares=np.repeat(self.shares, times, axis=0),
            order=None if self.order is None else np.repeat(self.order, times, axis=0),
            cap=None if self.cap is None else np.repeat(self.cap, times, axis=0),
            awake=None if self.awake is None else np.repeat(self.awake, times, axis=0),
            rtt_s=None if self.rtt_s is None else np.repeat(self.rtt_s, times, axis=0),
            beyond_s=None if self.beyond_s is None else np.repeat(self.beyond_s, times, axis=0),
            by_origin=self.by_origin,
        )


@dataclass(frozen=True, slots=True)
class Buffers:
    """Where a form of the engine writes."""

    metrics: FloatArray  # (B, 4)
    footprint: FloatArray  # (B, D, 4) kWh, gCO2, L, USD
    served: FloatArray  # (B, V, D)
    ttft_s: FloatArray  # (B, V, D)
    utilization: FloatArray  # (B, V, D)
    awake: FloatArray  # (B, V, D)
    queued: FloatArray  # (B, V)
    rejected: FloatArray  # (B, V)
    waited_s: FloatArray  # (B, V)
    late: FloatArray  # (B,)

    @classmethod
    def empty(cls, plans: int, models: int, sites: int) -> Buffers:
        """Buffers for B plans."""
        each, model = (plans, models, sites), (plans, models)
        return cls(
            metrics=np.empty((plans, len(METRIC_NAMES))),
            footprint=np.empty((plans, sites, 4)),
            served=np.empty(each),
            ttft_s=np.empty(each),
            utilization=np.empty(each),
            awake=np.empty(each),
            queued=np.empty(model),
            rejected=np.empty(model),
            waited_s=np.empty(model),
            late=np.empty(plans),
        )

    def view(self, piece: slice) -> Buffers:
        """The part for some of the plans; writing into it writes here."""
        return Buffers(**{f.name: getattr(self, f.name)[piece] for f in fields(self)})

    def split(self, plans: int, epochs: int) -> Buffers:
        """The same with two axes in front, (N, S, ...) for (N x S, ...); writing into it writes here."""
        return Buffers(
            **{
                f.name: getattr(self, f.name).reshape(plans, epochs, *getattr(self, f.name).shape[1:])
                for f in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class FluidResult:
    """What B plans do. Metrics are in the order of ``METRIC_NAMES``."""

    metrics: FloatArray  # (B, 4) charges for rejected requests included
    energy_kwh: FloatArray  # (B, D) all energy, cooling and infrastructure included
    carbon_gco2: FloatArray  # (B, D)
    water_l: FloatArray  # (B, D)
    cost_usd: FloatArray  # (B, D)
    served: FloatArray  # (B, V, D) requests
    queued: FloatArray  # (B, V) requests that wait at the end
    rejected: FloatArray  # (B, V) requests
    waited_s: FloatArray  # (B, V) seconds waited before a site, all requests together
    ttft_s: FloatArray  # (B, V, D) mean of a (model, site) without such a wait
    utilization: FloatArray  # (B, V, D) load over the capacity that is awake
    awake: FloatArray  # (B, V, D) replicas awake when the epoch ends
    late_share: FloatArray  # (B,) requests beyond the limit of their pool, rejected ones included

    @property
    def share_served(self) -> FloatArray:
        """(B,) served over all requests; 1 where there were none."""
        served: FloatArray = self.served.sum(axis=(1, 2))
        total = served + self.queued.sum(axis=1) + self.rejected.sum(axis=1)
        share: FloatArray = np.divide(served, total, out=np.ones_like(served), where=total > 0)
        return share


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """What each model comes to by itself under B plans.

    What a model costs depends on no other: sites are shared, replicas are not. Sums over models are those of a
    ``FluidResult`` but for what a site uses whoever is served.
    """

    seconds: FloatArray  # (B, V) request-seconds to first token, waits and the patience of those who left included
    late: FloatArray  # (B, V) requests beyond the limit of their pool, those who left included
    footprint: FloatArray  # (B, V, 3) gCO2, L, USD, charges for rejected requests included


def result_from(out: Buffers) -> FluidResult:
    """The result in a form's buffers."""
    return FluidResult(
        metrics=out.metrics,
        energy_kwh=out.footprint[..., 0],
        carbon_gco2=out.footprint[..., 1],
        water_l=out.footprint[..., 2],
        cost_usd=out.footprint[..., 3],
        served=out.served,
        queued=out.queued,
        rejected=out.rejected,
        waited_s=out.waited_s,
        ttft_s=out.ttft_s,
        utilization=out.utilization,
        awake=out.awake,
        late_share=out.late,
    )

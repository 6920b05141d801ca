"""Many epochs of many fleets through the fluid engine, in as few calls as there are different fleets.

Conditions and plans come with one axis in front, whatever it stands for: copies of an environment side by side
(``dynamics``), or the epochs of one day (``episode``). Rows that share a fleet are taken together; a row's outcome does
not depend on who is beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.fluid import FluidResult, Form, Plans, simulate_epochs
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


@dataclass(frozen=True, slots=True, eq=False)
class Fleets:
    """T different fleets, and what every step reads of them, stacked: a step then looks it up by index."""

    twins: tuple[TwinState, ...]
    capacity_rps: FloatArray  # (T, V, D) all replicas awake
    all_replicas: FloatArray  # (T, V, D)
    max_utilization: FloatArray  # (T,)
    epoch_s: FloatArray  # (T,)
    patience_s: FloatArray  # (T,)
    can_power_down: bool
    """Whether any pool of any of them can."""

    @classmethod
    def of(cls, twins: Sequence[TwinState]) -> Fleets:
        """Fleets of one shape."""
        return cls(
            twins=tuple(twins),
            capacity_rps=np.stack([twin.capacity_rps for twin in twins]),
            all_replicas=np.stack([twin.all_replicas for twin in twins]),
            max_utilization=np.array([twin.max_utilization for twin in twins]),
            epoch_s=np.array([twin.epoch_s for twin in twins]),
            patience_s=np.array([twin.settings.patience_s for twin in twins]),
            can_power_down=any(bool(twin.can_sleep.any()) for twin in twins),
        )


@dataclass(frozen=True, slots=True)
class Happened:
    """What B plans did in one epoch each. The last epoch's includes the time in which its queue runs out."""

    metrics: FloatArray  # (B, 4) in the order of METRIC_NAMES, charges for rejected requests included
    served: FloatArray  # (B, V, D) requests
    queued: FloatArray  # (B, V) requests waiting at the end
    rejected: FloatArray  # (B, V) requests
    awake: FloatArray  # (B, V, D) replicas awake at the end
    late: FloatArray  # (B,) requests beyond the limit of their pool, rejected ones included
    energy_kwh: FloatArray  # (B,)

    @property
    def counted(self) -> FloatArray:
        """(B,) requests that were served or left: what the time to first token is a mean of."""
        return np.asarray(self.served.sum(axis=(1, 2)) + self.rejected.sum(axis=1))

    @property
    def late_share(self) -> FloatArray:
        """(B,) late over served and rejected; 0 where there were none."""
        whole = self.counted
        return np.asarray(np.divide(self.late, whole, out=np.zeros_like(whole), where=whole > 0))

    @property
    def totals(self) -> FloatArray:
        """(B, 4) the metrics as sums that add up over epochs: request-seconds, gCO2, L, USD."""
        return np.concatenate([self.metrics[:, :1] * self.counted[:, None], self.metrics[:, 1:]], axis=1)


def happened(result: FluidResult) -> Happened:
    """What of the engine's result the environments go on with."""
    counted = result.served.sum(axis=(1, 2)) + result.rejected.sum(axis=1)
    return Happened(
        metrics=result.metrics,
        served=result.served,
        queued=result.queued,
        rejected=result.rejected,
        awake=result.awake,
        late=result.late_share * counted,
        energy_kwh=result.energy_kwh.sum(axis=1),
    )


def rows_of(many: Happened, rows: slice) -> Happened:
    """Some of the epochs."""
    return Happened(**{f.name: getattr(many, f.name)[rows] for f in fields(Happened)})


def groups(index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each fleet among rows (B,), and the rows that have it."""
    if (index == index[0]).all():  # almost always, and ten times as fast
        yield int(index[0]), np.arange(len(index))
        return
    for which in np.unique(index):
        yield int(which), np.flatnonzero(index == which)


def carry_out(
    fleets: Fleets,
    index: NDArray[np.int64],  # (B,)
    now: Conditions,  # B epochs
    plans: Plans,  # B
    form: Form,
) -> Happened:
    """Carries plan b out in epoch b on fleet ``index[b]``."""
    parts = [(rows, happened(_of_one_fleet(fleets.twins[i], now, plans, rows, form))) for i, rows in groups(index)]
    if len(parts) == 1:
        return parts[0][1]
    back = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return Happened(
        **{f.name: np.concatenate([getattr(part, f.name) for _, part in parts])[back] for f in fields(Happened)}
    )


def _of_one_fleet(twin: TwinState, now: Conditions, plans: Plans, rows: NDArray[np.int64], form: Form) -> FluidResult:
    if len(rows) == len(plans):
        return simulate_epochs(twin, now, plans, form)
    return simulate_epochs(twin, now.take(rows.tolist()), plans_at(plans, rows), form)


def plans_at(plans: Plans, rows: NDArray[np.int64]) -> Plans:
    """Some of the plans."""
    return Plans(
        shares=plans.shares[rows],
        order=None if plans.order is None else plans.order[rows],
        cap=None if plans.cap is None else plans.cap[rows],
        awake=None if plans.awake is None else plans.awake[rows],
    )

"""Many epochs of many fleets through the fluid engine, in as few calls as there are different fleets.

Conditions and plans come with one axis in front, whatever it stands for: copies of an environment side by side
(``dynamics``), or the epochs of one day (``episode``). Rows that share a fleet are taken together; a row's outcome does
not depend on who is beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.fluid import FluidResult, Form, Plans, simulate_epochs
from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


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
    def share_served(self) -> FloatArray:
        """(B,) served over served and rejected; 1 where there were none."""
        return _share(self.served.sum(axis=(1, 2)), self.counted, empty=1.0)

    @property
    def late_share(self) -> FloatArray:
        """(B,) late over served and rejected; 0 where there were none."""
        return _share(self.late, self.counted, empty=0.0)

    @property
    def totals(self) -> FloatArray:
        """(B, 4) the metrics as sums that add up over epochs: request-seconds, gCO2, L, USD."""
        return np.concatenate([self.metrics[:, :1] * self.counted[:, None], self.metrics[:, 1:]], axis=1)


def _share(part: FloatArray, whole: FloatArray, empty: float) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full_like(part, empty), where=whole > 0))


def groups(index: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each fleet among rows (B,), and the rows that have it."""
    for which in np.unique(index):
        yield int(which), np.flatnonzero(index == which)


def carry_out(
    twins: Sequence[TwinState],
    index: NDArray[np.int64],  # (B,)
    now: Conditions,  # B epochs
    plans: Plans,  # B
    form: Form,
) -> Happened:
    """Carries plan b out in epoch b on fleet ``twins[index[b]]``."""
    parts = [(rows, simulate_epochs(twins[i], *_rows(now, plans, rows), form)) for i, rows in groups(index)]
    if len(parts) == 1:
        return _happened(parts[0][1])
    back = np.argsort(np.concatenate([rows for rows, _ in parts]))
    done = [_happened(result) for _, result in parts]
    return Happened(
        metrics=np.concatenate([d.metrics for d in done])[back],
        served=np.concatenate([d.served for d in done])[back],
        queued=np.concatenate([d.queued for d in done])[back],
        rejected=np.concatenate([d.rejected for d in done])[back],
        awake=np.concatenate([d.awake for d in done])[back],
        late=np.concatenate([d.late for d in done])[back],
        energy_kwh=np.concatenate([d.energy_kwh for d in done])[back],
    )


def _rows(now: Conditions, plans: Plans, rows: NDArray[np.int64]) -> tuple[Conditions, Plans]:
    if len(rows) == len(plans):
        return now, plans
    return now.take(rows.tolist()), plans_at(plans, rows)


def plans_at(plans: Plans, rows: NDArray[np.int64]) -> Plans:
    """Some of the plans."""
    return Plans(
        shares=plans.shares[rows],
        order=None if plans.order is None else plans.order[rows],
        cap=None if plans.cap is None else plans.cap[rows],
        awake=None if plans.awake is None else plans.awake[rows],
    )


def _happened(result: FluidResult) -> Happened:
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

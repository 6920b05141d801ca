"""What each figure shows, as values: from recordings and summaries, without a drawing library.

Shapes: E epochs, V pools, D datacenters, P ways of powering down; metrics in the order of ``METRIC_NAMES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.policy.figures.recording import Recording
from marlin.simulator.experiment import Summary
from marlin.simulator.network import Coordinates
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in each epoch, as the paper's Fig. 1 has them."""

    start_times: Sequence[datetime]  # (E,)
    pools: Sequence[str]
    requests: FloatArray  # (E, V)


@dataclass(frozen=True, slots=True)
class Costs:
    """The four metrics in each epoch."""

    start_times: Sequence[datetime]  # (E,)
    metrics: FloatArray  # (E, 4)
    baseline: FloatArray | None
    """(E, 4) capacity-proportional's on the same requests; None where it was not run."""
    change: FloatArray | None
    """(4,) over the whole experiment, relative to the baseline; NaN where the baseline is not positive."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Where requests were served. Sites go from west to east."""

    start_times: Sequence[datetime]  # (E,)
    names: Sequence[str]
    places: Sequence[Coordinates]
    share: FloatArray  # (D,) of all requests served
    share_by_epoch: FloatArray  # (E, D) of those served in the epoch; NaN where none was
    carbon_gco2_per_kwh: FloatArray  # (D,) emitted over consumed


@dataclass(frozen=True, slots=True)
class Savings:
    """Relative change of the four metrics under each way of powering down; -0.2 is a fifth less.

    NaN where what is compared with is not positive.
    """

    power_downs: Sequence[str]
    together: FloatArray  # (P, 4) the planner against the reference
    baseline: FloatArray | None
    """(P, 4) capacity-proportional against the reference; None where it was not run."""
    routing: FloatArray | None
    """(P, 4) the planner against capacity-proportional whose idle replicas do the same."""
    reference: str
    """Whose metrics, with nothing powered down, the others are measured against."""
    served_share: FloatArray  # (P,) the least of the runs compared


def arrivals(recording: Recording, pools: Sequence[str]) -> Arrivals:
    """Requests that came, by pool."""
    return Arrivals(recording.start_times, pools, recording.arrived)


def costs(recording: Recording, summary: Summary, against: tuple[Recording, Summary] | None) -> Costs:
    """The metrics over time, beside the baseline's."""
    if against is None:
        return Costs(recording.start_times, recording.metrics, None, None)
    baseline, total = against
    return Costs(recording.start_times, recording.metrics, baseline.metrics, relative(summary, total))


def sites(recording: Recording, places: Mapping[str, Coordinates]) -> Sites:
    """Shares by site and over time.

    Args:
        recording: of the planner.
        places: each datacenter's name and coordinates, in the recording's order.
    """
    west_to_east = sorted(range(len(places)), key=lambda d: list(places.values())[d][1])
    names = list(places)
    served = recording.served[:, west_to_east]  # (E, D)
    by_epoch = served.sum(axis=1, keepdims=True)  # (E, 1)
    share_by_epoch = np.divide(served, by_epoch, out=np.full_like(served, np.nan), where=by_epoch > 0)
    total = served.sum(axis=0)  # (D,)
    energy_kwh = recording.energy_kwh.sum(axis=0)[west_to_east]
    carbon_gco2 = recording.carbon_gco2.sum(axis=0)[west_to_east]
    return Sites(
        start_times=recording.start_times,
        names=[names[d] for d in west_to_east],
        places=[places[names[d]] for d in west_to_east],
        share=total / max(float(total.sum()), 1e-12),
        share_by_epoch=share_by_epoch,
        carbon_gco2_per_kwh=np.divide(carbon_gco2, energy_kwh, out=np.zeros_like(energy_kwh), where=energy_kwh > 0),
    )


def savings(
    planner: str, runs: Mapping[str, Summary], baseline_runs: Mapping[str, Summary] | None, awake: str
) -> Savings:
    """What routing and powering down save.

    Args:
        planner: its name.
        runs: the planner under each way of powering down.
        baseline_runs: capacity-proportional under the same; None where it was not run.
        awake: the way under which nothing powers down, one of ``runs``.
    """
    reference = (runs if baseline_runs is None else baseline_runs)[awake]
    every = [runs] if baseline_runs is None else [runs, baseline_runs]
    base = None if baseline_runs is None else [baseline_runs[name] for name in runs]
    return Savings(
        power_downs=list(runs),
        together=np.array([relative(run, reference) for run in runs.values()]),
        baseline=None if base is None else np.array([relative(run, reference) for run in base]),
        routing=None
        if base is None
        else np.array([relative(run, against) for run, against in zip(runs.values(), base, strict=True)]),
        reference=planner if baseline_runs is None else "capacity-proportional",
        served_share=np.array([min(each[name].served_share for each in every) for name in runs]),
    )


def relative(summary: Summary, against: Summary) -> FloatArray:
    """(4,) relative change of the metrics; NaN where the other is not positive, as a cost with negative prices."""
    ours, theirs = (np.array([getattr(s, name) for name in METRIC_NAMES]) for s in (summary, against))
    return np.asarray(np.divide(ours, theirs, out=np.full(len(ours), np.nan), where=theirs > 0) - 1.0)

"""Days of a trace as requests per epoch.

Where the trace's periods are longer than an epoch, they are split by a draw that is as bursty as the trace's own
minutes: shares are Dirichlet with a concentration fitted on them, and the period's requests fall on the shares
(multinomial), so that a period keeps its total and requests stay whole. Where they are shorter, they are added up.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.workload.facts import fact
from marlin.simulator.workload.trace import S_PER_HOUR, IntArray, Trace

FITTED_EPOCH_S: Final = 900
"""Epoch for which ``epoch_concentration`` was fitted, s."""


def epoch_requests(trace: Trace, day: int, epoch_s: int, rng: np.random.Generator) -> IntArray:
    """Requests (E, C) of each class in each epoch of a day, from midnight UTC on; not scaled to any fleet.

    Args:
        trace: whose arrivals.
        day: day UTC of the trace, from 0.
        epoch_s: length of an epoch, s; divides an hour, and divides or is divided by the trace's period.
        rng: splits the periods; not used where none has to be split.

    Raises:
        InputError: the trace has no such day, or the epoch does not fit into an hour or a period.
    """
    check_day(trace, day, epoch_s)
    period_s = trace.period_s
    counts = trace.counts[trace.day_periods(day)]  # (P, C)
    if epoch_s >= period_s:
        return np.asarray(counts.reshape(-1, epoch_s // period_s, counts.shape[1]).sum(axis=1))
    parts = period_s // epoch_s
    # Epochs of another length: the fitted Dirichlet is that of a gamma process, whose shape grows with time, so that
    # two short epochs together are as uneven as one long one.
    concentration = fact("epoch_concentration") * epoch_s / FITTED_EPOCH_S
    shares = rng.dirichlet(np.full(parts, concentration), size=counts.shape)  # (P, C, parts)
    split = rng.multinomial(counts, shares)  # (P, C, parts)
    return np.asarray(split.transpose(0, 2, 1).reshape(-1, counts.shape[1]))


def check_day(trace: Trace, day: int, epoch_s: int) -> None:
    """Refuses a day that the trace does not have, and an epoch that does not fit it.

    Raises:
        InputError: it is so.
    """
    if not 0 <= day < trace.days:
        there_is = f"has days 0 to {trace.days - 1}" if trace.days else "has no whole day UTC"
        raise InputError(f"{trace.name} {there_is}, not day {day}")
    period_s = trace.period_s
    if epoch_s < 1 or S_PER_HOUR % epoch_s or (period_s % epoch_s and epoch_s % period_s):
        raise InputError(f"an epoch of {epoch_s} s does not divide an hour and fit the {period_s} s of {trace.name}")

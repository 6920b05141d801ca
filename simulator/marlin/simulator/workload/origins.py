"""Where requests come from: the share of each origin region in each epoch.

Uniform, as the paper has it, or following the local hour: each region asks most when its people are awake. The curve
is how BurstGPT's conversation requests fall on the hours of a day (``hour_profile.csv``); daylight saving is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator import tables
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.trace import IntArray


def uniform_shares(epochs: int, origins: int) -> FloatArray:
    """The same share (E, R) for every origin, always."""
    return np.full((epochs, origins), 1.0 / origins)


def local_hour_shares(
    zones: Sequence[str], start: datetime, epochs: int, epoch_s: int, weights: FloatArray | None = None
) -> FloatArray:
    """Shares (E, R) that follow each origin's local hour; each row adds up to one.

    Args:
        zones: (R,) grid zone of each origin, e.g. ``DE-LU``, or an IANA time zone such as ``Europe/Berlin``.
        start: start of the first epoch, with a time zone.
        epochs: how many.
        epoch_s: length of an epoch, s.
        weights: (R,) how many people there are at each origin, in any unit. Default: the same everywhere.

    Raises:
        InputError: a zone's local time is not known.
        ValueError: ``start`` has no time zone.
    """
    activity = local_activity(zones, start, epochs, epoch_s)
    if weights is not None:
        activity = activity * weights
    return np.asarray(activity / activity.sum(axis=1, keepdims=True))


def local_activity(zones: Sequence[str], start: datetime, epochs: int, epoch_s: int) -> FloatArray:
    """How active each origin is (E, R) in each epoch, 1 being its mean over a day. Arguments as above."""
    if start.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    profile = hour_profile()
    around = np.concatenate([profile[-1:], profile, profile[:1]])  # hours -1 to 24, each at its middle
    middles = [start + timedelta(seconds=(e + 0.5) * epoch_s) for e in range(epochs)]
    local_h = np.empty((epochs, len(zones)))
    for r, zone in enumerate(zones):
        time_zone = zone_time(zone)
        local = [middle.astimezone(time_zone) for middle in middles]
        local_h[:, r] = [at.hour + at.minute / 60 + at.second / 3600 for at in local]
    return np.asarray(np.interp(local_h, np.arange(-1, 25) + 0.5, around))


def split_by_origin(counts: IntArray, shares: FloatArray, rng: np.random.Generator) -> IntArray:
    """Requests (E, V, R) of each model from each origin; every request has exactly one origin.

    Args:
        counts: (E, V) requests of each model.
        shares: (E, R), rows add up to one.
        rng: makes the choices.
    """
    return np.asarray(rng.multinomial(counts, shares[:, None, :]))


@cache
def hour_profile() -> FloatArray:
    """Activity (24,) by local hour, 1 being the mean over a day."""
    shares = np.array([float(row["share"]) for row in tables.rows("hour_profile.csv")])
    return np.asarray(shares / shares.mean())


@cache
def zone_time(zone: str) -> ZoneInfo:
    """Local time of a grid zone, or of an IANA time zone.

    Raises:
        InputError: it is neither.
    """
    known = {row["zone"]: row["time_zone"] for row in tables.rows("zones.csv")}
    try:
        return ZoneInfo(known.get(zone, zone))
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"the local time of {zone!r} is not known; name a time zone such as Europe/Berlin, or one of the zones"
            f" {', '.join(known)}"
        ) from None

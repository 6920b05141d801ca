"""An action is a plan: numbers between -1 and 1 in, shares, orders and awake replicas out.

Each (model, site) has one number per channel: ``preference`` and ``fill`` always, ``margin`` where a pool can power
down. In between stands an ``Intent``, whose parts can be mixed: what four agents propose is blended there
(marlin-model, section 7), never in raw actions. Sites that may not serve get exactly nothing.

Both ways of dispatch read the same intent: shares are where requests are expected to go when sites are filled in the
order of preference (``filling``), and an order with caps is the same said to a router that fills sites itself. An
action of zeros is capacity-proportional routing under ``shares``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marlin.api.plan import Dispatch
from marlin.simulator.environments.filling import filled_shares, room_of
from marlin.simulator.environments.lanes import Fleets, groups
from marlin.simulator.environments.proportional import awake_replicas, by_capacity, expected_rps
from marlin.simulator.fluid import Plans
from marlin.simulator.physics import FloatArray

CHANNELS: Final = ("preference", "fill", "margin")
"""Names of the numbers of a (model, site), in order; the last is there where a pool can power down."""

MARGIN_OCTAVES: Final = 1.0
"""A margin of 1 keeps replicas awake for twice the rate that is expected, -1 for half of it."""


Actions = NDArray[np.floating[Any]]
"""(..., size), in whatever precision a policy computes."""


@dataclass(frozen=True, slots=True)
class ActionLayout:
    """Which numbers an action holds: V x D x channels, the channels of a (model, site) side by side."""

    models: int
    sites: int
    dispatch: Dispatch
    can_power_down: bool

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of a (model, site)'s numbers, in order."""
        return CHANNELS if self.can_power_down else CHANNELS[:-1]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.models * self.sites * len(self.channels)

    def split(self, actions: Actions) -> dict[str, FloatArray]:
        """Actions (..., size) by channel, each (..., V, D) and between -1 and 1.

        Raises:
            ValueError: there are more or fewer numbers, or one is not finite.
        """
        array = np.asarray(actions, dtype=np.float64)
        if not array.ndim or array.shape[-1] != self.size:
            raise ValueError(f"an action has {self.size} numbers, not {array.shape[-1] if array.ndim else 1}")
        if not np.isfinite(array).all():
            raise ValueError("an action must be finite: look for a NaN in the policy that made it")
        cells = np.clip(array, -1.0, 1.0).reshape(*array.shape[:-1], self.models, self.sites, len(self.channels))
        return {name: cells[..., i] for i, name in enumerate(self.channels)}


@dataclass(frozen=True, slots=True)
class Intent:
    """What a decision maker wants. Any weighted mean of intents is one: leading axes are the caller's."""

    shares: FloatArray  # (..., V, D) on the simplex, 0 where masked
    fill: FloatArray  # (..., V, D) part of the utilisation limit to fill a site to, in turn
    margin: FloatArray  # (..., V, D) awake capacity over what the expected rate needs; 1 where nothing sleeps


Blend = Callable[[Intent, NDArray[np.float32]], Intent]
"""From J proposals (J, N, V, D) and N observations (N, F) to N intents; phase 2 of the paper is such a function."""


def equal_blend(proposals: Intent, observations: NDArray[np.float32]) -> Intent:
    """The mean of the proposals."""
    return Intent(proposals.shares.mean(axis=0), proposals.fill.mean(axis=0), proposals.margin.mean(axis=0))


def laid_out(layout: ActionLayout, cells: FloatArray) -> FloatArray:
    """Numbers of all channels (..., V, D, 3) as actions (..., size): those that mean nothing here are left out."""
    return np.asarray(cells[..., : len(layout.channels)].reshape(*cells.shape[:-3], -1))


def blended(proposals: Intent, weights: FloatArray) -> Intent:
    """One intent per lane of J proposals (J, N, V, D), with weights (N, J) on the simplex."""
    by_agent = weights.T[:, :, None, None]
    return Intent(*((by_agent * part).sum(axis=0) for part in (proposals.shares, proposals.fill, proposals.margin)))


def each(proposals: Intent) -> Iterator[Intent]:
    """J proposals (J, ...), one after the other."""
    return map(Intent, proposals.shares, proposals.fill, proposals.margin)


def intents(
    layout: ActionLayout,
    actions: Actions,  # (N, size), or more axes in front: (J, N, size)
    allowed: NDArray[np.bool_],  # (N, V, D)
    capacity_rps: FloatArray,  # (N, V, D)
    demand_rps: FloatArray,  # (N, V) expected
    limit: FloatArray,  # (N,) utilisation that no site is to exceed
) -> Intent:
    """What actions mean: sites filled in the order of preference, each to its fill (``filling``).

    Capacity is no part of a preference: a policy says where requests go first and does not have to learn sizes. A
    model that no site may serve goes by capacity all the same: an engine needs a row that is not empty.

    Raises:
        ValueError: an action has the wrong size, or a number that is not finite.
    """
    parts = layout.split(actions)
    fill = (1.0 + parts["fill"]) / 2.0
    shares = filled_shares(parts["preference"], room_of(fill, capacity_rps, allowed, limit), demand_rps)
    closed = ~allowed.any(axis=-1, keepdims=True)
    return Intent(
        shares=np.where(closed, by_capacity(capacity_rps, allowed), shares),
        fill=fill,
        margin=2.0 ** (MARGIN_OCTAVES * parts["margin"]) if "margin" in parts else np.ones_like(fill),
    )


def plans(
    intent: Intent,  # (N, V, D)
    dispatch: Dispatch,
    fleets: Fleets,
    index: NDArray[np.int64],  # (N,)
    allowed: NDArray[np.bool_],  # (N, V, D)
    high: FloatArray,  # (N, V) upper forecast, requests: what replicas are kept awake for
) -> Plans:
    """The plans of N intents.

    Under ``ordered`` sites are filled from the one whose room is used most to the one whose is used least; ties go by
    position.
    """
    shares = np.ascontiguousarray(intent.shares)
    if dispatch is Dispatch.SHARES:
        rate = expected_rps(fleets, index, shares, high)
        return Plans(shares=shares, awake=awake_replicas(fleets, index, rate * intent.margin))
    capacity = fleets.capacity_rps[index]  # (N, V, D)
    limit = capacity * fleets.max_utilization[index][:, None, None] * allowed
    room = np.maximum(room_of(intent.fill, capacity, allowed, fleets.max_utilization[index]), 1e-12)
    favour = np.where(allowed, shares / room, -1.0)
    order = np.argsort(-favour, axis=2, kind="stable")
    rate = _filled(order, intent.fill * limit, limit, high / fleets.epoch_s[index][:, None])
    awake = awake_replicas(fleets, index, rate * intent.margin)
    ready = capacity if awake is None else _awake_rps(fleets, index, awake)
    return Plans(
        shares=shares,
        order=np.where(np.take_along_axis(allowed, order, axis=2), order, -1),
        # The engine fills a part of what is awake; an intent speaks of the whole site.
        cap=np.minimum(intent.fill * limit / np.maximum(ready, 1e-12), 1.0),
        awake=awake,
    )


def _filled(order: NDArray[np.int64], room: FloatArray, limit: FloatArray, demand_rps: FloatArray) -> FloatArray:
    """Rates (N, V, D) when ``demand_rps`` (N, V) fills ``room`` in turn, and then what is free up to the limit."""
    in_turn = np.take_along_axis(room, order, axis=2)
    before = np.cumsum(in_turn, axis=2) - in_turn
    taken = np.clip(demand_rps[:, :, None] - before, 0.0, in_turn)
    rate = np.zeros_like(room)
    np.put_along_axis(rate, order, taken, axis=2)
    free = np.maximum(limit - rate, 0.0)
    total = free.sum(axis=2, keepdims=True)
    rest = np.minimum(np.maximum(demand_rps[:, :, None] - rate.sum(axis=2, keepdims=True), 0.0), total)
    return np.asarray(rate + free * (rest / np.maximum(total, 1e-12)))


def _awake_rps(fleets: Fleets, index: NDArray[np.int64], awake: FloatArray) -> FloatArray:
    """Capacity (N, V, D) of the replicas that are awake, the thriftiest first."""
    ready = np.zeros_like(awake)
    for i, rows in groups(index):
        twin = fleets.twins[i]
        left = awake[rows]
        for k in range(twin.replicas.shape[2]):
            here = np.minimum(left, twin.replicas[:, :, k])
            ready[rows] += here * twin.replica_rps[:, :, k]
            left = left - here
    return ready

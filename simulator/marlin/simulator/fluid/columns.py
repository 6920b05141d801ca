"""Epochs and plans as the NumPy form takes them: their axes come last, (V, D, S, N) for S epochs and N plans.

S and N are 1 where it is the same in all epochs or under all plans. Sums round alike however many plans there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from marlin.simulator.fluid.coefficients import Conditions
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    _Number = TypeVar("_Number", np.float64, np.int64, np.bool_)


@dataclass(frozen=True, slots=True)
class Epochs:
    """Epochs as the formulas take them. S and N are 1 or what they are for the outcome: (V, D, S, N)."""

    requests: FloatArray  # (V, S, N)
    backlog: FloatArray  # (V, S, N)
    allowed: FloatArray  # (V, D, S, N)
    awake_before: FloatArray  # (V, D, S, N)
    rtt_s: FloatArray  # (V, D, S, N)
    per_joule: FloatArray  # (4, D, S, N)


def beside(now: Conditions) -> Epochs:
    """N epochs, each with a plan of its own, or one for all; S = 1."""
    return Epochs(
        requests=now.requests.T[:, None],
        backlog=now.backlog.T[:, None],
        allowed=plans_last(now.allowed),
        awake_before=plans_last(now.awake_before),
        rtt_s=plans_last(now.rtt_s),
        per_joule=now.per_joule.transpose(2, 1, 0)[:, :, None],
    )


def across(epochs: Conditions) -> Epochs:
    """S epochs, each with all of the plans; N = 1."""
    still = (epochs.allowed, epochs.awake_before, epochs.rtt_s, epochs.per_joule)
    assert all(len(values) == 1 for values in still), "epochs may differ in requests and backlog alone"
    once = beside(epochs)
    return replace(once, requests=once.requests.swapaxes(1, 2), backlog=once.backlog.swapaxes(1, 2))


@dataclass(frozen=True, slots=True)
class Columns:
    """K of S epochs and N plans, which are the last two axes."""

    epoch: NDArray[np.int64]  # (K,)
    plan: NDArray[np.int64]  # (K,)
    shape: tuple[int, int]  # S and N

    def of(self, values: NDArray[_Number]) -> NDArray[_Number]:
        """(..., S, N) to (..., 1, K). Axes may be 1; where both are, K is."""
        epochs, plans = values.shape[-2:]
        found = values
        if epochs > 1 and plans > 1:
            flat = values.reshape(*values.shape[:-2], epochs * plans)
            found = flat.take(self.epoch * plans + self.plan, axis=-1)[..., None, :]
        elif plans > 1:
            found = values.take(self.plan, axis=-1)
        elif epochs > 1:
            found = values.take(self.epoch, axis=-2).swapaxes(-1, -2)
        return found

    def put(self, into: FloatArray, values: FloatArray) -> None:
        """The values (..., 1, K) into (..., S, N), all of it there, in the order of its axes."""
        epochs, plans = self.shape
        into.reshape(*into.shape[:-2], epochs * plans)[..., self.epoch * plans + self.plan] = values[..., 0, :]

    def whole(self, values: FloatArray) -> FloatArray:
        """(..., S, N), of which axes may be 1, with all of it there, for ``put`` to write into."""
        shape = (*values.shape[:-2], *self.shape)
        if values.shape == shape and values.flags.c_contiguous:
            return values
        return np.array(np.broadcast_to(values, shape), order="C")


def plans_last(values: NDArray[_Number]) -> NDArray[_Number]:
    """(B, V, D) as (V, D, 1, B)."""
    return np.ascontiguousarray(values.transpose(1, 2, 0))[:, :, None]


def over_sites(values: FloatArray) -> FloatArray:
    """The sum of (V, D, S, N) over sites, one after the other however many plans there are: one alone rounds as others.

    Rows of plans are added up in turn; NumPy adds one column, or values that lie the other way, in pairs.
    """
    if values.shape[-1] * values.shape[-2] > 1:
        return np.asarray(np.add.reduce(np.ascontiguousarray(values), axis=1))
    total = np.zeros((len(values), *values.shape[2:]))
    for d in range(values.shape[1]):
        total = total + values[:, d]
    return total


def over_models(values: FloatArray) -> FloatArray:
    """The sum of (V, ...) over models, one after the other as well."""
    total: FloatArray = values[0]
    for of_model in values[1:]:
        total = total + of_model
    return total

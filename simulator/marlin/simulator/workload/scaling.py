"""A trace's load, scaled to a fleet.

``peak95`` multiplies a day so that its busiest epoch needs 95 % of the fleet (the paper's "maximum utilisation 95 %").
``mean30``, ``mean56`` and ``mean80`` bend it, u' = c x u^gamma, so that the busiest epoch needs 95 % and the mean is
as named: a plain factor would put up to half of the demand above the whole fleet's capacity. The fitted transform is
a value, ``Scaling``, because predictor and history must see the same one, across midnight too. (marlin-model,
section 2.)

``whole_requests`` is the one rule that turns scaled counts into requests, for both engines and the replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.trace import IntArray

PEAK_UTILIZATION: Final = 0.95
LOADS: Final[dict[str, float | None]] = {"peak95": None, "mean30": 0.30, "mean56": 0.56, "mean80": 0.80}
"""Scenario to its mean utilisation; None leaves the mean as the trace has it."""

_MAX_GAMMA: Final = 64.0
_GAMMA_STEPS: Final = 60
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Scaling:
    """u' = factor x (u / unit)^gamma, u being the part of the fleet's capacity that an epoch needs."""

    unit: float
    """Need of the busiest epoch the scaling was fitted to, before scaling."""
    gamma: float
    """1 is a plain factor; below 1 the quiet epochs are raised."""
    factor: float = PEAK_UTILIZATION
    """Need of that epoch after scaling."""

    def apply(self, needed: FloatArray) -> FloatArray:
        """Scaled needs, of any shape; an epoch without requests stays without."""
        relative = needed / self.unit
        bent = relative**self.gamma if self.gamma != 1.0 else relative
        return np.asarray(self.factor * np.where(relative > 0, bent, 0.0))

    def multipliers(self, needed: FloatArray) -> FloatArray:
        """By what the requests of each epoch are multiplied; 0 where there are none. Any shape."""
        return np.asarray(np.divide(self.apply(needed), needed, out=np.zeros_like(needed), where=needed > 0))


def fit_scaling(needed: FloatArray, load: str) -> Scaling:
    """The scaling that brings a 24-hour window to a load.

    The mean is that over the epochs that have requests: a silent epoch stays silent however the rest is bent.

    Args:
        needed: (E,) capacity each epoch needs, as a part of the fleet's, before scaling.
        load: one of ``LOADS``.

    Raises:
        InputError: the load is unknown, the window is empty, or too even to be bent to so low a mean.
    """
    if load not in LOADS:
        raise InputError(f"load {load!r} is not known; there are {', '.join(LOADS)}")
    busy = needed[needed > 0]
    if not busy.size:
        raise InputError("the day has no requests: nothing can be scaled")
    unit = float(busy.max())
    mean = LOADS[load]
    return Scaling(unit, 1.0 if mean is None else _gamma(busy / unit, mean / PEAK_UTILIZATION, load))


def whole_requests(counts: IntArray, multipliers: FloatArray, rng: np.random.Generator) -> IntArray:
    """Scaled requests, whole: the rule by which both engines and the replay thin and replicate.

    Each recorded request is kept floor(m) times, and once more with probability m - floor(m). So below 1 requests are
    thinned and above they are replicated; the expectation is exactly counts x m, and an epoch without requests
    has none.

    Args:
        counts: (...) recorded requests.
        multipliers: (...) m, not negative; broadcast against ``counts``.
        rng: decides about the one more.
    """
    whole = np.floor(multipliers)
    return np.asarray(counts * whole.astype(np.int64) + rng.binomial(counts, multipliers - whole))


def _gamma(relative: FloatArray, mean: float, load: str) -> float:
    """Exponent that gives ``relative`` (in (0, 1]) the mean; by halving, as the mean falls while the exponent grows."""
    low, high = 0.0, _MAX_GAMMA
    if float((relative**high).mean()) > mean + _TOLERANCE:
        raise InputError(f"the day is too even for {load}: its busy epochs cannot be bent to so low a mean; use peak95")
    for _ in range(_GAMMA_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if float((relative**middle).mean()) > mean else (low, middle)
    return (low + high) / 2

"""What a scheme weighs.

The four metrics have four units; they are compared as ratios to what capacity-proportional routing would cost, so
that a weight says how much a percent of one metric is worth in percents of another (marlin-model, section 7).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

Weights = tuple[float, float, float, float]
"""Weight of TTFT, carbon, water and cost; they add up to one."""

_DOMINANT: Final = {Scheme.MIN_TTFT: 0, Scheme.MIN_CARBON: 1, Scheme.MIN_WATER: 2, Scheme.MIN_COST: 3}
OPTION_NAMES: Final = ("ttft", "carbon", "water", "cost")


def scheme_weights(scheme: Scheme, custom: Weights | None = None) -> Weights:
    """The weights of a scheme.

    Raises:
        InputError: ``custom`` is missing for Custom, given for another, negative, not finite, or all zero.
    """
    if (scheme is Scheme.CUSTOM) != (custom is not None):
        raise InputError("weights go with scheme custom, and only with it")
    if custom is not None:
        total = sum(custom)
        if not math.isfinite(total):
            raise InputError("weights must be finite, and so must their sum")
        if min(custom) < 0 or total <= 0:
            raise InputError("weights must not be negative, and one must be above 0")
        return (custom[0] / total, custom[1] / total, custom[2] / total, custom[3] / total)
    if scheme is Scheme.BALANCED:
        return (0.25, 0.25, 0.25, 0.25)
    dominant = _DOMINANT[scheme]
    return (float(dominant == 0), float(dominant == 1), float(dominant == 2), float(dominant == 3))


def parse_weights(text: str) -> Weights:
    """Weights as a person writes them: ``carbon=2,cost=1``.

    Raises:
        InputError: a name is not a metric or stands there twice, or a value is not a number.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in OPTION_NAMES:
            raise InputError(f"weights: {name!r} is not one of {', '.join(OPTION_NAMES)}")
        if name in weights:
            raise InputError(f"weights: {name} is given twice")
        try:
            weights[name] = float(value)
        except ValueError:
            raise InputError(f"weights: {part.strip()!r} should look like {name}=1.5") from None
    ttft, carbon, water, cost = (weights.get(name, 0.0) for name in OPTION_NAMES)
    return scheme_weights(Scheme.CUSTOM, (ttft, carbon, water, cost))


def relative_score(
    metrics: NDArray[np.float64],  # (..., 4)
    reference: NDArray[np.float64],  # (..., 4) broadcastable: the same metrics under capacity-proportional routing
    weights: Weights,
) -> NDArray[np.float64]:
    """Weighted mean of the metrics as ratios to ``reference``; lower is better. Shape ``(...)``.

    A reference of zero (a free hour, a carbon-free grid) cannot be divided by: differences then count in the metric's
    own unit, which keeps their order.
    """
    assert metrics.shape[-1] == len(METRIC_NAMES), metrics.shape
    scale = np.where(np.abs(reference) > 1e-12, np.abs(reference), 1.0)
    score: NDArray[np.float64] = (metrics / scale) @ np.asarray(weights)
    return score

"""An observation (docs/reference/environments.md) as rows of features, one for each (model, site).

Beside what the observation holds, a row says what one more request costs at its site in each metric relative to the
mean of the open sites: what a sort would sort by, so that no network has to learn to multiply. Closed sites and sites
without capacity have rows too; the mask tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.environments import observation
from marlin.simulator.physics import FloatArray

_SITE: Final = ("carbon", "water", "price", "pue")
_BOTH: Final = ("available", "capacity", "rtt", "energy", "backlog", "awake")
_MODEL: Final = (
    "forecast",
    "forecast_low",
    "forecast_high",
    "prompt_tokens",
    "output_tokens",
    "ttft_limit",
    "can_power_down",
)
_RULES: Final = 2
_TIME: Final = 4
RELATIVE: Final = 4
"""Relative costs come first in a row, in the order of METRIC_NAMES."""
_MOST: Final = 4.0
"""Relative costs are clipped to plus and minus this."""
_TINY: Final = 1e-6

FEATURES: Final = RELATIVE + len(_BOTH) + len(_SITE) + len(_MODEL) + _RULES + _TIME
"""R, numbers in a row; the last ones are the time."""


@dataclass(frozen=True, slots=True)
class Rows:
    """N observations of V models and D sites."""

    features: FloatArray  # (N, V, D, R)
    mask: FloatArray  # (N, V, D) 1 where the site may serve the model
    weight: FloatArray  # (N, V, D) share of the model's open capacity: what means over sites are weighted by
    load: FloatArray  # (N, V, D) utilisation of the site if it got all of the model's forecast
    demand: FloatArray  # (N, V) share of the fleet's work: what means over models are weighted by
    utilization: FloatArray  # (N, V) of the open sites if the forecast comes true
    limit: FloatArray  # (N,) utilisation that no site is to exceed
    preference: FloatArray  # (N, 4) of the user, as observed; no part of the features

    @property
    def relative(self) -> FloatArray:
        """(N, V, D, 4) how far one more request is above the mean of the open sites in each metric, in means."""
        return self.features[..., :RELATIVE]

    @property
    def shape(self) -> tuple[int, int, int]:
        """N, V, D."""
        n, v, d = self.mask.shape
        return n, v, d

    def single(self) -> Rows:
        """In single precision."""
        parts: dict[str, FloatArray] = {f.name: getattr(self, f.name).astype(np.float32) for f in fields(self)}
        return Rows(**parts)


def rows_of(observations: NDArray[np.floating[Any]], models: int, sites: int) -> Rows:
    """Rows of observations (N, F).

    Raises:
        ValueError: they are of another fleet's size.
    """
    if observations.ndim != 2 or observations.shape[1] != observation.size(models, sites):
        raise ValueError(
            f"an observation of {models} models and {sites} sites has {observation.size(models, sites)} numbers, not "
            f"{observations.shape[-1]}"
        )
    part = observation.named(np.asarray(observations, dtype=np.float64), models, sites)
    shape = (len(observations), models, sites)
    mask = (part["available"] > 0) & (part["capacity"] > 0)
    open_capacity = part["capacity"] * mask
    total = open_capacity.sum(axis=2, keepdims=True)
    weight = np.divide(open_capacity, total, out=np.zeros(shape), where=total > 0)
    features = np.empty((*shape, FEATURES))
    features[..., :RELATIVE] = _relative(part["marginal"], weight[..., None])
    columns = [
        *(part[name] for name in _BOTH),
        *(part[name][:, None, :] for name in _SITE),
        *(part[name][:, :, None] for name in _MODEL),
        *(part["rules"][:, i, None, None] for i in range(_RULES)),
        *(part["time"][:, i, None, None] for i in range(_TIME)),
    ]
    for place, column in zip(range(RELATIVE, FEATURES), columns, strict=True):
        features[..., place] = column
    load = np.divide(
        np.broadcast_to(part["forecast"][:, :, None], shape), part["capacity"], out=np.zeros(shape), where=mask
    )
    work = part["forecast"] + _TINY
    open_share = total[..., 0]
    return Rows(
        features=features,
        mask=mask.astype(np.float64),
        weight=weight,
        load=load,
        demand=work / work.sum(axis=1, keepdims=True),
        utilization=np.divide(part["forecast"], open_share, out=np.zeros_like(open_share), where=open_share > 0),
        limit=part["rules"][:, 0],
        preference=part["preference"],
    )


def _relative(cost: FloatArray, weight: FloatArray) -> FloatArray:
    """How far costs (N, V, D, 4) are above the open sites' mean, in means of their size: a price may be below zero."""
    mean = (cost * weight).sum(axis=2, keepdims=True)
    size = (np.abs(cost) * weight).sum(axis=2, keepdims=True)
    return np.asarray(np.clip((cost - mean) / np.maximum(size, _TINY), -_MOST, _MOST))

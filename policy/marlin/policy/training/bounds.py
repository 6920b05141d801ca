"""What could be saved at most on the days that judge a training: the clairvoyant oracle's share, for the log.

A bound and never a bar: it knows the requests that will come. It is asked before training and by nobody who learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Scheme
from marlin.policy.yardsticks import clairvoyant
from marlin.simulator.engines import FluidEngine
from marlin.simulator.experiment import Study
from marlin.simulator.fluid import Form

BALANCED: Final = "balanced"
_SCHEMES: Final = (Scheme.MIN_TTFT, Scheme.MIN_CARBON, Scheme.MIN_WATER, Scheme.MIN_COST, Scheme.BALANCED)


def most_saved(fleets: Sequence[Sequence[Study]]) -> Mapping[str, float]:
    """Savings over capacity-proportional routing, by metric and ``balanced``, as agents are judged by them.

    Args:
        fleets: the days of each fleet that judges; a fleet counts as much as another.
    """
    engine = FluidEngine(Form.NUMBA)
    return {
        name: float(
            np.mean(
                [
                    np.mean(
                        [
                            1.0 - clairvoyant(replace(study, seed=day), scheme, engine).value
                            for day, study in enumerate(studies)  # the seeds of the judgement
                        ]
                    )
                    for studies in fleets
                ]
            )
        )
        for name, scheme in zip((*METRIC_NAMES, BALANCED), _SCHEMES, strict=True)
    }

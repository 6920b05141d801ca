"""What figures need of each epoch, kept while an experiment runs: some dozen numbers an epoch.

The time after the last epoch, in which the queue empties, is no epoch and is left out here; summaries count it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from marlin.simulator.experiment import Epoch, Tally
from marlin.simulator.physics import FloatArray


@dataclass(slots=True)
class Recording:
    """A watcher of ``Experiment.run``."""

    start_times: list[datetime] = field(default_factory=list)
    _arrived: list[FloatArray] = field(default_factory=list)
    _metrics: list[FloatArray] = field(default_factory=list)
    _served: list[FloatArray] = field(default_factory=list)
    _energy_kwh: list[FloatArray] = field(default_factory=list)
    _carbon_gco2: list[FloatArray] = field(default_factory=list)

    def __call__(self, epoch: Epoch, tally: Tally) -> None:
        """Keeps one epoch."""
        if epoch.is_run_out:
            return
        outcome = epoch.outcome
        metrics = outcome.metrics.copy()
        if outcome.counted <= 0:
            metrics[0] = np.nan  # nobody waited for a token, which is not the same as waiting for 0 s
        self.start_times.append(epoch.start_time)
        self._arrived.append(epoch.arrived)
        self._metrics.append(metrics)
        self._served.append(outcome.served.sum(axis=0))
        self._energy_kwh.append(outcome.energy_kwh)
        self._carbon_gco2.append(outcome.carbon_gco2)

    @property
    def arrived(self) -> FloatArray:
        """(E, V) requests."""
        return np.array(self._arrived)

    @property
    def metrics(self) -> FloatArray:
        """(E, 4) in the order of ``METRIC_NAMES``; time to first token is NaN where nothing was counted."""
        return np.array(self._metrics)

    @property
    def served(self) -> FloatArray:
        """(E, D) requests of all pools served at each site."""
        return np.array(self._served)

    @property
    def energy_kwh(self) -> FloatArray:
        """(E, D)."""
        return np.array(self._energy_kwh)

    @property
    def carbon_gco2(self) -> FloatArray:
        """(E, D)."""
        return np.array(self._carbon_gco2)

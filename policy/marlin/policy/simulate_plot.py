"""``marlin simulate --plot``: from a finished run to its figures.

The last figure needs runs of its own, one for each way of powering down, of the planner and of capacity-proportional;
the run that was asked for stands in for the one that is the same. Scenarios that took long take up to four times as
long again, and the progress shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from marlin.api.pool import PowerDown
from marlin.policy.figures import FigureFolder, Recording, arrivals, costs, savings, sites
from marlin.policy.planner import Planner
from marlin.policy.simulate_report import heading
from marlin.policy.simulating import Experiment, Watch
from marlin.simulator.experiment import Summary

Progress = Callable[[str], AbstractContextManager[Sequence[Watch]]]
"""Watchers that show how far the run called so is."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run that was recorded."""

    recording: Recording
    summary: Summary


def plot(experiment: Experiment, ran: Ran, against: Ran | None, folder: FigureFolder, progress: Progress) -> list[Path]:
    """Draws and writes the figures.

    Args:
        experiment: what was run.
        ran: the planner's run.
        against: capacity-proportional's, where it was run.
        folder: where they go.
        progress: shows the runs that are still needed.

    Raises:
        MarlinError: the folder cannot be written to.
    """
    from marlin.policy.figures import drawing  # noqa: PLC0415 needs matplotlib

    about, planner = heading(experiment), experiment.scenario.planner
    pools = [pool.metadata.name for pool in experiment.study.builder.pools]
    baseline = None if against is None else (against.recording, against.summary)
    saved = savings(
        planner,
        _each_power_down(experiment, experiment.planner, planner, ran.summary, progress),
        None
        if against is None or experiment.baseline is None
        else _each_power_down(experiment, experiment.baseline, "capacity-proportional", against.summary, progress),
        PowerDown.NONE.value,
    )
    return folder.write(
        {
            "arrivals": drawing.draw_arrivals(arrivals(ran.recording, pools), about),
            "costs": drawing.draw_costs(costs(ran.recording, ran.summary, baseline), planner, about),
            "sites": drawing.draw_sites(sites(ran.recording, experiment.study.builder.places()), about),
            "savings": drawing.draw_savings(saved, planner, about),
        }
    )


def _each_power_down(
    experiment: Experiment, planner: Planner, name: str, known: Summary, progress: Progress
) -> dict[str, Summary]:
    found = {}
    for power_down in PowerDown:
        if power_down is experiment.power_down:
            found[power_down.value] = known
            continue
        with progress(f"{name}, power-down {power_down.value}") as watch:
            found[power_down.value] = experiment.run(planner, watch, power_down)
    return found

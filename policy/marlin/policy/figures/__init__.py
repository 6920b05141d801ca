"""Figures of an experiment, for ``marlin simulate --plot FOLDER``.

A ``Recording`` listens to a run epoch by epoch. ``contents`` turns recordings and summaries into what each figure
shows, as plain values: these are what tests compare with the results. ``drawing`` puts them on paper and is the only
module that knows matplotlib, ``world`` is the map beneath the sites, ``folder`` writes the files. Four figures: what
arrived, what it cost over time, where it was served, and what would have been saved had idle machines powered down.
"""

from marlin.policy.figures.contents import Arrivals, Costs, Savings, Sites, arrivals, costs, savings, sites
from marlin.policy.figures.folder import FigureFolder
from marlin.policy.figures.recording import Recording

__all__ = [
    "Arrivals",
    "Costs",
    "FigureFolder",
    "Recording",
    "Savings",
    "Sites",
    "arrivals",
    "costs",
    "savings",
    "sites",
]

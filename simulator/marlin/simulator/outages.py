"""Sites that get nothing for a while: drained on purpose, failed, or not there at all.

``sg`` is the whole experiment, ``gb@40-56`` its epochs 40 to 56, both included, the first epoch being 0. A planner
knows of a drained site before it plans. It learns of a failed one when the first epoch has passed: its plan for that
epoch still counts on the site, and what goes there spills to the others. A site that is absent, because it joins later
or has left, has no machines and draws nothing. ``marlin simulate`` and scenario files come in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from marlin.api.errors import InputError
from marlin.api.state import FleetState

_WRITTEN: Final = re.compile(r"(?P<site>[a-z0-9][a-z0-9.-]*)(@(?P<first>\d{1,6})(-(?P<last>\d{1,6}))?)?")


@dataclass(frozen=True, slots=True)
class Outage:
    """One site for some epochs."""

    site: str
    first_epoch: int = 0
    last_epoch: int | None = None
    """Included. None: to the end."""

    def holds(self, epoch: int) -> bool:
        """Whether the site is out in this epoch of the experiment, the first being 0."""
        return self.first_epoch <= epoch and (self.last_epoch is None or epoch <= self.last_epoch)


def outage(text: str) -> Outage:
    """``SITE``, ``SITE@EPOCH`` or ``SITE@FIRST-LAST``.

    Raises:
        InputError: it is written otherwise, or ends before it begins.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} is not a site and its epochs; write gb, gb@40 or gb@40-56")
    if found["first"] is None:
        return Outage(found["site"])
    first = int(found["first"])
    last = first if found["last"] is None else int(found["last"])
    if last < first:
        raise InputError(f"{text!r} ends before it begins; write gb@40-56")
    return Outage(found["site"], first, last)


def without(outages: Sequence[Outage], start: datetime, *, known_after: int = 0) -> Callable[[FleetState], FleetState]:
    """A change of the fleet (``experiment.Study.adjust`` or ``surprise``) that takes sites out.

    Args:
        outages: which, and when.
        start: when the experiment's first epoch starts.
        known_after: epochs of an outage that pass before it shows; 1 is what a planner sees of a failure.
    """

    def adjust(state: FleetState) -> FleetState:
        out = _out(outages, start, state, known_after)
        if not out:
            return state
        sites = tuple(
            site.model_copy(update={"is_available": False}) if site.name in out else site for site in state.datacenters
        )
        return state.model_copy(update={"datacenters": sites})

    return adjust


def absent(outages: Sequence[Outage], start: datetime) -> Callable[[FleetState], FleetState]:
    """A change of the fleet that leaves sites where they are listed and takes their machines.

    Shapes stay, so that queues of before and plans keep their meaning; whoever waited is served elsewhere.

    Args:
        outages: which are not there, and when.
        start: when the experiment's first epoch starts.
    """
    closed = without(outages, start)

    def adjust(state: FleetState) -> FleetState:
        out = _out(outages, start, state)
        if not out:
            return state
        sites = tuple(
            site.model_copy(
                update={"node_groups": tuple(group.model_copy(update={"nodes": 0}) for group in site.node_groups)}
            )
            if site.name in out
            else site
            for site in state.datacenters
        )
        pools = tuple(
            pool.model_copy(update={"deployments": tuple(d for d in pool.deployments if d.datacenter not in out)})
            for pool in state.pools
        )
        return closed(state.model_copy(update={"datacenters": sites, "pools": pools}))

    return adjust


def _out(outages: Sequence[Outage], start: datetime, state: FleetState, known_after: int = 0) -> set[str]:
    """Names of the sites that are out in the state's epoch."""
    epoch = round((state.start_time - start).total_seconds() / state.epoch_s)
    return {o.site for o in outages if o.holds(epoch) and epoch >= o.first_epoch + known_after}

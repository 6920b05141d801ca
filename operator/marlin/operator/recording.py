"""What became of each epoch, written down: the fleet as it was planned, the plan, and the requests that came.

A file for each policy, ``NAMESPACE_POLICY.jsonl`` in the folder that ``--record`` names, one epoch a line: what
``marlin report --history`` and ``marlin adapt`` read. An epoch that this process did not plan itself, or of which
routers did not tell for long enough, is left out: a gap says so, a guess would not. Nothing is deleted here; a day of
three sites is about 700 KB. A disk that is full stops no plan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import MarlinError
from marlin.api.history import RecordedEpoch
from marlin.api.plan import RoutingPlan
from marlin.api.policy import Mode
from marlin.api.state import FleetState
from marlin.operator.arrivals.history import Ended
from marlin.operator.core.observed import Key
from marlin.operator.core.planning import Planned
from marlin.operator.core.report import Report
from marlin.policy.history import append
from marlin.simulator.recorded import recorded

_log: Final = logging.getLogger(__name__)

_REMEMBERED: Final = 4
"""Epochs of a policy that were planned and may not be over: the one that runs, the next, and two for late news."""


class Recording:
    """Remembers plans until their epoch is over, then writes.

    Args:
        folder: where the files go; it has to be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._planned: dict[Key, dict[int, tuple[FleetState, RoutingPlan | None]]] = {}
        self._written: dict[Key, int] = {}
        """Policy to the newest epoch that was written."""
        self._problem = ""

    async def heard(self, report: Report, ended: Mapping[Key, Ended]) -> None:
        """A round is over.

        Args:
            report: what it decided.
            ended: policy to what was seen of its newest epoch that is over.
        """
        self._remember(report)
        due = [(key, one) for key, over in ended.items() if (one := self._epoch(key, over)) is not None]
        if due:
            await asyncio.to_thread(self._write, due)

    def _remember(self, report: Report) -> None:
        for policy in report.policies:
            if isinstance(policy.outcome, Planned) and policy.outcome.state is not None:
                plan = policy.outcome.plan
                # Else routers went by capacity, or by what somebody else wrote.
                carried_out = plan if policy.mode == Mode.ENFORCE else None
                plans = self._planned.setdefault(policy.key, {})
                plans[plan.epoch] = policy.outcome.state, carried_out
                for epoch in sorted(plans)[:-_REMEMBERED]:
                    del plans[epoch]
        for key in self._planned.keys() - {policy.key for policy in report.policies}:
            del self._planned[key]

    def _epoch(self, key: Key, over: Ended) -> RecordedEpoch | None:
        """What is to be written of an epoch that is over; nothing of one that was, or of which too little is known."""
        known = self._planned.get(key, {}).get(over.epoch)
        if known is None or self._written.get(key, -1) >= over.epoch:
            return None
        state, plan = known
        if not all(pool.name in over.requests for pool in state.pools):
            return None
        self._written[key] = over.epoch
        return recorded(state, np.array([over.requests[pool.name] for pool in state.pools]), plan)

    def _write(self, due: list[tuple[Key, RecordedEpoch]]) -> None:
        problem = ""
        for key, epoch in due:
            try:
                append(history_file(self._folder, key), [epoch])
            except MarlinError as error:
                problem = str(error)
        if problem and problem != self._problem:
            _log.warning("recording: %s", problem)
        self._problem = problem


def history_file(folder: Path, key: Key) -> Path:
    """Where a policy's epochs are written down. No name of an object has an underscore."""
    return folder / f"{key[0]}_{key[1]}.jsonl"

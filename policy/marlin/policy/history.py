"""Histories as files: one recorded epoch a line, appended by whoever plans, read by whoever learns from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from marlin.api.errors import InputError, MarlinError
from marlin.api.history import RecordedEpoch
from marlin.api.plan import PlannerKind
from marlin.api.state import FleetState
from marlin.policy.planner import Decision, Planner
from marlin.simulator.experiment import Epoch, Tally
from marlin.simulator.recorded import recorded


def read(file: Path, newest: int | None = None) -> list[RecordedEpoch]:
    """A history, the oldest epoch first; of one that is there twice the last one counts.

    A last line that is not whole is left out: whoever appends may be in the middle of it.

    Args:
        file: the history.
        newest: how many of its last lines are read. Default: all.

    Raises:
        InputError: the file cannot be read, holds nothing, or a line of it is no epoch.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            lines = deque(enumerate(opened, start=1), maxlen=newest)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}".splitlines()[0]) from error
    found: dict[int, RecordedEpoch] = {}
    for number, line in lines:
        if not line.strip():
            continue
        try:
            one = RecordedEpoch.model_validate_json(line)
        except ValidationError as error:
            if not line.endswith("\n"):
                break
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{file}: line {number}: {where + ': ' if where else ''}{first['msg']}") from None
        found[one.state.epoch] = one
    if not found:
        raise InputError(f"{file}: holds no recorded epoch")
    return [found[epoch] for epoch in sorted(found)]


def append(file: Path, epochs: Iterable[RecordedEpoch]) -> int:
    """Adds epochs to a history; how many.

    Raises:
        MarlinError: it cannot be written.
    """
    many = 0
    try:
        with file.open("a", encoding="utf-8") as opened:
            for one in epochs:
                opened.write(one.model_dump_json(by_alias=True, exclude_defaults=True) + "\n")
                opened.flush()
                many += 1
    except OSError as error:
        raise MarlinError(f"{file}: cannot be written: {error.strerror or error}") from error
    return many


@dataclass(slots=True)
class Recorder:
    """A planner that is written down: what it was shown, and what came. A file that is there is begun anew."""

    planner: Planner
    file: Path
    _shown: FleetState | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Raises: MarlinError, the file cannot be written."""
        try:
            self.file.write_text("", encoding="utf-8")
        except OSError as error:
            raise MarlinError(f"{self.file}: cannot be written: {error.strerror or error}") from error

    @property
    def kind(self) -> PlannerKind:
        """The planner's."""
        return self.planner.kind

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``."""
        self._shown = state
        return self.planner.decide(state, now=now, deadline_s=deadline_s)

    def watch(self, epoch: Epoch, tally: Tally) -> None:
        """After each epoch of an experiment."""
        if self._shown is not None and not epoch.is_run_out:
            append(self.file, [recorded(self._shown, epoch.arrived, epoch.plan)])

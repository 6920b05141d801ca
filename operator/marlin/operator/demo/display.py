"""What a person sees while a replay runs.

On a terminal: a progress bar per planner with what is sent, answered and failed, the latest plan, and the time to first
token so far. Elsewhere: one plain line per epoch, so that a log stays readable.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from marlin.operator.demo.load import Outcome
from marlin.operator.demo.report import Column, percentile, rows
from marlin.policy.planner import Decision

_LOG_WIDTH = 100


@dataclass(slots=True)
class ReplayDisplay:
    """Progress of one planner's replay."""

    console: Console
    planner: str
    total: int
    compression: float
    hours_per_epoch: float
    sent: int = 0
    answered: int = 0
    failed: int = 0
    _ttft_s: list[float] = field(default_factory=list)
    _progress: Progress | None = None
    _task: Any = None

    def running(self) -> AbstractContextManager[object]:
        """Shows the progress while the block runs."""
        if not self.console.is_terminal:
            return nullcontext()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description:<21}"),
            BarColumn(bar_width=12),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._task = self._progress.add_task(self.planner, total=self.total, note="")
        return self._progress

    def on_sent(self) -> None:
        """A request left."""
        self.sent += 1

    def on_outcome(self, outcome: Outcome) -> None:
        """A request ended."""
        if outcome.error is None:
            self.answered += 1
            if outcome.request.is_stream and outcome.ttft_s is not None:
                self._ttft_s.append(outcome.ttft_s * self.compression)
        else:
            self.failed += 1
        if self._progress is not None:
            self._progress.update(self._task, completed=self.answered + self.failed)

    def on_plan(self, epoch: int, decision: Decision) -> None:
        """A plan was published."""
        plan = decision.plan
        weights = plan.pools[0].weights
        hour = int(epoch * self.hours_per_epoch)
        ttft = f"TTFT p50 {percentile(self._ttft_s, 0.5):.2f} s" if self._ttft_s else ""
        if self._progress is not None:
            shares = "/".join(f"{weight / 100:.0f}" for weight in weights)
            self._progress.update(self._task, note=f"{hour:02d}:00 {shares} % {ttft}")
        else:
            shares = "  ".join(
                f"{name} {weight / 100:.0f}%" for name, weight in zip(plan.datacenters, weights, strict=True)
            )
            self.console.print(
                f"{self.planner}: epoch {epoch + 1}, {hour:02d}:00 UTC: plan {shares}; "
                f"sent {self.sent}, answered {self.answered}, failed {self.failed} {ttft}".rstrip(),
                soft_wrap=True,
                highlight=False,
            )


def make_console(*, is_stdout_taken: bool) -> Console:
    """Where the demo writes. A log has no width of its own: it gets one that the table fits into."""
    console = Console(stderr=is_stdout_taken)
    return console if console.is_terminal else Console(stderr=is_stdout_taken, width=_LOG_WIDTH)


def print_result(console: Console, columns: list[Column], reference: str, notes: list[str]) -> None:
    """The table at the end, and how to read it."""
    table = Table(title="One day of BurstGPT-shaped load, the same requests for each planner", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    for column in columns:
        table.add_column(column.planner, justify="right", overflow="fold")
    for row in rows(columns, reference):
        table.add_row(row.name, row.basis, *row.cells)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)

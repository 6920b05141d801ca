"""What to do with a row that is not as documented: refuse it, or leave it out, count it and say so.

A reader makes one ``RowJudge`` per file and reports each bad row to it. Strict is the default, because a trace with a
hole in it gives figures that look right. With ``skip`` the rows are counted by reason, the result travels with the
trace, and the command line prints ``describe()``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from marlin.api.errors import InputError

MAX_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class BadRows:
    """Rows that were left out of one or more files."""

    by_reason: tuple[tuple[str, int], ...] = ()
    """(reason, rows), the most frequent first."""
    examples: tuple[str, ...] = ()
    """The first few, each as ``file:line: reason``."""

    @property
    def total(self) -> int:
        """Rows left out."""
        return sum(rows for _, rows in self.by_reason)

    def describe(self) -> str:
        """One line for a person; empty when every row was read."""
        if not self.by_reason:
            return ""
        reasons = ", ".join(f"{rows} x {reason}" for reason, rows in self.by_reason)
        noun = "row was" if self.total == 1 else "rows were"
        return f"{self.total} bad {noun} skipped: {reasons}; first {self.examples[0]}"

    def __add__(self, other: BadRows) -> BadRows:
        counted = Counter(dict(self.by_reason))
        counted.update(dict(other.by_reason))
        return BadRows(tuple(counted.most_common()), (self.examples + other.examples)[:MAX_EXAMPLES])


NO_BAD_ROWS: Final = BadRows()


@dataclass(slots=True)
class RowJudge:
    """Hears of every bad row of one file."""

    file: str
    skip: bool
    """Whether bad rows are left out and counted; else the first is refused."""
    _counted: Counter[str] = field(default_factory=Counter)
    _examples: list[str] = field(default_factory=list)

    def bad(self, line: int, reason: str, given: str = "") -> None:
        """Reports a bad row.

        Args:
            line: its line in the file, the first being 1.
            reason: what is wrong, the same words for every row with that mistake.
            given: what the row says there.

        Raises:
            InputError: bad rows are not skipped.
        """
        shown = f" (it says {given[:40]!r})" if given else ""
        message = f"{self.file}:{line}: {reason}{shown}"
        if not self.skip:
            raise InputError(f"{message}; mend the row, or leave such rows out with --skip-bad-rows")
        self._counted[reason] += 1
        if len(self._examples) < MAX_EXAMPLES:
            self._examples.append(message)

    @property
    def found(self) -> BadRows:
        """What was left out so far."""
        return BadRows(tuple(self._counted.most_common()), tuple(self._examples))

"""Which days are learnt from, which ones choose, and which ones are reported on.

A day is a day of the trace with the date whose signals it gets. The three parts are fixed for each trace, so that a
figure says the same whoever makes it, and never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from marlin.api.errors import InputError

WEEK: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Part:
    """Some days of a trace, in a row."""

    first_day: int
    days: int
    first_date: date
    weeks: int = 1
    """Dates that a day can be paired with, in steps of a week."""

    @property
    def start(self) -> datetime:
        """When the first date begins."""
        return datetime.combine(self.first_date, time(tzinfo=UTC))

    @property
    def all_days(self) -> range:
        """The days of the trace."""
        return range(self.first_day, self.first_day + self.days)


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a trace."""

    train: Part
    tune: Part
    report: Part


@dataclass(frozen=True, slots=True)
class Pair:
    """One day to be scored on: of the trace, and the start of the date whose signals it gets."""

    day: int
    start: datetime


BURSTGPT: Final = Split(
    Part(0, 28, date(2023, 6, 12)), Part(28, 7, date(2023, 10, 1)), Part(35, 6, date(2023, 11, 16), weeks=6)
)
"""The whole of it, which needs full data: its 42 local days hold 41 whole days UTC."""

SHIPPED: Final = Split(
    Part(0, 3, date(2023, 6, 12)), Part(3, 2, date(2023, 10, 1)), Part(5, 1, date(2023, 11, 16), weeks=6)
)
"""The six whole days that come with the package: to try the command, not to report from. The shipped artifact was
trained on them."""

AZURE: Final = Split(
    Part(0, 1, date(2023, 6, 12)), Part(0, 3, date(2023, 10, 1)), Part(3, 3, date(2023, 11, 16), weeks=6)
)
"""Azure 2024: tuned on its first three days, reported on its last three. Its static order is learnt on the first."""


def split_of(trace: str, *, has_data: bool) -> Split:
    """The parts of a trace by name.

    Raises:
        InputError: no parts are agreed for it.
    """
    if trace in {"", "burstgpt"}:
        return BURSTGPT if has_data else SHIPPED
    if trace == "azure2024":
        return AZURE
    raise InputError(f"--trace: {trace}: which days choose and which report is agreed for burstgpt and azure2024 only")


def first_of(part: Part, many: int) -> str:
    """So many days of a part, from its first on, as ``chosen`` takes them; all, where it has fewer."""
    return f"{part.first_day}-{part.first_day + min(many, part.days) - 1}"


def chosen(part: Part, wanted: str | None, weeks: int | None) -> tuple[Pair, ...]:
    """Days of a part, each with its dates.

    Args:
        part: whose.
        wanted: first and last day, such as 35-40, or one day. Default: all.
        weeks: dates of each day, in steps of a week. Default: the first.

    Raises:
        InputError: a day is of another part, or there are not so many dates.
    """
    days = part.all_days if wanted is None else _days(wanted, part)
    many = 1 if weeks is None else weeks
    if not 1 <= many <= part.weeks:
        raise InputError(f"--weeks: {many} is not between 1 and {part.weeks}, the dates these days are paired with")
    dates = [(day, part.start + timedelta(days=day - part.first_day)) for day in days]
    return tuple(Pair(day, date_ + week * WEEK) for day, date_ in dates for week in range(many))


def _days(wanted: str, part: Part) -> range:
    first, _, last = wanted.partition("-")
    try:
        days = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"--days: {wanted!r} is not a day such as 36, or days such as 35-40") from None
    outside = [day for day in days if day not in part.all_days]
    if outside or not days:
        known = f"{part.all_days[0]} to {part.all_days[-1]}"
        raise InputError(f"--days: {wanted} is not within {known}; the other days are for learning or for choosing")
    return days

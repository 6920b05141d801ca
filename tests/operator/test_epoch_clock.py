from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from marlin.api.plan import PUBLISH_LEAD_S
from marlin.operator.epochs import Epoch, epoch_at, epoch_to_plan, lead_s, next_due, takes_effect

moments = st.datetimes(datetime(2001, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 hypothesis adds the zone
lengths = st.integers(60, 86_400)


def test_epochs_are_aligned_to_the_clock() -> None:
    epoch = epoch_at(datetime(2026, 5, 4, 12, 3, tzinfo=UTC), 900)
    assert epoch.start == datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert epoch.end == datetime(2026, 5, 4, 12, 15, tzinfo=UTC)


def test_the_next_epoch_is_planned_half_a_minute_before_it_starts() -> None:
    assert epoch_to_plan(datetime(2026, 5, 4, 12, 14, 29, tzinfo=UTC), 900).start.minute == 0
    assert epoch_to_plan(datetime(2026, 5, 4, 12, 14, 30, tzinfo=UTC), 900).start.minute == 15


@given(moments, lengths)
def test_a_moment_lies_in_its_epoch(moment: datetime, length_s: int) -> None:
    epoch = epoch_at(moment, length_s)
    assert epoch.start <= moment < epoch.end


@given(moments, lengths)
def test_a_plan_made_when_due_takes_effect_before_its_epoch_ends_and_never_unannounced(
    now: datetime, length_s: int
) -> None:
    epoch = epoch_to_plan(now, length_s)
    assert now + timedelta(seconds=PUBLISH_LEAD_S) <= takes_effect(epoch, now) < epoch.end


@given(moments, lengths)
def test_looking_again_when_due_finds_the_next_epoch(now: datetime, length_s: int) -> None:
    due = next_due(now, length_s)
    assert now < due <= now + timedelta(seconds=length_s)
    assert epoch_to_plan(due, length_s) == Epoch(epoch_to_plan(now, length_s).number + 1, length_s)
    assert lead_s(length_s) > PUBLISH_LEAD_S

"""How long the watch waits before it starts again."""

from __future__ import annotations

from marlin.operator.kube.watch import FIRST_PAUSE_S, LONGEST_PAUSE_S, next_pause_s


def test_pauses_grow_while_the_watch_ends_at_once_and_begin_anew_after_it_ran_well() -> None:
    pause_s, pauses_s = FIRST_PAUSE_S, []
    for _ in range(9):
        pause_s = next_pause_s(pause_s, pause_s + 0.5)
        pauses_s.append(pause_s)
    assert pauses_s == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert next_pause_s(LONGEST_PAUSE_S, LONGEST_PAUSE_S + 3600.0) == FIRST_PAUSE_S

"""The short form of ``make soak``: everything at once for some seconds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from router_soak import Options, Soaked, soak
from soak_client import ANSWERED, LEFT, LOST, WRONG, Counts


async def test_whatever_happens_each_request_is_answered_or_fails_clearly_and_nothing_stays(tmp_path: Path) -> None:
    options = Options(seconds=8.0, clients=16, plan_interval_s=0.7, kill_interval_s=1.0)
    soaked = await soak(options, tmp_path)
    assert soaked.complaints() == []
    assert soaked.counts.outcomes[ANSWERED] > 100
    assert soaked.plans > 3
    assert soaked.worker_kills == 1
    assert soaked.backend_kills + soaked.backend_stops > 1


def test_each_thing_that_must_not_be_is_complained_of() -> None:
    def of(sent: int = 10, **changes: float) -> list[str]:
        outcomes = Counter({ANSWERED: 9, LEFT: 1})
        soaked = Soaked(Counts(sent, 0, outcomes), router_count=10)
        for name, value in changes.items():
            setattr(soaked, name, value)
        return soaked.complaints()

    assert of() == []
    assert len(of(sent=11)) == 2, "one request has no end, and the router did not see it"
    for changes in ({"router_count": 9}, {"in_flight": 1.0}, {"at_backends": 1}, {"growth_mb": 5.1}, {"more_files": 1}):
        assert len(of(**changes)) == 1, changes
    lost = Soaked(Counts(10, 0, Counter({ANSWERED: 9, LOST: 1})), router_count=10)
    assert len(lost.complaints()) == 1
    wrong = Soaked(Counts(10, 0, Counter({ANSWERED: 9, WRONG: 1}), ["mixed up"]), router_count=10)
    assert wrong.complaints() == ["wrong answer: mixed up"]

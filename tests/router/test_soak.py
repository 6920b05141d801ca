"""The short forms of ``make soak`` and ``make soak-count``: everything at once for some seconds, some thousands."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from router_soak import Options, Soaked, soak
from soak_client import ANSWERED, LEFT, LOST, WRONG, Counts
from soak_count import Counted, Work, count


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


async def test_after_thousands_of_requests_and_of_streams_that_were_left_nothing_stays(tmp_path: Path) -> None:
    counted = await count(Work(requests=4000, left=100), tmp_path)
    assert counted.complaints() == []
    assert counted.work.outcomes["left"] >= 100
    assert set(counted.sizes_mb) == {"control", "worker 0"}


def test_whatever_grows_or_stays_or_is_not_answered_is_complained_of() -> None:
    def of(**changes: object) -> list[str]:
        work = Work(requests=10, left=2, sent=10, streams=2, left_early=1, outcomes=Counter(answered=8, left=2))
        counted = Counted(work, {"worker 0": [20.0, 30.0, *[34.0] * 38]}, router_count=9)
        for name, value in changes.items():
            setattr(counted if hasattr(counted, name) else work, name, value)
        return counted.complaints()

    assert of() == []
    assert len(of(router_count=8)) == len(of(router_count=11)) == 1
    assert len(of(in_flight=1.0)) == len(of(at_backend=1)) == 1
    assert len(of(outcomes=Counter(answered=7, left=2))) == 1
    assert len(of(outcomes=Counter({"answered": 7, "left": 2, "connection lost": 1}))) == 2
    assert of(sizes_mb={"worker 0": [20.0, 30.0, *[34.0] * 37, 35.5]}) == ["worker 0 grew by 5.5 MB"]

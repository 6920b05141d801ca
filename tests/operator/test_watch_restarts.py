"""How long the watch waits before it starts again, that it does, and that a watch whose thread ended is noticed."""

from __future__ import annotations

import threading

import pytest
from aiohttp.test_utils import TestClient, TestServer

from marlin.operator.kube import watch as watching
from marlin.operator.kube.access import Access
from marlin.operator.kube.watch import FIRST_PAUSE_S, LONGEST_PAUSE_S, Watch, next_pause_s
from marlin.operator.running import Operator, Settings
from marlin.operator.serving import pages

HUB = Access("https://hub", "")


def test_pauses_grow_while_the_watch_ends_at_once_and_begin_anew_after_it_ran_well() -> None:
    pause_s, pauses_s = FIRST_PAUSE_S, []
    for _ in range(9):
        pause_s = next_pause_s(pause_s, pause_s + 0.5)
        pauses_s.append(pause_s)
    assert pauses_s == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert next_pause_s(LONGEST_PAUSE_S, LONGEST_PAUSE_S + 3600.0) == FIRST_PAUSE_S


def test_a_watch_that_fails_starts_again_rings_and_hears_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, rung = [], threading.Event()
    hears_well = threading.Event()

    async def run(watch: Watch) -> None:
        runs.append(watch)
        if len(runs) < 3:
            raise OSError("gone")
        hears_well.set()
        watch._stop.wait(30)

    monkeypatch.setattr(Watch, "_run", run)
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.001)
    watch = Watch(HUB, rung.set)
    watch.hearing.take(0.0)
    assert watch.hearing.take(1.0) is not None, "all was looked at: only what is heard is asked for"
    watch.start()
    assert hears_well.wait(30)
    assert watch.restarts == 2
    assert rung.is_set()
    assert watch.is_alive
    watch.hearing.take(2.0)
    watch.stop()
    assert not watch.is_alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_watch_whose_thread_ended_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no supervisor catches: the kubelet has to start the process again."""

    async def run(_: Watch) -> None:
        raise SystemExit

    monkeypatch.setattr(Watch, "_run", run)
    operator = Operator(HUB, Settings("marlin-system", "one"))
    async with TestClient(TestServer(pages(operator))) as client:
        operator.watch = Watch(HUB, lambda: None)
        operator.watch.start()
        assert operator.watch._thread is not None
        operator.watch._thread.join(30)
        assert (await client.get("/healthz")).status == 200, "a standby needs no watch"
        operator.is_leader, operator.leading_since_s = True, 1e12
        answer = await client.get("/healthz")
        assert (answer.status, await answer.text()) == (503, "the watch's thread has ended")
        operator.watch = None
        assert (await client.get("/healthz")).status == 200


def test_a_leader_that_finishes_no_round_is_unhealthy_after_five_minutes() -> None:
    operator = Operator(HUB, Settings("marlin-system", "one"))
    operator.is_leader, operator.leading_since_s = True, 100.0
    assert operator.health(399.0) == ""
    assert operator.health(402.0) == "no round was finished for 302 s"
    operator.last_round_s = 401.0
    assert operator.health(402.0) == ""

"""A worker that is told of several tables before it listens; ``make soak`` found one that failed of it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from router_client import table

from marlin.router.ledger import Ledger
from marlin.router.loads import LoadPage
from marlin.router.messages import Adopt, Begin, Channel, FromWorker, Ready, Stop
from marlin.router.settings import Settings
from marlin.router.tables import read_table, view_of
from marlin.router.worker import Worker

uvloop = pytest.importorskip("uvloop")


def test_tables_that_come_while_it_begins_to_listen_are_taken_and_nothing_fails() -> None:
    async def run() -> list[FromWorker]:
        listener = socket.create_server(("127.0.0.1", 0))
        ours, theirs = socket.socketpair()
        ledger = Ledger(Ledger.create(), is_shared=False)
        worker = Worker(listener, LoadPage(LoadPage.create(1), 1, 0), ledger, lambda _: None)
        running = asyncio.create_task(worker.run(theirs))
        heard: list[FromWorker] = []
        is_ready = asyncio.Event()

        def take(message: FromWorker) -> None:
            heard.append(message)
            is_ready.set()

        channel = Channel(FromWorker, take, is_ready.set)
        await channel.open(ours)
        channel.send(Begin(Settings(config=Path("table.json"), has_access_log=False)))
        for generation in range(1, 9):
            document = table("http://127.0.0.1:1", generation=generation)
            parsed = read_table(json.dumps(document), "table.json", None)
            channel.send(Adopt.of(view_of(parsed, None, None, str), (0,)))
        await asyncio.wait_for(is_ready.wait(), 10)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done(), "it has ended, as a worker does that failed"
        channel.send(Stop())
        await asyncio.wait_for(running, 10)
        channel.close()
        ledger.close()
        return heard

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard = runner.run(run())
    assert heard == [Ready()]

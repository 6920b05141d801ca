"""Millions of requests and thousands of streams that are left: ``soak_count.py`` (``make soak-count``).

What grows by a few bytes for each request is not seen in half an hour of mixed load, whose clients cost more than the
router. These cost little: they send eight requests at once, look at no more of the answers than their statuses and
their end, and every eighth request has a request id, a trace, a session and a response's id that never come again. Now
and then one of them leaves a stream instead: at once, or after some events. From the first twentieth on, the router's
processes may grow by 5 MB; in the end its counters and the backend's are zero, and every request has been counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import aiohttp
import uvloop
from router_client import table
from router_process import RouterProcess, running
from soak_measures import drained, free_ports, rss_mb, sum_of, workers_of

MAX_GROWTH_MB: Final = 5.0
SETTLED: Final = 0.05
"""Of the run: what the processes have grown to by then counts as their size."""
SAMPLES: Final = 400
CLIENTS: Final = 48
EVENTS_PACE_S: Final = 0.005
START_TIMEOUT_S: Final = 60.0
LISTENING: Final = b"listening\n"

_PATHS: Final = (b"/v1/chat/completions", b"/v1/chat/completions", b"/v1/completions", b"/v1/responses")
_REQUEST: Final = (
    b"POST %b HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\nx-request-id: request-%012d\r\n"
    b"traceparent: 00-%032x-%016x-01\r\nContent-Length: %d\r\n\r\n"
)
_BODY: Final = (
    b'{"model":"m","prompt_cache_key":"session-%012d","stream":%b,"messages":[{"role":"user","content":"'
    + b"word " * 100
    + b'"}]}'
)
_ANSWER: Final = (
    b'{"id":"resp_%012d","object":"chat.completion","choices":[{"index":0,"text":"Once upon a time"}],'
    b'"usage":{"prompt_tokens":100,"total_tokens":164,"completion_tokens":64}}'
)
_EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END: Final = b"}}"


class Backend(asyncio.Protocol):
    """A connection of the router's: JSON at once, or events until the router hangs up."""

    streams: ClassVar[int] = 0
    answered: ClassVar[int] = 0
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""
        self._is_streaming = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The router has come."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answers a request that has arrived whole; the router sends one at a time."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length: ")
        length = int(head[at + 16 :].partition(b"\r")[0]) if at >= 0 else 0
        if not separator or len(body) < length:
            return
        self._buffer = b""
        if b'"stream":true' in body:
            Backend.streams += 1
            self._is_streaming = True
            self.transport.write(_STREAM_HEAD)
            self._next_event()
            return
        Backend.answered += 1
        content = b'{"streams":%d}' % Backend.streams if head.startswith(b"GET /soak ") else _ANSWER % Backend.answered
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
        self.transport.write(head + content)

    def _next_event(self) -> None:
        if self._is_streaming:
            self.transport.write(_CHUNK)
            asyncio.get_running_loop().call_later(EVENTS_PACE_S, self._next_event)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has hung up."""
        Backend.streams -= self._is_streaming
        self._is_streaming = False


@dataclass(slots=True)
class Work:
    """What is to be sent, and what became of it."""

    requests: int
    left: int
    sent: int = 0
    streams: int = 0
    """Of ``sent``."""
    left_early: int = 0
    """Of those: left before anything came back, so that the router may not have read the request."""
    outcomes: Counter[str] = field(default_factory=Counter)
    ends_s: float = math.inf
    """When the last is sent, whatever is left to send; on the monotonic clock."""
    open_clients: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def next_is_stream(self) -> bool:
        """Streams are spread evenly over the run."""
        return self.streams * self.requests < self.left * self.sent

    @property
    def is_sent(self) -> bool:
        """Whether there is nothing left to send, or no time."""
        return self.sent >= self.requests or time.monotonic() >= self.ends_s


def request_of(number: int, *, is_stream: bool = False) -> bytes:
    """A request that is like no other of another number."""
    body = _BODY % (number, b"true" if is_stream else b"false")
    return _REQUEST % (_PATHS[number % len(_PATHS)], number, number, number, len(body)) + body


BATCH: Final = 8
_OTHERS: Final = b"".join(request_of(number) for number in range(BATCH - 1))


class Client(asyncio.Protocol):
    """A connection that sends its next requests as soon as the last are answered, and ends where it leaves a stream."""

    transport: asyncio.Transport

    def __init__(self, work: Work, port: int) -> None:
        self._work = work
        self._port = port
        self._received = b""
        self._events_to_see = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends its first request."""
        self.transport = cast("asyncio.Transport", transport)
        self._work.open_clients += 1
        self._send()

    def _send(self) -> None:
        work = self._work
        if work.is_sent:
            self.transport.close()
            return
        if work.next_is_stream():
            work.sent += 1
            work.streams += 1
            self.transport.write(request_of(work.sent, is_stream=True))
            self._events_to_see = work.streams % 3 * 2  # at once, after two events, after four
            if not self._events_to_see:
                work.left_early += 1
                self._leave()
            return
        work.sent += BATCH
        self.transport.write(request_of(work.sent) + _OTHERS)

    def _leave(self) -> None:
        self._work.outcomes["left"] += 1
        self._events_to_see = -2
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Waits for the end of an answer, or for the events after which it leaves."""
        if self._events_to_see == -2:
            return
        self._received += data
        if self._events_to_see >= 0:
            if self._received.count(b"data: ") >= self._events_to_see:
                self._leave()
        elif data.endswith(_END) and self._received.count(b"HTTP/1.1 ") == BATCH:
            received, self._received = self._received, b""
            well = received.count(b"HTTP/1.1 200 OK\r\n")
            self._work.outcomes["answered"] += well
            if well < BATCH:
                self._work.outcomes[f"answered otherwise, as in {received[:300]!r}"] += BATCH - well
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is taken by another while there is something to send."""
        work = self._work
        work.open_clients -= 1
        if self._events_to_see != -2 and not work.is_sent:
            work.outcomes[f"connection lost: {exc!r}"] += 1
        if not work.is_sent:
            self._replace()
        elif not work.open_clients:
            work.is_over.set()

    def _replace(self) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.create_connection(lambda: Client(self._work, self._port), "127.0.0.1", self._port))
        _dialling.add(task)
        task.add_done_callback(_dialling.discard)


_dialling: set[asyncio.Task[Any]] = set()


@dataclass(slots=True)
class Counted:
    """What came of it."""

    work: Work
    sizes_mb: dict[str, list[float]] = field(default_factory=dict)
    router_count: int = 0
    in_flight: float = 0.0
    at_backend: int = 0
    seconds: float = 0.0

    def growth_mb(self, process: str) -> float:
        """The most that a process was larger by than when it had settled."""
        sizes_mb = self.sizes_mb[process]
        settled = max(1, int(SETTLED * len(sizes_mb)))
        return max(sizes_mb[settled:], default=0.0) - max(sizes_mb[:settled], default=0.0)

    def complaints(self) -> list[str]:
        """What must not be; empty when all is well."""
        work = self.work
        found = [f"{n} {what}" for what, n in work.outcomes.items() if what not in {"answered", "left"}]
        if work.outcomes["answered"] + work.outcomes["left"] != work.sent:
            found.append(f"{work.sent} requests were sent, {work.outcomes.total()} ended")
        if not work.sent - work.left_early <= self.router_count <= work.sent:
            found.append(f"the router counted {self.router_count} requests of {work.sent}")
        if self.in_flight or self.at_backend:
            found.append(f"still in flight: {self.in_flight:g} by the router's count, {self.at_backend} at the backend")
        for process in self.sizes_mb:
            if (growth_mb := self.growth_mb(process)) > MAX_GROWTH_MB:
                found += [f"{process} grew by {growth_mb:.1f} MB"]
        return found

    def lines(self) -> list[str]:
        """The figures, for people."""
        work = self.work
        sizes = "; ".join(
            f"{process} {sizes_mb[-1]:.1f} MB at the end, {self.growth_mb(process):+.1f} MB at most since it settled"
            for process, sizes_mb in self.sizes_mb.items()
        )
        return [
            f"sent {work.sent} in {self.seconds:.0f} s: {work.outcomes['answered']} answered, "
            f"{work.outcomes['left']} streams left ({work.left_early} at once)",
            f"counted by the router {self.router_count}; in flight at the end {self.in_flight:g}, "
            f"at the backend {self.at_backend}",
            sizes,
        ]


async def count(work: Work, folder: Path, workers: int = 1) -> Counted:
    """Sends it all."""
    (port,) = free_ports(1)
    command = (sys.executable, __file__, "--backend", str(port))
    backend = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert backend.stdout is not None
    counted = Counted(work)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            assert await backend.stdout.readline() == LISTENING, "the backend did not start"
        document = table(f"http://127.0.0.1:{port}")
        async with running(folder, document, "--workers", str(workers), "--log-format", "json") as router:
            log = asyncio.create_task(drained(router))
            try:
                await _send_all(counted, router)
                await _settle(counted, router, port)
            finally:
                log.cancel()
                await asyncio.gather(log, return_exceptions=True)
    finally:
        backend.kill()
        await backend.wait()
    return counted


async def _send_all(counted: Counted, router: RouterProcess) -> None:
    work, port = counted.work, int(router.url.rsplit(":", 1)[1])
    loop = asyncio.get_running_loop()
    began_s = time.monotonic()
    for _ in range(min(CLIENTS, work.requests)):
        await loop.create_connection(lambda: Client(work, port), "127.0.0.1", port)
    pids = {"control": router.process.pid}
    pids |= {f"worker {row}": pid for row, pid in enumerate(workers_of(router))}
    sampled = 0
    over = asyncio.create_task(work.is_over.wait())
    while not over.done():
        await asyncio.wait({over}, timeout=0.05)
        if work.sent * SAMPLES >= sampled * work.requests:
            sampled = work.sent * SAMPLES // work.requests + 1
            if sampled % (SAMPLES // 20) == 1:
                print(f"{work.sent} after {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
            for process, pid in pids.items():
                counted.sizes_mb.setdefault(process, []).append(rss_mb(pid))
    counted.seconds = time.monotonic() - began_s


async def _settle(counted: Counted, router: RouterProcess, port: int) -> None:
    """Waits until the router has noticed that everybody has gone."""
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            async with session.get(f"{router.admin_url}/metrics") as reply:
                text = await reply.text()
            async with session.get(f"http://127.0.0.1:{port}/soak") as reply:
                counted.at_backend = json.loads(await reply.read())["streams"]
            counted.in_flight = sum_of(text, "marlin_router_in_flight")
            counted.router_count = round(sum_of(text, "marlin_router_requests_total"))
            if not counted.in_flight and not counted.at_backend:
                break
            await asyncio.sleep(0.1)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=4096)
    sys.stdout.buffer.write(LISTENING)  # a router may be ready sooner than this process
    sys.stdout.buffer.flush()
    await server.serve_forever()


def main(arguments: list[str]) -> int:
    """Runs it and prints what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make soak-count", description="Millions of requests, streams that are left.")
    parser.add_argument("--requests", type=int, default=10_000_000, help="how many in all (default: ten million)")
    parser.add_argument("--left", type=int, default=100_000, help="streams among them (default: a hundred thousand)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends then, however many it were")
    parser.add_argument("--workers", type=int, default=1, help="the router's (default: 1)")
    parser.add_argument("--backend", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.backend:
        uvloop.run(_serve(chosen.backend))
        return 0
    with tempfile.TemporaryDirectory(prefix="marlin-soak-") as folder:
        work = Work(chosen.requests, chosen.left, ends_s=time.monotonic() + 60 * chosen.minutes)
        counted = uvloop.run(count(work, Path(folder), chosen.workers))
    print("\n".join(counted.lines()))
    complaints = counted.complaints()
    print("\n".join(complaints[:40]) or "all well", file=sys.stderr if complaints else sys.stdout)
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A backend whose behaviour a test sets, and which tells what it saw.

A raw asyncio server rather than a web framework: the router's tests need to see and send exact bytes, to stop in the
middle, and to notice a client that hangs up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(slots=True)
class Seen:
    """One request as it arrived."""

    head: bytes
    body: bytes

    @property
    def request_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """An empty JSON object."""
    writer.write(OK)


def reply(raw: bytes) -> Behaviour:
    """Always these bytes."""

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return behave


@dataclass(slots=True)
class FakeBackend:
    """Listens on a loopback port for as long as the block runs."""

    behaviour: Behaviour = answer_ok
    metrics: bytes = b""
    """What it answers on /metrics."""
    asked: int = 0
    """How often it was asked for them."""
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request is there."""
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed its connection before it was answered in full."""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> FakeBackend:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (seen := await _read(reader)) is not None:
                if b"GET /health" in seen.head:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                if b"GET /metrics" in seen.head:
                    self.asked += 1
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.metrics), self.metrics))
                    continue
                self.seen.append(seen)
                self.arrived.set()
                serving = asyncio.ensure_future(self.behaviour(seen, writer))
                leaving = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not serving.done():
                    self.hung_up.set()
                    serving.cancel()
                    await asyncio.gather(serving, return_exceptions=True)
                    return
                serving.result()
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            self._tasks.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
    )
    return Seen(head[:-4], await reader.readexactly(length) if length else b"")

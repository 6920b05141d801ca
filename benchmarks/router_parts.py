"""The other programs of the router's benchmark, each a process of its own: ``router_parts.py ROLE ARGUMENTS``.

    upstream PORT               answers like a vLLM: JSON, or events as fast as they go or one every DELAY ms
    pass PORT UPSTREAM_PORT     the reference: what one Python thread pays to pass requests on and do little else
    load                        runs closed loops of clients, one for each line it is given, and says what came back

The reference reads the request's JSON, keeps connections to the upstream, counts what is in flight, passes bytes on,
tells the upstream when a client leaves, and sends a request again that could not be sent; it has no plan, no metrics,
no log, no time-outs and no limits. What a router costs beyond it is what those cost.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections import deque
from functools import partial
from typing import ClassVar, cast

import uvloop
from httptools import HttpResponseParser

EVENTS = 64
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STAMP = b'"created":'
STAMP_DIGITS = 16
STAMPED = EVENT.replace(b'"created":1700000000', b'"created":%0*d')
"""An event that says when it was sent, on the system's monotonic clock, ns."""
LAST_CHUNKS = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
END = b"\r\n0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
REPLY_BODY = (
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1700000000,"model":"bench","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Once upon a time a router sat between client and engine."},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"total_tokens":264,"completion_tokens":64}}'
)
REPLY = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(REPLY_BODY),
    REPLY_BODY,
)


def request_of(*, is_stream: bool, delay_ms: float, events: int) -> bytes:
    """A request with a body of 1,000 bytes."""
    body: dict[str, object] = {"model": "bench", "stream": is_stream, "delay_ms": delay_ms, "events": events}
    body["messages"] = [{"role": "user", "content": ""}]
    body["messages"] = [{"role": "user", "content": "x" * (1000 - len(json.dumps(body)))}]
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer sk-bench\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Connection(asyncio.Protocol):
    """One that keeps its transport."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.Transport", transport)


class Whole(Connection):
    """A server's connection that collects one whole request after another."""

    def __init__(self) -> None:
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Takes complete requests off the buffer."""
        self.buffer += data
        while (request := self._next()) is not None:
            self.answer(*request)

    def _next(self) -> tuple[bytes, bytes] | None:
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        at = self.buffer.lower().find(b"content-length:", 0, end)
        length = int(self.buffer[at + 15 : self.buffer.find(b"\r", at)]) if at >= 0 else 0
        if len(self.buffer) < end + length:
            return None
        whole, self.buffer = self.buffer[: end + length], self.buffer[end + length :]
        return whole, whole[end:]

    def answer(self, whole: bytes, body: bytes) -> None:
        """Answers a request."""
        raise NotImplementedError


class Upstream(Whole):
    """A backend."""

    paces: ClassVar[dict[float, Pace]] = {}

    def answer(self, whole: bytes, body: bytes) -> None:
        """Answers as the request's body asks for."""
        wanted = json.loads(body) if body else {}
        if not wanted.get("stream"):
            self.transport.write(REPLY)
            return
        if delay_ms := wanted["delay_ms"]:
            self.transport.write(STREAM_HEAD)
            if delay_ms not in self.paces:
                self.paces[delay_ms] = Pace(delay_ms / 1000)
            self.paces[delay_ms].add(self, wanted["events"])
            return
        self._send_at_once([STREAM_HEAD, *[CHUNK] * wanted["events"], LAST_CHUNKS])

    def _send_at_once(self, parts: list[bytes]) -> None:
        """Sends each part by itself, as engines do, that have one token at a time; the loop would join them."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        for at, part in enumerate(parts):
            try:
                sent = os.write(descriptor, part)
            except BlockingIOError:
                sent = 0
            if sent < len(part):
                self.transport.write(b"".join([part[sent:], *parts[at + 1 :]]))
                return


class Pace:
    """All streams of one pace: whose turn is next is a queue, so that an event costs little more than its write."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._turns: deque[tuple[float, Upstream, int]] = deque()
        self._loop = asyncio.get_running_loop()

    def add(self, stream: Upstream, events: int) -> None:
        """The first event of a stream is sent at once."""
        self._send(stream, events)
        if len(self._turns) == 1:
            self._loop.call_at(self._turns[0][0], self._take_turns)

    def _send(self, stream: Upstream, left: int) -> None:
        if stream.transport.is_closing():
            return
        if not left:
            stream.transport.write(LAST_CHUNKS)
            return
        event = STAMPED % (STAMP_DIGITS, time.monotonic_ns())
        stream.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._turns.append((self._loop.time() + self._delay_s, stream, left - 1))

    def _take_turns(self) -> None:
        turns, now_s = self._turns, self._loop.time()
        while turns and turns[0][0] <= now_s:
            _, stream, left = turns.popleft()
            self._send(stream, left)
        if turns:
            self._loop.call_at(turns[0][0], self._take_turns)


class Backend:
    """The reference's upstream."""

    port = 0
    in_flight = 0
    idle: ClassVar[list[Beyond]] = []


class Beyond(Connection):
    """The reference's connection to the upstream."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.client: Reference | None = None
        self.has_begun = False

    def send(self, client: Reference, whole: bytes) -> None:
        """Passes a request on."""
        self.client = client
        self.has_begun = False
        self.parser = HttpResponseParser(self)
        self.backend.in_flight += 1
        self.transport.write(whole)

    def data_received(self, data: bytes) -> None:
        """Passes bytes of the reply on."""
        if self.client is None:
            self.transport.close()
            return
        self.has_begun = True
        self.client.transport.write(data)
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The reply has ended."""
        client, self.client = self.client, None
        self.backend.in_flight -= 1
        if self.parser.should_keep_alive():
            self.backend.idle.append(self)
        else:
            self.transport.close()
        if client is not None:
            client.link = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The upstream has gone: the client is told so, or its request sent again."""
        if self in self.backend.idle:
            self.backend.idle.remove(self)
        client, self.client = self.client, None
        if client is not None:
            self.backend.in_flight -= 1
            if self.has_begun:
                client.transport.abort()
            else:
                client.go()


class Reference(Whole):
    """The reference's connection to a client."""

    backends: ClassVar[list[Backend]] = [Backend()]

    def __init__(self) -> None:
        super().__init__()
        self.link: Beyond | None = None
        self.whole = b""

    def answer(self, whole: bytes, body: bytes) -> None:
        """Passes the request on."""
        json.loads(body)["model"]
        self.whole = whole
        self.go()

    def go(self) -> None:
        """Sends the request to the backend that has least to do, at once or when there is a connection."""
        backend = min(self.backends, key=lambda one: one.in_flight) if len(self.backends) > 1 else self.backends[0]
        while backend.idle:
            link = backend.idle.pop()
            if not link.transport.is_closing():
                self.link = link
                link.send(self, self.whole)
                return
        self.dialling = asyncio.get_running_loop().create_task(self._dial(backend))

    async def _dial(self, backend: Backend) -> None:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: Beyond(backend), "127.0.0.1", backend.port)
        if self.transport.is_closing():
            backend.idle.append(link)
            return
        self.link = link
        link.send(self, self.whole)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: so does its request at the upstream."""
        link, self.link = self.link, None
        if link is not None and link.client is self:
            link.client = None
            link.backend.in_flight -= 1
            link.transport.abort()


class Round:
    """What the clients of one round saw since it was counted last."""

    def __init__(self) -> None:
        self.replies = self.events = self.errors = 0
        self.first_event_ms: list[float] = []
        self.transit_ms: list[float] = []

    def to_json(self) -> str:
        """A line for whoever asked."""
        figures: dict[str, float] = {"replies": self.replies, "events": self.events, "errors": self.errors}
        for name, values in (("first_event", self.first_event_ms), ("transit", self.transit_ms)):
            ranked = sorted(values)
            for percent in (50, 99):
                if ranked:
                    figures[f"{name}_p{percent}_ms"] = ranked[len(ranked) * percent // 100]
        return json.dumps(figures)


_LOOK_AT = 8
"""Of so many reads of paced events one is looked at for the time its event was sent."""


class Client(Connection):
    """A client that sends its next request when the reply to the last one is complete."""

    def __init__(self, options: dict[str, float], number: int) -> None:
        self.is_stream = bool(options["stream"])
        self.is_paced = bool(options["delay_ms"])
        events = int(options.get("events", EVENTS))
        self.request = self._asking_for(options, events)
        self.first_request = self._asking_for(options, 1 + number % events) if options.get("spread") else self.request
        self.received = b""
        self.reads = 0
        self.round = Round()

    def _asking_for(self, options: dict[str, float], events: int) -> bytes:
        return request_of(is_stream=self.is_stream, delay_ms=options["delay_ms"], events=events)

    def begin(self) -> None:
        """Sends the first request: a shorter stream than the others where streams are to begin at any time.

        Otherwise all begin, and end, at once, again and again, and a round sees more or fewer beginnings by chance.
        """
        self._send(self.first_request)

    def _send(self, request: bytes) -> None:
        self.sent_ns = time.monotonic_ns() if self.is_paced else 0
        self.reads = 0
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Waits for the end."""
        if self.is_stream:
            self.round.events += data.count(b"data: {")
            # The end may come by itself; a head may end with the same bytes, but for the line end before them.
            self.received = (self.received + data)[-len(END) :]
            is_whole = self.received == END
            if self.is_paced:
                self._look(data)
        else:
            self.received += data
            is_whole = self.received.endswith(REPLY_BODY)
        if is_whole:
            self.round.errors += not self.is_stream and not self.received.startswith(b"HTTP/1.1 200")
            self.round.replies += 1
            self.received = b""
            self._send(self.request)

    def _look(self, data: bytes) -> None:
        at = data.rfind(STAMP)
        if at < 0:
            return
        self.reads += 1
        now_ns = time.monotonic_ns()
        if self.reads == 1:
            self.round.first_event_ms.append((now_ns - self.sent_ns) / 1e6)
        elif self.reads % _LOOK_AT == 0:
            at += len(STAMP)
            self.round.transit_ms.append((now_ns - int(data[at : at + STAMP_DIGITS])) / 1e6)


async def serve(protocol: type[Connection], port: int) -> None:
    """Serves until ended."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def load() -> None:
    """Runs a round for each line of JSON: says ``go`` when its clients are at it, and later what came back."""
    loop = asyncio.get_running_loop()
    gc.freeze()
    for line in sys.stdin:
        options = json.loads(line)
        clients = []
        for number in range(int(options["clients"])):
            _, client = await loop.create_connection(
                partial(Client, options, number), "127.0.0.1", int(options["port"])
            )
            clients.append(client)
            client.begin()
        await asyncio.sleep(options["warm_s"])
        counted = Round()
        for client in clients:
            client.round = counted
        print("go", flush=True)
        await asyncio.sleep(options["seconds"])
        print(counted.to_json(), flush=True)
        for client in clients:
            client.transport.abort()
        await asyncio.sleep(0.05)


def main(arguments: list[str]) -> None:
    """Runs a role."""
    role = arguments[0]
    if role == "upstream":
        uvloop.run(serve(Upstream, int(arguments[1])))
    elif role == "pass":
        Reference.backends[0].port = int(arguments[2])
        uvloop.run(serve(Reference, int(arguments[1])))
    else:
        uvloop.run(load())


if __name__ == "__main__":
    main(sys.argv[1:])

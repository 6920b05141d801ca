"""The other programs of the router's benchmark, each a process of its own: ``router_parts.py ROLE ARGUMENTS``.

    upstream PORT               answers like a vLLM: JSON, or events as fast as they go or one every DELAY ms
    pass PORT UPSTREAM_PORT     the reference: what one Python thread pays to pass requests on and do nothing else
    load PORT JSON              a closed loop of clients; prints how many replies and events there were

The reference reads the request's JSON, keeps connections to the upstream and passes bytes on; it has no plan, no
metrics, no log, no retry and no limits. What a router costs beyond it is what those cost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import ClassVar, cast

import uvloop
from httptools import HttpResponseParser

EVENTS = 64
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
LAST_CHUNKS = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
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


def request_of(*, is_stream: bool, delay_ms: float) -> bytes:
    """A request with a body of 1,000 bytes."""
    body = {"model": "bench", "stream": is_stream, "delay_ms": delay_ms, "messages": [{"role": "user", "content": ""}]}
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

    def answer(self, whole: bytes, body: bytes) -> None:
        """Answers as the request's body asks for."""
        wanted = json.loads(body) if body else {}
        if not wanted.get("stream"):
            self.transport.write(REPLY)
            return
        self.transport.write(STREAM_HEAD)
        if wanted["delay_ms"]:
            self._pace(EVENTS, wanted["delay_ms"] / 1000)
            return
        for _ in range(EVENTS):
            self.transport.write(CHUNK)
        self.transport.write(LAST_CHUNKS)

    def _pace(self, left: int, delay_s: float) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(CHUNK if left else LAST_CHUNKS)
        if left:
            asyncio.get_running_loop().call_later(delay_s, self._pace, left - 1, delay_s)


class Beyond(Connection):
    """The reference's connection to the upstream."""

    def __init__(self, idle: list[Beyond]) -> None:
        self.idle = idle
        self.client: Reference | None = None

    def send(self, client: Reference, whole: bytes) -> None:
        """Passes a request on."""
        self.client = client
        self.parser = HttpResponseParser(self)
        self.transport.write(whole)

    def data_received(self, data: bytes) -> None:
        """Passes bytes of the reply on."""
        if self.client is not None:
            self.client.transport.write(data)
            self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """The reply has ended."""
        self.client = None
        self.idle.append(self)


class Reference(Whole):
    """The reference's connection to a client."""

    idle: ClassVar[list[Beyond]] = []
    upstream_port = 0

    def answer(self, whole: bytes, body: bytes) -> None:
        """Passes the request on, at once or when there is a connection."""
        json.loads(body)["model"]
        if self.idle:
            self.idle.pop().send(self, whole)
        else:
            self.dialling = asyncio.get_running_loop().create_task(self._dial(whole))

    async def _dial(self, whole: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: Beyond(self.idle), "127.0.0.1", self.upstream_port)
        link.send(self, whole)


class Client(Connection):
    """A client that sends its next request when the reply to the last one is complete."""

    replies = 0
    events = 0
    errors = 0

    def __init__(self, request: bytes, *, is_stream: bool) -> None:
        self.request = request
        self.is_stream = is_stream
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        super().connection_made(transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Waits for the end."""
        if self.is_stream:
            Client.events += data.count(b"data: {")
            is_whole = data.endswith(b"0\r\n\r\n")
        else:
            self.received += data
            is_whole = self.received.endswith(REPLY_BODY)
        if is_whole:
            Client.errors += not self.is_stream and not self.received.startswith(b"HTTP/1.1 200")
            Client.replies += 1
            self.received = b""
            self.transport.write(self.request)


async def serve(protocol: type[Connection], port: int) -> None:
    """Serves until ended."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def load(port: int, options: dict[str, float]) -> None:
    """Runs the clients for ``seconds`` and prints what came back; ``started_s`` is the system's monotonic clock."""
    loop = asyncio.get_running_loop()
    is_stream = bool(options["stream"])
    request = request_of(is_stream=is_stream, delay_ms=options["delay_ms"])
    for _ in range(int(options["clients"])):
        await loop.create_connection(lambda: Client(request, is_stream=is_stream), "127.0.0.1", port)
    started_s = time.monotonic()
    await asyncio.sleep(options["seconds"])
    result = {"replies": Client.replies, "events": Client.events, "errors": Client.errors, "started_s": started_s}
    print(json.dumps(result), flush=True)


def main(arguments: list[str]) -> None:
    """Runs a role."""
    role, port = arguments[0], int(arguments[1])
    if role == "upstream":
        uvloop.run(serve(Upstream, port))
    elif role == "pass":
        Reference.upstream_port = int(arguments[2])
        uvloop.run(serve(Reference, port))
    else:
        uvloop.run(load(port, json.loads(arguments[2])))


if __name__ == "__main__":
    main(sys.argv[1:])

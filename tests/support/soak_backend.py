"""A backend for the soak, a process of its own so that it can be killed: ``soak_backend.py PORT SEED``.

It answers as the request's body asks for, echoes the request's ``id`` in every reply and event, so that an answer that
reaches the wrong client is seen, and misbehaves now and then by itself: 503, hanging up before the reply, dying in the
middle of it. ``/soak`` tells how many requests it is working on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from typing import Any, ClassVar, cast

DONE = b"data: [DONE]\n\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 18\r\n\r\n" + b'{"error":{"x":{}}}'


class Backend(asyncio.Protocol):
    """A connection of a router."""

    random: ClassVar[Random]
    in_flight: ClassVar[int] = 0
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A router has come."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and with it whoever waited for an answer."""
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        """Answers a request that has arrived whole."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if not separator or len(body) < length:
            return
        self._buffer = b""
        path = head.split(b" ", 2)[1]
        if path == b"/health":
            self._send_json({})
        elif path == b"/metrics":
            text = b"vllm:num_requests_running %d\nvllm:num_requests_waiting 0\n" % Backend.in_flight
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
        elif path == b"/soak":
            self._send_json({"in_flight": Backend.in_flight})
        else:
            self._answering = asyncio.get_running_loop().create_task(self._answer(json.loads(body)))

    def _send_json(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        self.transport.write(head + text)

    async def _answer(self, wanted: dict[str, Any]) -> None:
        Backend.in_flight += 1
        try:
            fate = self.random.random()
            if fate < 0.01:
                self.transport.write(_BUSY)
            elif fate < 0.015:
                self.transport.close()
            elif wanted.get("stream"):
                await self._stream(wanted, dies_at=2 if fate < 0.025 else None)
            else:
                await asyncio.sleep(wanted["pace_s"])
                usage = {"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3}
                self._send_json({"id": wanted["id"], "text": "x" * wanted["size"], "usage": usage})
        finally:
            Backend.in_flight -= 1
            self._answering = None

    async def _stream(self, wanted: dict[str, Any], dies_at: int | None) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(wanted["events"]):
            if number == dies_at:
                self.transport.abort()
                return
            event = b"data: " + json.dumps({"id": wanted["id"], "n": number, "text": "x" * wanted["size"]}).encode()
            self.transport.write(b"%x\r\n%b\n\n\r\n" % (len(event) + 2, event))
            await asyncio.sleep(wanted["pace_s"])
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE))


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    Backend.random = Random(int(sys.argv[2]))
    asyncio.run(_serve(int(sys.argv[1])))

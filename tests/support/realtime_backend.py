"""A backend with a WebSocket, for what the router makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web


@dataclass(slots=True)
class Realtime:
    """A backend that echoes each frame, and what it saw."""

    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def realtime() -> AsyncIterator[Realtime]:
    """One that runs."""
    seen = Realtime()

    async def serve(request: web.Request) -> web.StreamResponse:
        seen.requests.append(request)
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        seen.opened.set()
        try:
            while True:
                message = await socket.receive()
                if message.type is WSMsgType.TEXT and message.data == "end":
                    await socket.close(code=4000, message=b"as you wish")
                elif message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
                else:
                    return socket
        finally:
            seen.closed.set()

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/v1/realtime", serve)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    seen.url = f"http://127.0.0.1:{site.port}"
    try:
        yield seen
    finally:
        await runner.cleanup()

"""``/v1/realtime`` as a WebSocket, through the router: frames both ways, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType
from fake_backend import FakeBackend
from realtime_backend import realtime
from router_client import Start, table, write
from tenancy import listed, tenant, with_key

from marlin.router.body_fields import model_in_query


async def test_frames_go_both_ways_unchanged_and_the_answer_says_where_it_runs(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        async with client.session.ws_connect(
            f"{client.url}/v1/realtime?model=m", max_msg_size=0, headers={"X-Mine": "a"}
        ) as socket:
            for text in ("hello", "x" * 100_000):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            large = bytes(range(256)) * 20_000
            await socket.send_bytes(large)
            assert await socket.receive_bytes() == large
            assert client.plane.balancer.in_flight() == 1
        await asyncio.wait_for(backend.closed.wait(), 10)
        assert backend.requests[0].headers["X-Mine"] == "a"
        assert backend.requests[0].query["model"] == "m"
        assert await client.metric('marlin_router_requests_total{code="101",datacenter="dc0",pool="chat"}') == 1
        assert await client.metric("marlin_router_ttft_seconds_count") == 0, "a WebSocket has no first token"


async def test_the_backend_s_close_reaches_the_client(start: Start) -> None:
    async with (
        realtime() as backend,
        start(table(backend.url)) as client,
        client.session.ws_connect(f"{client.url}/v1/realtime") as socket,
    ):
        await socket.send_str("end")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4000, "as you wish")


async def test_a_client_that_leaves_takes_its_socket_at_the_backend_with_it(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(
            b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await asyncio.wait_for(backend.opened.wait(), 10)
        writer.close()
        await asyncio.wait_for(backend.closed.wait(), 10)


async def test_a_backend_that_does_not_read_holds_the_client_up_instead_of_filling_memory(start: Start) -> None:
    go_on, size = asyncio.Event(), 32 * 2**20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await go_on.wait()
        await reader.readexactly(size)
        writer.write(b"all")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, start(table(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 101 ")
        writer.write(bytes(size))
        (connection,) = client.plane.clients
        for _ in range(1000):
            if not connection.transport.is_reading():
                break
            await asyncio.sleep(0.01)
        go_on.set()
        was_held = not connection.transport.is_reading()
        assert await asyncio.wait_for(reader.read(), 30) == b"all"
        assert was_held, "32 MB were on their way into memory"
        writer.close()


async def test_a_socket_that_is_silent_on_both_sides_is_ended_and_a_long_one_is_not(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        async with client.session.ws_connect(f"{client.url}/v1/realtime") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
            (flow,) = client.plane.flows
            began_s = flow.silent_since_s
            flow.look_at_clock(began_s, 300.0)
            flow.look_at_clock(began_s + 299.0, 300.0)
            flow.look_at_clock(began_s + client.plane.request_timeout_s + 1.0, 1e9)
            assert client.plane.flows, "neither its age nor a short silence ends it"
            flow.look_at_clock(client.plane.clock() + 301.0, 300.0)
            assert not client.plane.flows
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.GOING_AWAY)
        await asyncio.wait_for(backend.closed.wait(), 10)


async def test_a_backend_that_cannot_be_reached_is_replaced_and_one_without_websockets_answers_itself(
    start: Start, backend: FakeBackend
) -> None:
    async with realtime() as well, start(table("http://127.0.0.1:9", well.url)) as client:
        for _ in range(2):
            async with client.session.ws_connect(f"{client.url}/v1/realtime") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
    async with start(table(backend.url)) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="200"):
            await client.session.ws_connect(f"{client.url}/v1/realtime")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await client.session.ws_connect(f"{client.url}/v1/realtime?model=other")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await client.session.ws_connect(f"{client.url}/metrics")


async def test_draining_waits_for_an_open_socket(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        async with client.session.ws_connect(f"{client.url}/v1/realtime") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
            client.plane.drain()
            idle = asyncio.ensure_future(client.plane.wait_until_idle())
            await socket.send_str("still here")
            assert await socket.receive_str() == "still here"
            assert not idle.done()
        await asyncio.wait_for(idle, 10)


async def test_a_router_that_ends_says_so_on_open_sockets(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        async with client.session.ws_connect(f"{client.url}/v1/realtime") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
            await client.plane.close()
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.GOING_AWAY)
        await asyncio.wait_for(backend.closed.wait(), 10)


async def test_only_tenants_may_open_one_and_their_key_stays_here(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "tenants.json", listed(tenant()))
    async with realtime() as backend:
        async with start(table(backend.url), tenants=tmp_path / "tenants.json") as client:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await client.session.ws_connect(f"{client.url}/v1/realtime")
            async with client.session.ws_connect(f"{client.url}/v1/realtime", headers=with_key()) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
        assert "Authorization" not in backend.requests[0].headers


@pytest.mark.parametrize(
    ("target", "model"),
    [(b"/v1/realtime", None), (b"/v1/realtime?model=a%2Fb&x=1", "a/b"), (b"/v1/realtime?x=1", None)],
)
def test_a_websocket_names_its_model_in_the_query(target: bytes, model: str | None) -> None:
    assert model_in_query(target) == model

"""``/v1/realtime`` as a WebSocket, through the router: frames both ways, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from realtime_backend import realtime
from router_client import Start, table, write
from tenancy import listed, tenant, with_key

from marlin.router.body_fields import model_in_query
from marlin.router.realtime import MAX_MESSAGE_BYTES, UsageReader

DONE = b'{"type":"transcription.done","text":"%b","usage":{"prompt_tokens":30,"total_tokens":37,"completion_tokens":7}}'
DELTA = b'{"type":"transcription.delta","delta":"a \\"usage\\":{ .done\\""}'


def frame(payload: bytes, first: int = 0x81) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return (
        bytes((first, 126)) + size.to_bytes(2, "big") + payload
        if size < 2**16
        else (bytes((first, 127)) + size.to_bytes(8, "big") + payload)
    )


def used(*pieces: bytes) -> tuple[int, int] | None:
    reader = UsageReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.usage


PARTS = (frame(DONE[:40], 0x01), frame(b"ping", 0x89), frame(DONE[40:], 0x80))
RESPONSE = b'{"type":"response.done","usage":{"input_tokens":1,"output_tokens":2}}'
COUNTED = (frame(DELTA), frame(DONE), frame(bytes(300), 0x82), *PARTS, frame(RESPONSE))
NOT_COUNTED = (frame(DONE, 0xC1), frame(DONE, 0x82), frame(DONE % (b"x" * MAX_MESSAGE_BYTES)))
SENT = (*NOT_COUNTED, *COUNTED, *NOT_COUNTED)
"""Counted: one in one frame, one in two with a ping between, one of another kind. Not: compressed, binary, too long."""


@given(st.lists(st.integers(0, sum(map(len, SENT))), max_size=20))
def test_what_a_socket_used_is_read_however_its_frames_are_cut(cuts: list[int]) -> None:
    stream, at = b"".join(SENT), 0
    pieces = []
    for cut in (*sorted(cuts), len(stream)):
        pieces.append(stream[at:cut])
        at = cut
    assert used(*pieces) == (61, 16)


def test_no_more_of_a_message_is_held_than_may_be_looked_at() -> None:
    reader = UsageReader()
    for _ in range(100):
        reader.feed(frame(bytes(10_000), 0x01))
        reader.feed(frame(bytes(10_000), 0x00))
        assert len(reader._held) + len(reader._message or b"") <= MAX_MESSAGE_BYTES + 14
    assert used(b"\x81\xff" + bytes(100), frame(DONE)) is None, "a server that masks speaks something else"


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_whatever_a_backend_sends_reading_does_not_fail(pieces: list[bytes]) -> None:
    used(*pieces)


async def test_the_tokens_of_a_socket_are_counted_and_compression_is_not_agreed_on(start: Start) -> None:
    async with realtime() as backend, start(table(backend.url)) as client:
        async with client.session.ws_connect(f"{client.url}/v1/realtime", compress=15) as socket:
            assert socket.compress == 0
            for _ in range(2):
                await socket.send_str(DONE.decode())
                await socket.receive_str()
        await asyncio.wait_for(backend.closed.wait(), 10)
        assert "Sec-WebSocket-Extensions" not in backend.requests[0].headers
        tokens = 'marlin_router_tokens_total{datacenter="dc0",kind="%s",pool="chat"}'
        assert await client.metric(tokens % "prompt") == 60
        assert await client.metric(tokens % "output") == 14


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

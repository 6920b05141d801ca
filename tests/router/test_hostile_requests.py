"""What is not HTTP as it should be: each request of the table gets its right answer, and nothing of it a backend."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_backend import FakeBackend, Seen
from odd_requests import BODY, HOST, LENGTH, ODD, POST, REFUSED, first_status, request, upload
from router_client import Client, Start, table

from marlin.router.heads import MAX_HEADERS, HeadError, HeadTooLargeError, read_reply, read_request

PATHS = (
    "/metrics",
    "/load",
    "/health",
    "/version",
    "/scale_elastic_ep",
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/LOAD_LORA_ADAPTER",
    "/v1/load_lora_adapter/",
    "/v1/load%5flora_adapter",
    "/v1/../metrics",
    "/v1/./completions",
    "/v1/%2e%2e/metrics",
    "/v1/..%2fmetrics",
    "/v1//metrics",
    "//metrics",
    "/v1/\\..\\metrics",
    "/v1/x%00",
    "/v1/x%0d%0aX:y",
    "/v1/%252e%252e/metrics",
    "/v1",
    "/v1/",
    "/",
    "*",
    "http://elsewhere.example/v1/completions",
)


async def send(client: Client, raw: bytes) -> tuple[int, bytes]:
    """The status of the one answer to ``raw``, and its body, once the router has closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    try:
        writer.write(raw)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        rest = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    assert b"connection: close" in head.lower()
    return int(head.split(b" ")[1]), rest


def test_the_table_is_as_long_as_it_is_said_to_be() -> None:
    assert len(REFUSED) >= 60


async def test_each_malformed_request_gets_its_answer_and_loses_its_connection(
    start: Start, backend: FakeBackend
) -> None:
    wrong = {}
    async with start(table(backend.url), max_body_bytes=1_000_000) as client:
        for name, (raw, status) in REFUSED.items():
            # What follows in the same packet must not be taken for a request of its own.
            got, body = await send(client, raw if len(raw) > 50_000 else raw + request())
            if got != status or json.loads(body)["error"]["code"] is None:
                wrong[name] = (got, status)
        assert not wrong
        assert backend.seen == []
        async with client.post() as response:
            assert response.status == 200


def test_headers_are_counted_whether_or_not_each_was_seen_before() -> None:
    lines = [b"X%d: seen" % i for i in range(MAX_HEADERS)]
    for some in (lines[:100], lines[100:]):
        read_request(b"\r\n".join((b"GET /v1/models HTTP/1.1", b"Host: a", *some)))
        read_reply(b"\r\n".join((b"HTTP/1.1 200 OK", *some)))
    with pytest.raises(HeadTooLargeError):
        read_request(b"\r\n".join((b"GET /v1/models HTTP/1.1", b"Host: a", *lines)))
    with pytest.raises(HeadError, match="headers"):
        read_reply(b"\r\n".join((b"HTTP/1.1 200 OK", *lines)))


async def test_each_odd_request_gets_through(start: Start, backend: FakeBackend) -> None:
    wrong = {}
    async with start(table(backend.url)) as client:
        for name, raw in ODD.items():
            status = await first_status(client.port, raw)
            if status != 200 or [seen.body for seen in backend.seen] != [BODY]:
                wrong[name] = (status, list(backend.seen))
            backend.seen.clear()
    assert not wrong


@pytest.mark.parametrize("path", PATHS)
async def test_control_endpoints_are_out_of_reach(start: Start, backend: FakeBackend, path: str) -> None:
    async with start(table(backend.url)) as client:
        first = b"POST %b HTTP/1.1\r\n" % path.encode()
        status, body = await send(client, request(b"Connection: close\r\n", first=first))
        assert status == 404
        assert json.loads(body)["error"]["code"] == "unknown_path"
    assert backend.seen == []


async def test_requests_in_one_packet_are_answered_in_order(start: Start, backend: FakeBackend) -> None:
    async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(seen.body), seen.body))

    backend.behaviour = echo
    bodies = [b'{"model":"m","n":%d}' % n for n in range(50)]
    raw = b"".join(POST + HOST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies[:-1])
    raw += POST + HOST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(bodies[-1]), bodies[-1])
    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(raw)
        answers = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert [part.split(b"\r\n\r\n")[1] for part in answers.split(b"HTTP/1.1 200 OK")[1:]] == bodies


async def test_a_request_that_comes_byte_by_byte_is_the_same_request(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        for byte in request(b"Connection: close\r\n"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
    assert backend.seen[0].body == BODY


async def test_a_client_that_expects_to_be_told_to_go_on_is_told(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(POST + HOST + LENGTH + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
    assert b"Expect" not in backend.seen[0].head


async def test_an_upload_in_chunks_arrives_whole_with_its_length(start: Start, backend: FakeBackend) -> None:
    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(upload(b"6\r\n" + BODY[:6] + b"\r\n7;x=y\r\n" + BODY[6:] + b"\r\n0\r\nX-T: 1\r\n\r\n"))
        assert (await asyncio.wait_for(reader.readuntil(b"{}"), 10)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
    assert backend.seen[0].body == BODY
    assert ("Content-Length", "13") in backend.seen[0].headers


async def test_a_client_of_http_1_0_gets_a_stream_without_chunks(start: Start, backend: FakeBackend) -> None:
    async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    backend.behaviour = stream
    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /v1/completions HTTP/1.0\r\n" + LENGTH + b"\r\n" + BODY)
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        writer.close()
    assert b"chunked" not in head
    assert body == b"data: 1\n\ndata: [DONE]\n\n"


async def test_a_head_that_never_ends_is_given_up(start: Start, backend: FakeBackend) -> None:
    from marlin.router.downstream import HEAD_TIMEOUT_S

    async with start(table(backend.url)) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(POST)
        while not client.plane.clients:  # noqa: ASYNC110 the connection has to arrive
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        late_s = client.plane.clock() + HEAD_TIMEOUT_S
        for connection in list(client.plane.clients):
            connection.look_at_clock(late_s)
        assert b"408" in await asyncio.wait_for(reader.readline(), 10)
        writer.close()

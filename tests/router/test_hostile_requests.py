"""What is not HTTP as it should be: each request of the table gets its right answer, and nothing of it a backend."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_backend import FakeBackend, Seen
from router_client import Client, Start, table

from marlin.router.heads import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES

BODY = b'{"model":"m"}'
POST = b"POST /v1/completions HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
LENGTH = b"Content-Length: 13\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n"


def request(*lines: bytes, first: bytes = POST, body: bytes = BODY) -> bytes:
    return first + HOST + LENGTH + b"".join(lines) + b"\r\n" + body


def upload(chunks: bytes, *lines: bytes) -> bytes:
    return POST + HOST + CHUNKS + b"".join(lines) + b"\r\n" + chunks


REFUSED: dict[str, tuple[bytes, int]] = {
    # request lines
    "nothing but words": (b"hello\r\n\r\n", 400),
    "no version": (request(first=b"POST /v1/completions\r\n"), 400),
    "two spaces after the method": (request(first=b"POST  /v1/completions HTTP/1.1\r\n"), 400),
    "a tab for a space": (request(first=b"POST\t/v1/completions HTTP/1.1\r\n"), 400),
    "a space in the target": (request(first=b"POST /v1/comp letions HTTP/1.1\r\n"), 400),
    "a space at the end": (request(first=b"POST /v1/completions HTTP/1.1 \r\n"), 400),
    "a space at the beginning": (request(first=b" POST /v1/completions HTTP/1.1\r\n"), 400),
    "a method that is no token": (request(first=b"PO(ST /v1/completions HTTP/1.1\r\n"), 400),
    "bytes beyond ASCII in the target": (request(first=b"POST /v1/\xc3\xa4 HTTP/1.1\r\n"), 400),
    "a control character in the target": (request(first=b"POST /v1/\x01 HTTP/1.1\r\n"), 400),
    "lower-case http": (request(first=b"POST /v1/completions http/1.1\r\n"), 400),
    "HTTP/2.0": (request(first=b"POST /v1/completions HTTP/2.0\r\n"), 505),
    "HTTP/0.9": (request(first=b"POST /v1/completions HTTP/0.9\r\n"), 505),
    "HTTP/1.2": (request(first=b"POST /v1/completions HTTP/1.2\r\n"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a TLS hello": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(16), 400),
    "a target that is too long": (request(first=b"POST /v1/%b HTTP/1.1\r\n" % (b"x" * MAX_TARGET_BYTES)), 414),
    # header lines
    "a bare line feed between headers": (POST + b"Host: a\nContent-Length: 13\r\n\r\n" + BODY, 400),
    "only bare line feeds": (b"POST /v1/completions HTTP/1.1\nHost: a\n\n", 400),
    "a carriage return inside a value": (request(b"X: a\rb\r\n"), 400),
    "a folded header": (request(b"X: a\r\n b\r\n"), 400),
    "a folded header with a tab": (request(b"X: a\r\n\tb\r\n"), 400),
    "white space before the colon": (request(b"X : a\r\n"), 400),
    "white space before the colon of a length": (POST + HOST + b"Content-Length : 13\r\n\r\n" + BODY, 400),
    "white space before a name": (POST + b" Host: a\r\n\r\n", 400),
    "no colon": (request(b"X\r\n"), 400),
    "no name": (request(b": a\r\n"), 400),
    "a name that is no token": (request(b"X(y): a\r\n"), 400),
    "a name beyond ASCII": (request(b"X\xc3\xa4: a\r\n"), 400),
    "a zero byte in a value": (request(b"X: a\0b\r\n"), 400),
    "a control character in a value": (request(b"X: a\x07b\r\n"), 400),
    "too many headers": (request(*(b"X%d: a\r\n" % i for i in range(MAX_HEADERS + 1))), 431),
    "a header that is too long": (request(b"X: %b\r\n" % (b"a" * MAX_HEAD_BYTES)), 431),
    "a head without an end": (POST + b"X: " + b"a" * (MAX_HEAD_BYTES + 1), 431),
    # hosts
    "no host": (POST + LENGTH + b"\r\n" + BODY, 400),
    "two hosts": (request(b"Host: b\r\n"), 400),
    "two hosts that are the same": (request(b"Host: a\r\n"), 400),
    # lengths
    "two lengths": (request(b"Content-Length: 5\r\n"), 400),
    "two lengths that are the same": (request(b"Content-Length: 13\r\n"), 400),
    "a list of lengths": (POST + HOST + b"Content-Length: 13, 13\r\n\r\n" + BODY, 400),
    "a negative length": (POST + HOST + b"Content-Length: -1\r\n\r\n", 400),
    "a length with a sign": (POST + HOST + b"Content-Length: +13\r\n\r\n" + BODY, 400),
    "a length in hexadecimal": (POST + HOST + b"Content-Length: 0xd\r\n\r\n" + BODY, 400),
    "a length with a point": (POST + HOST + b"Content-Length: 13.0\r\n\r\n" + BODY, 400),
    "an empty length": (POST + HOST + b"Content-Length: \r\n\r\n", 400),
    "a length with an underscore": (POST + HOST + b"Content-Length: 1_3\r\n\r\n" + BODY, 400),
    "a length beyond all measure": (POST + HOST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "a length beyond the limit": (POST + HOST + b"Content-Length: 2000000\r\n\r\n", 413),
    # transfer codings
    "a length and chunks": (upload(b"0\r\n\r\n", LENGTH), 400),
    "chunks and a length of nothing": (upload(b"0\r\n\r\n", b"Content-Length: 0\r\n"), 400),
    "a length before chunks": (POST + HOST + LENGTH + CHUNKS + b"\r\n0\r\n\r\n", 400),
    "two transfer codings": (upload(b"0\r\n\r\n", CHUNKS), 400),
    "chunked twice in one line": (POST + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    "gzip, then chunked": (POST + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "identity": (POST + HOST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "xchunked": (POST + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "a vertical tab before chunked": (POST + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "an empty transfer coding": (POST + HOST + b"Transfer-Encoding:\r\n\r\n", 501),
    "chunks in HTTP/1.0": (b"POST /v1/completions HTTP/1.0\r\n" + HOST + CHUNKS + b"\r\n0\r\n\r\n", 400),
    # chunks
    "a size that is no number": (upload(b"x\r\nabc\r\n0\r\n\r\n"), 400),
    "a negative size": (upload(b"-1\r\n\r\n"), 400),
    "a size with 0x": (upload(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "a size after a space": (upload(b" 3\r\nabc\r\n0\r\n\r\n"), 400),
    "a size that overflows": (upload(b"fffffffffffffffff\r\n"), 400),
    "a chunk longer than it says": (upload(b"3\r\nabcd\r\n0\r\n\r\n"), 400),
    "a chunk that ends with a bare line feed": (upload(b"3\r\nabc\n0\r\n\r\n"), 400),
    "a size that ends with a bare line feed": (upload(b"3\nabc\r\n0\r\n\r\n" + b"x" * 2000), 400),
    "a trailer that is no header": (upload(b"0\r\nno colon\r\n\r\n"), 400),
    "a size line without an end": (upload(b"3;" + b"x" * 5000), 400),
    "chunks beyond the limit": (upload(b"1e8480\r\n" + b"x" * 1_100_000), 413),
    # expectations
    "an expectation nobody knows": (request(b"Expect: the-unexpected\r\n"), 400),
}

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

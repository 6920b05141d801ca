"""Requests that are not HTTP as it should be, and requests that only look odd; see ``test_hostile_requests``."""

from __future__ import annotations

import asyncio

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
    "a host with a space": (POST + b"Host: a b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host with a path": (POST + b"Host: a/b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host with a user": (POST + b"Host: u@a\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host with two ports": (POST + b"Host: a:80:80\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host with a port that is no number": (POST + b"Host: a:b\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host beyond ASCII": (POST + b"Host: \xc3\xa4\r\n" + LENGTH + b"\r\n" + BODY, 400),
    "a host with half a bracket": (POST + b"Host: [::1\r\n" + LENGTH + b"\r\n" + BODY, 400),
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

ODD: dict[str, bytes] = {
    # All of these are valid, or harmless by RFC 9112's own word, and have to get through.
    "an empty line before it": b"\r\n" + request(),
    "a lower-case method": request(first=b"post /v1/completions HTTP/1.1\r\n"),
    "a method nobody knows": request(first=b"BREW /v1/completions HTTP/1.1\r\n"),
    "a query": request(first=b"POST /v1/completions?a=b&c=%20 HTTP/1.1\r\n"),
    "an encoded letter in the path": request(first=b"POST /v1/completion%73 HTTP/1.1\r\n"),
    "HTTP/1.0": request(first=b"POST /v1/completions HTTP/1.0\r\n"),
    "HTTP/1.0 without a host": b"POST /v1/completions HTTP/1.0\r\n" + LENGTH + b"\r\n" + BODY,
    "no white space after the colon": request(b"X:a\r\n"),
    "much white space around a value": request(b"X: \t a b \t \r\n"),
    "an empty value": request(b"X:\r\n"),
    "a value beyond ASCII": request(b"X: \xc3\xa4\xff\r\n"),
    "a header twice": request(b"X: a\r\n", b"X: b\r\n"),
    "a name with odd characters": request(b"!#$%&'*+-.^_`|~9: a\r\n"),
    "a long header": request(b"X: %b\r\n" % (b"a" * 8000)),
    "a hundred headers": request(*(b"X%d: a\r\n" % i for i in range(100))),
    "names in capitals": POST + b"HOST: a\r\nCONTENT-LENGTH: 13\r\n\r\n" + BODY,
    "a length with zeros before it": POST + HOST + b"Content-Length: 0013\r\n\r\n" + BODY,
    "an empty host": POST + b"Host:\r\n" + LENGTH + b"\r\n" + BODY,
    "a host with an underscore": POST + b"Host: a_b.example\r\n" + LENGTH + b"\r\n" + BODY,
    "a host with a port": POST + b"Host: a:80\r\n" + LENGTH + b"\r\n" + BODY,
    "a host that is an IPv6 address": POST + b"Host: [::1]:80\r\n" + LENGTH + b"\r\n" + BODY,
    "Connection with a name that is not there": request(b"Connection: x-nothing\r\n"),
    "Connection twice": request(b"Connection: keep-alive\r\n", b"Connection: x\r\n"),
    "TE": request(b"TE: trailers\r\n"),
    "an upgrade to HTTP/2 nobody follows": request(b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n"),
    "an expectation in capitals": request(b"Expect: 100-CONTINUE\r\n"),
    "chunks": upload(b"d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a size in capitals": upload(b"D\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a size with zeros before it": upload(b"000d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk extension": upload(b"d;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a trailer": upload(b"d\r\n" + BODY + b"\r\n0\r\nX: a\r\n\r\n"),
    "Chunked in capitals": POST + HOST + b"Transfer-Encoding: CHUNKED\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
}
"""Each has a body that names the model, whole and once."""


async def first_status(port: int, raw: bytes) -> int:
    """The status of the first final answer to ``raw``; 0: the connection was closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            while True:
                status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
                if status >= 200:
                    return status
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    finally:
        writer.close()

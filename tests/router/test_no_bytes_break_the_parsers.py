"""Whatever comes, reading it ends with a value or with an error that was meant for it."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from marlin.router.body_fields import read_fields
from marlin.router.errors import RouterError
from marlin.router.framing import ChunkReader, ChunkScanner, FramingError
from marlin.router.heads import HeadError, read_reply, read_request
from marlin.router.usage import find_usage

PIECES = (
    b"POST /v1/completions HTTP/1.1",
    b"HTTP/1.1 200 OK",
    b"Host: a",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Connection: close, host",
    b"Connection: keep-alive",
    b"Authorization: Bearer x",
    b"Expect: 100-continue",
    b"x-marlin-hop: 1",
    b'{"model":',
    b'"usage":{"prompt_tokens":3',
    b"}",
    b"3",
    b"0",
    b"\r\n",
    b"\n",
    b":",
    b" ",
    b"\xff",
)
anything = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12)


@given(anything)
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    for data in (b"".join(pieces), b"\r\n".join(pieces)):
        with contextlib.suppress(RouterError):
            request = read_request(data)
            assert request.length >= -1
            assert request.line.is_http10 or request.lines[request.host_at].lower().startswith(b"host:")
        with contextlib.suppress(HeadError):
            assert read_reply(data).status >= 100
        with contextlib.suppress(RouterError):
            read_fields(data)
        with contextlib.suppress(FramingError):
            ChunkReader().feed(data)
        with contextlib.suppress(FramingError):
            ChunkScanner().feed(data)
        find_usage(data)

"""Where chunked bodies end: laws, and llhttp as a second opinion."""

from __future__ import annotations

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from marlin.router.framing import HOLD_BYTES, MAX_TRAILER_BYTES, ChunkReader, ChunkScanner, FramingError

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
ENDINGS = (b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", b"0;last\r\n\r\n")
splits = st.lists(st.integers(1, 12), min_size=1, max_size=30)


def chunked(parts: list[bytes], ending: bytes = ENDINGS[0]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + ending


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Data in pieces of the given sizes, again and again."""
    pieces, at, n = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[n % len(sizes)]])
        at, n = at + sizes[n % len(sizes)], n + 1
    return pieces


@given(payloads, st.sampled_from(ENDINGS), splits)
def test_whatever_the_reads_every_byte_is_passed_on_and_the_end_is_found(
    parts: list[bytes], ending: bytes, sizes: list[int]
) -> None:
    body = chunked(parts, ending)
    scanner, out = ChunkScanner(), b""
    for piece in cut(body, sizes):
        assert not scanner.is_done
        out += scanner.feed(piece)
    assert scanner.is_done
    assert out == body
    scanner.close()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("more", [b"\r\n", b"\n", b"\r\n\r\n", b"\n\n", b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_follows_the_end_in_the_same_read_is_never_passed_on(ending: bytes, more: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkScanner().feed(chunked([b"abc"], ending) + more)


def test_a_trailer_is_too_long_however_it_comes() -> None:
    data = b"0\r\nX: " + b"a" * MAX_TRAILER_BYTES + b"\r\n\r\n"
    for cut_at in (0, 3, 9000):
        reader = ChunkReader()
        reader.feed(data[:cut_at])
        with pytest.raises(FramingError, match="too long"):
            reader.feed(data[cut_at:])


def ends_of(parts: list[bytes]) -> set[int]:
    ends, at = {0}, 0
    for part in parts:
        at += len(chunked([part], b""))
        ends.add(at)
    return ends


events = st.lists(st.text(min_size=1, max_size=20).map(lambda text: f"data: {text!a}\n\n".encode()), max_size=8)


@given(events, splits)
def test_of_a_stream_only_whole_events_are_passed_on_at_any_moment(parts: list[bytes], sizes: list[int]) -> None:
    ends = ends_of(parts)
    scanner, passed = ChunkScanner(), 0
    for piece in cut(chunked(parts, b""), sizes):
        passed += len(scanner.feed(piece))
        assert passed in ends


@given(payloads, splits, st.integers(0, 40))
def test_when_a_backend_dies_it_is_known_whether_an_error_can_follow(
    parts: list[bytes], sizes: list[int], reads: int
) -> None:
    scanner, passed = ChunkScanner(), 0
    for piece in cut(chunked(parts, b""), sizes)[:reads]:
        passed += len(scanner.feed(piece))
    if scanner.is_between_chunks():
        assert passed in ends_of(parts)


def test_a_scanner_is_used_for_one_body_after_another() -> None:
    scanner = ChunkScanner()
    for _ in range(3):
        assert scanner.feed(chunked([b"abc"])) == chunked([b"abc"])
        assert scanner.is_done
        scanner.begin()


def test_a_very_large_chunk_is_passed_on_as_it_comes() -> None:
    size = HOLD_BYTES + 1000
    scanner = ChunkScanner()
    first = b"%x\r\n" % size + b"x" * 100
    assert scanner.feed(first) == first
    rest = b"x" * (size - 100) + b"\r\n"
    assert scanner.feed(rest[:-1]) == rest[:-1]
    assert scanner.feed(rest[-1:]) == rest[-1:]
    assert scanner.feed(b"0\r\n\r\n") == b"0\r\n\r\n"
    assert scanner.is_done


BAD = (
    b"x\r\nabc\r\n",
    b"-1\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"\r\nabc",
    b"ffffffffffffffffff\r\n",
    b"3;\x00\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcXY0\r\n\r\n",
)


@pytest.mark.parametrize("body", BAD)
def test_what_is_not_chunked_as_it_should_be_is_an_error_both_ways(body: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkScanner().feed(body)
    with pytest.raises(FramingError):
        ChunkReader().feed(body)


def test_bytes_after_the_end_of_a_reply_are_an_error() -> None:
    with pytest.raises(FramingError):
        ChunkScanner().feed(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n")


@given(payloads, st.sampled_from(ENDINGS), splits, st.binary(max_size=10))
def test_an_upload_is_taken_out_of_its_chunks_and_what_follows_is_left(
    parts: list[bytes], ending: bytes, sizes: list[int], rest: bytes
) -> None:
    reader, left = ChunkReader(), b""
    for piece in cut(chunked(parts, ending) + rest, sizes):
        left = left + piece if reader.is_done else reader.feed(piece)
    assert reader.is_done
    assert reader.take() == b"".join(parts)
    assert reader.size == sum(map(len, parts))
    assert left == rest


class _Body:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_done = False

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.is_done = True


hexdigits = st.text("0123456789abcdefABCDEF;xX_+- \t", min_size=0, max_size=4).map(str.encode)


@given(st.lists(st.tuples(hexdigits, st.binary(max_size=6), st.sampled_from([b"\r\n", b"\n", b"\r", b""])), max_size=4))
def test_no_upload_is_read_differently_by_llhttp(chunks: list[tuple[bytes, bytes, bytes]]) -> None:
    """What we accept, it accepts, and finds the same body in it."""
    data = b"".join(size + end + part + end for size, part, end in chunks) + b"0\r\n\r\n"
    reader = ChunkReader()
    try:
        reader.feed(data)
    except FramingError:
        return
    if not reader.is_done:
        return
    theirs = _Body()
    parser = HttpRequestParser(theirs)
    try:
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    except HttpParserError:
        # It stops at what follows the body, which is not ours to judge.
        assert theirs.is_done
    assert theirs.is_done
    assert b"".join(theirs.parts) == reader.take()

"""Once a stream flows its events take a short way through the router: what comes out must not depend on that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from httptools import HttpParserError, HttpResponseParser
from hypothesis import example, given
from hypothesis import strategies as st

from marlin.router.heads import ReplyHead
from marlin.router.upstream import DELTA_END, EVENT_BYTES, Link, Peer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """A backend's connection of which only the end matters."""

    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


class Sink:
    """What a flow is to a link: ``flows`` from the first event on, as a stream for a client of HTTP/1.1 does."""

    def __init__(self, *, may_flow: bool) -> None:
        self._may_flow = may_flow
        self.passed = b""
        self.has_ended = False
        self.error = ""
        self.bytes_out = 0
        self.last = self.second_last = self.third_last = b""
        self.head: Any = type("Head", (), {"line": type("Line", (), {"method": b"POST"})})

    def begin(self, reply: ReplyHead, body: bytes, *, is_whole: bool) -> bool:
        return True

    @property
    def flows(self) -> bool:
        return self._may_flow and bool(self.passed)

    def write(self, data: bytes) -> None:
        assert not self.has_ended
        self.passed += data

    def pass_on(self, data: bytes) -> None:
        self.third_last, self.second_last, self.last = self.second_last, self.last, data
        self.bytes_out += len(data)
        self.write(data)

    def end(self, _: float) -> None:
        self.has_ended = True

    def was_cut_off(self, _: Link, why: str) -> None:
        self.error = why


def through(reads: list[bytes], *, may_flow: bool) -> Sink:
    """What becomes of a reply's body that comes in these reads."""
    sink: Any = Sink(may_flow=may_flow)
    link = Link(Peer(lambda: 0.0, 1.0))
    link.connection_made(Transport())  # type: ignore[arg-type]
    link.flow = sink
    link.data_received(HEAD)
    for read in reads:
        if link.flow is None:
            break
        link.data_received(read)
    link.connection_lost(None)
    return sink  # type: ignore[no-any-return]


class Theirs:
    """What llhttp alone makes of it."""

    def __init__(self, body: bytes) -> None:
        self.has_ended = False
        with suppress(HttpParserError):
            HttpResponseParser(self).feed_data(HEAD + body)

    def on_message_complete(self) -> None:
        self.has_ended = True


texts = st.text(max_size=12).map(lambda text: f"data: {text!a}\n\n".encode())
events = st.lists(texts | st.just(b'data: {"choices":[{}]}\n\n'), max_size=6)
splits = st.lists(st.integers(1, 60), min_size=1, max_size=30)
damages = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"x", b";"])), max_size=2
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at, n = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[n % len(sizes)]])
        at, n = at + sizes[n % len(sizes)], n + 1
    return pieces


def chunked(parts: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]


@given(events, damages, splits)
@example([b"data: a\n\n"] * 3, [], [14])  # each event in a read of its own
@example([b"data: a\n\n"] * 3, [(41, b"\r\n")], [14, 14, 14, 9])  # an empty line after the end, in the same read
def test_what_a_stream_says_and_where_it_ends_does_not_depend_on_whether_it_flows(
    parts: list[bytes], damage: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    body = b"".join(chunked(parts)) + b"0\r\n\r\n"
    for at, byte in damage:
        body = body[: at % len(body)] + byte + body[at % len(body) + 1 :]
    reads = cut(body, sizes)
    flowing, walking, theirs = through(reads, may_flow=True), through(reads, may_flow=False), Theirs(body)
    assert body.startswith(flowing.passed)
    assert (flowing.passed, flowing.has_ended, flowing.error) == (walking.passed, walking.has_ended, walking.error)
    assert flowing.bytes_out == walking.bytes_out
    if flowing.has_ended:
        assert theirs.has_ended
        assert flowing.passed == body[: len(flowing.passed)]
    else:
        assert flowing.error


@given(st.lists(texts, min_size=1, max_size=6))
def test_the_last_events_of_a_stream_that_flows_are_kept_for_its_usage(parts: list[bytes]) -> None:
    reads = [*chunked(parts), b"0\r\n\r\n"]
    sink = through(reads, may_flow=True)
    assert sink.has_ended
    assert sink.third_last + sink.second_last + sink.last == b"".join(reads[-3:])


def test_usage_is_kept_behind_any_number_of_tokens() -> None:
    token = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
    usage = b'data: {"id":"a","choices":[],"usage":{"prompt_tokens":4,"total_tokens":7,"completion_tokens":3}}\n\n'
    reads = [*chunked([token] * 9 + [usage, b"data: [DONE]\n\n"]), b"0\r\n\r\n"]
    sink = through(reads, may_flow=True)
    assert sink.third_last + sink.second_last + sink.last == b"".join(reads[-3:])
    assert sink.bytes_out == len(b"".join(reads))


def test_a_large_read_is_not_kept_as_a_whole() -> None:
    large = chunked([b"data: " + b"x" * EVENT_BYTES + b"\n\n"])[0]
    small = chunked([b"data: a\n\n"])[0]
    kept: list[bytes] = []

    class Looking(Sink):
        def pass_on(self, data: bytes) -> None:
            kept.append(data)
            super().pass_on(data)

    sink: Any = Looking(may_flow=True)
    link = Link(Peer(lambda: 0.0, 1.0))
    link.connection_made(Transport())  # type: ignore[arg-type]
    link.flow = sink
    for read in (HEAD, small, large, small):
        link.data_received(read)
    assert kept == [small, large]  # who keeps it cuts it: only the small one after it took the short way
    link.flow = None
    link.connection_lost(None)


def test_a_backend_whose_tokens_flow_by_is_heard_of_as_soon_as_somebody_asks() -> None:
    token = chunked([b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'])[0]
    assert token.endswith(DELTA_END)
    sink: Any = Sink(may_flow=True)
    link = Link(Peer(lambda: 0.0, 1.0))
    link.connection_made(Transport())  # type: ignore[arg-type]
    link.flow = sink
    for read in (HEAD, token, token):
        link.data_received(read)
    heard = []
    for read in (b"", token):
        link.tell()
        link.peer.is_heard = False
        if read:
            link.data_received(read)
        link.tell()
        heard.append(link.peer.is_heard)
    assert heard == [False, True]
    assert sink.bytes_out == 3 * len(token)
    link.flow = None
    link.connection_lost(None)


ENDS = (
    b"0\r\n\r\n",
    b"0\r\nX: ",
    b"0\r\nX: a\r\n ",
    b"0;",
    b'0;a="',
    b"0\r\n",
    b"0\r\n\r",
    b"0\r\n\r\nHTTP/1.1 200 OK\r\nX: ",
    b"",
)


@pytest.mark.parametrize("end", ENDS)
def test_no_read_that_ends_as_a_token_s_does_ends_a_body_unnoticed(end: bytes) -> None:
    """What the short way relies on: of such a read llhttp takes chunks, and refuses every kind of end."""
    first = chunked([b"data: a\n\n"])[0]
    whole = chunked([b"x" + DELTA_END[:-2]])[0]
    sink = through([first, whole + end + DELTA_END], may_flow=True)
    assert not sink.has_ended
    assert sink.error

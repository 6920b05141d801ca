"""Throws broken bytes at the router: ``router_fuzz.py [--minutes 30]`` (``make fuzz``).

Half of the time at the functions that read (``fuzz_targets``), half of it over sockets: broken requests to a router,
whose backend must never see one that is not exactly HTTP, and broken replies from a backend, of which a client must
never see anything else; and what a backend makes of a WebSocket: after its agreement a client gets its bytes and no
others. Inputs are mutations of the kept seeds (``tests/router/seeds``) and of the table of odd
requests; one that is read or refused in a way not seen before becomes a seed of this run. A find ends the run with its
bytes in a file; kept among the seeds, the tests try it for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final, cast

from fuzz_targets import TARGETS
from httptools import HttpParserError, HttpResponseParser
from odd_requests import ODD, REFUSED
from router_client import Client, router, table, write

from marlin.router.settings import Settings

SEEDS: Final = Path(__file__).resolve().parents[1] / "router" / "seeds"

_TOKENS: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80"),
    *(b"Content-Length: 3", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Connection: close, content-length"),
    *(b"Connection: host", b"Host: a", b"Expect: 100-continue", b"Upgrade: websocket", b"HTTP/1.0", b"HTTP/1.1"),
    *(b"x-marlin-hop: 1", b"Content-Type: text/event-stream", b"0\r\n\r\n", b"ffffffffffffffff", b"-1", b"1e999"),
    *(b'{"model":"m"}', b'"model"', b"[" * 2000, b'{"a":' * 2000, b'"usage":{"prompt_tokens":3}', b"data: [DONE]\n\n"),
    *(b"NaN", b"inf", b"..", b"%2f", b"%00", b"//", b"\\ud800", b"POST /v1/completions HTTP/1.1\r\n"),
)
_SOCKET_BATCH: Final = 100
_PATIENCE_S: Final = 0.05
_POST: Final = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
_MOST_SEEDS: Final = 3000
_SOCKET: Final = (
    b"GET /v1/realtime?n=%d HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_AGREED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_DONE: Final = b'{"type":"transcription.done","usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}'
_FRAMES: Final = (
    b"\x81%c%b" % (len(_DONE), _DONE),
    b"\x01\x28%b\x89\x04ping\x80%c%b" % (_DONE[:40], len(_DONE) - 40, _DONE[40:]),
    b"\x82\x7e\x01\x00%b\x81%c%b" % (bytes(256), len(_DONE), _DONE),
    b"\x81\x7f%b%b" % (len(_DONE).to_bytes(8, "big"), _DONE),
    b"\x81\x05hello\x88\x02\x03\xe8",
)
_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy",
    b"HTTP/1.1 500\r\n\r\n",
)
_BEGINNINGS: Final[dict[str, tuple[bytes, ...]]] = {
    "request": tuple(raw.partition(b"\r\n\r\n")[0] for raw in (*ODD.values(), *(raw for raw, _ in REFUSED.values()))),
    "reply": tuple(raw.partition(b"\r\n\r\n")[0] for raw in _REPLY),
    "chunks": tuple(raw.partition(b"\r\n\r\n")[2] for raw in (*ODD.values(), *(raw for raw, _ in REFUSED.values()))),
    "scanned": tuple(raw.partition(b"\r\n\r\n")[2] for raw in _REPLY),
    "body": (
        b'{"model":"m","stream":true,"user":"u","prompt_cache_key":"k","max_tokens":3,"n":2,"previous_response_id":"r"}',
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n',
        b'{"usage":{"prompt_tokens":3,"total_tokens":9,"completion_tokens":6}}',
    ),
    "load": (
        b'vllm:num_requests_running{model="m"} 3.0\nvllm:num_requests_waiting{model="m"} 1e2\n',
        b'{"models":{"m":{"in_flight":3,"waiting":1,"capacity":4.5}}}',
    ),
    "frames": _FRAMES,
    "sent": (*ODD.values(), *(raw for raw, _ in REFUSED.values() if len(raw) < 4000)),
    "replied": _REPLY,
    "agreed": tuple(_AGREED + frames for frames in (b"", *_FRAMES)),
}
"""Where mutation begins; the last three are for sockets."""


class FindError(Exception):
    """An input that broke something."""

    def __init__(self, target: str, data: bytes, why: str) -> None:
        super().__init__(f"{target}: {why}")
        self.target, self.data, self.why = target, data, why


class Corpus:
    """The inputs of one target, and the behaviours that are known of it."""

    def __init__(self, target: str, random: Random) -> None:
        kept = sorted((SEEDS / target).glob("*")) if (SEEDS / target).is_dir() else []
        self.inputs = [*_BEGINNINGS[target], *(path.read_bytes() for path in kept)]
        self._random = random
        self._known: set[str] = set()

    def mutated(self) -> bytes:
        """One of the inputs, changed in a few places."""
        random = self._random
        data = bytearray(random.choice(self.inputs))
        for _ in range(random.choice((1, 1, 2, 4, 8))):
            at = random.randint(0, len(data))
            end = min(len(data), at + random.choice((1, 1, 2, 8, 40)))
            kind = random.randrange(6)
            if kind == 0:
                data[at:end] = random.randbytes(end - at)
            elif kind == 1:
                del data[at:end]
            elif kind == 2:
                data[at:at] = random.choice(_TOKENS)
            elif kind == 3:
                data[at:end] = random.choice(_TOKENS)
            elif kind == 4:
                data[at:at] = data[at:end] * random.choice((1, 2, 30))
            else:
                other = random.choice(self.inputs)
                cut = random.randint(0, len(other))
                data[at:] = other[cut:]
        return bytes(data[:200_000])

    def note(self, data: bytes, behaviour: str) -> None:
        """Keeps an input that behaves as none did before."""
        if behaviour not in self._known and len(self.inputs) < _MOST_SEEDS:
            self._known.add(behaviour)
            self.inputs.append(data)


def fuzz_readers(random: Random, is_over: Callable[[int], bool]) -> int:
    """Fuzzes the functions that read; returns how many inputs were tried.

    Raises:
        FindError: one broke something.
    """
    corpora = {target: Corpus(target, random) for target in TARGETS}
    tried = 0
    while not is_over(tried):
        for target, corpus in corpora.items():
            data = corpus.mutated()
            try_one(target, data, corpus)
            tried += 1
    return tried


def try_one(target: str, data: bytes, corpus: Corpus | None = None) -> None:
    """Reads one input.

    Raises:
        FindError: it broke something.
    """
    try:
        behaviour = TARGETS[target](data)
    except Exception as error:
        raise FindError(target, data, f"{type(error).__name__}: {error}") from error
    if corpus is not None:
        corpus.note(data, behaviour)


class StrictBackend:
    """A backend that believes nothing, and answers with whatever it is told to."""

    def __init__(self) -> None:
        self.replies: dict[bytes, bytes] = {}
        """What is answered to a body, or to a path without one; to any other the first of the good ones."""
        self.complaint: str | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads requests strictly and answers them."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head[:-4].split(b"\r\n")
                names = [line.partition(b":")[0].lower() for line in lines]
                is_valid = re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ /v[12]/[!-~]* HTTP/1\.1", first)
                if not is_valid or b"transfer-encoding" in names or names.count(b"host") != 1:
                    self.complaint = f"the backend was sent {head[:200]!r}"
                lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
                if len(lengths) > 1:
                    self.complaint = f"the backend was sent two lengths: {head[:200]!r}"
                body = await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                reply = self.replies.get(body or first.split(b" ")[1])
                writer.write(_REPLY[0] if reply is None else reply)
                if reply is not None:
                    break
        writer.close()


async def fuzz_sockets(random: Random, is_over: Callable[[int], bool]) -> int:
    """Fuzzes a router over sockets; returns how many inputs were tried.

    Raises:
        FindError: one broke something.
    """
    sent, replied, agreed = (Corpus(target, random) for target in ("sent", "replied", "agreed"))
    backend = StrictBackend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, limit=2**22)
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "table.json")
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        write(config, table(url))
        settings = Settings(
            config=config, port=0, admin_port=0, probe_interval_s=0, scrape_interval_s=0, has_access_log=False,
            max_body_bytes=100_000,
        )  # fmt: skip
        try:
            async with router(settings) as client:
                while not is_over(tried):
                    kinds = random.choices((sent, replied, agreed), (2, 2, 1), k=_SOCKET_BATCH)
                    batch = [(kind, kind.mutated()) for kind in kinds]
                    backend.replies = {
                        b'{"model":"m","n":%d}' % n: raw for n, (kind, raw) in enumerate(batch) if kind is replied
                    }
                    asked = [(_POST % (len(body), body), "replied", raw) for body, raw in backend.replies.items()]
                    asked += [(raw, "sent", raw) for kind, raw in batch if kind is sent]
                    sockets = {n: raw for n, (kind, raw) in enumerate(batch) if kind is agreed}
                    backend.replies |= {b"/v1/realtime?n=%d" % n: raw for n, raw in sockets.items()}
                    asked += [(_SOCKET % n, "agreed", raw) for n, raw in sockets.items()]
                    await asyncio.gather(*(_ask(client, *one) for one in asked))
                    tried += len(batch)
                    await _check(client, batch, backend)
        finally:
            server.close()
    return tried


async def _ask(client: Client, request: bytes, target: str, blamed: bytes) -> None:
    """Sends a request, one of the two broken; whatever the client gets has to be HTTP, or to end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    answers = b""
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while data := await reader.read(2**16):
                    answers += data
    finally:
        writer.close()
    _judge(target, blamed, answers)


def _judge(target: str, raw: bytes, answers: bytes) -> None:
    if target == "agreed" and answers.startswith(b"HTTP/1.1 101 "):
        spoken = answers.partition(b"\r\n\r\n")[2]
        if not raw.endswith(spoken):
            raise FindError(target, raw, f"the client gets what its backend did not say: {spoken[:300]!r}")
        return
    try:
        parser = HttpResponseParser(_Nothing())
        parser.feed_data(answers)
    except HttpParserError as error:
        raise FindError(target, raw, f"the client gets what is not HTTP ({error}): {answers[:300]!r}") from None


class _Nothing:
    """Takes no notice of what is parsed."""


async def _check(client: Client, batch: Sequence[tuple[Corpus, bytes]], backend: StrictBackend) -> None:
    """Nothing of a batch stays, and the next request is served."""
    blamed = b"\n-- one of a batch --\n".join(raw for _, raw in batch)
    if backend.complaint is not None:
        raise FindError("sent", blamed, backend.complaint)
    await asyncio.wait_for(client.plane.wait_until_idle(), 10)
    if client.plane.balancer.in_flight():
        raise FindError("sent", blamed, "a request is still counted as in flight")
    for live in client.plane.balancer.all_live():
        live.failures, live.rest_until_s, live.back_off_until_s = 0, 0.0, 0.0
        client.plane.balancer.report_probe(live, is_well=True)
    async with client.post(path="/v1/completions") as response:
        if response.status != 200:
            raise FindError("sent", blamed, f"the next request is answered with {response.status}")
        await response.read()
    # A backend's own 500 is passed on, and counted where it came from.
    if any(500 in cell.codes for cell in client.plane.tally.cells() if not cell.pool):
        raise FindError("sent", blamed, "the router made a mistake (500)")


def main(arguments: list[str]) -> int:
    """Fuzzes for a while; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Broken bytes for the router.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations (default: the time)")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    seed = int(time.time()) if chosen.seed is None else cast("int", chosen.seed)
    print(f"seed {seed}", flush=True)
    random = Random(seed)
    began_s, half_s = time.monotonic(), 30.0 * chosen.minutes
    try:
        read = fuzz_readers(random, lambda _: time.monotonic() - began_s > half_s)
        sent = asyncio.run(fuzz_sockets(random, lambda _: time.monotonic() - began_s > 2 * half_s))
    except FindError as find:
        path = Path(tempfile.mkdtemp(prefix="marlin-fuzz-")) / find.target
        path.write_bytes(find.data)
        print(f"found: {find}\nits bytes: {path}; keep them in {SEEDS / find.target}", file=sys.stderr)
        return 1
    print(json.dumps({"read": read, "sent_or_replied": sent, "found": 0}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

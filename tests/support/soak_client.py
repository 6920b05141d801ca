"""The clients of the soak: each sends one request after another and says what became of it.

A request is a success only if the answer is complete and its own; a failure only if it says so clearly: a status with a
JSON error, an error event in place of ``[DONE]``, or a reply that is visibly shorter than it said. Whatever else a
client sees is ``WRONG``, and the soak fails.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from soak_backend import DONE

ANSWERED: Final = "answered"
ERROR: Final = "clear error"
BROKEN_OFF: Final = "broken off, clearly"
LEFT: Final = "left by the client"
REFUSED: Final = "malformed, refused"
LOST: Final = "lost with a killed worker"
WRONG: Final = "WRONG"

_MALFORMED: Final = (
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/completions HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{"model": 12',
)
_ANSWER_TIMEOUT_S: Final = 30.0


class WrongAnswerError(Exception):
    """What a client must never see."""


class LeftError(Exception):
    """The client has had enough."""


@dataclass(slots=True)
class Counts:
    """What all clients saw."""

    sent: int = 0
    left_early: int = 0
    """Of those, how many were left before their reply began: the router may not have read them."""
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Client:
    """One client.

    Args:
        port: the router's.
        random: what it sends.
        counts: where it counts.
        worker_kills: how many workers were killed so far: a connection that is older than a kill may be lost.
    """

    def __init__(self, port: int, random: Random, counts: Counts, worker_kills: Callable[[], int]) -> None:
        self._port = port
        self._random = random
        self._counts = counts
        self._worker_kills = worker_kills
        self._kills_when_opened = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Sends requests until ``stop`` is set."""
        while not stop.is_set():
            outcome = await self._ask()
            self._counts.outcomes[outcome] += 1
            if outcome != ANSWERED or self._random.random() < 0.05:
                self._close()
        self._close()

    async def _ask(self) -> str:
        random, counts = self._random, self._counts
        kind = random.choices(("json", "stream", "leave", "malformed"), (60, 30, 8, 2))[0]
        try:
            if self._writer is None:
                self._kills_when_opened = self._worker_kills()
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            counts.sent += 1
            number = f"{counts.sent}-{random.randrange(10**9)}"
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                if kind == "malformed":
                    return await self._refused()
                is_stream = kind == "stream" or random.random() < 0.5
                self._writer.write(self._request(number, is_stream=is_stream))
                return await self._answer(number, leaves=kind == "leave")
        except LeftError:
            return LEFT
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if self._kills_when_opened != self._worker_kills():
                return LOST
            return self._wrong(f"{kind}: connection lost: {error!r}")
        except TimeoutError:
            return self._wrong(f"{kind}: no answer within {_ANSWER_TIMEOUT_S:.0f} s")
        except WrongAnswerError as error:
            return self._wrong(f"{kind}: {error}")

    def _wrong(self, what: str) -> str:
        if len(self._counts.wrong) < 100:
            self._counts.wrong.append(what)
        return WRONG

    def _request(self, number: str, *, is_stream: bool) -> bytes:
        random = self._random
        content = {
            "model": "m",
            "id": number,
            "stream": is_stream,
            "events": random.choice((3, 8, 20)),
            "size": random.choice((0, 10, 300, 20_000)),
            "pace_s": random.choice((0, 0, 0.001, 0.01)),
            "pad": "x" * random.choice((0, 0, 100, 30_000)),
        }
        if random.random() < 0.3:
            content["user"] = f"user-{random.randrange(50)}"
        body = json.dumps(content).encode()
        if random.random() < 0.1:
            cut = random.randrange(1, len(body))
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]))
            length, body = b"Transfer-Encoding: chunked", chunks + b"0\r\n\r\n"
        else:
            length = b"Content-Length: %d" % len(body)
        return b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%b\r\n\r\n%b" % (
            length,
            body,
        )

    async def _refused(self) -> str:
        assert self._writer is not None
        self._writer.write(self._random.choice(_MALFORMED))
        status, headers = await self._head()
        await self._json(headers)
        if not 400 <= status < 500:
            raise WrongAnswerError(f"answered with {status}")
        return REFUSED

    async def _answer(self, number: str, *, leaves: bool) -> str:
        if leaves and self._random.random() < 0.5:
            self._counts.left_early += 1
            await asyncio.sleep(self._random.choice((0, 0.001, 0.005)))
            raise LeftError
        status, headers = await self._head()
        if leaves:
            raise LeftError
        if status >= 400:
            await self._json(headers)
            return ERROR
        try:
            if "text/event-stream" in headers.get("content-type", ""):
                return await self._events(number)
            content = await self._json(headers)
        except asyncio.IncompleteReadError:
            # Fewer bytes than its length, or no last chunk: nobody takes that for the whole reply.
            if self._kills_when_opened != self._worker_kills():
                raise
            return BROKEN_OFF
        if content.get("id") != number:
            raise WrongAnswerError(f"the answer of request {content.get('id')} came to {number}")
        return ANSWERED

    async def _head(self) -> tuple[int, dict[str, str]]:
        assert self._reader is not None
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in headers.items()}

    async def _json(self, headers: dict[str, str]) -> dict[str, object]:
        assert self._reader is not None
        content = json.loads(await self._reader.readexactly(int(headers["content-length"])))
        if not isinstance(content, dict):
            raise WrongAnswerError(f"not an object: {str(content)[:80]}")
        return content

    async def _events(self, number: str) -> str:
        assert self._reader is not None
        events = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            events += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        *bodies, rest = events.split(b"\n\n")
        if rest:
            raise WrongAnswerError(f"a stream ends within an event: {rest[-80:]!r}")
        is_done = bodies[-1] == DONE.strip()
        contents = [json.loads(body.removeprefix(b"data: ")) for body in bodies[: -1 if is_done else None]]
        is_broken = bool(contents) and "error" in contents[-1]
        if is_done == is_broken:
            raise WrongAnswerError(f"a stream ends with neither or both of [DONE] and an error: {bodies[-2:]}")
        own = contents[:-1] if is_broken else contents
        if [(c["id"], c["n"]) for c in own] != [(number, n) for n in range(len(own))]:
            raise WrongAnswerError(f"events of another stream, or out of order, came to {number}")
        return BROKEN_OFF if is_broken else ANSWERED

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

"""What follows up a response goes to the backend that keeps it, whether this router has seen it or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fake_backend import FakeBackend, Seen
from router_client import Client, Start, table

from marlin.router.responses import MAX_KNOWN, Responses, asked_for

BACKENDS = 6
JSON = {"Content-Type": "application/json"}


def keeping(name: str) -> FakeBackend:
    """Makes responses ``resp_NAME``, and knows that one only."""

    async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
        _, path, _ = seen.request_line.split()
        wanted = asked_for(path, seen.body)
        status = b"200 OK" if wanted in {None, f"resp_{name}"} else b"404 Not Found"
        body = b'{"id":"resp_%b","object":"response","usage":{}}' % name.encode()
        if b'"stream"' in seen.body and status[:3] == b"200":
            event = b'event: response.created\ndata: {"type":"response.created","response":%b}\n\n' % body
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
        else:
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    return FakeBackend(behave)


@pytest.fixture
async def backends() -> AsyncIterator[list[FakeBackend]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(keeping(str(i))) for i in range(BACKENDS)]


def two_pools(backends: list[FakeBackend]) -> dict[str, Any]:
    document = table(*(backend.url for backend in backends))
    (pool,) = document["pools"]
    halves = (pool["backends"][: BACKENDS // 2], pool["backends"][BACKENDS // 2 :])
    document["pools"] = [
        pool | {"name": name, "modelName": name, "backends": half} for name, half in zip("mn", halves, strict=True)
    ]
    return document


async def ask(client: Client, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str, str]:
    """Status, the id that was told, and the backend that told it."""
    data = None if body is None else json.dumps(body).encode()
    async with client.session.request(method, client.url + path, data=data, headers=JSON) as response:
        text = await response.text()
        told = text.partition('"id":"')[2].partition('"')[0]
        return response.status, told, response.headers["x-marlin-backend"]


@pytest.mark.parametrize("stream", [{}, {"stream": True}])
async def test_a_follow_up_goes_straight_to_the_backend_that_answered(
    start: Start, backends: list[FakeBackend], stream: dict[str, bool]
) -> None:
    async with start(two_pools(backends)) as client:
        for model in "mnmnmn":
            status, told, name = await ask(client, "POST", "/v1/responses", {"model": model} | stream)
            assert status == 200
            before = sum(len(backend.seen) for backend in backends)
            for method, path, body in (
                ("GET", f"/v1/responses/{told}", None),
                ("POST", f"/v1/responses/{told}/cancel", None),
                ("POST", "/v1/responses", {"model": model, "previous_response_id": told}),
            ):
                assert await ask(client, method, path, body) == (200, told, name)
            assert sum(len(backend.seen) for backend in backends) == before + 3


async def test_a_response_that_this_router_has_not_seen_is_looked_for(
    start: Start, backends: list[FakeBackend]
) -> None:
    async with start(two_pools(backends)) as client:
        for i in range(BACKENDS):
            assert (await ask(client, "GET", f"/v1/responses/resp_{i}"))[:2] == (200, f"resp_{i}")
        body = {"model": "m", "previous_response_id": "resp_2"}
        assert (await ask(client, "POST", "/v1/responses", body))[:2] == (200, "resp_2")


async def test_a_response_that_nobody_has_is_404_from_a_backend(start: Start, backends: list[FakeBackend]) -> None:
    async with start(two_pools(backends)) as client:
        assert (await ask(client, "GET", "/v1/responses/resp_none"))[0] == 404
        assert sum(len(backend.seen) for backend in backends) == BACKENDS
        assert await client.metric("marlin_router_upstream_errors_total") == 0


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    responses = Responses()
    for i in range(MAX_KNOWN + 5):
        responses.note(b'{"id":"resp_%d"}' % i, ("p", "b", "u"))
    assert responses.keeper("resp_4") is None
    assert responses.keeper("resp_5") == responses.keeper(f"resp_{MAX_KNOWN + 4}") == ("p", "b", "u")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"previous_response_id": 7}', b'{"previous_response_id": null}', b"\xff"]
)
def test_a_body_without_a_previous_response_begins_anew(body: bytes) -> None:
    assert asked_for("/v1/responses", body) is None

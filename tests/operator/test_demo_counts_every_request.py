"""The client of the demo against a backend that misbehaves: each request ends in exactly one outcome."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from marlin.operator.demo.load import Outcome, replay, request_body, usage_of
from marlin.operator.demo.schedule import PlannedRequest

USAGE = b'"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}'
STREAM = b'data: {"choices":[{}]}\n\ndata: {"choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"


def planned(index: int, *, is_stream: bool) -> PlannedRequest:
    return PlannedRequest(index, 0.0, "eu", 50, 3, is_stream=is_stream)


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    index = int(body["messages"][0]["content"].split("]")[0][1:])
    headers = {"x-marlin-datacenter": "frankfurt"}
    if index == 1:
        return web.json_response({"error": {"message": "full"}}, status=503, headers=headers)
    if not body.get("stream"):
        return web.Response(body=b"{" + USAGE + b"}", headers=headers)
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if index == 2:  # a backend that dies: the stream ends without [DONE]
        await response.write(STREAM[:-20])
        return response
    if index == 3:
        await response.write(b'data: {"error":{"message":"dead","code":500}}\n\ndata: [DONE]\n\n')
        return response
    await response.write(STREAM)
    return response


async def run(requests: list[PlannedRequest]) -> tuple[list[Outcome], int]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    sent: list[PlannedRequest] = []
    async with TestServer(app, host="127.0.0.1") as server:
        outcomes = await replay(
            requests, {"eu": f"http://127.0.0.1:{server.port}"}, "m", on_sent=sent.append, on_outcome=lambda _: None
        )
    return outcomes, len(sent)


async def test_complete_answers_count_with_their_tokens_and_their_site() -> None:
    outcomes, sent = await run([planned(10, is_stream=True), planned(11, is_stream=False)])
    assert sent == 2
    for outcome in outcomes:
        assert outcome.error is None
        assert (outcome.prompt_tokens, outcome.output_tokens) == (7, 3)
        assert outcome.datacenter == "frankfurt"
        assert outcome.ttft_s is not None
        assert outcome.ttft_s > 0


@pytest.mark.parametrize(
    ("index", "why"), [(1, "HTTP 503"), (2, "the answer ended early"), (3, "the answer ended early")]
)
async def test_an_error_a_cut_stream_and_an_error_event_each_count_as_failed(index: int, why: str) -> None:
    outcomes, sent = await run([planned(index, is_stream=True)])
    assert sent == len(outcomes) == 1
    assert outcomes[0].error is not None
    assert why in outcomes[0].error


async def test_a_router_that_is_not_there_fails_the_request_and_loses_nothing() -> None:
    sent: list[PlannedRequest] = []
    outcomes = await replay(
        [planned(0, is_stream=True)],
        {"eu": "http://127.0.0.1:9"},
        "m",
        on_sent=sent.append,
        on_outcome=lambda _: None,
    )
    assert len(sent) == len(outcomes) == 1
    assert outcomes[0].error is not None
    assert outcomes[0].datacenter is None


def test_the_prompt_is_about_as_long_as_planned_and_carries_its_number() -> None:
    body = json.loads(request_body(PlannedRequest(42, 0.0, "eu", 300, 9, is_stream=True), "m"))
    content = body["messages"][0]["content"]
    assert content.startswith("[42] ")
    assert len(content) == 1200
    assert body["max_tokens"] == 9
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("body", [b"", b"data: [DONE]\n\n", b"not json", STREAM.replace(b"[DONE]", b"")])
def test_what_is_not_a_complete_answer_has_no_usage(body: bytes) -> None:
    assert usage_of(body, is_stream=True) is None
    assert usage_of(body, is_stream=False) is None

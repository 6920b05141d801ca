"""A request is a span at a collector, with what was decided; the headers that go on say whose child comes next."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_backend import FakeBackend, reply
from otlp_collector import collecting
from router_client import Start, table
from router_process import running

from marlin.api.tracing import read_traceparent
from marlin.router.heads import read_request
from marlin.router.tracer import Tracer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEPT, NOT_KEPT = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
USAGE = b'{"usage":{"prompt_tokens":3,"total_tokens":10,"completion_tokens":7}}'
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def sent_on(backend: FakeBackend) -> list[str]:
    """Every traceparent that the backend got."""
    return [value for seen in backend.seen for name, value in seen.headers if name.lower() == "traceparent"]


async def test_a_span_says_where_its_request_went_and_the_backend_s_parent_is_that_span(start: Start) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE)
    async with FakeBackend(reply(whole)) as backend, FakeBackend(reply(BUSY)) as busy, collecting() as collector:
        document = table(busy.url, backend.url)
        document["pools"][0]["backends"][0]["capacityRps"] = 1000.0
        headers = {"Traceparent": KEPT, "tracestate": "a=1"}
        async with start(document, otlp_endpoint=collector.url) as client, client.post(headers=headers) as response:
            assert response.status == 200
        [span] = await collector.wait_for(1)
    assert (span.name, span.trace_id, span.parent_id, span.kind) == ("POST /v1/chat/completions", TRACE, PARENT, 2)
    assert sent_on(backend) == [f"00-{TRACE}-{span.span_id}-01"]
    assert ("tracestate", "a=1") in backend.seen[0].headers
    wanted = {
        "http.request.method": "POST", "url.path": "/v1/chat/completions", "http.response.status_code": 200,
        "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 7,
        "marlin.pool": "chat", "marlin.datacenter": "dc1", "marlin.backend": "b1", "marlin.attempts": 2,
        "marlin.tried": "dc0/b0", "marlin.dispatch": "ByCapacity", "marlin.session": False, "marlin.stream": False,
        "marlin.datacenter.in_flight": 0,
    }  # fmt: skip
    assert wanted.items() <= span.attributes.items()
    assert span.resource["service.name"] == "marlin-router"
    assert 0 < span.ended_ns - span.began_ns < 60e9


async def test_what_went_wrong_is_an_error_and_what_the_client_did_wrong_is_none(start: Start) -> None:
    async with collecting() as collector:
        async with start(table("http://127.0.0.1:1"), otlp_endpoint=collector.url) as client:
            for model in ("m", "nobody"):
                async with client.post({"model": model}) as response:
                    assert response.status in {502, 404}
        lost, unknown = sorted(await collector.wait_for(2), key=lambda span: span.error is None)
    assert (lost.error, lost.attributes["error.type"]) == ("upstream_connect", "upstream_connect")
    assert (unknown.error, unknown.attributes["error.type"]) == (None, "unknown_model")


@pytest.mark.parametrize("header", [KEPT, NOT_KEPT, "00-abc-def-01"])
async def test_without_a_collector_the_header_goes_on_untouched(
    start: Start, backend: FakeBackend, header: str
) -> None:
    async with start(table(backend.url)) as client, client.post(headers={"traceparent": header}):
        assert sent_on(backend) == [header]


async def test_a_trace_that_its_beginner_does_not_keep_is_not_begun_here_either(
    start: Start, backend: FakeBackend
) -> None:
    async with collecting() as collector:
        async with start(table(backend.url), otlp_endpoint=collector.url) as client:
            async with client.post(headers={"traceparent": NOT_KEPT}):
                pass
            async with client.post():
                pass
        [span] = await collector.wait_for(1)
    assert sent_on(backend) == [NOT_KEPT, f"00-{span.trace_id}-{span.span_id}-01"]


def head(*lines: str) -> bytes:
    return "\r\n".join(("POST /v1/completions HTTP/1.1", "Host: a", "Content-Length: 2", *lines)).encode()


def test_of_requests_without_a_trace_the_wanted_part_begins_one_and_the_others_are_told_on_as_not_kept() -> None:
    tracer, kept = Tracer(0.25, lambda: 0.0), 0
    for _ in range(4_000):
        request = read_request(head())
        trace = tracer.begin(request)
        [line] = [line for line in request.lines if line.startswith(b"traceparent:")]
        parent = read_traceparent(line[13:])
        assert parent is not None
        assert parent.is_sampled == (trace is not None)
        kept += trace is not None
    assert kept == pytest.approx(1_000, abs=5 * 28)  # five standard deviations


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_none_and_all_are_none_and_all(ratio: float) -> None:
    tracer = Tracer(ratio, lambda: 0.0, lambda size: b"\xff" * size if ratio else b"\1" * size)
    assert (tracer.begin(read_request(head())) is not None) == (ratio == 1.0)


def test_of_two_parents_neither_is_believed() -> None:
    request = read_request(head(f"traceparent: {KEPT}", f"traceparent: {KEPT}"))
    trace = Tracer(1.0, lambda: 0.0).begin(request)
    assert trace is not None
    assert trace.trace_id != TRACE
    assert request.lines[-2:] == [f"traceparent: {KEPT}".encode()] * 2


async def test_a_router_that_ends_has_sent_its_last_span(tmp_path: Path, backend: FakeBackend) -> None:
    import aiohttp

    async with collecting() as collector, aiohttp.ClientSession() as session:
        async with running(tmp_path, table(backend.url), "--otlp-endpoint", collector.url, "--workers", "2") as router:
            for _ in range(20):
                async with session.post(f"{router.url}/v1/completions", json={"model": "m"}) as response:
                    assert response.status == 200
        assert len(collector.spans) == 20
        assert {span.name for span in collector.spans} == {"POST /v1/completions"}

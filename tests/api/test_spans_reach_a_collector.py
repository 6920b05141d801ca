"""What is handed over as a span arrives at a collector as OpenTelemetry's protocol has it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_collector import collecting

from marlin.api.tracing import Parent, Span, Traces, TracingError, read_traceparent, traceparent

TRACE, ONE, TWO = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
async def test_a_span_arrives_with_everything_it_says(path: str) -> None:
    async with collecting() as collector:
        traces = Traces(collector.url + path, "marlin-test", "pod-1", "1.2.3")
        traces.add(Span("plan", TRACE, ONE, 1_000, 3_000, attributes={"a": 1, "b": 0.5, "c": "x", "d": True}))
        traces.add(Span("send", TRACE, TWO, 1_500, 2_000, parent_id=ONE, kind="client", error="no answer"))
        await asyncio.to_thread(traces.close)
        plan, send = await collector.wait_for(2)
    assert (plan.name, plan.trace_id, plan.span_id, plan.parent_id) == ("plan", TRACE, ONE, "")
    assert (plan.began_ns, plan.ended_ns, plan.kind, plan.error) == (1_000, 3_000, 1, None)
    assert plan.attributes == {"a": 1, "b": 0.5, "c": "x", "d": True}
    assert (send.parent_id, send.kind, send.error) == (ONE, 3, "no answer")
    named = {"service.name": "marlin-test", "service.instance.id": "pod-1", "service.version": "1.2.3"}
    assert named.items() <= plan.resource.items()


async def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marlin.api.tracing.CLOSE_TIMEOUT_S", 0.05)
    caplog.set_level(logging.CRITICAL)
    traces = Traces(f"http://127.0.0.1:{unused_tcp_port}", "marlin-test", "pod-1", "1.2.3")
    for _ in range(5_000):
        traces.add(Span("plan", TRACE, ONE, 1, 2))
    await asyncio.to_thread(traces.close)


def test_without_the_library_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TracingError, match=r"pip install 'marlin\[otel\]'"):
        Traces("http://collector:4318", "marlin-test", "pod-1", "1.2.3")


def test_where_traces_are_off_nothing_of_it_is_imported() -> None:
    code = "import sys, marlin.api.tracing; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[]\n"


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (f"00-{TRACE}-{ONE}-01", Parent(TRACE, ONE, is_sampled=True)),
        (f"00-{TRACE}-{ONE}-02", Parent(TRACE, ONE, is_sampled=False)),
        (f"cc-{TRACE}-{ONE}-01-what-the-future-adds", Parent(TRACE, ONE, is_sampled=True)),
        (f"00-{TRACE}-{ONE}-01-extra", None),
        (f"ff-{TRACE}-{ONE}-01", None),
        (f"00-{'0' * 32}-{ONE}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{ONE}-01", None),
        (f"00-{TRACE}-{ONE}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(value: str, parent: Parent | None) -> None:
    assert read_traceparent(value.encode()) == parent


@given(st.binary(max_size=80))
def test_any_bytes_are_a_parent_or_none(value: bytes) -> None:
    parent = read_traceparent(value)
    assert parent is None or read_traceparent(traceparent(*parent[:2], is_sampled=parent.is_sampled)) == parent

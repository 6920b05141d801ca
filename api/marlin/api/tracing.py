"""Spans for an OpenTelemetry collector: off unless an address is given, and then the extra ``otel`` is needed.

Whoever has done something (a router a request, the operator a round) fills in a ``Span`` when it is over. ``Traces``
hands it to the SDK's queue, whose thread sends batches by OTLP over HTTP. Nothing is patched, no global state is set,
no context is kept beside the work, and where traces are off nothing of OpenTelemetry is imported. A collector that is
away costs spans, never requests: the queue is bounded, and what does not fit is dropped.

Ids and ``traceparent`` are W3C's (Trace Context, level 2, section 3.2). What the exporter reads from the environment
holds here too: ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_EXPORTER_OTLP_CERTIFICATE``, ``OTEL_RESOURCE_ATTRIBUTES``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from marlin.api.errors import MarlinError

TRACES_PATH: Final = "/v1/traces"
"""Where a collector takes spans, below its address (OTLP 1.9, section 1.4.2)."""

CLOSE_TIMEOUT_S: Final = 5.0
"""How long the end of a process waits for a collector."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

Attribute = str | int | float | bool


class TracingError(MarlinError):
    """Traces are asked for and cannot be made."""


class Parent(NamedTuple):
    """The span that a request comes from."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool
    """Whether whoever began the trace keeps it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was done. Also a message between processes, so its ids are text."""

    name: str
    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    began_ns: int
    ended_ns: int
    """Unix time, ns."""
    parent_id: str = ""
    """Span within which it was done; empty: it begins the trace."""
    kind: str = "internal"
    """``internal``, ``server`` or ``client``."""
    error: str = ""
    """What went wrong; empty: nothing."""
    attributes: dict[str, Attribute] = field(default_factory=dict)


def read_traceparent(value: bytes) -> Parent | None:
    """The parent that a ``traceparent`` header names; None where it names none (then a new trace begins)."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5]):
        return None
    trace_id, span_id = match[2].decode(), match[3].decode()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Parent(trace_id, span_id, is_sampled=bool(int(match[4], 16) & 1))


def traceparent(trace_id: str, span_id: str, *, is_sampled: bool) -> bytes:
    """The header's value that makes what follows a child of a span."""
    return f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}".encode()


class Traces:
    """Where spans go.

    Args:
        endpoint: address of a collector, as ``http://host:4318``; spans go to ``/v1/traces`` below it.
        service: what the process is: ``marlin-router``, ``marlin-operator``.
        instance: which one of them; a pod's name.
        version: of the program.

    Raises:
        TracingError: the extra ``otel`` is not installed.
    """

    def __init__(self, endpoint: str, service: str, instance: str, version: str) -> None:
        self._make, processor = _exporting(endpoint, service, instance, version)
        self._on_end: Callable[[Any], None] = processor.on_end
        self._shutdown: Callable[[], None] = processor.shutdown

    def add(self, span: Span) -> None:
        """Queues a span; never waits."""
        self._on_end(self._make(span))

    def close(self) -> None:
        """Sends what is queued and ends; blocks for ``CLOSE_TIMEOUT_S`` at most."""
        # The SDK waits half a minute for a collector that hangs; a process that ends does not wait for this thread.
        closing = threading.Thread(target=self._shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)


def _exporting(endpoint: str, service: str, instance: str, version: str) -> tuple[Callable[[Span], Any], Any]:
    """What makes the SDK's spans of ours, and the queue that takes them."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags  # noqa: PLC0415
    except ImportError as error:
        raise TracingError(f"traces need the extra otel ({error}): pip install 'marlin[otel]'") from None
    named: Mapping[str, Attribute] = {
        "service.name": service,
        "service.instance.id": instance,
        "service.version": version,
    }
    resource = Resource.create(named)
    scope = InstrumentationScope("marlin", version)
    kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
    sampled = TraceFlags(TraceFlags.SAMPLED)

    def make(span: Span) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        parent_id = int(span.parent_id or "0", 16)
        return ReadableSpan(
            span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=sampled),
            parent=SpanContext(trace_id, parent_id, is_remote=True, trace_flags=sampled) if parent_id else None,
            resource=resource,
            attributes=span.attributes,
            kind=kinds[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=scope,
        )

    url = endpoint.rstrip("/")
    url = url if url.endswith(TRACES_PATH) else url + TRACES_PATH
    return make, BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=CLOSE_TIMEOUT_S))

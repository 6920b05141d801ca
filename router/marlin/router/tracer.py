"""Spans of a worker's requests: begun when a request is read, told when it has ended, sent by the control process.

``flow`` asks at a request's beginning, ``plane`` at its end; both only where traces are wanted. A worker knows nothing
of OpenTelemetry: it fills in ``Span`` values, and the control process hands them to the exporter's thread
(``marlin.api.tracing``). A request that came with a ``traceparent`` is traced if whoever began its trace keeps it, and
then its backend's parent is our span; if not, the header goes on untouched. Of those without, a part is traced, and the
others are told on as not kept, so that no router or engine behind this one begins a piece of a trace.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from marlin.api.tracing import Attribute, Parent, Span, read_traceparent, traceparent
from marlin.router.heads import RequestHead
from marlin.router.responses import PATH as RESPONSES
from marlin.router.view import Ordered

if TYPE_CHECKING:
    from marlin.router.flow import Flow

MAX_HELD: Final = 4096
"""Spans that wait to be handed on; what comes beyond that between two looks at the clock is dropped."""

_NAME: Final = b"traceparent:"
_NS: Final = 1_000_000_000
_NAMED: Final = frozenset(
    {
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/messages"),
        *("/v1/messages/count_tokens", RESPONSES, "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/v1/score"),
        *("/v2/embed", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/realtime"),
        *("/tokenize", "/detokenize", "/score", "/rerank", "/pooling"),
    }
)
"""Paths that a span may be named after: names are few, paths that clients invent are not."""


class Trace:
    """What is known of a request's span while it lasts.

    Attributes:
        trace_id, span_id, parent_id: hexadecimal digits.
        in_flight, concurrency: what its datacenter held when it was chosen last, and holds at full capacity.
    """

    __slots__ = ("concurrency", "in_flight", "parent_id", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, parent_id: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.in_flight = 0
        self.concurrency = 0.0


class Tracer:
    """Makes spans.

    Args:
        ratio: part of the requests without a ``traceparent`` that is traced, 0 to 1.
        wall_clock: Unix time, s.
        random: gives so many random bytes.
    """

    def __init__(
        self, ratio: float, wall_clock: Callable[[], float], random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._threshold = round(ratio * 2**56)
        self._wall_clock = wall_clock
        self._random = random
        self._held: list[Span] = []
        self.dropped = 0
        """Spans that did not fit."""

    def begin(self, head: RequestHead) -> Trace | None:
        """Decides on a request's trace and writes it into what goes on; None: it has none here."""
        lines = head.lines
        at = [i for i, line in enumerate(lines) if i and line[:12].lower() == _NAME]
        parent: Parent | None = None
        if len(at) == 1:  # of two, neither can be believed; both go on as they are
            parent = read_traceparent(lines[at[0]][12:].strip(b" \t"))
            if parent is not None and not parent.is_sampled:
                return None
        ids = self._random(24).hex()
        trace_id, span_id = ids[:32], ids[32:]
        # The last 56 bits of a trace's id are random: W3C, section 4.2; the same part is traced wherever it is asked.
        is_kept = parent is not None or int(trace_id[18:], 16) < self._threshold
        if parent is not None:
            trace_id = parent.trace_id
        if len(at) < 2:
            line = b"%b %b" % (_NAME, traceparent(trace_id, span_id, is_sampled=is_kept))
            if at:
                lines[at[0]] = line
            else:
                lines.append(line)
        return Trace(trace_id, span_id, "" if parent is None else parent.span_id) if is_kept else None

    def end(self, flow: Flow, trace: Trace, duration_s: float) -> None:
        """Fills in the span of a request that has ended."""
        if len(self._held) >= MAX_HELD:
            self.dropped += 1
            return
        first = flow.head.line
        ended_ns = int(self._wall_clock() * _NS)
        method, path = first.method.decode("ascii"), first.path
        if first.is_responses and path != RESPONSES:
            name = f"{method} {RESPONSES}/{{response_id}}"
        else:
            name = f"{method} {path}" if path in _NAMED else method
        failed = flow.error if flow.status >= 500 or flow.status < 400 else ""
        self._held.append(
            Span(
                name,
                trace.trace_id,
                trace.span_id,
                ended_ns - int(duration_s * _NS),
                ended_ns,
                trace.parent_id,
                "server",
                failed,
                _attributes(flow, trace, method, path),
            )
        )

    def take(self) -> list[Span]:
        """The spans that wait, which wait no longer."""
        held, self._held = self._held, []
        return held


def _attributes(flow: Flow, trace: Trace, method: str, path: str) -> dict[str, Attribute]:
    """What a span says of its request: OpenTelemetry's names where it has them, ours for the decision."""
    found: dict[str, Attribute] = {
        "http.request.method": method,
        "url.path": path,
        "http.response.status_code": flow.status,
        "http.request.body.size": len(flow.body),
        "http.response.body.size": flow.bytes_out,
        "marlin.attempts": flow.attempts,
        "marlin.session": flow.has_session,
        "marlin.stream": flow.is_stream,
    }
    if flow.error:
        found["error.type"] = flow.error
    if flow.ticket is not None:
        found["marlin.tenant"] = flow.ticket.tenant.name
    if (first_token_s := flow.first_token_s) is not None:
        found["marlin.ttft_seconds"] = first_token_s
    if flow.usage is not None:
        found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"] = flow.usage
    live = flow.last_live
    if live is not None:
        site = live.site
        pool = site.pool.pool
        found |= {
            "gen_ai.request.model": pool.model_name,
            "marlin.pool": pool.name,
            "marlin.datacenter": live.backend.datacenter,
            "marlin.backend": live.backend.name,
            "marlin.dispatch": _dispatch(is_ordered=isinstance(pool.rule, Ordered), is_planned=pool.is_planned),
            "marlin.datacenter.in_flight": trace.in_flight,
            "marlin.datacenter.capacity": trace.concurrency,
        }
        if live.peer.epoch is not None:
            found["marlin.plan.epoch"] = live.peer.epoch
    if flow.tried:
        found["marlin.tried"] = ",".join(f"{b.backend.datacenter}/{b.backend.name}" for b in flow.tried)
    return found


def _dispatch(*, is_ordered: bool, is_planned: bool) -> str:
    if not is_planned:
        return "ByCapacity"
    return "Ordered" if is_ordered else "Shares"

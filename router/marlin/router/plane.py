"""The data plane of one worker: what its connections share, and what happens beside them.

``worker`` makes one and feeds it tables; ``downstream`` and ``flow`` use it for every request. Time-outs are looked
after here, by walking over everything a few times a second, so that a request needs no timer of its own. The only
clocks are the two that are passed in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Collection, Coroutine, Sequence
from random import Random
from typing import Any, Final

from marlin.api.tracing import Span
from marlin.router.access_log import AccessLog
from marlin.router.balancer import Balancer, LiveBackend
from marlin.router.budget import RetryBudget
from marlin.router.downstream import Downstream
from marlin.router.endings import Ending, Endings
from marlin.router.energy import LOOK_S as ENERGY_LOOK_S
from marlin.router.errors import RouterError, UnknownModelError
from marlin.router.flow import Flow
from marlin.router.gate import Gate, Ticket
from marlin.router.heads import RequestHead
from marlin.router.held import SUMMARY_PATH, summary_of
from marlin.router.ledger import Ledger
from marlin.router.limits import Tenant
from marlin.router.loads import LoadPage
from marlin.router.responses import Responses
from marlin.router.settings import Settings
from marlin.router.tally import Tally
from marlin.router.tracer import Tracer
from marlin.router.upstream import Contexts, Peer
from marlin.router.view import Table

_LOG = logging.getLogger("marlin.router")

LOOK_S: Final = 0.25
"""Between two looks at the clock."""

SUSPECT_S: Final = 0.75
"""Silence of a backend that holds requests after which it is asked whether it is well; two probes that go unanswered
take another second, so that the answer is there when it has been silent for ``HUNG_S``, on a busy machine too."""

HUNG_S: Final = 2.0
"""Silence after which it is taken to be hung, if it left two probes unanswered too."""

MIN_MOVED: Final = 8
MOVED_SHARE: Final = 0.1
"""Requests that were sent elsewhere, as their backend was hung or late, are never more than the greater of the two:
some requests, or a share of all in flight. Moving all of a large backend's would be the next one's end."""


class Plane:
    """Everything a worker's connections share.

    Args:
        settings: limits and time-outs.
        clock: monotonic seconds.
        wall_clock: Unix time, s.
        page: counts that workers share; None: there is one worker.
        write_log: takes batches of access log lines; None: there is no access log.
        ledger: what tenants have used, shared by workers; needed where the settings name a list of tenants.

    Attributes:
        balancer: chooses and counts.
        tally: what is counted.
        budget: how many retries there may be.
        responses: which backend keeps which response.
        tracer: makes spans; None: nobody wants any.
        gate: lets tenants in; None: everybody comes in.
        has_to_know_usage: whether what a reply used is to be known as soon as it has ended.
        flows: requests being served.
        clients: their connections, and idle ones.
        is_draining: whether connections are closed when their request has ended.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        page: LoadPage | None = None,
        write_log: Callable[[bytes], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._settings = settings
        self.clock = clock
        self.wall_clock = wall_clock
        self.request_timeout_s = settings.request_timeout_s
        self.max_body_bytes = settings.max_body_bytes
        self.session_prompt_bytes = settings.session_prompt_bytes
        self.has_stream_estimates = settings.has_stream_estimates
        self.balancer = Balancer(clock, Random(settings.seed), page)
        self.tally = Tally()
        self.budget = RetryBudget(clock())
        self.responses = Responses()
        self.tracer = Tracer(settings.trace_ratio, wall_clock) if settings.otlp_endpoint is not None else None
        self.gate: Gate | None = None
        if settings.tenants is not None:
            assert ledger is not None
            self.gate = Gate(ledger, self.tally)
        self.has_to_know_usage = self.gate is not None or self.tracer is not None or self.has_stream_estimates
        self.flows: dict[Flow, None] = {}
        self.clients: dict[Downstream, None] = {}
        self.is_draining = False
        self.on_suspect: Callable[[str], None] = lambda _: None
        """Called with the address of a backend that holds requests and is silent."""
        self.on_spans: Callable[[list[Span]], None] = lambda _: None
        """Called with the spans of requests that have ended."""
        self._next_energy_s = -math.inf
        self._own_cell = self.tally.cell("", "")
        self._log = None if write_log is None else AccessLog(settings.log_format, write_log)
        self._endings = Endings(self._own_cell, self._log)
        self._contexts = Contexts(settings.secrets_dir)
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def accept(self) -> Downstream:
        """The protocol of a new connection."""
        return Downstream(self)

    def adopt(self, table: Table, slots: Collection[int] | None = None) -> None:
        """Takes a table over; requests in flight end as they began.

        Args:
            table: the table.
            slots: a cell of the load page for each of ``table.backends()``.
        """
        self._endings.work_off()  # by the table that they ended with
        before = list(self.balancer.all_live())
        self.balancer.adopt(table, slots)
        self._contexts.forget()
        for pool in self.balancer.pools:
            is_planned = table.plan is not None and pool.pool.is_planned
            epoch = table.plan.epoch if table.plan is not None and is_planned else None
            for live in pool.backends():
                if not hasattr(live, "peer"):
                    live.peer = Peer(self.clock, self._settings.connect_timeout_s)
                live.peer.describe(live.backend, self._contexts.of, self._settings.origin, epoch)
                live.peer.log = b"" if self._log is None else self._log.describe(live.backend)
                live.peer.cell = self.tally.cell(live.backend.pool, live.backend.datacenter)
        kept = {id(live) for pool in self.balancer.pools for live in pool.backends()}
        for live in before:
            if id(live) not in kept:
                live.peer.retire()

    def adopt_tenants(self, tenants: Sequence[Tenant]) -> None:
        """Takes a list of tenants over."""
        if self.gate is not None:
            self.gate.adopt(tenants)

    def own_answer(self, head: RequestHead) -> bytes:
        """What is answered here rather than by a backend: the list of models, and whether this router is ready.

        Raises:
            InvalidKeyError: nobody is known by the request's key.
            UnknownModelError: there is no such model.
        """
        path = head.line.path
        if self.gate is not None and path not in {"/healthz", "/readyz"}:
            self.gate.tenant_of(head)
        if path.startswith("/v1/models"):
            return self._models(path)
        if path == SUMMARY_PATH:
            return summary_of(self.balancer.held(self.clock()))
        return b'{"ready":%b}\n' % (b"false" if self.is_draining else b"true")

    def _models(self, path: str) -> bytes:
        """OpenAI's list of models, or one of them, from the table: true even while every backend is down."""
        entries = {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "marlin"} for name in self.balancer.by_model
        }
        wanted = path.removeprefix("/v1/models").removeprefix("/")
        answer: object = {"object": "list", "data": list(entries.values())}
        if wanted:
            if wanted not in entries:
                raise UnknownModelError(f"The model `{wanted[:200]}` does not exist.", param="model")
            answer = entries[wanted]
        return json.dumps(answer).encode()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs ``work`` beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ended(self, flow: Flow, now_s: float) -> None:
        """Notes a request that has ended, to be counted and logged."""
        self.flows.pop(flow, None)
        duration_s = now_s - flow.began_s
        head, ticket, endings = flow.head, flow.ticket, self._endings
        endings.add(
            Ending(
                self.wall_clock(),
                duration_s,
                flow.ttft_s,
                flow.first_token_s,
                flow.status,
                head.line,
                flow.last_live,
                flow.attempts,
                len(flow.body),
                flow.bytes_out,
                flow.has_usage,
                flow.usage,
                flow.tail,
                "" if ticket is None else ticket.tenant.name,
                flow.error,
                head.request_id,
            )
        )
        if endings.is_full:
            endings.work_off()
        if self.tracer is not None and (trace := getattr(flow, "trace", None)) is not None:
            self.tracer.end(flow, trace, duration_s)
        if not self.flows:
            self._idle.set()

    def count_endings(self) -> None:
        """Counts what has ended, for a report."""
        self._endings.work_off()

    def settle(self, flow: Flow, ticket: Ticket, now_s: float) -> None:
        """Charges a tenant for a request that has ended."""
        if self.gate is not None:
            self.gate.settle(ticket, flow, now_s, self.wall_clock())

    def refused(self, error: RouterError, head: RequestHead | None, since_s: float) -> None:
        """Counts a request that could not be read."""
        self._own_cell.count_request(error.status, max(0.0, self.clock() - since_s), None)
        _LOG.info("request refused: %d %s: %s", error.status, error.reason, error.message)

    async def wait_until_idle(self) -> None:
        """Returns when no request is being served."""
        while self.flows:
            self._idle.clear()
            await self._idle.wait()

    async def look_after(self) -> None:
        """Looks at the clock until cancelled."""
        interval_s = min(LOOK_S, self._settings.stream_idle_timeout_s / 4)
        while True:
            await asyncio.sleep(interval_s)
            self.look_at_clock()

    def look_at_clock(self) -> None:
        """Gives up what takes too long, and writes out the log."""
        now_s = self.clock()
        idle_s = self._settings.stream_idle_timeout_s
        late = [flow for flow in list(self.flows) if not flow.is_over and flow.look_at_clock(now_s, idle_s)]
        if late:
            self._move("late", late)
        for client in list(self.clients):
            client.look_at_clock(now_s)
        for live in self.balancer.all_live():
            live.peer.drop_stale(now_s)
            if live.peer.is_heard:
                live.peer.is_heard = False
                self.balancer.heard(live, now_s)
            elif not live.own_in_flight or live.silent_since_s == 0.0:
                live.silent_since_s = now_s
            elif now_s - self.balancer.silent_since_s(live) >= SUSPECT_S and not live.is_down(now_s):
                self.on_suspect(live.backend.url)
                self._leave_if_hung(live, now_s)
        if now_s >= self._next_energy_s:
            self._endings.work_off()  # by what a token took when they ended
            self._next_energy_s = now_s + ENERGY_LOOK_S
            self.balancer.look_at_energy()
        self.flush()

    def was_probed(self, url: str, *, is_well: bool) -> None:
        """A probe found something out about a backend."""
        for live in self.balancer.all_live():
            if live.backend.url == url:
                self.balancer.report_probe(live, is_well=is_well)

    def was_unanswered(self, url: str) -> None:
        """A backend left two probes unanswered: once it has been silent for long too, requests move on."""
        now_s = self.clock()
        for live in list(self.balancer.all_live()):
            if live.backend.url == url:
                live.unanswered_s = now_s
                self._leave_if_hung(live, now_s)

    def _leave_if_hung(self, live: LiveBackend, now_s: float) -> None:
        """Leaves a backend alone that is silent, to every worker, and left probes unanswered while it was."""
        for flow in self.flows:
            if flow.live is live:
                flow.tell()
        since_s = self.balancer.silent_since_s(live)
        is_silent = live.own_in_flight and not live.peer.is_heard and now_s - since_s >= HUNG_S
        if not is_silent or live.unanswered_s < since_s or live.is_down(now_s):
            return
        _LOG.warning("backend %s of pool %s is hung", live.backend.name, live.backend.pool)
        live.peer.cell.count_upstream_error("hung")
        self.balancer.report_probe(live, is_well=False)
        self._move("hung", [flow for flow in self.flows if flow.live is live and not flow.has_begun])

    def _move(self, why: str, flows: Sequence[Flow]) -> None:
        """Sends requests elsewhere, as many as may be moved at a time."""
        room = max(MIN_MOVED, int(MOVED_SHARE * len(self.flows)))
        room -= sum(flow.was_moved and not flow.has_begun for flow in self.flows)
        for flow in flows:
            live = flow.live
            if room <= 0:
                break
            if live is not None and flow.move_on(why):
                room -= 1
                if why == "late":
                    live.patience.ran_out()
                    live.peer.cell.count_upstream_error(why)
                    self.balancer.report_failed(live)

    def drain(self, *, is_final: bool = False) -> None:
        """From now on, every connection ends with its request; finally those without a request end too.

        Not at once: to close one between two requests is to hang up on a client that is just sending the next, which
        then knows of no answer. Its answer says that the connection ends, and the next request goes elsewhere.
        """
        self.is_draining = True
        if is_final:
            for client in list(self.clients):
                client.close_if_idle()

    async def close(self) -> None:
        """Ends all connections, whatever is on them."""
        for client in list(self.clients):
            client.end()
        for live in self.balancer.all_live():
            live.peer.retire()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Closed transports tell their protocols in the next turn of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
        self.flush()

    def flush(self) -> None:
        """Counts what has ended, and hands on log lines and spans that wait."""
        self._endings.work_off()
        if self._log is not None:
            self._log.flush()
        if self.tracer is not None and (spans := self.tracer.take()):
            self.on_spans(spans)

"""The engines behind one address: the batching state machine driven by a clock, and the streams that wait on it.

One timer serves all replicas and all streams. It fires when the batch of a replica changes (a first token, an end, an
admission), and otherwise when tokens are due to streams. The second is rationed: handing tokens to a stream costs the
event loop some tens of microseconds, so with many streams several tokens of each are handed over together. First
and last tokens are never held back, and the counters see each token at its own time. vLLM joins tokens too, when
its client falls behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

from marlin.simulator.emulator import batching
from marlin.simulator.emulator.batching import Job, Limits, State, Timing
from marlin.simulator.emulator.telemetry import Telemetry

HANDOVER_S: Final = 60e-6
"""Cost of handing tokens to one stream, s: measured for a short chat chunk on one core."""

HANDOVER_SHARE: Final = 0.15
"""Part of one core that may go into handing over tokens that are neither first nor last."""


class QueueFullError(Exception):
    """The server holds as many requests as it may."""


@dataclass(eq=False, slots=True)
class Signal:
    """Wakes the one task that waits for the sequences of a request."""

    _set: bool = False
    _waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Something came; whoever waits looks."""
        self._set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Waits until ``set`` is called, or has been since the last time."""
        if not self._set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._set = False


@dataclass(eq=False, slots=True)
class Stream:
    """One sequence on its way: how many tokens have come, and whether more will."""

    id: int
    replica: int
    prompt_tokens: int
    output_tokens: int
    streamed: bool
    """Whether somebody waits for single tokens."""
    signal: Signal
    """Set when tokens came or the end; shared by the sequences of a request."""
    params_n: int
    params_max_tokens: int
    arrived_s: float
    admitted_s: float | None = None
    first_token_s: float | None = None
    preemptions: int = 0
    tokens: int = 0
    """Tokens that have come."""
    last_s: float = 0.0
    """When the last of them came."""
    ended: str | None = None
    """Why no more will: ``done``, ``abort`` or ``dead``."""


@dataclass(eq=False, slots=True)
class _Replica:
    name: str
    state: State = field(default_factory=State)
    streams: dict[int, Stream] = field(default_factory=dict)
    streamed: int = 0
    """How many of ``streams`` wait for single tokens."""


class Engine:
    """``replicas`` engines; a request goes to the one with the fewest."""

    def __init__(
        self,
        limits: Limits,
        timing: Timing,
        telemetry: Telemetry,
        *,
        replicas: int = 1,
        max_num_queued_reqs: int | None = None,
    ) -> None:
        self._limits = limits
        self._timing = timing
        self._telemetry = telemetry
        self._max_num_queued_reqs = max_num_queued_reqs
        self._replicas = [_Replica(str(i)) for i in range(replicas)]
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._handed_over_s = 0.0
        self._next_id = 0
        for replica in self._replicas:
            telemetry.add_engine(replica.name, limits.kv_capacity_tokens)
            self._add_gauges(replica)

    @property
    def requests(self) -> int:
        """Sequences running and waiting, on all replicas."""
        return sum(len(replica.streams) for replica in self._replicas)

    def submit(
        self,
        prompt_tokens: int,
        output_tokens: list[int],
        *,
        streamed: bool,
        max_tokens: int,
        signal: Signal | None = None,
    ) -> list[Stream]:
        """Starts one request: a sequence for each entry of ``output_tokens``, all on one replica.

        Args:
            prompt_tokens: tokens of the prompt; each sequence reads them.
            output_tokens: tokens that each sequence will write.
            streamed: whether somebody waits for single tokens.
            max_tokens: what the request allowed, for the counters.
            signal: of an earlier prompt of the same request, when it has several.

        Raises:
            QueueFullError: ``max_num_queued_reqs`` are there already.
        """
        limit = self._max_num_queued_reqs
        if limit is not None and self.requests + len(output_tokens) > limit:
            self._telemetry.count("vllm:admission_rejections_total", "max_num_queued_reqs")
            raise QueueFullError
        now_s = self._loop.time()
        index = min(range(len(self._replicas)), key=lambda i: len(self._replicas[i].streams))
        replica = self._replicas[index]
        streams, signal = [], signal or Signal()
        for tokens in output_tokens:
            self._next_id += 1
            stream = Stream(
                id=self._next_id,
                replica=index,
                prompt_tokens=prompt_tokens,
                output_tokens=tokens,
                streamed=streamed,
                signal=signal,
                params_n=len(output_tokens),
                params_max_tokens=max_tokens,
                arrived_s=now_s,
            )
            streams.append(stream)
            replica.streams[stream.id] = stream
            replica.streamed += streamed
        jobs = tuple(Job(stream.id, prompt_tokens, stream.output_tokens) for stream in streams)
        replica.state, events = batching.submit(replica.state, jobs, now_s, self._limits, self._timing)
        self._apply(replica, events)
        self._arm()
        return streams

    def abort(self, stream: Stream, why: str = "abort") -> None:
        """Ends a sequence before its time, as when its client went away; nothing happens when it has ended."""
        replica = self._replicas[stream.replica]
        if stream.ended is not None:
            return
        now_s = self._loop.time()
        self._advance(replica, now_s)
        stream.tokens = next(
            (d.tokens(replica.state.steps) for d in replica.state.decoding if d.job.id == stream.id), stream.tokens
        )
        replica.state, events = batching.abort(replica.state, stream.id, now_s, self._limits, self._timing)
        self._apply(replica, events)
        if stream.ended is None:
            self._end(replica, stream, why)
        self._arm()

    def abort_all(self, why: str = "abort") -> None:
        """Ends all sequences."""
        for replica in self._replicas:
            for stream in list(replica.streams.values()):
                self.abort(stream, why)

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        hand_over = now_s >= self._handed_over_s + self._handover_interval_s()
        for replica in self._replicas:
            self._advance(replica, now_s)
            if hand_over and replica.streamed:
                self._hand_over(replica)
        if hand_over:
            self._handed_over_s = now_s
        self._arm()

    def _advance(self, replica: _Replica, now_s: float) -> None:
        replica.state, events = batching.advance(replica.state, now_s, self._limits, self._timing)
        self._apply(replica, events)

    def _hand_over(self, replica: _Replica) -> None:
        for decoding in replica.state.decoding:
            stream = replica.streams[decoding.job.id]
            tokens = decoding.tokens(replica.state.steps)
            if stream.streamed and tokens > stream.tokens:
                stream.tokens, stream.last_s = tokens, self._loop.time()
                stream.signal.set()

    def _handover_interval_s(self) -> float:
        return sum(replica.streamed for replica in self._replicas) * HANDOVER_S / HANDOVER_SHARE

    def _arm(self) -> None:
        """Sets the timer for the next thing that is due."""
        due_s: float | None = None
        ration_s = self._handed_over_s + self._handover_interval_s()
        for replica in self._replicas:
            change_s = batching.next_change_s(replica.state, self._limits)
            if change_s is None:
                continue
            if replica.streamed and replica.state.decoding:
                token_s = batching.next_token_s(replica.state)
                if token_s is not None:
                    change_s = min(change_s, max(token_s, ration_s))
            due_s = change_s if due_s is None else min(due_s, change_s)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            self._timer = self._loop.call_at(due_s, self._tick)

    def _apply(self, replica: _Replica, events: tuple[batching.Event, ...]) -> None:
        """Tells counters and streams what happened."""
        telemetry, engine = self._telemetry, replica.name
        for event in events:
            if isinstance(event, batching.Stepped):
                self._stepped(engine, event)
                continue
            stream = replica.streams.get(event.id)
            if stream is None:
                continue
            if isinstance(event, batching.Admitted):
                if stream.admitted_s is None:
                    stream.admitted_s = event.at_s
                    telemetry.count("vllm:prefix_cache_queries_total", engine, by=event.tokens)
            elif isinstance(event, batching.PrefillDone):
                self._prefilled(replica, stream, event)
            elif isinstance(event, batching.Preempted):
                stream.preemptions += 1
                telemetry.count("vllm:num_preemptions_total", engine)
            else:
                self._finished(replica, stream, event.at_s)

    def _stepped(self, engine: str, event: batching.Stepped) -> None:
        telemetry = self._telemetry
        written = event.decoded + event.first_tokens
        telemetry.count("vllm:generation_tokens_total", engine, by=event.iterations * written)
        telemetry.observe(
            "vllm:iteration_tokens_total", event.decoded + event.prompt_tokens, engine, count=event.iterations
        )
        if event.decoded:
            telemetry.observe(
                "vllm:inter_token_latency_seconds", event.duration_s, engine, count=event.iterations * event.decoded
            )

    def _prefilled(self, replica: _Replica, stream: Stream, event: batching.PrefillDone) -> None:
        if stream.first_token_s is None:
            stream.first_token_s = event.at_s
            telemetry, engine = self._telemetry, replica.name
            telemetry.count("vllm:prompt_tokens_total", engine, by=stream.prompt_tokens)
            telemetry.count("vllm:prompt_tokens_by_source_total", engine, "local_compute", by=stream.prompt_tokens)
            telemetry.observe("vllm:time_to_first_token_seconds", event.at_s - stream.arrived_s, engine)
        if stream.streamed:
            stream.tokens, stream.last_s = event.tokens, event.at_s
            stream.signal.set()

    def _finished(self, replica: _Replica, stream: Stream, at_s: float) -> None:
        admitted_s = at_s if stream.admitted_s is None else stream.admitted_s
        first_s = at_s if stream.first_token_s is None else stream.first_token_s
        decode_s = at_s - first_s
        observations = {
            "vllm:e2e_request_latency_seconds": at_s - stream.arrived_s,
            "vllm:request_queue_time_seconds": admitted_s - stream.arrived_s,
            "vllm:request_inference_time_seconds": at_s - admitted_s,
            "vllm:request_prefill_time_seconds": first_s - admitted_s,
            "vllm:request_decode_time_seconds": decode_s,
            "vllm:request_time_per_output_token_seconds": decode_s / max(stream.output_tokens - 1, 1),
            "vllm:request_prompt_tokens": stream.prompt_tokens,
            "vllm:request_prefill_kv_computed_tokens": stream.prompt_tokens,
            "vllm:request_generation_tokens": stream.output_tokens,
            "vllm:request_max_num_generation_tokens": stream.output_tokens,
            "vllm:request_params_n": stream.params_n,
            "vllm:request_params_max_tokens": stream.params_max_tokens,
            "vllm:request_num_preemptions": stream.preemptions,
        }
        for name, value in observations.items():
            self._telemetry.observe(name, value, replica.name)
        reason = "length" if stream.output_tokens >= stream.params_max_tokens else "stop"
        self._telemetry.count("vllm:request_success_total", replica.name, reason)
        stream.tokens, stream.last_s = stream.output_tokens, at_s
        self._end(replica, stream, "done")

    def _end(self, replica: _Replica, stream: Stream, why: str) -> None:
        with contextlib.suppress(KeyError):
            del replica.streams[stream.id]
            replica.streamed -= stream.streamed
        stream.ended = why
        stream.signal.set()

    def _add_gauges(self, replica: _Replica) -> None:
        gauges, engine = self._telemetry.gauges, replica.name

        def state() -> State:
            self._advance(replica, self._loop.time())
            return replica.state

        gauges["vllm:num_requests_running", (engine,)] = lambda: float(state().running)
        gauges["vllm:num_requests_waiting", (engine,)] = lambda: float(len(state().waiting))
        gauges["vllm:num_requests_waiting_by_reason", (engine, "capacity")] = lambda: float(len(state().waiting))
        gauges["vllm:kv_cache_usage_perc", (engine,)] = lambda: state().kv_tokens / self._limits.kv_capacity_tokens

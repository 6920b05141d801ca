"""One replica, every decode step by itself: slow, plain, and written without looking at the engine it judges.

The rule is that of ``marlin.simulator.emulator.batching``. At a boundary waiting requests are admitted in order of
arrival while there is a place in the batch and the cache has room; reading takes the sum of their prefill times, and
those who were decoding take one step beside it; then each prompt read has its first token. Otherwise everybody takes
one step. When the next tokens do not fit, the request admitted last goes back to the head of the queue and reads
everything again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray
from marlin.simulator.replica import ReplicaModel

IntArray = NDArray[np.int32]
WATERMARK = 0.99


@dataclass
class _Request:
    number: int
    prompt: int
    left: int  # tokens still to write
    held: int = 0  # tokens in the cache
    has_first: bool = False


@dataclass(frozen=True)
class Run:
    ttft_s: FloatArray  # (N,) in order of arrival
    end_s: float  # of the last request
    joules: float
    preempted: int
    finished: int


def simulate_tokens(model: ReplicaModel, arrival_s: FloatArray, prompts: IntArray, outputs: IntArray) -> Run:
    """All requests through one replica, until the last one has its last token."""
    waiting: deque[_Request] = deque()
    decoding: list[_Request] = []  # in order of admission
    ttft_s = np.full(len(arrival_s), np.nan)
    now_s, joules, preempted, finished, upcoming = 0.0, 0.0, 0, 0, 0
    while finished < len(arrival_s):
        while upcoming < len(arrival_s) and arrival_s[upcoming] <= now_s:
            waiting.append(_Request(upcoming, int(prompts[upcoming]), int(outputs[upcoming])))
            upcoming += 1
        if not decoding and not waiting:
            joules += (arrival_s[upcoming] - now_s) * model.idle_w
            now_s = float(arrival_s[upcoming])
            continue
        used = sum(request.held for request in decoding)
        admitted: list[_Request] = []
        while waiting and len(decoding) + len(admitted) < model.max_batch:
            alone = not decoding and not admitted
            if not alone and used + waiting[0].prompt > WATERMARK * model.kv_capacity_tokens:
                break
            used += waiting[0].prompt
            admitted.append(waiting.popleft())
        if not admitted:
            while len(decoding) > 1 and used + len(decoding) > model.kv_capacity_tokens:
                last = decoding.pop()
                used -= last.held
                waiting.appendleft(_Request(last.number, last.held, last.left, has_first=True))
                preempted += 1
        read_s = sum(float(model.prefill_s(request.prompt)) for request in admitted)
        step_s = model.step_s[len(decoding)] if decoding else 0.0
        joules += read_s * model.prefill_w + step_s * model.decode_w[len(decoding)]
        now_s += read_s + step_s
        for request in decoding:
            request.held += 1
            request.left -= 1
        for request in admitted:
            request.held = request.prompt + 1
            request.left -= 1
            if not request.has_first:
                ttft_s[request.number] = now_s - arrival_s[request.number]
        everyone = [*decoding, *admitted]
        decoding = [request for request in everyone if request.left > 0]
        finished += len(everyone) - len(decoding)
    return Run(ttft_s, now_s, joules, preempted, finished)

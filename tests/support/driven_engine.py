"""A replica of the emulator, driven with arrivals of chance through its pure state machine, and its counters.

No time passes and no socket is opened: an hour of an engine is a fraction of a second.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from marlin.operator.engines.counting import EngineCounts
from marlin.simulator.emulator import batching
from marlin.simulator.emulator.batching import Job, Limits, State
from marlin.simulator.profiles import ServingProfile


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of it: exponential lengths around these means."""

    prompt_tokens: float = 621.0
    output_tokens: float = 126.0


def driven(
    profile: ServingProfile, rates_rps: Sequence[float], window_s: float, asked: Asked, seed: int = 0
) -> Iterator[tuple[float, EngineCounts]]:
    """Time and counters after each window, one window for each rate; the first is at time 0."""
    rng = random.Random(seed)
    limits = Limits(profile.max_batch, profile.kv_capacity_tokens, 8192)
    state, now_s, number = State(), 0.0, 0
    total: defaultdict[str, float] = defaultdict(float)
    jobs: dict[int, Job] = {}
    admitted: dict[int, float] = {}
    first: dict[int, float] = {}

    def counts() -> EngineCounts:
        return EngineCounts(
            gaps_s=total["gaps_s"],
            gaps=total["gaps"],
            iterations=total["iterations"],
            prompt_tokens=total["prompt_tokens"],
            asked_tokens=total["asked_tokens"],
            read_tokens=total["read_tokens"],
            prefill_s=total["prefill_s"],
            requests=total["requests"],
        )

    def heard(events: tuple[batching.Event, ...]) -> None:
        for event in events:
            match event:
                case batching.Stepped():
                    total["iterations"] += event.iterations
                    total["gaps"] += event.iterations * event.decoded
                    total["gaps_s"] += event.iterations * event.decoded * event.duration_s
                case batching.Admitted():
                    admitted.setdefault(event.id, event.at_s)
                case batching.PrefillDone() if event.id not in first:
                    first[event.id] = event.at_s
                    total["prompt_tokens"] += jobs[event.id].prompt_tokens
                case batching.Finished():
                    job = jobs.pop(event.id)
                    total["prefill_s"] += first.pop(event.id) - admitted.pop(event.id)
                    total["requests"] += 1
                    total["asked_tokens"] += job.prompt_tokens
                    total["read_tokens"] += job.prompt_tokens

    yield now_s, counts()
    for rate in rates_rps:
        end_s = now_s + window_s
        while now_s < end_s:
            now_s = min(end_s, now_s + rng.expovariate(rate))
            state, events = batching.advance(state, now_s, limits, profile)
            heard(events)
            if now_s < end_s:
                number += 1
                lengths = (
                    max(1, int(rng.expovariate(1 / mean))) for mean in (asked.prompt_tokens, asked.output_tokens)
                )
                jobs[number] = job = Job(number, *lengths)
                state, events = batching.submit(state, (job,), now_s, limits, profile)
                heard(events)
        yield now_s, counts()

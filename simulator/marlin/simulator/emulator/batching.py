"""Continuous batching as a pure state machine: a state and a time in, a new state and what happened out.

One ``State`` is one replica. ``submit``, ``abort`` and ``advance`` take a state and a time and give back a new state
and the events since the old one; nothing here reads a clock. The engine calls them and tells the waiting streams; the
tests call them with times of their own.

The rules, each after vLLM's scheduler:

- Work goes in iterations. At the start of one, waiting requests are admitted in order of arrival while there is a
  place in the batch, memory for their prompt and room in the token budget of the iteration.
- An iteration that reads prompts takes the sum of their prefill times, plus one decode step when others are already
  decoding: prefill delays the running batch. All others take one decode step of the batch.
- At its end each decoding request has one more token, and each prompt read has its first.
- When the next tokens would not fit in memory, the request admitted last goes back to the head of the queue and later
  reads prompt and output again (preemption by recomputation).

Between two changes of the batch all iterations are alike, so any number of them is one multiplication: the cost is per
request, not per token.

Not modelled: splitting a long prompt over iterations, blocks of memory (tokens are counted), prefix caching.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

_ROUNDING_S = 1e-9
"""An iteration that ends this much after a time has ended by it: timers fire on rounded times."""


class Timing(Protocol):
    """How long the two kinds of work take; ``marlin.simulator.profiles.ServingProfile`` is one."""

    def prefill_s(self, prompt_tokens: float) -> float:
        """Time to read a prompt, s."""
        ...

    def step_s(self, batch: float) -> float:
        """Time of one decode step for a batch, s."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a replica can hold."""

    max_num_seqs: int
    """Requests decoded at once."""
    kv_capacity_tokens: int
    """Tokens, prompt and output, whose keys and values fit in memory."""
    max_num_batched_tokens: int
    """Prompt tokens read in one iteration; a single longer prompt is read alone."""


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to generate."""

    id: int
    prompt_tokens: int
    output_tokens: int
    """Tokens to write, at least 1: known from the start, because the text is made up."""
    done_tokens: int = 0
    """Tokens written before the last preemption."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens to read at admission: the prompt, and the output so far after a preemption."""
        return self.prompt_tokens + self.done_tokens


@dataclass(frozen=True, slots=True)
class Decoding:
    """A job in the batch."""

    job: Job
    since_step: int
    """The replica's step count at which the job's output was ``job.done_tokens``."""

    def tokens(self, steps: int) -> int:
        """Output tokens after ``steps`` of the replica."""
        return self.job.done_tokens + steps - self.since_step


@dataclass(frozen=True, slots=True)
class Iteration:
    """The work under way. Without prompts it repeats until the batch changes."""

    started_s: float
    duration_s: float
    prompts: tuple[Job, ...]
    batch: int
    """Requests that were decoding when it started, which set its duration."""


@dataclass(frozen=True, slots=True)
class State:
    """One replica at one time."""

    waiting: tuple[Job, ...] = ()
    decoding: tuple[Decoding, ...] = ()
    """In order of admission."""
    iteration: Iteration | None = None
    steps: int = 0
    """Decode steps since the start."""

    @property
    def running(self) -> int:
        """Requests in the batch, those whose prompt is being read included."""
        return len(self.decoding) + (len(self.iteration.prompts) if self.iteration else 0)

    @property
    def kv_tokens(self) -> int:
        """Tokens held in memory."""
        held = sum(d.job.prompt_tokens + d.tokens(self.steps) for d in self.decoding)
        return held + (sum(job.prefill_tokens for job in self.iteration.prompts) if self.iteration else 0)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job left the queue."""

    id: int
    at_s: float
    tokens: int
    """Tokens it reads now."""


@dataclass(frozen=True, slots=True)
class PrefillDone:
    """A job's prompt was read and one token came out: its first, unless it had been preempted."""

    id: int
    at_s: float
    tokens: int
    """Output tokens it has now."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """A job lost its memory and is first in the queue again."""

    id: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A job wrote its last token."""

    id: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """Iterations that were alike, for the counters."""

    iterations: int
    duration_s: float
    """Of each."""
    decoded: int
    """Requests that got a further token in each."""
    prompt_tokens: int
    """Tokens read in each."""
    first_tokens: int
    """Prompts that were completed in each, one new token for every one."""


Event = Admitted | PrefillDone | Preempted | Finished | Stepped


def submit(
    state: State, jobs: tuple[Job, ...], now_s: float, limits: Limits, timing: Timing
) -> tuple[State, tuple[Event, ...]]:
    """Adds jobs to the queue at ``now_s``; an idle replica starts on them at once."""
    state, events = advance(state, now_s, limits, timing)
    state = replace(state, waiting=(*state.waiting, *jobs))
    if state.iteration is None:
        state, begun = _begin(state, now_s, limits, timing)
        events += begun
    return state, events


def abort(state: State, job_id: int, now_s: float, limits: Limits, timing: Timing) -> tuple[State, tuple[Event, ...]]:
    """Removes a job wherever it is; its place and memory are free for the next iteration.

    The iteration under way keeps its duration: a GPU cannot stop half a step.
    """
    state, events = advance(state, now_s, limits, timing)
    iteration = state.iteration
    if iteration is not None:
        iteration = replace(iteration, prompts=tuple(job for job in iteration.prompts if job.id != job_id))
    state = replace(
        state,
        waiting=tuple(job for job in state.waiting if job.id != job_id),
        decoding=tuple(d for d in state.decoding if d.job.id != job_id),
        iteration=iteration,
    )
    return state, events


def advance(state: State, now_s: float, limits: Limits, timing: Timing) -> tuple[State, tuple[Event, ...]]:
    """Lets time pass until ``now_s``."""
    events: list[Event] = []
    while (iteration := state.iteration) is not None:
        passed = _passed(iteration, now_s)
        if passed < 1:
            break
        alike = _alike(state, limits)
        count = min(passed, alike)
        end_s = iteration.started_s + count * iteration.duration_s
        events.append(
            Stepped(
                iterations=count,
                duration_s=iteration.duration_s,
                decoded=len(state.decoding),
                prompt_tokens=sum(job.prefill_tokens for job in iteration.prompts),
                first_tokens=len(iteration.prompts),
            )
        )
        state = _stepped(state, count, end_s, events)
        if count < alike:
            return replace(state, iteration=replace(iteration, started_s=end_s)), tuple(events)
        state = _preempt(state, end_s, limits, events)
        state, begun = _begin(state, end_s, limits, timing)
        events += begun
    return state, tuple(events)


def next_change_s(state: State, limits: Limits) -> float | None:
    """When something other than a further token of each stream happens next; None when idle."""
    if state.iteration is None:
        return None
    return state.iteration.started_s + _alike(state, limits) * state.iteration.duration_s


def next_token_s(state: State) -> float | None:
    """When the iteration under way ends; None when idle."""
    return None if state.iteration is None else state.iteration.started_s + state.iteration.duration_s


def _passed(iteration: Iteration, now_s: float) -> int:
    elapsed_s = now_s - iteration.started_s + _ROUNDING_S
    if elapsed_s < iteration.duration_s:
        return 0
    return math.floor(elapsed_s / iteration.duration_s)


def _alike(state: State, limits: Limits) -> int:
    """Iterations like the one under way until the batch may change, at least 1."""
    iteration = state.iteration
    if iteration is None or iteration.prompts or not state.decoding or iteration.batch != len(state.decoding):
        return 1
    if state.waiting and _fits(state.waiting[0], state, limits):
        return 1
    until_done = min(d.job.output_tokens - d.tokens(state.steps) for d in state.decoding)
    until_full = (limits.kv_capacity_tokens - state.kv_tokens) // len(state.decoding)
    return max(1, min(until_done, until_full))


def _stepped(state: State, count: int, end_s: float, events: list[Event]) -> State:
    """``count`` iterations are over: tokens written, the finished gone, the prompts read among the decoding."""
    steps = state.steps + count
    decoding: list[Decoding] = []
    for d in state.decoding:
        if d.tokens(steps) >= d.job.output_tokens:
            events.append(Finished(d.job.id, end_s))
        else:
            decoding.append(d)
    for job in state.iteration.prompts if state.iteration else ():
        events.append(PrefillDone(job.id, end_s, job.done_tokens + 1))
        if job.done_tokens + 1 >= job.output_tokens:
            events.append(Finished(job.id, end_s))
        else:
            decoding.append(Decoding(job, since_step=steps - 1))
    return State(state.waiting, tuple(decoding), None, steps)


def _preempt(state: State, now_s: float, limits: Limits, events: list[Event]) -> State:
    """Takes the last admitted out until one more token of each fits; a lone request always stays."""
    while len(state.decoding) > 1 and state.kv_tokens + len(state.decoding) > limits.kv_capacity_tokens:
        last = state.decoding[-1]
        job = replace(last.job, done_tokens=last.tokens(state.steps))
        events.append(Preempted(job.id, now_s))
        state = replace(state, waiting=(job, *state.waiting), decoding=state.decoding[:-1])
    return state


def _fits(job: Job, state: State, limits: Limits) -> bool:
    """Whether ``job`` may join: a place, and memory for what it reads and one more token of everybody."""
    if not state.running:
        return True
    if state.running >= limits.max_num_seqs:
        return False
    return state.kv_tokens + job.prefill_tokens + state.running + 1 <= limits.kv_capacity_tokens


def _begin(state: State, now_s: float, limits: Limits, timing: Timing) -> tuple[State, tuple[Event, ...]]:
    """Starts the next iteration, or none when there is nothing to do."""
    admitted: tuple[Job, ...] = ()
    budget = limits.max_num_batched_tokens
    candidate = replace(state, iteration=Iteration(now_s, 0.0, (), 0))
    taken = 0
    for job in state.waiting:
        if not _fits(job, candidate, limits) or (admitted and job.prefill_tokens > budget):
            break
        budget -= job.prefill_tokens
        admitted = (*admitted, job)
        taken += 1
        candidate = replace(candidate, iteration=Iteration(now_s, 0.0, admitted, 0))
    if not admitted and not state.decoding:
        return replace(state, iteration=None), ()
    duration_s = sum(timing.prefill_s(job.prefill_tokens) for job in admitted)
    if state.decoding:
        duration_s += timing.step_s(len(state.decoding))
    iteration = Iteration(now_s, max(duration_s, _ROUNDING_S), admitted, len(state.decoding))
    begun = replace(state, waiting=state.waiting[taken:], iteration=iteration)
    return begun, tuple(Admitted(job.id, now_s, job.prefill_tokens) for job in admitted)

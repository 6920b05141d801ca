"""Continuous batching, with times of its own: no clock, no waiting."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.simulator.emulator.batching import (
    Admitted,
    Event,
    Finished,
    Job,
    Limits,
    Preempted,
    PrefillDone,
    State,
    Stepped,
    abort,
    advance,
    next_change_s,
    next_token_s,
    submit,
)


@dataclass(frozen=True)
class Plain:
    """A millisecond for each prompt token; a step takes 10 ms and 1 ms more for each request."""

    def prefill_s(self, prompt_tokens: float) -> float:
        return 0.001 * prompt_tokens

    def step_s(self, batch: float) -> float:
        return 0.010 + 0.001 * batch


TIMING = Plain()
ROOMY = Limits(max_num_seqs=8, kv_capacity_tokens=10_000, max_num_batched_tokens=1000)


def run(state: State, now_s: float, limits: Limits = ROOMY) -> tuple[State, list[Event]]:
    state, events = advance(state, now_s, limits, TIMING)
    return state, list(events)


def start(*jobs: Job, limits: Limits = ROOMY, now_s: float = 0.0) -> tuple[State, list[Event]]:
    state, events = submit(State(), jobs, now_s, limits, TIMING)
    return state, list(events)


def of(kind: type, events: list[Event]) -> list[tuple[int, float]]:
    return [(e.id, round(e.at_s, 6)) for e in events if isinstance(e, kind)]  # type: ignore[union-attr]


def test_a_lone_request_takes_its_prefill_and_then_a_step_for_each_further_token() -> None:
    state, _ = start(Job(1, prompt_tokens=100, output_tokens=4))
    state, events = run(state, 1.0)
    assert of(PrefillDone, events) == [(1, 0.100)]
    assert of(Finished, events) == [(1, round(0.100 + 3 * 0.011, 6))]
    assert state.running == 0
    assert state.kv_tokens == 0


def test_nothing_happens_before_its_time() -> None:
    state, _ = start(Job(1, 100, 4))
    state, events = run(state, 0.0999)
    assert events == []
    assert next_change_s(state, ROOMY) == pytest.approx(0.100)


def test_a_prompt_delays_the_running_batch_by_its_prefill() -> None:
    state, _ = start(Job(1, 100, 50))
    state, _ = submit(state, (Job(2, 200, 50),), 0.105, ROOMY, TIMING)
    state, events = run(state, 0.111 + 0.2 + 0.011)
    # The step under way ends at 0.111; then one iteration reads 200 tokens and decodes one.
    assert of(Admitted, events) == [(2, 0.111)]
    assert of(PrefillDone, events) == [(2, round(0.111 + 0.2 + 0.011, 6))]
    assert [e.iterations for e in events if isinstance(e, Stepped)] == [1, 1]


def test_requests_are_admitted_in_order_of_arrival_as_places_become_free() -> None:
    limits = Limits(max_num_seqs=1, kv_capacity_tokens=1000, max_num_batched_tokens=1000)
    state, _ = start(Job(1, 10, 2), Job(2, 10, 2), Job(3, 10, 2), limits=limits)
    assert len(state.waiting) == 2
    state, events = run(state, 10.0, limits)
    assert of(Finished, events) == [(1, 0.021), (2, 0.042), (3, 0.063)]


def test_a_request_that_does_not_fit_in_memory_waits_although_a_place_is_free() -> None:
    limits = Limits(max_num_seqs=8, kv_capacity_tokens=150, max_num_batched_tokens=1000)
    state, _ = start(Job(1, 100, 5), limits=limits)
    state, _ = submit(state, (Job(2, 100, 5),), 0.05, limits, TIMING)
    state, events = run(state, 0.12, limits)
    assert len(state.waiting) == 1
    state, events = run(state, 1.0, limits)
    (done, at_s), *_ = of(Finished, events)
    assert done == 1
    assert of(Admitted, events) == [(2, at_s)]


def test_the_token_budget_splits_a_burst_of_prompts_over_iterations() -> None:
    limits = Limits(max_num_seqs=8, kv_capacity_tokens=10_000, max_num_batched_tokens=250)
    state, _ = start(Job(1, 100, 9), Job(2, 100, 9), Job(3, 100, 9), limits=limits)
    state, events = run(state, 0.33, limits)
    assert of(PrefillDone, events) == [(1, 0.2), (2, 0.2), (3, 0.312)]


def test_when_memory_runs_out_the_last_admitted_goes_back_and_later_reads_its_output_again() -> None:
    limits = Limits(max_num_seqs=8, kv_capacity_tokens=60, max_num_batched_tokens=1000)
    state, _ = start(Job(1, 20, 20), Job(2, 20, 20), limits=limits)
    state, events = run(state, 10.0, limits)
    ((victim, at_s),) = of(Preempted, events)
    assert victim == 2
    again = [e for e in events if isinstance(e, Admitted) and e.id == 2][-1]
    assert again.at_s > at_s
    assert again.tokens == 20 + 10
    assert sorted(job for job, _ in of(Finished, events)) == [1, 2]


def test_an_aborted_request_leaves_its_place_at_the_end_of_the_step() -> None:
    limits = Limits(max_num_seqs=1, kv_capacity_tokens=1000, max_num_batched_tokens=1000)
    state, _ = start(Job(1, 10, 1000), Job(2, 10, 2), limits=limits)
    state, _ = abort(state, 1, 0.015, limits, TIMING)
    assert state.running == 0
    state, events = run(state, 0.1, limits)
    assert of(Admitted, events) == [(2, 0.021)]


def test_an_aborted_prompt_gives_no_token() -> None:
    state, _ = start(Job(1, 100, 5))
    state, _ = abort(state, 1, 0.05, ROOMY, TIMING)
    state, events = run(state, 1.0)
    assert of(PrefillDone, events) == []
    assert state.iteration is None


def test_after_an_abort_the_steps_are_those_of_the_smaller_batch() -> None:
    state, _ = start(Job(1, 10, 1000), Job(2, 10, 1000))
    state, _ = run(state, 0.025)
    state, _ = abort(state, 2, 0.025, ROOMY, TIMING)
    state, events = run(state, 0.032 + 0.011 * 3)
    assert [(e.iterations, e.duration_s) for e in events if isinstance(e, Stepped)] == [(1, 0.012), (3, 0.011)]


def test_a_thousand_steps_are_one_event() -> None:
    state, _ = start(Job(1, 10, 2000), Job(2, 10, 2000))
    state, events = run(state, 0.02 + 1000 * 0.012)
    assert [(e.iterations, e.decoded) for e in events if isinstance(e, Stepped)] == [(1, 0), (1000, 2)]
    assert [d.tokens(state.steps) for d in state.decoding] == [1001, 1001]
    assert next_token_s(state) == pytest.approx(0.02 + 1001 * 0.012)


jobs = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=12)


@given(jobs=jobs, looks=st.lists(st.floats(0, 5), max_size=15), seqs=st.integers(1, 4), memory=st.integers(95, 300))
def test_looking_more_often_changes_nothing(
    jobs: list[tuple[int, int, float]], looks: list[float], seqs: int, memory: int
) -> None:
    limits = Limits(seqs, memory, 100)
    arrivals = sorted((at, i, prompt, output) for i, (prompt, output, at) in enumerate(jobs))

    def replay(extra: list[float]) -> list[tuple[int, float]]:
        state = State()
        events: list[Event] = []
        moments = sorted([(at, i) for at, i, _, _ in arrivals] + [(at, -1) for at in extra])
        sizes = {i: (prompt, output) for _, i, prompt, output in arrivals}
        for at, i in moments:
            state, new = (
                advance(state, at, limits, TIMING) if i < 0 else submit(state, (Job(i, *sizes[i]),), at, limits, TIMING)
            )
            events += new
            assert state.running <= seqs
            assert state.kv_tokens <= memory or state.running == 1
        state, new = advance(state, 1000.0, limits, TIMING)
        assert state.running == 0
        assert not state.waiting
        return [(e.id, e.at_s) for e in [*events, *new] if isinstance(e, Finished)]

    once, often = replay([]), replay(looks)
    assert [job for job, _ in once] == [job for job, _ in often]
    assert [at for _, at in once] == pytest.approx([at for _, at in often], abs=1e-6)
    assert sorted(job for job, _ in once) == sorted(range(len(jobs)))


@given(jobs=jobs)
def test_every_token_is_counted_once(jobs: list[tuple[int, int, float]]) -> None:
    state, events = start(*(Job(i, prompt, output) for i, (prompt, output, _) in enumerate(jobs)))
    state, more = run(state, 1000.0)
    counted = sum(e.iterations * (e.decoded + e.first_tokens) for e in [*events, *more] if isinstance(e, Stepped))
    assert counted == sum(output for _, output, _ in jobs)

"""Events of one epoch, compiled: arrivals in order, replicas advanced only when something touches them.

A replica works in iterations, by the rules of ``emulator.batching``: at a boundary it admits waiting prompts while
there is a place and memory; an iteration that reads takes the sum of their prefill times, plus one decode step of those
already decoding; at its end each prompt read has its first token. Otherwise an iteration is one decode step. Between
two changes of the batch all steps are alike, so any number of them is one multiplication; a request costs a few heap
moves, however long its answer. When the next tokens do not fit, the request admitted last reads again (preemption by
recomputation).

Which datacenter: ``shares`` by a smooth weighted round robin per model and origin, or ``ordered``; a datacenter whose
requests in flight are at its cap is passed by. Which replica: a smooth weighted round robin over the deployments that
are awake, in turn within one, past replicas that are full (``spread``); or the first with room (``pack``). Where all
are full a request waits in the site's queue, and leaves when its patience ends; while a site queues, its departures are
taken in time order from a heap. Whoever has to queue wakes sleeping replicas.

Times are seconds since the start of the experiment. Arrays are changed in place; ``engine`` copies first.
"""

# Compiled loops are written out, and their arguments are the state of a machine.
# ruff: noqa: PLR0913, PLR0917, PLR0915, PLR0912, C901
# An element of an array has no type of its own for the type checker.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Final, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.fleet import Ints, RequestFleet, RequestState
from marlin.simulator.request_level.tally import BINS, FIRST_BIN_S, LOG_BIN_WIDTH, TallyArrays

MEMORY_WATERMARK: Final = 0.99
"""Part of the cache that admission may fill, so that growing answers do not preempt at once."""
SWEPT: Final = 2
"""Replicas of a site brought up to date whenever it is looked at: its load is known to within a round of them."""

NO_REPLICA: Final = -1
_NEVER_S: Final = 1e300
_SOON_S: Final = 1e-6
"""A prompt this much after a boundary has come by it: times are sums of many rounded steps."""
_INVERSE_BIN_WIDTH: Final = 1.0 / LOG_BIN_WIDTH


class RequestPlan(NamedTuple):
    """One plan, as events carry it out."""

    is_ordered: bool
    shares: FloatArray  # (V, R, D) rows add up to one
    order: Ints  # (V, D) positions, -1 ends a row
    places: FloatArray  # (S,) requests in flight up to which a site is filled
    awake: Ints  # (S,) replicas


class Arrivals(NamedTuple):
    """Requests in order of arrival; all (N,)."""

    at_s: FloatArray
    model: NDArray[np.int32]
    origin: NDArray[np.int32]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_epoch(
    fleet: RequestFleet,
    state: RequestState,
    plan: RequestPlan,
    arrivals: Arrivals,
    start_s: float,
    end_s: float,
    tally: TallyArrays,
) -> None:
    """Carries one epoch out; ``state`` and ``tally`` are written."""
    sites = len(fleet.first_replica) - 1
    longest = 1
    for s in range(sites):
        longest = max(longest, fleet.first_replica[s + 1] - fleet.first_replica[s])
    # The heap of a queueing site's departures; one at a time is in use, so they share their room.
    heap_s = np.empty((sites, longest))
    heap_replica = np.empty((sites, longest), dtype=np.int64)
    heap_size = np.zeros(sites, dtype=np.int64)
    for s in range(sites):
        _set_awake(fleet, state, plan, s, start_s, tally)
    for s in range(sites):
        if state.queue_length[s] > 0:
            if fleet.allowed[s]:
                _start_heap(fleet, state, s, start_s, heap_s, heap_replica, heap_size, tally)
            else:
                _move_queue(fleet, state, plan, s, start_s, heap_s, heap_replica, heap_size, tally)
    for i in range(len(arrivals.at_s)):
        now_s = arrivals.at_s[i]
        v, r = arrivals.model[i], arrivals.origin[i]
        d = _datacenter(fleet, state, plan, v, r, now_s, heap_s, heap_replica, heap_size, tally)
        if d < 0:
            tally.rejected[v] += 1
            tally.late[v] += 1
            continue
        s = v * fleet.sites + d
        base_s = now_s - fleet.rtt_s[r, d]
        _arrive(
            fleet, state, s, now_s, now_s, base_s, arrivals.prompt_tokens[i], arrivals.output_tokens[i],
            heap_s, heap_replica, heap_size, tally,
        )  # fmt: skip
    for s in range(sites):
        if state.queue_length[s] > 0:
            _serve_queue(fleet, state, s, end_s, heap_s, heap_replica, heap_size, tally)
            _leave(fleet, state, s, end_s, tally)
        for replica in range(fleet.first_replica[s], fleet.first_replica[s + 1]):
            _advance(fleet, state, replica, end_s, tally)
        _ready(fleet, state, s, end_s)
        waiting = state.queue_length[s]
        for replica in range(fleet.first_replica[s], fleet.first_replica[s + 1]):
            for k in range(state.pending[replica]):
                if not np.isnan(state.pending_base_s[replica, k]):
                    waiting += 1
        tally.waiting[s] = waiting


# --- which datacenter


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _datacenter(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, v: int, r: int, now_s: float,
    heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> int:  # fmt: skip
    """The datacenter of a request, -1 when none may serve the model."""
    if plan.is_ordered:
        for position in range(fleet.sites):
            d = plan.order[v, position]
            if d < 0:
                break
            s = v * fleet.sites + d
            if (
                fleet.allowed[s]
                and _load(fleet, state, s, now_s, heap_s, heap_replica, heap_size, tally) < plan.places[s]
            ):
                return d
    else:
        best = -1
        for d in range(fleet.sites):
            if fleet.allowed[v * fleet.sites + d]:
                state.share_turn[v, r, d] += plan.shares[v, r, d]
                if plan.shares[v, r, d] > 0 and (best < 0 or state.share_turn[v, r, d] > state.share_turn[v, r, best]):
                    best = d
        if best >= 0:
            total = 0.0
            for d in range(fleet.sites):
                if fleet.allowed[v * fleet.sites + d]:
                    total += plan.shares[v, r, d]
            state.share_turn[v, r, best] -= total
            s = v * fleet.sites + best
            if _load(fleet, state, s, now_s, heap_s, heap_replica, heap_size, tally) < plan.places[s]:
                return best
    # Spill-over: most free places; where there are none, the least load for its size.
    most, least = -1, -1
    for d in range(fleet.sites):
        s = v * fleet.sites + d
        if not fleet.allowed[s]:
            continue
        load = state.in_flight[s] + state.queue_length[s]
        if load < plan.places[s] and (
            most < 0
            or plan.places[s] - load
            > plan.places[v * fleet.sites + most]
            - state.in_flight[v * fleet.sites + most]
            - state.queue_length[v * fleet.sites + most]
        ):
            most = d
        if least < 0 or load * plan.places[v * fleet.sites + least] < plan.places[s] * (
            state.in_flight[v * fleet.sites + least] + state.queue_length[v * fleet.sites + least]
        ):
            least = d
    return most if most >= 0 else least


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _load(
    fleet: RequestFleet, state: RequestState, s: int, now_s: float,
    heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> int:  # fmt: skip
    """Requests at a site, known to within a round of its replicas."""
    first, last = fleet.first_replica[s], fleet.first_replica[s + 1]
    if state.queue_length[s] > 0:
        _serve_queue(fleet, state, s, now_s, heap_s, heap_replica, heap_size, tally)
    else:
        for _ in range(min(SWEPT, last - first)):
            replica = state.sweep[s]
            _advance(fleet, state, replica, now_s, tally)
            state.sweep[s] = replica + 1 if replica + 1 < last else first
    return state.in_flight[s] + state.queue_length[s]


# --- which replica


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _arrive(
    fleet: RequestFleet, state: RequestState, s: int, now_s: float, arrival_s: float, base_s: float,
    prompt: int, output: int, heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> None:  # fmt: skip
    """A request comes to a site: to a replica with room, or into the queue."""
    _ready(fleet, state, s, now_s)
    if state.queue_length[s] > 0:
        _serve_queue(fleet, state, s, now_s, heap_s, heap_replica, heap_size, tally)
    if state.queue_length[s] == 0:
        replica = _replica(fleet, state, s, now_s, prompt, tally)
        if replica != NO_REPLICA:
            _give(state, replica, s, now_s, base_s, prompt, output)
            return
        _start_heap(fleet, state, s, now_s, heap_s, heap_replica, heap_size, tally)
    start, size = fleet.queue_start[s], fleet.queue_start[s + 1] - fleet.queue_start[s]
    if state.queue_length[s] >= size:
        tally.rejected[s // fleet.sites] += 1
        tally.late[s // fleet.sites] += 1
        return
    place = start + (state.queue_head[s] + state.queue_length[s]) % size
    state.queue_base_s[place] = base_s
    state.queue_arrival_s[place] = arrival_s
    state.queue_prompt[place] = prompt
    state.queue_output[place] = output
    state.queue_length[s] += 1
    _wake(fleet, state, s, now_s, tally)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _replica(fleet: RequestFleet, state: RequestState, s: int, now_s: float, prompt: int, tally: TallyArrays) -> int:
    """An awake replica with room for a prompt, brought up to date; ``NO_REPLICA`` when all are full."""
    first, awake = fleet.first_replica[s], state.awake[s]
    if fleet.pack_utilization > 0:
        for replica in range(first, first + awake):
            if state.batch[replica] + state.pending[replica] >= fleet.pack_places[replica]:
                _advance(fleet, state, replica, now_s, tally)
            if state.batch[replica] + state.pending[replica] < fleet.pack_places[replica]:
                _advance(fleet, state, replica, now_s, tally)
                if _has_room(fleet, state, replica, prompt):
                    return replica
    # Smooth weighted round robin: every deployment gains its weight, the richest pays the total.
    best, total, best_count = -1, 0.0, 0
    for g in range(fleet.first_group[s], fleet.first_group[s + 1]):
        count = min(max(first + awake - fleet.group_first_replica[g], 0), _size(fleet, g))
        if count <= 0:
            continue
        weight = count * fleet.group_rps[g]
        total += weight
        state.group_turn[g] += weight
        if best < 0 or state.group_turn[g] > state.group_turn[best]:
            best, best_count = g, count
    if best < 0:
        return NO_REPLICA
    state.group_turn[best] -= total
    start = fleet.group_first_replica[best]
    for _ in range(best_count):
        replica = state.group_next[best]
        if replica >= start + best_count:
            replica = start
        state.group_next[best] = replica + 1 if replica + 1 < start + best_count else start
        _advance(fleet, state, replica, now_s, tally)
        if _has_room(fleet, state, replica, prompt):
            return replica
    for replica in range(first, first + awake):
        if fleet.replica_group[replica] != best:
            _advance(fleet, state, replica, now_s, tally)
            if _has_room(fleet, state, replica, prompt):
                return replica
    return NO_REPLICA


@nb.njit(inline="always")
def _size(fleet: RequestFleet, g: int) -> int:
    return fleet.group_first_replica[g + 1] - fleet.group_first_replica[g]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _has_room(fleet: RequestFleet, state: RequestState, replica: int, prompt: int) -> bool:
    """Whether a replica has a place in its batch and memory for one more prompt, after those it was given."""
    m = fleet.replica_model[replica]
    if state.batch[replica] + state.pending[replica] >= fleet.max_batch[m]:
        return False
    tokens = state.tokens[replica] + prompt
    for k in range(state.reading[replica], state.pending[replica]):
        tokens += state.pending_prompt[replica, k]
    return tokens <= MEMORY_WATERMARK * fleet.kv_tokens[m] or (state.batch[replica] + state.pending[replica] == 0)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _give(state: RequestState, replica: int, s: int, now_s: float, base_s: float, prompt: int, output: int) -> None:
    k = state.pending[replica]
    state.pending_ready_s[replica, k] = now_s
    state.pending_base_s[replica, k] = base_s
    state.pending_prompt[replica, k] = prompt
    state.pending_output[replica, k] = output
    state.pending[replica] = k + 1
    state.in_flight[s] += 1


# --- one replica


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _advance(fleet: RequestFleet, state: RequestState, replica: int, until_s: float, tally: TallyArrays) -> None:
    """Brings one replica up to a time: all iterations that end by then, and those that have begun."""
    m = fleet.replica_model[replica]
    s = fleet.replica_site[replica]
    v, d = s // fleet.sites, s % fleet.sites
    joules = 0.0
    while True:
        b = state.batch[replica]
        if state.reading[replica] > 0:
            if state.reading_until_s[replica] > until_s:
                break
            _end_reading(fleet, state, replica, s, v, tally)
            continue
        step_s = fleet.step_s[m, b]
        if state.pending[replica] > 0:
            ready_s = state.pending_ready_s[replica, 0]
            if b == 0:
                at_s = max(state.clock_s[replica], ready_s)
                if at_s > until_s:
                    break
                joules += (at_s - state.clock_s[replica]) * state.rest_w[replica]
                state.clock_s[replica] = at_s
                joules += _start_reading(fleet, state, replica, m)
                continue
            # The first boundary at or after the prompt came.
            steps = int(max(np.ceil((ready_s - state.clock_s[replica]) / step_s - 1e-9), 0.0))
            fits = _first_fits(fleet, state, replica, m, b * steps)
            to_end = state.heap_step[replica, 0] - state.steps[replica]
            room = (fleet.kv_tokens[m] - state.tokens[replica]) // b
            if fits and steps < to_end and steps <= room:
                at_s = state.clock_s[replica] + steps * step_s
                if at_s > until_s:
                    joules += _decode(fleet, state, replica, m, b, _whole_steps(state, replica, until_s, step_s))
                    break
                joules += _decode(fleet, state, replica, m, b, steps)
                joules += _start_reading(fleet, state, replica, m)
                continue
        elif b == 0:
            if until_s > state.clock_s[replica]:
                joules += (until_s - state.clock_s[replica]) * state.rest_w[replica]
                state.clock_s[replica] = until_s
            break
        steps = state.heap_step[replica, 0] - state.steps[replica]
        room = (fleet.kv_tokens[m] - state.tokens[replica]) // b
        if room <= 0 and steps > 0:
            if b > 1:
                _preempt(state, replica)
                tally.preempted[v] += 1
                continue
            room = steps  # a lone request may go beyond: nobody could make room for it
        taken = min(steps, room)
        if state.clock_s[replica] + taken * step_s > until_s:
            joules += _decode(fleet, state, replica, m, b, _whole_steps(state, replica, until_s, step_s))
            break
        joules += _decode(fleet, state, replica, m, b, taken)
        _end_finished(state, replica, s)
    tally.joules[d] += joules


@nb.njit(inline="always")
def _whole_steps(state: RequestState, replica: int, until_s: float, step_s: float) -> int:
    return int(max(np.floor((until_s - state.clock_s[replica]) / step_s), 0.0))


@nb.njit(inline="always")
def _decode(fleet: RequestFleet, state: RequestState, replica: int, m: int, b: int, steps: int) -> float:
    """Any number of steps of one batch; the energy in J."""
    state.clock_s[replica] += steps * fleet.step_s[m, b]
    state.steps[replica] += steps
    state.tokens[replica] += b * steps
    return steps * fleet.step_s[m, b] * fleet.decode_w[m, b]


@nb.njit(inline="always")
def _first_fits(fleet: RequestFleet, state: RequestState, replica: int, m: int, more: int) -> bool:
    return state.batch[replica] < fleet.max_batch[m] and (
        state.tokens[replica] + more + state.pending_prompt[replica, 0] <= MEMORY_WATERMARK * fleet.kv_tokens[m]
    )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _start_reading(fleet: RequestFleet, state: RequestState, replica: int, m: int) -> float:
    """An iteration that reads the prompts that are there and fit; the energy in J."""
    b = state.batch[replica]
    now_s = state.clock_s[replica]
    read, read_s, tokens = 0, 0.0, state.tokens[replica]
    while read < state.pending[replica]:
        prompt = state.pending_prompt[replica, read]
        is_forced = b + read == 0
        if state.pending_ready_s[replica, read] > now_s + _SOON_S or b + read >= fleet.max_batch[m]:
            break
        if not is_forced and tokens + prompt > MEMORY_WATERMARK * fleet.kv_tokens[m]:
            break
        tokens += prompt
        read_s += _prefill_s(fleet, m, prompt)
        read += 1
    step_s = fleet.step_s[m, b] if b > 0 else 0.0
    state.tokens[replica] = tokens
    state.reading[replica] = read
    state.reading_until_s[replica] = now_s + read_s + step_s
    return read_s * fleet.prefill_w[m] + step_s * fleet.decode_w[m, b]


@nb.njit(inline="always")
def _prefill_s(fleet: RequestFleet, m: int, prompt: int) -> float:
    xs, ys = fleet.prefill_tokens[m], fleet.prefill_s[m]
    last = len(xs) - 1
    if prompt >= xs[last]:
        return ys[last] * prompt / xs[last]
    k = 0
    while prompt >= xs[k + 1]:
        k += 1
    return ys[k] + (ys[k + 1] - ys[k]) * (prompt - xs[k]) / (xs[k + 1] - xs[k])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _end_reading(fleet: RequestFleet, state: RequestState, replica: int, s: int, v: int, tally: TallyArrays) -> None:
    """The end of an iteration that read: first tokens, and a step of those who were decoding."""
    now_s = state.reading_until_s[replica]
    state.clock_s[replica] = now_s
    if state.batch[replica] > 0:
        state.steps[replica] += 1
        state.tokens[replica] += state.batch[replica]
        _end_finished(state, replica, s)
    read = state.reading[replica]
    for k in range(read):
        base_s = state.pending_base_s[replica, k]
        if not np.isnan(base_s):
            _first_token(fleet, tally, s, v, now_s - base_s)
        prompt, output = state.pending_prompt[replica, k], state.pending_output[replica, k]
        if output > 1:
            state.tokens[replica] += 1
            _push(state, replica, state.steps[replica] + output - 1, prompt + output)
        else:
            state.tokens[replica] -= prompt
            state.in_flight[s] -= 1
    left = state.pending[replica] - read
    for k in range(left):
        state.pending_ready_s[replica, k] = state.pending_ready_s[replica, k + read]
        state.pending_base_s[replica, k] = state.pending_base_s[replica, k + read]
        state.pending_prompt[replica, k] = state.pending_prompt[replica, k + read]
        state.pending_output[replica, k] = state.pending_output[replica, k + read]
    state.pending[replica] = left
    state.reading[replica] = 0


@nb.njit(inline="always")
def _first_token(fleet: RequestFleet, tally: TallyArrays, s: int, v: int, ttft_s: float) -> None:
    tally.served[s] += 1
    tally.ttft_s[s] += ttft_s
    if ttft_s > fleet.ttft_limit_s[v]:
        tally.late[v] += 1
    place = int(np.log(max(ttft_s, FIRST_BIN_S) / FIRST_BIN_S) * _INVERSE_BIN_WIDTH)
    tally.histogram[v, min(place, BINS - 1)] += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _end_finished(state: RequestState, replica: int, s: int) -> None:
    """Requests whose last token came with the step just done leave."""
    while state.batch[replica] > 0 and state.heap_step[replica, 0] <= state.steps[replica]:
        state.tokens[replica] -= state.heap_tokens[replica, 0]
        state.in_flight[s] -= 1
        _pop(state, replica)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _preempt(state: RequestState, replica: int) -> None:
    """The request admitted last goes back to the head of the replica's own queue, to be read again."""
    last = 0
    for k in range(1, state.batch[replica]):
        if state.heap_turn[replica, k] > state.heap_turn[replica, last]:
            last = k
    output = state.heap_step[replica, last] - state.steps[replica]
    prompt = state.heap_tokens[replica, last] - output
    state.tokens[replica] -= prompt
    # Take it out of the heap: the last entry takes its place, and the heap is put in order again.
    size = state.batch[replica] - 1
    state.heap_step[replica, last] = state.heap_step[replica, size]
    state.heap_tokens[replica, last] = state.heap_tokens[replica, size]
    state.heap_turn[replica, last] = state.heap_turn[replica, size]
    state.batch[replica] = size
    for k in range(size // 2 - 1, -1, -1):
        _sift_down(state, replica, k)
    for k in range(state.pending[replica], 0, -1):
        state.pending_ready_s[replica, k] = state.pending_ready_s[replica, k - 1]
        state.pending_base_s[replica, k] = state.pending_base_s[replica, k - 1]
        state.pending_prompt[replica, k] = state.pending_prompt[replica, k - 1]
        state.pending_output[replica, k] = state.pending_output[replica, k - 1]
    state.pending_ready_s[replica, 0] = state.clock_s[replica]
    state.pending_base_s[replica, 0] = np.nan
    state.pending_prompt[replica, 0] = prompt
    state.pending_output[replica, 0] = output
    state.pending[replica] += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _push(state: RequestState, replica: int, step: int, tokens: int) -> None:
    k = state.batch[replica]
    state.batch[replica] = k + 1
    turn = state.turn[replica]
    state.turn[replica] = turn + 1
    while k > 0:
        parent = (k - 1) // 2
        if state.heap_step[replica, parent] <= step:
            break
        state.heap_step[replica, k] = state.heap_step[replica, parent]
        state.heap_tokens[replica, k] = state.heap_tokens[replica, parent]
        state.heap_turn[replica, k] = state.heap_turn[replica, parent]
        k = parent
    state.heap_step[replica, k] = step
    state.heap_tokens[replica, k] = tokens
    state.heap_turn[replica, k] = turn


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _pop(state: RequestState, replica: int) -> None:
    size = state.batch[replica] - 1
    state.batch[replica] = size
    state.heap_step[replica, 0] = state.heap_step[replica, size]
    state.heap_tokens[replica, 0] = state.heap_tokens[replica, size]
    state.heap_turn[replica, 0] = state.heap_turn[replica, size]
    _sift_down(state, replica, 0)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sift_down(state: RequestState, replica: int, k: int) -> None:
    size = state.batch[replica]
    step, tokens, turn = (
        state.heap_step[replica, k],
        state.heap_tokens[replica, k],
        state.heap_turn[replica, k],
    )
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and state.heap_step[replica, child + 1] < state.heap_step[replica, child]:
            child += 1
        if state.heap_step[replica, child] >= step:
            break
        state.heap_step[replica, k] = state.heap_step[replica, child]
        state.heap_tokens[replica, k] = state.heap_tokens[replica, child]
        state.heap_turn[replica, k] = state.heap_turn[replica, child]
        k = child
    state.heap_step[replica, k] = step
    state.heap_tokens[replica, k] = tokens
    state.heap_turn[replica, k] = turn


# --- a site's queue


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _next_change_s(fleet: RequestFleet, state: RequestState, replica: int) -> float:
    """When a place of a replica may next become free."""
    if state.reading[replica] > 0:
        return state.reading_until_s[replica]
    b = state.batch[replica]
    if b == 0:
        return state.clock_s[replica]
    m = fleet.replica_model[replica]
    return state.clock_s[replica] + (state.heap_step[replica, 0] - state.steps[replica]) * fleet.step_s[m, b]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _start_heap(
    fleet: RequestFleet, state: RequestState, s: int, now_s: float,
    heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> None:  # fmt: skip
    heap_size[s] = 0
    first = fleet.first_replica[s]
    for replica in range(first, first + state.awake[s]):
        _advance(fleet, state, replica, now_s, tally)
        _heap_push(s, max(_next_change_s(fleet, state, replica), now_s), replica, heap_s, heap_replica, heap_size)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _serve_queue(
    fleet: RequestFleet, state: RequestState, s: int, until_s: float,
    heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> None:  # fmt: skip
    """Places that become free by a time are taken by whoever has waited longest."""
    while state.queue_length[s] > 0:
        ready_s = _NEVER_S
        if state.waking[s] > 0:
            ready_s = state.ready_s[fleet.first_replica[s] + state.awake[s]]
        next_s = heap_s[s, 0] if heap_size[s] > 0 else _NEVER_S
        if min(next_s, ready_s) > until_s:
            return
        if ready_s < next_s:
            replica, now_s = fleet.first_replica[s] + state.awake[s], ready_s
            state.awake[s] += 1
            state.waking[s] -= 1
            _advance(fleet, state, replica, now_s, tally)
        else:
            replica, now_s = heap_replica[s, 0], next_s
            _heap_pop(s, heap_s, heap_replica, heap_size)
            _advance(fleet, state, replica, now_s, tally)
        _leave(fleet, state, s, now_s, tally)
        while state.queue_length[s] > 0:
            start, size = fleet.queue_start[s], fleet.queue_start[s + 1] - fleet.queue_start[s]
            place = start + state.queue_head[s]
            if not _has_room(fleet, state, replica, state.queue_prompt[place]):
                break
            _give(
                state, replica, s, now_s, state.queue_base_s[place], state.queue_prompt[place],
                state.queue_output[place],
            )  # fmt: skip
            state.queue_head[s] = (state.queue_head[s] + 1) % size
            state.queue_length[s] -= 1
        _advance(fleet, state, replica, now_s, tally)
        change_s = _next_change_s(fleet, state, replica)
        if change_s <= now_s:  # idle, and still no room: only a larger cache would help; look again a little later
            change_s = now_s + 1.0
        _heap_push(s, change_s, replica, heap_s, heap_replica, heap_size)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _leave(fleet: RequestFleet, state: RequestState, s: int, now_s: float, tally: TallyArrays) -> None:
    """Requests at the head of the queue whose patience has ended."""
    v = s // fleet.sites
    size = fleet.queue_start[s + 1] - fleet.queue_start[s]
    while state.queue_length[s] > 0:
        place = fleet.queue_start[s] + state.queue_head[s]
        if now_s - state.queue_arrival_s[place] <= fleet.patience_s:
            return
        tally.rejected[v] += 1
        tally.late[v] += 1
        state.queue_head[s] = (state.queue_head[s] + 1) % size
        state.queue_length[s] -= 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _move_queue(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float,
    heap_s: FloatArray, heap_replica: Ints, heap_size: Ints, tally: TallyArrays,
) -> None:  # fmt: skip
    """The queue of a site that may serve no more goes to the others."""
    v = s // fleet.sites
    size = fleet.queue_start[s + 1] - fleet.queue_start[s]
    while state.queue_length[s] > 0:
        place = fleet.queue_start[s] + state.queue_head[s]
        state.queue_head[s] = (state.queue_head[s] + 1) % size
        state.queue_length[s] -= 1
        d = _datacenter(fleet, state, plan, v, 0, now_s, heap_s, heap_replica, heap_size, tally)
        if d < 0:
            tally.rejected[v] += 1
            tally.late[v] += 1
            continue
        _arrive(
            fleet, state, v * fleet.sites + d, now_s, state.queue_arrival_s[place], state.queue_base_s[place],
            state.queue_prompt[place], state.queue_output[place], heap_s, heap_replica, heap_size, tally,
        )  # fmt: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _heap_push(s: int, at_s: float, replica: int, heap_s: FloatArray, heap_replica: Ints, heap_size: Ints) -> None:
    k = heap_size[s]
    heap_size[s] = k + 1
    while k > 0:
        parent = (k - 1) // 2
        if heap_s[s, parent] <= at_s:
            break
        heap_s[s, k], heap_replica[s, k] = heap_s[s, parent], heap_replica[s, parent]
        k = parent
    heap_s[s, k], heap_replica[s, k] = at_s, replica


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _heap_pop(s: int, heap_s: FloatArray, heap_replica: Ints, heap_size: Ints) -> None:
    size = heap_size[s] - 1
    heap_size[s] = size
    at_s, replica = heap_s[s, size], heap_replica[s, size]
    k = 0
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and heap_s[s, child + 1] < heap_s[s, child]:
            child += 1
        if heap_s[s, child] >= at_s:
            break
        heap_s[s, k], heap_replica[s, k] = heap_s[s, child], heap_replica[s, child]
        k = child
    heap_s[s, k], heap_replica[s, k] = at_s, replica


# --- who is awake


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _set_awake(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float, tally: TallyArrays
) -> None:
    """The plan's replicas are awake, prewarmed at the cost of waking; the others finish and sleep."""
    first, last = fleet.first_replica[s], fleet.first_replica[s + 1]
    _ready(fleet, state, s, now_s)
    before, wanted = state.awake[s], min(max(plan.awake[s], 0), last - first)
    for replica in range(first, last):
        m = fleet.replica_model[replica]
        is_awake = replica - first < wanted
        rest_w = fleet.idle_w[m] if is_awake else fleet.asleep_w[m]
        if state.rest_w[replica] != rest_w:
            _advance(fleet, state, replica, now_s, tally)
            state.rest_w[replica] = rest_w
        if is_awake and replica - first >= before:
            tally.joules[s % fleet.sites] += fleet.wake_s[m] * fleet.idle_w[m]
    state.awake[s] = wanted
    state.waking[s] = 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _ready(fleet: RequestFleet, state: RequestState, s: int, now_s: float) -> None:
    """Replicas that have woken by now take requests."""
    while state.waking[s] > 0 and state.ready_s[fleet.first_replica[s] + state.awake[s]] <= now_s:
        state.awake[s] += 1
        state.waking[s] -= 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _wake(fleet: RequestFleet, state: RequestState, s: int, now_s: float, tally: TallyArrays) -> None:
    """One more replica wakes for every batch that waits."""
    if not fleet.wakes:
        return
    first = fleet.first_replica[s]
    replica = first + state.awake[s] + state.waking[s]
    if replica >= fleet.first_replica[s + 1]:
        return
    m = fleet.replica_model[replica]
    if state.queue_length[s] <= state.waking[s] * fleet.max_batch[m]:
        return
    _advance(fleet, state, replica, now_s, tally)
    state.rest_w[replica] = fleet.idle_w[m]
    state.ready_s[replica] = now_s + fleet.wake_s[m]
    state.waking[s] += 1

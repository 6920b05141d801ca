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
taken in time order from a heap.

Whoever has to queue wakes sleeping replicas: those of its site, and when none is left to wake there, those of the same
model at the other sites, in proportion to how many the plan left asleep at each. A site has room for what has woken
there, beyond what the plan fills it to: the next requests spill over to it. Who is in a queue already stays in it.

Times are seconds since the start of the experiment. Arrays are changed in place; ``engine`` copies first.
"""

# Compiled loops are written out, and their arguments are the state of a machine.
# ruff: noqa: PLR0913, PLR0917, PLR0915, PLR0912, C901
# For the type checker an element of an array, and a decorator given its options as a dict, have no type of their own.
# mypy: disable-error-code="no-any-return, untyped-decorator"

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from marlin.simulator.compiling import KEEP
from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.fleet import Ints, RequestFleet, RequestState
from marlin.simulator.request_level.tally import BINS, FIRST_BIN_S, LOG_BIN_WIDTH, TallyArrays

MEMORY_WATERMARK: Final = 0.99
"""Part of the cache that admission may fill, so that growing answers do not preempt at once."""
SWEPT: Final = 4
"""Replicas of a place brought up to date whenever it seems to have no room."""

NO_REPLICA: Final = -1

_COMPILED: Final[dict[str, Any]] = {"cache": KEEP, "nogil": True, "error_model": "numpy", "_nrt": False}
"""Nothing here allocates, so nobody has to count references: that took three quarters of the time."""

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


@nb.njit(**_COMPILED)
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
    sites = len(fleet.places)
    for s in range(sites):
        _set_awake(fleet, state, plan, s, start_s, tally)
    for s in range(sites):
        if state.sites[s].queue_length > 0:
            if fleet.places[s].is_allowed:
                _start_heap(fleet, state, s, start_s, tally)
            else:
                _move_queue(fleet, state, plan, s, start_s, tally)
    for i in range(len(arrivals.at_s)):
        now_s = arrivals.at_s[i]
        v, r = arrivals.model[i], arrivals.origin[i]
        d = _datacenter(fleet, state, plan, v, r, now_s, tally)
        if d < 0:
            tally.models[v].rejected += 1
            tally.models[v].late += 1
            continue
        s = v * fleet.sites + d
        base_s = now_s - fleet.rtt_s[r, d]
        _arrive(
            fleet, state, plan, s, now_s, now_s, base_s, arrivals.prompt_tokens[i], arrivals.output_tokens[i], tally,
        )  # fmt: skip
    for s in range(sites):
        if state.sites[s].queue_length > 0:
            _serve_queue(fleet, state, s, end_s, tally)
            _leave(fleet, state, s, end_s, tally)
        for replica in range(fleet.places[s].first_replica, fleet.places[s].last_replica):
            _advance(fleet, state, replica, end_s, True, tally)
        _ready(fleet, state, s, end_s)
        waiting = state.sites[s].queue_length
        for replica in range(fleet.places[s].first_replica, fleet.places[s].last_replica):
            for k in range(state.replicas[replica].pending):
                if not np.isnan(state.pending[replica, k].base_s):
                    waiting += 1
        tally.sites[s].waiting = waiting


# --- which datacenter


@nb.njit(**_COMPILED)
def _datacenter(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, v: int, r: int, now_s: float,
    tally: TallyArrays,
) -> int:  # fmt: skip
    """The datacenter of a request, -1 when none may serve the model."""
    if plan.is_ordered:
        for position in range(fleet.sites):
            d = plan.order[v, position]
            if d < 0:
                break
            s = v * fleet.sites + d
            if fleet.places[s].is_allowed and _load(fleet, state, s, plan.places[s], now_s, tally) < plan.places[s]:
                return d
    else:
        best = -1
        for d in range(fleet.sites):
            if fleet.places[v * fleet.sites + d].is_allowed:
                state.share_turn[v, r, d] += plan.shares[v, r, d]
                if plan.shares[v, r, d] > 0 and (best < 0 or state.share_turn[v, r, d] > state.share_turn[v, r, best]):
                    best = d
        if best >= 0:
            total = 0.0
            for d in range(fleet.sites):
                if fleet.places[v * fleet.sites + d].is_allowed:
                    total += plan.shares[v, r, d]
            state.share_turn[v, r, best] -= total
            s = v * fleet.sites + best
            if _load(fleet, state, s, plan.places[s], now_s, tally) < plan.places[s]:
                return best
    # Spill-over: most free places, those of replicas woken beyond the plan among them; where there are none, the least
    # load for its size. Nobody waits at a site where all sleep, unless they do at every site.
    most, most_free = -1, 0.0
    least, least_load, least_places = -1, 0, 0.0
    for d in range(fleet.sites):
        s = v * fleet.sites + d
        if not fleet.places[s].is_allowed:
            continue
        places = plan.places[s]
        if state.sites[s].awake + state.sites[s].waking > plan.awake[s]:
            places += _woken_places(fleet, state, plan, s, now_s, tally)
            load = _load(fleet, state, s, places, now_s, tally)
        else:
            load = state.sites[s].in_flight + state.sites[s].queue_length
        if load < places and (most < 0 or places - load > most_free):
            most, most_free = d, places - load
        if (
            least < 0
            or load * least_places < places * least_load
            or (state.sites[v * fleet.sites + least].awake == 0 and state.sites[s].awake > 0)
        ):
            least, least_load, least_places = d, load, places
    return most if most >= 0 else least


@nb.njit(**_COMPILED)
def _woken_places(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float,
    tally: TallyArrays,
) -> float:  # fmt: skip
    """Requests in flight up to which the replicas of a site are filled that have woken beyond the plan by now."""
    if state.sites[s].queue_length > 0:
        _serve_queue(fleet, state, s, now_s, tally)
    _ready(fleet, state, s, now_s)
    kept, awake = fleet.places[s].first_replica + plan.awake[s], fleet.places[s].first_replica + state.sites[s].awake
    places = 0.0
    for g in range(fleet.places[s].first_group, fleet.places[s].last_group):
        start = max(fleet.groups[g].first_replica, kept)
        end = min(fleet.groups[g].first_replica + fleet.groups[g].size, awake)
        places += max(end - start, 0) * fleet.groups[g].in_flight_limit
    return places


@nb.njit(**_COMPILED)
def _load(
    fleet: RequestFleet, state: RequestState, s: int, room: float, now_s: float,
    tally: TallyArrays,
) -> int:  # fmt: skip
    """Requests at a site; at most so many, and exactly so once a round of its replicas was looked at.

    What was not looked at since can only have become less, so nobody looks while there is room.
    """
    if state.sites[s].queue_length == 0 and state.sites[s].in_flight < room:
        return state.sites[s].in_flight
    first, last = fleet.places[s].first_replica, fleet.places[s].last_replica
    if state.sites[s].queue_length > 0:
        _serve_queue(fleet, state, s, now_s, tally)
    else:
        for _ in range(min(SWEPT, last - first)):
            replica = state.sites[s].sweep
            _advance(fleet, state, replica, now_s, True, tally)
            state.sites[s].sweep = replica + 1 if replica + 1 < last else first
    return state.sites[s].in_flight + state.sites[s].queue_length


# --- which replica


@nb.njit(**_COMPILED)
def _arrive(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float, arrival_s: float, base_s: float,
    prompt: int, output: int, tally: TallyArrays,
) -> None:  # fmt: skip
    """A request comes to a site: to a replica with room, or into the queue."""
    # The queue first: those in it take the replicas that have just woken, and its heap follows them from then.
    if state.sites[s].queue_length > 0:
        _serve_queue(fleet, state, s, now_s, tally)
    _ready(fleet, state, s, now_s)
    if state.sites[s].queue_length == 0:
        replica = _replica(fleet, state, s, now_s, prompt, tally)
        if replica != NO_REPLICA:
            _give(state, replica, s, now_s, base_s, prompt, output)
            return
        _start_heap(fleet, state, s, now_s, tally)
    start, size = fleet.places[s].queue_start, fleet.places[s].queue_size
    if state.sites[s].queue_length >= size:
        tally.models[s // fleet.sites].rejected += 1
        tally.models[s // fleet.sites].late += 1
        return
    place = start + (state.sites[s].queue_head + state.sites[s].queue_length) % size
    state.queue[place].base_s = base_s
    state.queue[place].arrival_s = arrival_s
    state.queue[place].prompt = prompt
    state.queue[place].output = output
    state.sites[s].queue_length += 1
    _wake(fleet, state, plan, s, now_s, tally)


@nb.njit(**_COMPILED)
def _replica(fleet: RequestFleet, state: RequestState, s: int, now_s: float, prompt: int, tally: TallyArrays) -> int:
    """An awake replica with room for a prompt, brought up to date; ``NO_REPLICA`` when all are full."""
    first, awake = fleet.places[s].first_replica, state.sites[s].awake
    if fleet.pack_utilization > 0:
        for replica in range(first, first + awake):
            if state.replicas[replica].batch + state.replicas[replica].pending >= fleet.replicas[replica].pack_places:
                _advance(fleet, state, replica, now_s, True, tally)
            if state.replicas[replica].batch + state.replicas[replica].pending < fleet.replicas[replica].pack_places:
                _advance(fleet, state, replica, now_s, True, tally)
                if _has_room(fleet, state, replica, prompt):
                    return replica
    # Smooth weighted round robin: every deployment gains its weight, the richest pays the total.
    best, total, best_count = -1, 0.0, 0
    for g in range(fleet.places[s].first_group, fleet.places[s].last_group):
        count = min(max(first + awake - fleet.groups[g].first_replica, 0), fleet.groups[g].size)
        if count <= 0:
            continue
        weight = count * fleet.groups[g].rps
        total += weight
        state.groups[g].turn += weight
        if best < 0 or state.groups[g].turn > state.groups[best].turn:
            best, best_count = g, count
    if best < 0:
        return NO_REPLICA
    state.groups[best].turn -= total
    start = fleet.groups[best].first_replica
    for _ in range(best_count):
        replica = state.groups[best].next
        if replica >= start + best_count:
            replica = start
        state.groups[best].next = replica + 1 if replica + 1 < start + best_count else start
        _advance(fleet, state, replica, now_s, True, tally)
        if _has_room(fleet, state, replica, prompt):
            return replica
    for replica in range(first, first + awake):
        if fleet.replicas[replica].group != best:
            _advance(fleet, state, replica, now_s, True, tally)
            if _has_room(fleet, state, replica, prompt):
                return replica
    return NO_REPLICA


@nb.njit(inline="always")
def _has_room(fleet: RequestFleet, state: RequestState, replica: int, prompt: int) -> bool:
    """Whether a replica has a place in its batch and memory for one more prompt, after those it was given."""
    m = fleet.replicas[replica].model
    if state.replicas[replica].batch + state.replicas[replica].pending >= fleet.models[m].max_batch:
        return False
    tokens = state.replicas[replica].tokens + prompt
    for k in range(state.replicas[replica].reading, state.replicas[replica].pending):
        tokens += state.pending[replica, k].prompt
    return tokens <= MEMORY_WATERMARK * fleet.models[m].kv_tokens or (
        state.replicas[replica].batch + state.replicas[replica].pending == 0
    )


@nb.njit(inline="always")
def _give(state: RequestState, replica: int, s: int, now_s: float, base_s: float, prompt: int, output: int) -> None:
    k = state.replicas[replica].pending
    state.pending[replica, k].ready_s = now_s
    state.pending[replica, k].base_s = base_s
    state.pending[replica, k].prompt = prompt
    state.pending[replica, k].output = output
    state.replicas[replica].pending = k + 1
    state.sites[s].in_flight += 1


# --- one replica


@nb.njit(**_COMPILED)
def _advance(
    fleet: RequestFleet, state: RequestState, replica: int, until_s: float, starts: bool, tally: TallyArrays
) -> None:
    """Brings one replica up to a time: all iterations that end by then, and those that have begun.

    One that would begin to read at that very time does so only if it ``starts``: who frees a place and then fills it
    wants the newcomer to be read with the others.
    """
    latest_s = until_s if starts else until_s - _SOON_S
    m = fleet.replicas[replica].model
    s = fleet.replicas[replica].site
    v, d = s // fleet.sites, s % fleet.sites
    joules = 0.0
    while True:
        b = state.replicas[replica].batch
        if state.replicas[replica].reading > 0:
            if state.replicas[replica].reading_until_s > until_s:
                break
            _end_reading(fleet, state, replica, s, v, tally)
            continue
        step_s = fleet.step_s[m, b]
        if state.replicas[replica].pending > 0:
            ready_s = state.pending[replica, 0].ready_s
            if b == 0:
                at_s = max(state.replicas[replica].clock_s, ready_s)
                if at_s > latest_s:
                    break
                joules += (at_s - state.replicas[replica].clock_s) * state.replicas[replica].rest_w
                state.replicas[replica].clock_s = at_s
                joules += _start_reading(fleet, state, replica, m)
                continue
            # The first boundary at or after the prompt came.
            steps = int(max(np.ceil((ready_s - state.replicas[replica].clock_s) / step_s - 1e-9), 0.0))
            fits = _first_fits(fleet, state, replica, m, b * steps)
            to_end = state.heap[replica, 0].step - state.replicas[replica].steps
            room = (fleet.models[m].kv_tokens - state.replicas[replica].tokens) // b
            if fits and steps < to_end and steps <= room:
                at_s = state.replicas[replica].clock_s + steps * step_s
                if at_s > latest_s:
                    joules += _decode(fleet, state, replica, m, b, _whole_steps(state, replica, until_s, step_s))
                    break
                joules += _decode(fleet, state, replica, m, b, steps)
                joules += _start_reading(fleet, state, replica, m)
                continue
        elif b == 0:
            if until_s > state.replicas[replica].clock_s:
                joules += (until_s - state.replicas[replica].clock_s) * state.replicas[replica].rest_w
                state.replicas[replica].clock_s = until_s
            break
        steps = state.heap[replica, 0].step - state.replicas[replica].steps
        room = (fleet.models[m].kv_tokens - state.replicas[replica].tokens) // b
        if room <= 0 and steps > 0:
            if b > 1:
                _preempt(state, replica)
                tally.models[v].preempted += 1
                continue
            room = steps  # a lone request may go beyond: nobody could make room for it
        taken = min(steps, room)
        if state.replicas[replica].clock_s + taken * step_s > until_s:
            joules += _decode(fleet, state, replica, m, b, _whole_steps(state, replica, until_s, step_s))
            break
        joules += _decode(fleet, state, replica, m, b, taken)
        _end_finished(state, replica, s)
    tally.joules[d] += joules


@nb.njit(inline="always")
def _whole_steps(state: RequestState, replica: int, until_s: float, step_s: float) -> int:
    return int(max(np.floor((until_s - state.replicas[replica].clock_s) / step_s), 0.0))


@nb.njit(inline="always")
def _decode(fleet: RequestFleet, state: RequestState, replica: int, m: int, b: int, steps: int) -> float:
    """Any number of steps of one batch; the energy in J."""
    state.replicas[replica].clock_s += steps * fleet.step_s[m, b]
    state.replicas[replica].steps += steps
    state.replicas[replica].tokens += b * steps
    return steps * fleet.step_s[m, b] * fleet.decode_w[m, b]


@nb.njit(inline="always")
def _first_fits(fleet: RequestFleet, state: RequestState, replica: int, m: int, more: int) -> bool:
    return state.replicas[replica].batch < fleet.models[m].max_batch and (
        state.replicas[replica].tokens + more + state.pending[replica, 0].prompt
        <= MEMORY_WATERMARK * fleet.models[m].kv_tokens
    )


@nb.njit(inline="always")
def _start_reading(fleet: RequestFleet, state: RequestState, replica: int, m: int) -> float:
    """An iteration that reads the prompts that are there and fit; the energy in J."""
    b = state.replicas[replica].batch
    now_s = state.replicas[replica].clock_s
    read, read_s, tokens = 0, 0.0, state.replicas[replica].tokens
    while read < state.replicas[replica].pending:
        prompt = state.pending[replica, read].prompt
        is_forced = b + read == 0
        if state.pending[replica, read].ready_s > now_s + _SOON_S or b + read >= fleet.models[m].max_batch:
            break
        if not is_forced and tokens + prompt > MEMORY_WATERMARK * fleet.models[m].kv_tokens:
            break
        tokens += prompt
        read_s += _prefill_s(fleet, m, prompt)
        read += 1
    step_s = fleet.step_s[m, b] if b > 0 else 0.0
    state.replicas[replica].tokens = tokens
    state.replicas[replica].reading = read
    state.replicas[replica].reading_until_s = now_s + read_s + step_s
    return read_s * fleet.models[m].prefill_w + step_s * fleet.decode_w[m, b]


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


@nb.njit(inline="always")
def _end_reading(fleet: RequestFleet, state: RequestState, replica: int, s: int, v: int, tally: TallyArrays) -> None:
    """The end of an iteration that read: first tokens, and a step of those who were decoding."""
    now_s = state.replicas[replica].reading_until_s
    state.replicas[replica].clock_s = now_s
    if state.replicas[replica].batch > 0:
        state.replicas[replica].steps += 1
        state.replicas[replica].tokens += state.replicas[replica].batch
        _end_finished(state, replica, s)
    read = state.replicas[replica].reading
    for k in range(read):
        base_s = state.pending[replica, k].base_s
        if not np.isnan(base_s):
            _first_token(fleet, tally, s, v, now_s - base_s)
        prompt, output = state.pending[replica, k].prompt, state.pending[replica, k].output
        if output > 1:
            state.replicas[replica].tokens += 1
            _push(state, replica, state.replicas[replica].steps + output - 1, prompt + output)
        else:
            state.replicas[replica].tokens -= prompt
            state.sites[s].in_flight -= 1
    left = state.replicas[replica].pending - read
    for k in range(left):
        state.pending[replica, k].ready_s = state.pending[replica, k + read].ready_s
        state.pending[replica, k].base_s = state.pending[replica, k + read].base_s
        state.pending[replica, k].prompt = state.pending[replica, k + read].prompt
        state.pending[replica, k].output = state.pending[replica, k + read].output
    state.replicas[replica].pending = left
    state.replicas[replica].reading = 0


@nb.njit(inline="always")
def _first_token(fleet: RequestFleet, tally: TallyArrays, s: int, v: int, ttft_s: float) -> None:
    tally.sites[s].served += 1
    tally.sites[s].ttft_s += ttft_s
    if ttft_s > fleet.ttft_limit_s[v]:
        tally.models[v].late += 1
    place = int(np.log(max(ttft_s, FIRST_BIN_S) / FIRST_BIN_S) * _INVERSE_BIN_WIDTH)
    tally.histogram[v, min(place, BINS - 1)] += 1


@nb.njit(inline="always")
def _end_finished(state: RequestState, replica: int, s: int) -> None:
    """Requests whose last token came with the step just done leave."""
    while state.replicas[replica].batch > 0 and state.heap[replica, 0].step <= state.replicas[replica].steps:
        state.replicas[replica].tokens -= state.heap[replica, 0].tokens
        state.sites[s].in_flight -= 1
        _pop(state, replica)


@nb.njit(**_COMPILED)
def _preempt(state: RequestState, replica: int) -> None:
    """The request admitted last goes back to the head of the replica's own queue, to be read again."""
    last = 0
    for k in range(1, state.replicas[replica].batch):
        if state.heap[replica, k].turn > state.heap[replica, last].turn:
            last = k
    output = state.heap[replica, last].step - state.replicas[replica].steps
    prompt = state.heap[replica, last].tokens - output
    state.replicas[replica].tokens -= prompt
    # Take it out of the heap: the last entry takes its place, and the heap is put in order again.
    size = state.replicas[replica].batch - 1
    state.heap[replica, last].step = state.heap[replica, size].step
    state.heap[replica, last].tokens = state.heap[replica, size].tokens
    state.heap[replica, last].turn = state.heap[replica, size].turn
    state.replicas[replica].batch = size
    for k in range(size // 2 - 1, -1, -1):
        _sift_down(state, replica, k)
    for k in range(state.replicas[replica].pending, 0, -1):
        state.pending[replica, k].ready_s = state.pending[replica, k - 1].ready_s
        state.pending[replica, k].base_s = state.pending[replica, k - 1].base_s
        state.pending[replica, k].prompt = state.pending[replica, k - 1].prompt
        state.pending[replica, k].output = state.pending[replica, k - 1].output
    state.pending[replica, 0].ready_s = state.replicas[replica].clock_s
    state.pending[replica, 0].base_s = np.nan
    state.pending[replica, 0].prompt = prompt
    state.pending[replica, 0].output = output
    state.replicas[replica].pending += 1


@nb.njit(inline="always")
def _push(state: RequestState, replica: int, step: int, tokens: int) -> None:
    k = state.replicas[replica].batch
    state.replicas[replica].batch = k + 1
    turn = state.replicas[replica].turn
    state.replicas[replica].turn = turn + 1
    while k > 0:
        parent = (k - 1) // 2
        if state.heap[replica, parent].step <= step:
            break
        state.heap[replica, k].step = state.heap[replica, parent].step
        state.heap[replica, k].tokens = state.heap[replica, parent].tokens
        state.heap[replica, k].turn = state.heap[replica, parent].turn
        k = parent
    state.heap[replica, k].step = step
    state.heap[replica, k].tokens = tokens
    state.heap[replica, k].turn = turn


@nb.njit(inline="always")
def _pop(state: RequestState, replica: int) -> None:
    size = state.replicas[replica].batch - 1
    state.replicas[replica].batch = size
    state.heap[replica, 0].step = state.heap[replica, size].step
    state.heap[replica, 0].tokens = state.heap[replica, size].tokens
    state.heap[replica, 0].turn = state.heap[replica, size].turn
    _sift_down(state, replica, 0)


@nb.njit(inline="always")
def _sift_down(state: RequestState, replica: int, k: int) -> None:
    size = state.replicas[replica].batch
    step, tokens, turn = (
        state.heap[replica, k].step,
        state.heap[replica, k].tokens,
        state.heap[replica, k].turn,
    )
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and state.heap[replica, child + 1].step < state.heap[replica, child].step:
            child += 1
        if state.heap[replica, child].step >= step:
            break
        state.heap[replica, k].step = state.heap[replica, child].step
        state.heap[replica, k].tokens = state.heap[replica, child].tokens
        state.heap[replica, k].turn = state.heap[replica, child].turn
        k = child
    state.heap[replica, k].step = step
    state.heap[replica, k].tokens = tokens
    state.heap[replica, k].turn = turn


# --- a site's queue


@nb.njit(**_COMPILED)
def _next_change_s(fleet: RequestFleet, state: RequestState, replica: int) -> float:
    """When a place of a replica may next become free."""
    if state.replicas[replica].reading > 0:
        return state.replicas[replica].reading_until_s
    b = state.replicas[replica].batch
    if b == 0:
        return state.replicas[replica].clock_s
    m = fleet.replicas[replica].model
    # Its next end, or the step before which somebody has to make room: then the others go on faster.
    steps = state.heap[replica, 0].step - state.replicas[replica].steps
    room = max((fleet.models[m].kv_tokens - state.replicas[replica].tokens) // b, 1)
    return state.replicas[replica].clock_s + min(steps, room) * fleet.step_s[m, b]


@nb.njit(**_COMPILED)
def _start_heap(
    fleet: RequestFleet, state: RequestState, s: int, now_s: float,
    tally: TallyArrays,
) -> None:  # fmt: skip
    state.sites[s].departures = 0
    first = fleet.places[s].first_replica
    for replica in range(first, first + state.sites[s].awake):
        _advance(fleet, state, replica, now_s, True, tally)
        _heap_push(state, s, max(_next_change_s(fleet, state, replica), now_s), replica)


@nb.njit(**_COMPILED)
def _serve_queue(
    fleet: RequestFleet, state: RequestState, s: int, until_s: float,
    tally: TallyArrays,
) -> None:  # fmt: skip
    """Places that become free by a time are taken by whoever has waited longest."""
    while state.sites[s].queue_length > 0:
        ready_s = _NEVER_S
        if state.sites[s].waking > 0:
            ready_s = state.replicas[fleet.places[s].first_replica + state.sites[s].awake].ready_s
        next_s = state.departures[s, 0].at_s if state.sites[s].departures > 0 else _NEVER_S
        if min(next_s, ready_s) > until_s:
            return
        if ready_s < next_s:
            replica, now_s = fleet.places[s].first_replica + state.sites[s].awake, ready_s
            state.sites[s].awake += 1
            state.sites[s].waking -= 1
            _advance(fleet, state, replica, now_s, False, tally)
        else:
            replica, now_s = state.departures[s, 0].replica, next_s
            _heap_pop(state, s)
            _advance(fleet, state, replica, now_s, False, tally)
        _leave(fleet, state, s, now_s, tally)
        while state.sites[s].queue_length > 0:
            start, size = fleet.places[s].queue_start, fleet.places[s].queue_size
            place = start + state.sites[s].queue_head
            if not _has_room(fleet, state, replica, state.queue[place].prompt):
                break
            _give(
                state, replica, s, now_s, state.queue[place].base_s, state.queue[place].prompt,
                state.queue[place].output,
            )  # fmt: skip
            state.sites[s].queue_head = (state.sites[s].queue_head + 1) % size
            state.sites[s].queue_length -= 1
        _advance(fleet, state, replica, now_s, True, tally)
        change_s = _next_change_s(fleet, state, replica)
        if change_s <= now_s:  # idle, and still no room: only a larger cache would help; look again a little later
            change_s = now_s + 1.0
        _heap_push(state, s, change_s, replica)


@nb.njit(**_COMPILED)
def _leave(fleet: RequestFleet, state: RequestState, s: int, now_s: float, tally: TallyArrays) -> None:
    """Requests at the head of the queue whose patience has ended."""
    v = s // fleet.sites
    size = fleet.places[s].queue_size
    while state.sites[s].queue_length > 0:
        place = fleet.places[s].queue_start + state.sites[s].queue_head
        if now_s - state.queue[place].arrival_s <= fleet.patience_s:
            return
        tally.models[v].rejected += 1
        tally.models[v].late += 1
        state.sites[s].queue_head = (state.sites[s].queue_head + 1) % size
        state.sites[s].queue_length -= 1


@nb.njit(**_COMPILED)
def _move_queue(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float,
    tally: TallyArrays,
) -> None:  # fmt: skip
    """The queue of a site that may serve no more goes to the others."""
    v = s // fleet.sites
    size = fleet.places[s].queue_size
    while state.sites[s].queue_length > 0:
        place = fleet.places[s].queue_start + state.sites[s].queue_head
        state.sites[s].queue_head = (state.sites[s].queue_head + 1) % size
        state.sites[s].queue_length -= 1
        d = _datacenter(fleet, state, plan, v, 0, now_s, tally)
        if d < 0:
            tally.models[v].rejected += 1
            tally.models[v].late += 1
            continue
        _arrive(
            fleet, state, plan, v * fleet.sites + d, now_s, state.queue[place].arrival_s, state.queue[place].base_s,
            state.queue[place].prompt, state.queue[place].output, tally,
        )  # fmt: skip


@nb.njit(**_COMPILED)
def _heap_push(state: RequestState, s: int, at_s: float, replica: int) -> None:
    k = state.sites[s].departures
    state.sites[s].departures = k + 1
    while k > 0:
        parent = (k - 1) // 2
        if state.departures[s, parent].at_s <= at_s:
            break
        state.departures[s, k].at_s, state.departures[s, k].replica = (
            state.departures[s, parent].at_s,
            state.departures[s, parent].replica,
        )
        k = parent
    state.departures[s, k].at_s, state.departures[s, k].replica = at_s, replica


@nb.njit(**_COMPILED)
def _heap_pop(state: RequestState, s: int) -> None:
    size = state.sites[s].departures - 1
    state.sites[s].departures = size
    at_s, replica = state.departures[s, size].at_s, state.departures[s, size].replica
    k = 0
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and state.departures[s, child + 1].at_s < state.departures[s, child].at_s:
            child += 1
        if state.departures[s, child].at_s >= at_s:
            break
        state.departures[s, k].at_s, state.departures[s, k].replica = (
            state.departures[s, child].at_s,
            state.departures[s, child].replica,
        )
        k = child
    state.departures[s, k].at_s, state.departures[s, k].replica = at_s, replica


# --- who is awake


@nb.njit(**_COMPILED)
def _set_awake(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float, tally: TallyArrays
) -> None:
    """The plan's replicas are awake, prewarmed at the cost of waking; the others finish and sleep."""
    first, last = fleet.places[s].first_replica, fleet.places[s].last_replica
    _ready(fleet, state, s, now_s)
    before, wanted = state.sites[s].awake, min(max(plan.awake[s], 0), last - first)
    for replica in range(first, last):
        m = fleet.replicas[replica].model
        is_awake = replica - first < wanted
        rest_w = fleet.models[m].idle_w if is_awake else fleet.models[m].asleep_w
        if state.replicas[replica].rest_w != rest_w:
            _advance(fleet, state, replica, now_s, True, tally)
            state.replicas[replica].rest_w = rest_w
        if is_awake and replica - first >= before:
            tally.joules[s % fleet.sites] += fleet.models[m].wake_s * fleet.models[m].idle_w
    state.sites[s].awake = wanted
    state.sites[s].waking = 0


@nb.njit(**_COMPILED)
def _ready(fleet: RequestFleet, state: RequestState, s: int, now_s: float) -> None:
    """Replicas that have woken by now take requests; where there is a queue, ``_serve_queue`` comes first."""
    while (
        state.sites[s].waking > 0
        and state.replicas[fleet.places[s].first_replica + state.sites[s].awake].ready_s <= now_s
    ):
        state.sites[s].awake += 1
        state.sites[s].waking -= 1


@nb.njit(**_COMPILED)
def _wake(
    fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int, now_s: float, tally: TallyArrays
) -> None:
    """One more replica wakes for every batch that waits: here, and when all here are awake or waking, elsewhere."""
    if not fleet.wakes:
        return
    waiting, waking = state.sites[s].queue_length, state.sites[s].waking
    if _sleepers(fleet, state, s) == 0:
        # Requests are counted at all sites, so that those who wait at several do not each wake a replica elsewhere.
        first = s - s % fleet.sites
        s, waiting, waking = -1, 0, 0
        for other in range(first, first + fleet.sites):
            waiting += state.sites[other].queue_length
            waking += state.sites[other].waking
            if (
                fleet.places[other].is_allowed
                and _sleepers(fleet, state, other) > 0
                and (s < 0 or _turn_to_wake(fleet, state, plan, other) > _turn_to_wake(fleet, state, plan, s))
            ):
                s = other
        if s < 0:
            return
    replica = fleet.places[s].first_replica + state.sites[s].awake + state.sites[s].waking
    m = fleet.replicas[replica].model
    if waiting <= waking * fleet.models[m].max_batch:
        return
    _advance(fleet, state, replica, now_s, True, tally)
    state.replicas[replica].rest_w = fleet.models[m].idle_w
    state.replicas[replica].ready_s = now_s + fleet.models[m].wake_s
    state.sites[s].waking += 1


@nb.njit(inline="always")
def _sleepers(fleet: RequestFleet, state: RequestState, s: int) -> int:
    """Replicas of a site that are neither awake nor on their way."""
    count = fleet.places[s].last_replica - fleet.places[s].first_replica
    return count - state.sites[s].awake - state.sites[s].waking


@nb.njit(inline="always")
def _turn_to_wake(fleet: RequestFleet, state: RequestState, plan: RequestPlan, s: int) -> float:
    """Highest where the next replica should wake, so that the same part of those asleep wakes at every site.

    So the fluid engine spreads them; the first of sites that are alike has its turn first.
    """
    count = fleet.places[s].last_replica - fleet.places[s].first_replica
    return (count - plan.awake[s]) / (state.sites[s].awake + state.sites[s].waking - plan.awake[s] + 1)

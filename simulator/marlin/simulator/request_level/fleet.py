"""A fleet as the request-level engine steps through it: flat arrays of sites, deployments and single replicas.

A site here is one model at one datacenter, number v x D + d. Its replicas lie side by side, the ones that stay awake
longest first, so "how many are awake" is a prefix. ``FleetState`` arrays change with events; the rest does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.constants import Balancer
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

Ints = NDArray[np.int64]

QUEUE_MARGIN = 1.5
"""Places in a site's queue, over what it could serve while a request is patient; whoever finds none would leave."""
LEAST_QUEUE = 256


class RequestFleet(NamedTuple):
    """What events do not change. S = V x D sites, G deployments of all sites, N replicas, M models, B largest batch."""

    sites: int
    """D, datacenters."""
    patience_s: float
    pack_utilization: float
    """0 under spread."""
    wakes: bool
    step_s: FloatArray  # (M, B + 1)
    decode_w: FloatArray  # (M, B + 1)
    prefill_tokens: FloatArray  # (M, P) ascending, padded with the last
    prefill_s: FloatArray  # (M, P)
    prefill_w: FloatArray  # (M,)
    idle_w: FloatArray  # (M,)
    asleep_w: FloatArray  # (M,)
    wake_s: FloatArray  # (M,)
    kv_tokens: Ints  # (M,)
    max_batch: Ints  # (M,)
    replica_model: Ints  # (N,)
    replica_group: Ints  # (N,)
    replica_site: Ints  # (N,)
    pack_places: FloatArray  # (N,) requests in flight at the utilisation that pack fills to
    first_replica: Ints  # (S + 1,)
    first_group: Ints  # (S + 1,)
    group_first_replica: Ints  # (G + 1,)
    group_rps: FloatArray  # (G,) one replica
    group_places: FloatArray  # (G,) requests in flight of one replica at the utilisation limit
    queue_start: Ints  # (S + 1,)
    rtt_s: FloatArray  # (R, D)
    ttft_limit_s: FloatArray  # (V,)
    allowed: NDArray[np.bool_]  # (S,)


def fleet_from(twin: TwinState) -> RequestFleet:
    """The arrays of a fleet. Deployments need whole numbers of replicas; fractions are rounded."""
    models, sites, deployments = twin.replicas.shape
    count = np.rint(twin.replicas).astype(np.int64)
    places = _at(twin.in_flight_knots, twin.max_utilization)
    packed = _at(twin.in_flight_knots, twin.settings.pack_utilization)
    groups: list[tuple[int, int, int]] = [
        (v, d, i) for v in range(models) for d in range(sites) for i in range(deployments) if count[v, d, i] > 0
    ]
    index = tuple(np.array([group[axis] for group in groups], dtype=np.int64) for axis in range(3))
    group_site = index[0] * sites + index[1]
    group_count = count[index]
    replica_group = np.repeat(np.arange(len(groups)), group_count)
    group_model = twin.model_index[index].astype(np.int64)
    largest = max(model.max_batch for model in twin.models)
    points = max(len(model.prefill_points) for model in twin.models)
    capacity = (twin.replica_rps * count).sum(axis=2).reshape(-1)  # (S,)
    queue = np.maximum(np.ceil(capacity * twin.settings.patience_s * QUEUE_MARGIN), LEAST_QUEUE).astype(np.int64)
    padded = [[*m.prefill_points, *([m.prefill_points[-1]] * (points - len(m.prefill_points)))] for m in twin.models]
    all_sites = np.arange(models * sites + 1)
    return RequestFleet(
        sites=sites,
        patience_s=twin.settings.patience_s,
        pack_utilization=twin.settings.pack_utilization if twin.settings.balancer is Balancer.PACK else 0.0,
        wakes=twin.settings.wakes_on_demand,
        step_s=np.array([_padded(m.step_s, largest) for m in twin.models]),
        decode_w=np.array([_padded(m.decode_w, largest) for m in twin.models]),
        prefill_tokens=np.array([[x for x, _ in row] for row in padded]),
        prefill_s=np.array([[y for _, y in row] for row in padded]),
        prefill_w=np.array([m.prefill_w for m in twin.models]),
        idle_w=np.array([m.idle_w for m in twin.models]),
        asleep_w=np.array([m.asleep_w for m in twin.models]),
        wake_s=np.array([m.wake_s for m in twin.models]),
        kv_tokens=np.array([m.kv_capacity_tokens for m in twin.models], dtype=np.int64),
        max_batch=np.array([m.max_batch for m in twin.models], dtype=np.int64),
        replica_model=group_model[replica_group],
        replica_group=replica_group,
        replica_site=group_site[replica_group],
        pack_places=packed[index][replica_group],
        first_replica=np.searchsorted(group_site[replica_group], all_sites),
        first_group=np.searchsorted(group_site, all_sites),
        group_first_replica=np.concatenate([[0], np.cumsum(group_count)]),
        group_rps=twin.replica_rps[index],
        group_places=places[index],
        queue_start=np.concatenate([[0], np.cumsum(queue)]),
        rtt_s=twin.rtt_s,
        ttft_limit_s=twin.ttft_limit_s,
        allowed=(twin.allowed & (count.sum(axis=2) > 0)).reshape(-1),
    )


def _padded(values: tuple[float, ...], largest: int) -> tuple[float, ...]:
    return (*values, *([values[-1]] * (largest + 1 - len(values))))


def _at(knots: FloatArray, utilization: float) -> FloatArray:
    """Curves (..., K) at one utilisation: (...)."""
    weights = np.array([np.interp(utilization, KNOTS, unit) for unit in np.eye(len(KNOTS))])
    return np.asarray(knots @ weights)


class RequestState(NamedTuple):
    """What events change; a value for everybody outside ``kernel``. Q places in all queues together."""

    clock_s: FloatArray  # (N,) start of the iteration a replica is in, or of its idleness
    reading_until_s: FloatArray  # (N,) end of the iteration that reads prompts; 0 when none does
    steps: Ints  # (N,) decode steps done
    batch: Ints  # (N,) requests decoding
    tokens: Ints  # (N,) tokens in the cache
    pending: Ints  # (N,) requests given to the replica whose prompt is not read yet
    reading: Ints  # (N,) of them, those being read
    rest_w: FloatArray  # (N,) power with nothing to do
    heap_step: Ints  # (N, B) step at which each decoding request ends, a heap
    heap_tokens: Ints  # (N, B) tokens it holds then
    heap_turn: Ints  # (N, B) when it was admitted, in turns
    turn: Ints  # (N,) admissions so far
    pending_ready_s: FloatArray  # (N, B + 2) since when it is at the replica
    pending_base_s: FloatArray  # (N, B + 2) its arrival less the network's round trip; NaN when it has its first token
    pending_prompt: Ints  # (N, B + 2)
    pending_output: Ints  # (N, B + 2)
    awake: Ints  # (S,) replicas that take requests, a prefix
    waking: Ints  # (S,) replicas after them that will be ready
    ready_s: FloatArray  # (N,) when a waking replica is ready
    in_flight: Ints  # (S,) requests at replicas
    group_turn: FloatArray  # (G,) of the smooth weighted round robin over deployments
    group_next: Ints  # (G,) replica whose turn it is
    sweep: Ints  # (S,) replica to be looked at next
    queue_head: Ints  # (S,)
    queue_length: Ints  # (S,)
    queue_base_s: FloatArray  # (Q,)
    queue_arrival_s: FloatArray  # (Q,)
    queue_prompt: Ints  # (Q,)
    queue_output: Ints  # (Q,)
    share_turn: FloatArray  # (V, R, D) of the smooth weighted choice of a datacenter


def initial_state(fleet: RequestFleet, at_s: float = 0.0) -> RequestState:
    """Nobody there, everybody awake."""
    n, b, s = len(fleet.replica_model), fleet.step_s.shape[1] - 1, len(fleet.first_replica) - 1
    g, q = len(fleet.group_rps), int(fleet.queue_start[-1])
    pending = (n, b + 2)

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, dtype=np.int64)

    return RequestState(
        clock_s=np.full(n, at_s),
        reading_until_s=np.zeros(n),
        steps=ints(n),
        batch=ints(n),
        tokens=ints(n),
        pending=ints(n),
        reading=ints(n),
        rest_w=fleet.idle_w[fleet.replica_model],
        heap_step=ints(n, b),
        heap_tokens=ints(n, b),
        heap_turn=ints(n, b),
        turn=ints(n),
        pending_ready_s=np.zeros(pending),
        pending_base_s=np.zeros(pending),
        pending_prompt=ints(*pending),
        pending_output=ints(*pending),
        awake=np.diff(fleet.first_replica),
        waking=ints(s),
        ready_s=np.zeros(n),
        in_flight=ints(s),
        group_turn=np.zeros(g),
        group_next=fleet.group_first_replica[:-1].copy(),
        sweep=fleet.first_replica[:-1].copy(),
        queue_head=ints(s),
        queue_length=ints(s),
        queue_base_s=np.zeros(q),
        queue_arrival_s=np.zeros(q),
        queue_prompt=ints(q),
        queue_output=ints(q),
        share_turn=np.zeros((len(fleet.ttft_limit_s), *fleet.rtt_s.shape)),
    )


def copied(state: RequestState) -> RequestState:
    """The same state in arrays of its own."""
    arrays: list[Any] = [array.copy() for array in state]
    return RequestState(*arrays)

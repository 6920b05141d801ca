"""A fleet as the request-level engine steps through it: records of places, deployments and single replicas.

A place is one model at one datacenter, number v x D + d. Its replicas lie side by side, the ones that stay awake
longest first, so "how many are awake" is a prefix. What belongs together lies together in memory, because what an event
costs is mostly fetching it. ``RequestFleet`` stays as it is; ``RequestState`` changes with events.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.constants import Balancer
from marlin.simulator.load_curves import KNOTS
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

Ints = NDArray[np.int64]
Records = NDArray[Any]
"""A structured array; its fields are in the ``Final`` lists below."""

QUEUE_MARGIN: Final = 1.5
"""Room in a place's queue, over what it could serve while a request is patient; whoever finds none would leave."""
LEAST_QUEUE: Final = 256

_MODEL: Final = np.dtype(
    [
        ("prefill_w", "f8"),
        ("idle_w", "f8"),
        ("asleep_w", "f8"),
        ("wake_s", "f8"),
        ("kv_tokens", "i8"),
        ("max_batch", "i8"),
    ]
)
_REPLICA: Final = np.dtype(
    [
        ("model", "i8"),
        ("group", "i8"),
        ("site", "i8"),
        ("pack_places", "f8"),  # requests in flight at the utilisation that pack fills to
    ]
)
_GROUP: Final = np.dtype(
    [
        ("first_replica", "i8"),
        ("size", "i8"),
        ("rps", "f8"),  # capacity of one replica
        ("in_flight_limit", "f8"),  # requests in flight of one replica at the utilisation limit
    ]
)
_PLACE: Final = np.dtype(
    [
        ("first_replica", "i8"),
        ("last_replica", "i8"),  # after the last
        ("first_group", "i8"),
        ("last_group", "i8"),  # after the last
        ("queue_start", "i8"),
        ("queue_size", "i8"),
        ("is_allowed", "?"),
    ],
    align=True,
)


class RequestFleet(NamedTuple):
    """What events do not change. S = V x D places, G deployments, N replicas, M models, B largest batch."""

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
    models: Records  # (M,) _MODEL
    replicas: Records  # (N,) _REPLICA
    groups: Records  # (G,) _GROUP
    places: Records  # (S,) _PLACE
    rtt_s: FloatArray  # (R, D)
    ttft_limit_s: FloatArray  # (V,)


def fleet_from(twin: TwinState, waiting: Ints | None = None) -> RequestFleet:
    """The records of a fleet. Deployments need whole numbers of replicas; fractions are rounded.

    Args:
        twin: the fleet.
        waiting: (S,) requests that wait at each place already; their queues have room for them.
    """
    count = np.rint(twin.replicas).astype(np.int64)  # (V, D, L)
    n_places = count.shape[0] * count.shape[1]
    where = np.nonzero(count)
    groups = np.zeros(len(where[0]), dtype=_GROUP)
    groups["size"] = count[where]
    groups["first_replica"] = np.cumsum(groups["size"]) - groups["size"]
    groups["rps"] = twin.replica_rps[where]
    groups["in_flight_limit"] = _at(twin.in_flight_knots, twin.max_utilization)[where]
    group_place = where[0] * count.shape[1] + where[1]

    replica_group = np.repeat(np.arange(len(groups)), groups["size"])
    replicas = np.zeros(len(replica_group), dtype=_REPLICA)
    replicas["model"] = twin.model_index[where][replica_group]
    replicas["group"] = replica_group
    replicas["site"] = group_place[replica_group]
    replicas["pack_places"] = _at(twin.in_flight_knots, twin.settings.pack_utilization)[where][replica_group]

    edges = np.arange(n_places + 1)
    replica_edges, group_edges = np.searchsorted(replicas["site"], edges), np.searchsorted(group_place, edges)
    places = np.zeros(n_places, dtype=_PLACE)
    places["first_replica"], places["last_replica"] = replica_edges[:-1], replica_edges[1:]
    places["first_group"], places["last_group"] = group_edges[:-1], group_edges[1:]
    queue = (twin.replica_rps * count).sum(axis=2).reshape(-1) * twin.settings.patience_s * QUEUE_MARGIN
    places["queue_size"] = np.maximum(np.ceil(queue), LEAST_QUEUE if waiting is None else LEAST_QUEUE + waiting)
    places["queue_start"] = np.cumsum(places["queue_size"]) - places["queue_size"]
    places["is_allowed"] = (twin.allowed & (count.sum(axis=2) > 0)).reshape(-1)

    models = np.zeros(len(twin.models), dtype=_MODEL)
    for m, model in enumerate(twin.models):
        models[m] = (
            model.prefill_w,
            model.idle_w,
            model.asleep_w,
            model.wake_s,
            model.kv_capacity_tokens,
            model.max_batch,
        )
    largest = max(model.max_batch for model in twin.models)
    points = max(len(model.prefill_points) for model in twin.models)
    padded = [[*m.prefill_points, *([m.prefill_points[-1]] * (points - len(m.prefill_points)))] for m in twin.models]
    return RequestFleet(
        sites=count.shape[1],
        patience_s=twin.settings.patience_s,
        pack_utilization=twin.settings.pack_utilization if twin.settings.balancer is Balancer.PACK else 0.0,
        wakes=twin.settings.wakes_on_demand,
        step_s=np.array([_padded(m.step_s, largest) for m in twin.models]),
        decode_w=np.array([_padded(m.decode_w, largest) for m in twin.models]),
        prefill_tokens=np.array([[x for x, _ in row] for row in padded]),
        prefill_s=np.array([[y for _, y in row] for row in padded]),
        models=models,
        replicas=replicas,
        groups=groups,
        places=places,
        rtt_s=twin.rtt_s,
        ttft_limit_s=twin.ttft_limit_s,
    )


def _padded(values: tuple[float, ...], largest: int) -> tuple[float, ...]:
    return (*values, *([values[-1]] * (largest + 1 - len(values))))


def _at(knots: FloatArray, utilization: float) -> FloatArray:
    """Curves (..., K) at one utilisation: (...)."""
    weights = np.array([np.interp(utilization, KNOTS, unit) for unit in np.eye(len(KNOTS))])
    return np.asarray(knots @ weights)


_REPLICA_STATE: Final = np.dtype(
    [
        ("clock_s", "f8"),  # start of the iteration it is in, or of its idleness
        ("reading_until_s", "f8"),  # end of the iteration that reads prompts
        ("rest_w", "f8"),  # power with nothing to do
        ("ready_s", "f8"),  # when it is ready, while waking
        ("steps", "i8"),  # decode steps done
        ("batch", "i8"),  # requests decoding
        ("tokens", "i8"),  # tokens in the cache
        ("pending", "i8"),  # requests given to it whose prompt is not read yet
        ("reading", "i8"),  # of them, those being read
        ("turn", "i8"),  # admissions so far
    ]
)
_DECODING: Final = np.dtype(
    [
        ("step", "i8"),  # at which it ends
        ("tokens", "i8"),  # it holds then
        ("turn", "i8"),  # when it was admitted
    ]
)
_PENDING: Final = np.dtype(
    [
        ("ready_s", "f8"),  # since when it is at the replica
        ("base_s", "f8"),  # its arrival less the network's round trip; NaN when it has its first token
        ("prompt", "i8"),
        ("output", "i8"),
    ]
)
_QUEUED: Final = np.dtype([("arrival_s", "f8"), ("base_s", "f8"), ("prompt", "i8"), ("output", "i8")])
_PLACE_STATE: Final = np.dtype(
    [
        ("awake", "i8"),  # replicas that take requests, a prefix
        ("waking", "i8"),  # replicas after them that will be ready
        ("in_flight", "i8"),  # requests at replicas
        ("sweep", "i8"),  # replica to be looked at next
        ("queue_head", "i8"),
        ("queue_length", "i8"),
        ("departures", "i8"),  # entries of its heap of departures, kept while it has a queue
    ]
)
_DEPARTURE: Final = np.dtype([("at_s", "f8"), ("replica", "i8")])
_GROUP_STATE: Final = np.dtype(
    [
        ("turn", "f8"),  # of the smooth weighted round robin over deployments
        ("next", "i8"),  # replica whose turn it is
    ]
)


class RequestState(NamedTuple):
    """What events change; a value for everybody outside ``kernel``. Q requests fit into all queues together."""

    replicas: Records  # (N,) _REPLICA_STATE
    heap: Records  # (N, B) _DECODING, by the step at which they end
    pending: Records  # (N, B + 2) _PENDING, in order of arrival
    sites: Records  # (S,) _PLACE_STATE
    groups: Records  # (G,) _GROUP_STATE
    queue: Records  # (Q,) _QUEUED, a ring for each place
    departures: Records  # (S, most replicas of one place) _DEPARTURE, by time
    share_turn: FloatArray  # (V, R, D) of the smooth weighted choice of a datacenter


def initial_state(fleet: RequestFleet, at_s: float = 0.0) -> RequestState:
    """Nobody there, everybody awake."""
    n, b = len(fleet.replicas), fleet.step_s.shape[1] - 1
    most = int((fleet.places["last_replica"] - fleet.places["first_replica"]).max())
    state = RequestState(
        replicas=np.zeros(n, dtype=_REPLICA_STATE),
        heap=np.zeros((n, b), dtype=_DECODING),
        pending=np.zeros((n, b + 2), dtype=_PENDING),
        sites=np.zeros(len(fleet.places), dtype=_PLACE_STATE),
        groups=np.zeros(len(fleet.groups), dtype=_GROUP_STATE),
        queue=np.zeros(int(fleet.places["queue_size"].sum()), dtype=_QUEUED),
        departures=np.zeros((len(fleet.places), most), dtype=_DEPARTURE),
        share_turn=np.zeros((len(fleet.ttft_limit_s), *fleet.rtt_s.shape)),
    )
    state.replicas["clock_s"] = at_s
    state.replicas["rest_w"] = fleet.models["idle_w"][fleet.replicas["model"]]
    state.sites["awake"] = fleet.places["last_replica"] - fleet.places["first_replica"]
    state.sites["sweep"] = fleet.places["first_replica"]
    state.groups["next"] = fleet.groups["first_replica"]
    return state


def carried(state: RequestState, before: RequestFleet, now: RequestFleet) -> RequestState:
    """The same state in arrays of its own, laid out for the fleet as it is now.

    With other token sizes a site serves other numbers of requests while one is patient, and its queue has other room;
    whoever waits keeps the place in it.

    Args:
        state: what was left.
        before: the fleet it was laid out for.
        now: the same replicas.

    Raises:
        ValueError: they are other replicas.
    """
    if not (
        np.array_equal(before.step_s, now.step_s)
        and np.array_equal(before.replicas["model"], now.replicas["model"])
        and np.array_equal(before.replicas["site"], now.replicas["site"])
    ):
        raise ValueError("the request-level engine follows the same replicas through: the fleet must not change")
    arrays: list[Any] = [array.copy() for array in state]
    same = RequestState(*arrays)
    if np.array_equal(before.places["queue_size"], now.places["queue_size"]):
        return same
    queue = np.zeros(int(now.places["queue_size"].sum()), dtype=_QUEUED)
    for s in np.flatnonzero(state.sites["queue_length"] > 0):
        waiting = int(state.sites["queue_length"][s])
        old, new = before.places[s], now.places[s]
        positions = old["queue_start"] + (state.sites["queue_head"][s] + np.arange(waiting)) % old["queue_size"]
        queue[new["queue_start"] : new["queue_start"] + waiting] = state.queue[positions]
    same.sites["queue_head"] = 0
    return same._replace(queue=queue)

"""Choices with a memory: how many requests are in flight where, who is backing off, who was drawn last.

``proxy`` asks for a backend, takes a ``lease`` on it for as long as the request lives, and reports a failed connection.
The rules themselves are in ``choice``; here is the state they are applied to. The clock is passed in. Everything runs
on one event loop, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from marlin.router.choice import (
    BackendState,
    choose_backend,
    choose_by_order,
    choose_by_shares,
    draw,
    site_state,
)
from marlin.router.view import Backend, Ordered, Pool, Table

BACK_OFF_S: Final = 2.0
"""A backend that refused a connection is left alone for this long, or until a probe finds it well."""

INITIAL_SERVICE_TIME_S: Final = 5.0
"""Taken for a request's duration until the first one has ended."""

SMOOTHING: Final = 0.1
"""Weight of the newest duration in the running mean."""

MAX_SLOWDOWN: Final = 3.0
"""How far beyond its best a mean service time counts towards capacity. A full batch slows decoding by less than this
(serving profiles: 1.2 to 2.3 times from batch 1 to 64); what is slower than that is waiting, not working."""

_MAX_PHASE: Final = 64
_MAX_REMEMBERED: Final = 1024

BackendKey = tuple[str, str, str]


@dataclass(slots=True)
class Counters:
    """What is known of one backend."""

    in_flight: int = 0
    last_pick: int = 0
    back_off_until_s: float = 0.0
    is_well: bool = True
    """What the last probe said; a backend is taken to be well until one says otherwise."""
    service_time_s: float | None = None
    """Running mean of how long requests took."""
    best_service_time_s: float | None = None
    """The lowest that mean has been."""

    def is_usable(self, now_s: float) -> bool:
        """Whether a request may be sent to it."""
        return self.is_well and now_s >= self.back_off_until_s


@dataclass(slots=True)
class Lease:
    """A request's hold on a backend."""

    backend: Backend
    is_sample: bool = False
    """Set when the request was answered as it should be: then its duration counts as a service time."""


@dataclass(slots=True)
class Balancer:
    """Chooses backends and counts what they hold."""

    clock: Callable[[], float]
    """Monotonic seconds."""
    random: Random = field(default_factory=Random)
    """Where in its sequence each draw begins, so that several routers do not march in step."""
    _counters: dict[BackendKey, Counters] = field(default_factory=dict)
    _pool_service_time_s: dict[str, float] = field(default_factory=dict)
    _credits: dict[tuple[str, tuple[float, ...]], tuple[float, ...]] = field(default_factory=dict)
    _picks: int = 0

    def counters(self, backend: Backend) -> Counters:
        """The counters of ``backend``, made when first asked for."""
        found = self._counters.get(backend.key)
        if found is None:
            found = self._counters[backend.key] = Counters()
        return found

    def adopt(self, table: Table) -> None:
        """Forgets backends that are gone, once nothing is in flight to them. Draws with the same weights go on."""
        kept = {backend.key for backend in table.backends()}
        self._counters = {key: c for key, c in self._counters.items() if key in kept or c.in_flight}

    def choose(self, pool: Pool, tried: Collection[BackendKey] = (), *, is_forwarded: bool = False) -> Backend | None:
        """The backend that the next request of ``pool`` goes to; None when there is none with room.

        Args:
            pool: the request's pool.
            tried: backends that could not be connected to for this request.
            is_forwarded: whether the request comes from another router: then it never goes to a member router.
        """
        now_s = self.clock()
        states = [
            [self._state(backend, now_s, tried, is_forwarded) for backend in site.backends] for site in pool.sites
        ]
        sites = [site_state(backends) for backends in states]
        if isinstance(pool.rule, Ordered):
            chosen = choose_by_order(pool.rule, sites)
        else:
            # Each set of usable sites has draws of its own: shares stay exact within each, whatever comes and goes.
            weights = tuple(w if site.is_usable else 0.0 for w, site in zip(pool.rule.weights, sites, strict=True))
            chosen, credit = choose_by_shares(pool.rule, sites, self._credit(pool.name, weights))
            self._credits[pool.name, weights] = credit
        if chosen is None:
            return None
        index = choose_backend(states[chosen])
        if index is None:
            return None
        backend = pool.sites[chosen].backends[index]
        self._picks += 1
        self.counters(backend).last_pick = self._picks
        return backend

    @contextmanager
    def lease(self, backend: Backend) -> Iterator[Lease]:
        """Counts a request in for as long as the block runs, however it ends."""
        counters = self.counters(backend)
        began_s = self.clock()
        lease = Lease(backend)
        counters.in_flight += 1
        try:
            yield lease
        finally:
            counters.in_flight -= 1
            if lease.is_sample:
                self._learn(backend, counters, self.clock() - began_s)

    def back_off(self, backend: Backend) -> None:
        """Leaves a backend alone that could not be connected to."""
        self.counters(backend).back_off_until_s = self.clock() + BACK_OFF_S

    def report_probe(self, backend: Backend, *, is_well: bool) -> None:
        """Takes a probe's verdict."""
        counters = self.counters(backend)
        counters.is_well = is_well
        if is_well:
            counters.back_off_until_s = 0.0

    def is_usable(self, backend: Backend) -> bool:
        """Whether a request may be sent to ``backend`` now."""
        return self.counters(backend).is_usable(self.clock())

    def in_flight(self) -> dict[tuple[str, str], int]:
        """Requests in flight by pool and backend, those of backends that left the table included."""
        totals: dict[tuple[str, str], int] = {}
        for (pool, name, _), counters in self._counters.items():
            totals[pool, name] = totals.get((pool, name), 0) + counters.in_flight
        return totals

    def concurrency(self, backend: Backend) -> float:
        """Requests in flight at full capacity: stated, or by Little's law (see ``choice``)."""
        if backend.concurrency_at_capacity is not None:
            return backend.concurrency_at_capacity
        if backend.max_concurrent_requests is not None:
            return float(backend.max_concurrent_requests)
        counters = self.counters(backend)
        service_time_s, best_s = counters.service_time_s, counters.best_service_time_s
        if service_time_s is None or best_s is None:
            return backend.capacity_rps * self._pool_service_time_s.get(backend.pool, INITIAL_SERVICE_TIME_S)
        # A backend that carries less than its table says would otherwise never be full: the slower it gets, the more
        # requests would count as its capacity.
        return backend.capacity_rps * min(service_time_s, MAX_SLOWDOWN * best_s)

    def _state(self, backend: Backend, now_s: float, tried: Collection[BackendKey], is_forwarded: bool) -> BackendState:
        counters = self.counters(backend)
        return BackendState(
            is_usable=counters.is_usable(now_s)
            and backend.key not in tried
            and not (is_forwarded and backend.is_member_router),
            in_flight=counters.in_flight,
            concurrency=self.concurrency(backend),
            capacity_rps=backend.capacity_rps,
            limit=backend.max_concurrent_requests,
            last_pick=counters.last_pick,
        )

    def _credit(self, pool: str, weights: tuple[float, ...]) -> tuple[float, ...]:
        credit = self._credits.get((pool, weights))
        if credit is None:
            if len(self._credits) >= _MAX_REMEMBERED:
                self._credits.clear()
            credit = (0.0,) * len(weights)
            if any(weights):
                for _ in range(self.random.randrange(_MAX_PHASE)):
                    _, credit = draw(weights, credit)
        return credit

    def _learn(self, backend: Backend, counters: Counters, duration_s: float) -> None:
        mean_s = counters.service_time_s = _smoothed(counters.service_time_s, duration_s)
        best_s = counters.best_service_time_s
        counters.best_service_time_s = mean_s if best_s is None else min(best_s, mean_s)
        of_pool = self._pool_service_time_s.get(backend.pool)
        self._pool_service_time_s[backend.pool] = _smoothed(of_pool, duration_s)


def _smoothed(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + SMOOTHING * (newest - mean)

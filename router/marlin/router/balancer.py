"""Choices with a memory: how many requests are in flight where, who is left alone, who was drawn last.

``flow`` asks for a backend, opens a lease on it for as long as the request lives, and reports what became of it. The
rules are in ``choice``; here is the state they are applied to, kept up to date at every event rather than gathered for
every request: what may be chosen changes seldom, requests are many. The clock is passed in; everything runs on one
event loop, so there are no locks.

A backend is *down* when it refused a connection (for ``BACK_OFF_S``) or a probe says so: then nothing is sent to it. It
is *resting* when it said 429 or 503, or failed several times in a row: then others come first, and it is only chosen
where the pool has nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from marlin.router.affinity import Sessions, choose_for_session, hash_of
from marlin.router.choice import Draws, choose_backend, choose_by_order, choose_by_shares, in_time, most_free
from marlin.router.energy import HeldMean, factor_at
from marlin.router.held import Held
from marlin.router.loads import SCRAP, SLOTS, LoadPage
from marlin.router.patience import Patience
from marlin.router.view import Backend, Ordered, Pool, Site, Table

if TYPE_CHECKING:
    from marlin.router.upstream import Peer

BACK_OFF_S: Final = 2.0
"""A backend that refused a connection is left alone for this long, or until a probe finds it well."""

FAILURES_BEFORE_REST: Final = 3
"""Failures in a row after which a backend rests. A reply below 500 is no failure: it is the client's."""

FIRST_REST_S: Final = 0.5
LONGEST_REST_S: Final = 2.0
"""A rest doubles with every failure, between these; a backend that is well again is back after the longest."""

LONGEST_RETRY_AFTER_S: Final = 30.0
"""A Retry-After beyond this is not believed: nobody would notice that the backend is back."""

INITIAL_SERVICE_TIME_S: Final = 5.0
"""Taken for a request's duration until the first one has ended."""

SMOOTHING: Final = 0.1
"""Weight of the newest duration in the running mean."""

MAX_SLOWDOWN: Final = 3.0
"""How far beyond its best a mean service time counts towards capacity. A full batch slows decoding by less than this
(serving profiles: 1.2 to 2.3 times from batch 1 to 64); what is slower than that is waiting, not working."""

KV_FULL: Final = 0.95
"""KV use from which a backend is full: what is left is soon taken by the requests that run, as they grow."""

SHARED_VIEW_S: Final = 0.01
"""How old the counts of other workers may be."""

_MAX_PHASE: Final = 64
_MAX_REMEMBERED: Final = 1024

BackendKey = tuple[str, str, str]


class LiveBackend:
    """One backend and what is known of it. Survives its table as long as requests are in flight to it.

    Attributes:
        backend: what the table says.
        in_flight: requests in flight to it, of all workers.
        own_in_flight: of this worker.
        concurrency: requests in flight at full capacity.
        is_usable: whether a request may be sent to it.
        last_pick: when it was last chosen, as a count of choices.
        slot: its cell on the load page.
        salt: hash of its name, for sessions.
        service_time_s, best_service_time_s: running mean of how long requests took; the lowest that mean has been.
        failures: in a row.
        silent_since_s: since when it holds requests and says nothing.
        unanswered_s: when it last left two probes unanswered.
        patience: how long its event streams may take to begin.
        is_kv_full: whether its KV cache has no room for more.
        elsewhere: requests of others at an engine; those at a member router are in ``in_flight``, for its capacity is
            everybody's.
        held_mean: of what it holds, whoever sent it.
        energy_factor: what a token takes at it now, over what the table says.
        has_energy: whether the table says what a token takes.
        told_concurrency: what a member router says it can take at once; 0: it does not say.
    """

    __slots__ = (
        "_stated_concurrency",
        "back_off_until_s",
        "backend",
        "best_service_time_s",
        "capacity_rps",
        "concurrency",
        "elsewhere",
        "energy_factor",
        "failures",
        "has_energy",
        "held_mean",
        "in_flight",
        "is_kv_full",
        "is_usable",
        "is_well",
        "last_pick",
        "limit",
        "own_in_flight",
        "patience",
        "peer",
        "rest_until_s",
        "salt",
        "service_time_s",
        "silent_since_s",
        "site",
        "slot",
        "told_concurrency",
        "unanswered_s",
    )

    site: LiveSite
    peer: Peer
    """How it is reached; set and used by the plane."""

    def __init__(self, backend: Backend, slot: int) -> None:
        self.slot = slot
        self.salt = hash_of(f"{backend.datacenter}/{backend.name}".encode())
        self.in_flight = 0
        self.own_in_flight = 0
        self.elsewhere = 0
        self.is_kv_full = False
        self.told_concurrency = 0.0
        self.last_pick = 0
        self.back_off_until_s = 0.0
        self.rest_until_s = 0.0
        self.silent_since_s = 0.0
        self.unanswered_s = -math.inf
        self.failures = 0
        self.patience = Patience()
        self.held_mean = HeldMean()
        self.energy_factor = 1.0
        self.is_well = True
        """What the last probe said; a backend is taken to be well until one says otherwise."""
        self.is_usable = True
        self.service_time_s: float | None = None
        self.best_service_time_s: float | None = None
        self.describe(backend)

    def describe(self, backend: Backend) -> None:
        """Takes what a new table says of it."""
        self.backend = backend
        self.capacity_rps = backend.capacity_rps
        self.has_energy = backend.joules_per_prompt_token > 0 or backend.joules_per_output_token > 0
        self.limit = backend.max_concurrent_requests
        stated = backend.concurrency_at_capacity
        if stated is None and self.limit is not None:
            stated = float(self.limit)
        self._stated_concurrency = stated
        self.measure(None)

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return self.is_usable and (self.limit is None or self.in_flight < self.limit)

    def is_down(self, now_s: float) -> bool:
        """Whether nothing may be sent to it at all."""
        return not self.is_well or now_s < self.back_off_until_s

    def measure(self, pool_service_time_s: float | None) -> None:
        """Works out its concurrency: stated, or by Little's law (see ``choice``).

        A backend that carries less than its table says would otherwise never be full: the slower it gets, the more
        requests would count as its capacity.
        """
        if self.told_concurrency:
            self.concurrency = self.told_concurrency
        elif self._stated_concurrency is not None:
            self.concurrency = self._stated_concurrency
        elif self.service_time_s is None or self.best_service_time_s is None:
            mean_s = INITIAL_SERVICE_TIME_S if pool_service_time_s is None else pool_service_time_s
            self.concurrency = self.capacity_rps * mean_s
        else:
            self.concurrency = self.capacity_rps * min(self.service_time_s, MAX_SLOWDOWN * self.best_service_time_s)


class LiveSite:
    """A datacenter of one pool: the sum of its usable backends."""

    __slots__ = ("backends", "concurrency", "has_limits", "in_flight", "is_late", "is_usable", "pool", "site")

    def __init__(self, site: Site, backends: list[LiveBackend], pool: LivePool) -> None:
        self.site = site
        self.backends = backends
        self.pool = pool
        self.has_limits = any(backend.limit is not None for backend in backends)
        self.is_usable = False
        self.is_late = False
        """Whether a first token is predicted to come later than the pool's service level allows."""
        self.in_flight = 0
        self.concurrency = 0.0
        for backend in backends:
            backend.site = self

    @property
    def has_room(self) -> bool:
        """Whether one of its usable backends has."""
        if not self.has_limits:
            return self.is_usable
        return any(backend.has_room for backend in self.backends)

    def add_up(self) -> None:
        """Sums up its usable backends."""
        usable = [backend for backend in self.backends if backend.is_usable]
        self.is_usable = bool(usable)
        self.in_flight = sum(backend.in_flight for backend in usable)
        self.concurrency = math.fsum(backend.concurrency for backend in usable)


class LivePool:
    """A pool and its sites at this instant."""

    __slots__ = ("draws", "has_members", "is_measured", "order", "pool", "service_time_s", "sites")

    def __init__(self, pool: Pool, sites: list[list[LiveBackend]]) -> None:
        self.pool = pool
        self.order = pool.rule if isinstance(pool.rule, Ordered) else None
        self.sites = [LiveSite(site, backends, self) for site, backends in zip(pool.sites, sites, strict=True)]
        self.has_members = any(b.backend.is_member_router for b in self.backends())
        self.draws: Draws | None = None
        self.service_time_s: float | None = None
        self.is_measured = True
        """Whether the sites' capacities follow from the newest service times."""

    def backends(self) -> Iterator[LiveBackend]:
        """Its backends."""
        for site in self.sites:
            yield from site.backends

    def is_fuller_than(self, share: float, *, only_if_limited: bool) -> bool:
        """Whether its usable backends hold at least this share of what they can take at once.

        Args:
            share: of their concurrency, summed up.
            only_if_limited: says no where a backend takes any number.
        """
        if not self.is_measured:
            self.measure()
        if only_if_limited and any(b.limit is None for b in self.backends() if b.is_usable):
            return False
        concurrency = math.fsum(site.concurrency for site in self.sites)
        return sum(site.in_flight for site in self.sites) >= share * concurrency > 0

    def measure(self) -> None:
        """Works out capacities again."""
        self.is_measured = True
        for backend in self.backends():
            backend.measure(self.service_time_s)
        for site in self.sites:
            site.add_up()


@dataclass(frozen=True, slots=True)
class _Restricted:
    """A site for one request that may not go to some of its backends."""

    backends: list[LiveBackend]
    is_usable: bool
    has_room: bool
    in_flight: int
    concurrency: float
    is_late: bool = False


class Balancer:
    """Chooses backends and counts what they hold.

    Args:
        clock: monotonic seconds.
        random: where in its sequence each draw begins, so that several routers do not march in step.
        page: counts that workers share; None: there is one worker.
    """

    def __init__(self, clock: Callable[[], float], random: Random, page: LoadPage | None = None) -> None:
        self._clock = clock
        self._random = random
        self._page = page
        self._cells = memoryview(bytearray(SLOTS * 8)).cast("q") if page is None else page.cells
        self._first = 0 if page is None else page.first
        self._has_others = page is not None
        self._seen_others_s = -math.inf
        self._live: dict[BackendKey, LiveBackend] = {}
        self._draws: dict[tuple[str, tuple[float, ...]], Draws] = {}
        self._sessions: dict[tuple[str, tuple[str, ...], tuple[float, ...]], Sessions] = {}
        self._picks = 0
        self._next_change_s = math.inf
        """When the first back-off or rest ends."""
        self.pools: list[LivePool] = []
        self.by_model: dict[str, LivePool] = {}

    def adopt(self, table: Table, slots: Collection[int] | None = None) -> None:
        """Takes a table over. What is known of backends that stay is kept; draws with the same weights go on.

        Args:
            table: the table.
            slots: a cell of the load page for each of ``table.backends()``; None: counted up from 0.
        """
        cells = iter(range(SLOTS) if slots is None else slots)
        old, known, pools = {p.pool.name: p for p in self.pools}, self._live, []
        kept: dict[BackendKey, LiveBackend] = {}
        for pool in table.pools:
            sites = []
            for site in pool.sites:
                backends = []
                for backend in site.backends:
                    live = known.get(backend.key)
                    if live is None:
                        live = LiveBackend(backend, next(cells))
                    else:
                        live.slot = next(cells)
                        live.describe(backend)
                    self._cells[self._first + live.slot] = live.own_in_flight
                    kept[backend.key] = live
                    backends.append(live)
                sites.append(backends)
            fresh = LivePool(pool, sites)
            if pool.name in old:
                fresh.service_time_s = old[pool.name].service_time_s
            pools.append(fresh)
        for key, live in known.items():
            if key not in kept:
                live.slot = SCRAP
        self._live = {key: live for key, live in known.items() if live.own_in_flight} | kept
        self.pools = pools
        self.by_model = {pool.pool.model_name: pool for pool in pools}
        for fresh in pools:
            fresh.measure()
        self._refresh()

    def live(self, backend: Backend) -> LiveBackend:
        """What is known of ``backend``."""
        return self._live[backend.key]

    def usable(self, key: BackendKey) -> LiveBackend | None:
        """The backend with this key, if a request may be sent to it."""
        live = self._live.get(key)
        return live if live is not None and live.has_room else None

    def all_live(self) -> Collection[LiveBackend]:
        """All backends something is known of."""
        return self._live.values()

    def choose(
        self,
        pool: LivePool,
        now_s: float,
        tried: Collection[LiveBackend] = (),
        *,
        is_forwarded: bool = False,
        session: bytes = b"",
    ) -> LiveBackend | None:
        """The backend that the next request of ``pool`` goes to; None when there is none with room.

        Args:
            pool: the request's pool.
            now_s: the time.
            tried: backends that failed this request.
            is_forwarded: whether the request comes from another router: then it never goes to a member router.
            session: what the request's session is known by; empty: it has none, or need not stay where it was.
        """
        if now_s >= self._next_change_s:
            self._refresh()
        if self._has_others and now_s - self._seen_others_s >= SHARED_VIEW_S:
            self._look_at_others(now_s)
        if tried or (is_forwarded and pool.has_members):
            return self._choose_among(pool, tried, is_forwarded=is_forwarded)
        if session:
            return self._choose_for_session(pool, hash_of(session))
        sites = pool.sites
        if pool.order is None:
            chosen = choose_by_shares(pool.draws, sites)
        else:
            if not pool.is_measured:
                pool.measure()
            chosen = choose_by_order(pool.order, sites)
        if chosen is None:
            return None
        if sites[chosen].is_late:
            chosen = in_time(pool.order, sites, chosen)
        backends = sites[chosen].backends
        return self._pick(backends) if len(backends) > 1 or not backends[0].has_room else backends[0]

    def _choose_for_session(self, pool: LivePool, session: int) -> LiveBackend | None:
        """As ``choose``, for a request whose session should stay where its prefix cache is."""
        sites = pool.sites
        if pool.order is not None:
            if not pool.is_measured:
                pool.measure()
            chosen = choose_by_order(pool.order, sites)
        else:
            sessions = self._sessions_of(pool)
            chosen = None if sessions is None else sessions.choose(session, [site.has_room for site in sites])
            if chosen is None:
                chosen = most_free(sites)
        if chosen is None:
            return None
        if sites[chosen].is_late:
            chosen = in_time(pool.order, sites, chosen)
        backends = sites[chosen].backends
        index = choose_for_session(
            session,
            [b.salt for b in backends],
            [b.capacity_rps if b.has_room and not b.is_kv_full else 0.0 for b in backends],
            [b.in_flight for b in backends],
        )
        return self._pick(backends) if index is None else backends[index]

    def _sessions_of(self, pool: LivePool) -> Sessions | None:
        """What divides the pool's keyed requests among the sites that are usable now."""
        assert not isinstance(pool.pool.rule, Ordered)
        weights = tuple(w if s.is_usable else 0.0 for w, s in zip(pool.pool.rule.weights, pool.sites, strict=True))
        if not any(weights):
            return None
        key = (pool.pool.name, tuple(site.site.name for site in pool.sites), weights)
        sessions = self._sessions.get(key)
        if sessions is None:
            if len(self._sessions) >= _MAX_REMEMBERED:
                self._sessions.clear()
            sessions = self._sessions[key] = Sessions(key[1], weights)
        return sessions

    def open(self, live: LiveBackend) -> bool:
        """Counts a request in; says no where other workers have meanwhile taken the last place below a limit."""
        if live.limit is not None and self._has_others and not self._take(live, live.limit):
            return False
        live.in_flight += 1
        live.own_in_flight += 1
        if live.is_usable:
            live.site.in_flight += 1
        self._cells[self._first + live.slot] = live.own_in_flight
        return True

    def _take(self, live: LiveBackend, limit: int) -> bool:
        """Takes a place at a backend with a limit, by what all workers hold now; where there is none, shows it full."""
        page = self._page
        if page is None or not page.others:
            return True
        outside = page.outside(live.slot) if live.backend.is_member_router else 0
        if page.take(live.slot, live.own_in_flight + 1, limit - outside):
            return True
        held = max(limit, live.own_in_flight + page.elsewhere(live.slot) + outside)
        if live.is_usable:
            live.site.in_flight += held - live.in_flight
        live.in_flight = held
        return False

    def close(self, live: LiveBackend, duration_s: float | None = None) -> None:
        """Counts a request out.

        Args:
            live: where it was.
            duration_s: how long it took, where it was answered as it should be; None: no sample of a service time.
        """
        live.in_flight -= 1
        live.own_in_flight -= 1
        if live.is_usable:
            live.site.in_flight -= 1
        self._cells[self._first + live.slot] = live.own_in_flight
        if duration_s is not None:
            mean_s = live.service_time_s
            live.service_time_s = mean_s = duration_s if mean_s is None else mean_s + SMOOTHING * (duration_s - mean_s)
            best_s = live.best_service_time_s
            if best_s is None or mean_s < best_s:
                live.best_service_time_s = mean_s
            pool = live.site.pool
            of_pool_s = pool.service_time_s
            pool.service_time_s = duration_s if of_pool_s is None else of_pool_s + SMOOTHING * (duration_s - of_pool_s)
            pool.is_measured = False

    def report_unreachable(self, live: LiveBackend) -> None:
        """Leaves a backend alone that could not be connected to."""
        live.back_off_until_s = self._clock() + BACK_OFF_S
        self._refresh()

    def report_overloaded(self, live: LiveBackend, retry_after_s: float | None = None) -> None:
        """Lets a backend rest that said 429 or 503.

        Args:
            live: the backend.
            retry_after_s: how long it asked for.
        """
        live.failures += 1
        rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(live.failures - 1, 10))
        if retry_after_s is not None:
            rest_s = min(retry_after_s, LONGEST_RETRY_AFTER_S)
        self._rest(live, rest_s)

    def report_failed(self, live: LiveBackend) -> None:
        """Notes a failure that may be the backend's; several in a row let it rest."""
        live.failures += 1
        if live.failures >= FAILURES_BEFORE_REST:
            over = live.failures - FAILURES_BEFORE_REST
            self._rest(live, min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(over, 10)))

    def report_probe(self, live: LiveBackend, *, is_well: bool) -> None:
        """Takes a probe's verdict."""
        live.is_well = is_well
        if is_well:
            live.back_off_until_s = 0.0
        self._refresh()

    def heard(self, live: LiveBackend, now_s: float) -> None:
        """A byte came from a backend not long ago."""
        live.silent_since_s = now_s
        if self._page is not None:
            self._page.write_heard(live.slot, now_s)

    def silent_since_s(self, live: LiveBackend) -> float:
        """Since when no worker heard of a backend that holds requests of this one."""
        since_s = live.silent_since_s
        return since_s if self._page is None else max(since_s, self._page.heard_elsewhere_s(live.slot))

    def look_at_energy(self) -> None:
        """Works out what a token takes at each backend now; see ``energy``."""
        page = self._page
        for live in self._live.values():
            backend = live.backend
            own, outside = live.in_flight, 0
            if page is not None:
                own, outside = page.total(live.slot), page.outside(live.slot)
            on_the_way = 0.0
            if not outside and live.service_time_s and backend.rtt_s:
                # Where others are known of, the backend was asked what it holds, and counted ours there too.
                on_the_way = own * min(1.0, backend.rtt_s / live.service_time_s)
            live.held_mean.add(own + outside - on_the_way)
            live.energy_factor = factor_at(backend.energy_in_flight, backend.energy_factor, live.held_mean.value)

    def in_flight(self) -> int:
        """Requests of this worker in flight at all backends, those that left the table included."""
        return sum(live.own_in_flight for live in self._live.values())

    def held_elsewhere(self, live: LiveBackend) -> dict[str, int]:
        """What a backend holds of others that counts towards caps, and what waits there."""
        if self._page is None:
            return {}
        outside = self._page.outside(live.slot) if live.backend.is_member_router else 0
        return {"outside": outside, "waiting": self._page.waiting(live.slot)}

    def held(self, now_s: float) -> dict[str, Held]:
        """What is in flight for each model, of all workers and as far as is known of others; for routers before us."""
        if self._has_others:
            self._look_at_others(now_s)
        found = {}
        for model, pool in self.by_model.items():
            pool.measure()
            usable = [live for live in pool.backends() if live.is_usable]
            waiting = 0 if self._page is None else sum(self._page.waiting(live.slot) for live in usable)
            found[model] = Held(
                in_flight=sum(live.in_flight + live.elsewhere for live in usable),
                waiting=waiting,
                capacity=math.fsum(live.concurrency for live in usable),
            )
        return found

    def _rest(self, live: LiveBackend, rest_s: float) -> None:
        live.rest_until_s = max(live.rest_until_s, self._clock() + rest_s)
        self._refresh()

    def _pick(self, backends: list[LiveBackend]) -> LiveBackend | None:
        index = choose_backend(backends)
        if index is None:
            return None
        self._picks += 1
        live = backends[index]
        live.last_pick = self._picks
        return live

    def _choose_among(
        self, pool: LivePool, tried: Collection[LiveBackend], *, is_forwarded: bool
    ) -> LiveBackend | None:
        """As ``choose``, for a request that may not go everywhere."""
        pool.measure()
        sites = []
        for site in pool.sites:
            allowed = [
                b
                for b in site.backends
                if b.is_usable and b not in tried and not (is_forwarded and b.backend.is_member_router)
            ]
            sites.append(
                _Restricted(
                    backends=allowed,
                    is_usable=bool(allowed),
                    has_room=any(b.has_room for b in allowed),
                    in_flight=sum(b.in_flight for b in allowed),
                    concurrency=math.fsum(b.concurrency for b in allowed),
                )
            )
        if isinstance(pool.pool.rule, Ordered):
            chosen = choose_by_order(pool.pool.rule, sites)
        elif tried:
            # A request that was drawn already has paid for its draw.
            drawable = [i for i, w in enumerate(pool.pool.rule.weights) if w > 0 and sites[i].has_room]
            chosen = max(drawable, key=lambda i: sites[i].concurrency - sites[i].in_flight) if drawable else None
            chosen = most_free(sites) if chosen is None else chosen
        else:
            weights = tuple(w if s.is_usable else 0.0 for w, s in zip(pool.pool.rule.weights, sites, strict=True))
            chosen = choose_by_shares(self._draws_of(pool, weights), sites)
        return None if chosen is None else self._pick(sites[chosen].backends)

    def _look_at_others(self, now_s: float) -> None:
        """Adds what other workers have in flight, and what is known of other people's."""
        page = self._page
        assert page is not None
        self._seen_others_s = now_s
        for pool in self.pools:
            for site in pool.sites:
                total = waiting = 0
                capacity_rps = 0.0
                for live in site.backends:
                    slot = live.slot
                    live.in_flight = live.own_in_flight + page.elsewhere(slot)
                    if live.backend.is_member_router:
                        live.in_flight += page.outside(slot)
                        if (told := page.capacity(slot)) != live.told_concurrency:
                            live.told_concurrency = told
                            pool.is_measured = False
                    else:
                        live.elsewhere = page.outside(slot)
                        live.is_kv_full = page.kv_usage(slot) >= KV_FULL
                    if live.is_usable:
                        total += live.in_flight
                        waiting += page.waiting(slot)
                        capacity_rps += live.capacity_rps
                site.in_flight = total
                # Those who wait are worked off at the rate that the site carries (Little's law).
                site.is_late = waiting > pool.pool.ttft_slo_s * capacity_rps

    def _refresh(self) -> None:
        """Works out who may be chosen, and until when that holds."""
        now_s = self._clock()
        changes_s = [math.inf]
        for pool in self.pools:
            backends = list(pool.backends())
            is_awake = any(not b.is_down(now_s) and now_s >= b.rest_until_s for b in backends)
            for b in backends:
                # Where all rest, all are used: a tired backend's answer is better than none.
                b.is_usable = not b.is_down(now_s) and (now_s >= b.rest_until_s or not is_awake)
                changes_s += [t for t in (b.back_off_until_s, b.rest_until_s) if t > now_s]
            for site in pool.sites:
                site.add_up()
            if not isinstance(pool.pool.rule, Ordered):
                # Each set of usable sites has draws of its own: shares stay exact within each, whatever comes and goes.
                weights = zip(pool.pool.rule.weights, pool.sites, strict=True)
                pool.draws = self._draws_of(pool, tuple(w if site.is_usable else 0.0 for w, site in weights))
        self._next_change_s = min(changes_s)

    def _draws_of(self, pool: LivePool, weights: tuple[float, ...]) -> Draws | None:
        if not any(weights):
            return None
        key = (pool.pool.name, weights)
        draws = self._draws.get(key)
        if draws is None:
            if len(self._draws) >= _MAX_REMEMBERED:
                self._draws.clear()
            draws = self._draws[key] = Draws(weights)
            for _ in range(self._random.randrange(_MAX_PHASE)):
                draws.next()
        return draws

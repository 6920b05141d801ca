"""Which datacenter a request goes to, and which backend in it: pure functions of what is known at this instant.

``balancer`` calls them with its live counters. Three rules:

- *Shares*: ``Draws`` hands out requests so that after any number of them every site's count is within one of its
  share. A site without a usable backend takes no part; one whose backends are all at their limit passes the request
  on to the site with the most free capacity, and is still charged for it, so that it does not catch up in a burst.
- *Ordered*: the first site of the order whose requests in flight are below its cap; when all are at their cap, the
  one with the least relative load.
- In a datacenter: the backend with the fewest requests in flight relative to its capacity.

A cap is a share of *live capacity*, measured in requests in flight. A backend that states how many it takes at once
(``concurrency_at_capacity``, else ``max_concurrent_requests``) is full at that number; for another, Little's law says
how many are in flight when ``capacity_rps`` arrive each second and each stays ``service_time_s``: their product. The
service time is the one measured now, but no more than a few times the best seen: a backend that carries less than its
table says would otherwise never be full, because every wait would count as capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from marlin.router.view import Ordered

_ROUNDING: float = 1e-9
"""Credits are sums of fractions: this much is taken for equality."""


class Backend(Protocol):
    """A backend at this instant."""

    @property
    def in_flight(self) -> int:
        """Requests in flight."""

    @property
    def elsewhere(self) -> int:
        """Requests at it that are not in ``in_flight``."""

    @property
    def capacity_rps(self) -> float:
        """Requests per second at full capacity."""

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent: it is usable, and below its limit."""

    @property
    def is_kv_full(self) -> bool:
        """Whether its KV cache has no room for another request: one that is sent there waits for one to end."""

    @property
    def last_pick(self) -> int:
        """When it was last chosen, as a count of choices: among equals the one that waited longest is next."""


class Site(Protocol):
    """A site at this instant: the sum of its usable backends."""

    @property
    def is_usable(self) -> bool:
        """Whether one of its backends is."""

    @property
    def has_room(self) -> bool:
        """Whether one of its usable backends has."""

    @property
    def in_flight(self) -> int:
        """Requests in flight at its usable backends."""

    @property
    def is_late(self) -> bool:
        """Whether a first token is predicted to come too late."""

    @property
    def concurrency(self) -> float:
        """Requests in flight at the full capacity of its usable backends."""


class Draws:
    """A sequence of positions in which every entry's count stays within one of its share.

    Each entry earns its share of every draw and pays one when it is drawn. Of those that may be drawn without getting
    too far ahead, the one whose time runs out first is: R. Tijdeman, "The chairman assignment problem", Discrete
    Mathematics 32 (1980). With m positive weights no count is ever further from its share than 1 - 1/(2m - 2).

    Args:
        weights: (S,) not negative, with a positive sum; they need not add up to one.

    Raises:
        ValueError: no weight is positive.
    """

    __slots__ = ("_candidates", "_credit", "_shares", "_slack")

    def __init__(self, weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        if total <= 0:
            raise ValueError("at least one weight must be positive")
        self._shares = [weight / total for weight in weights]
        self._credit = [0.0] * len(weights)
        self._candidates = [i for i, share in enumerate(self._shares) if share > 0]
        self._slack = 1 / (2 * len(self._candidates) - 2) if len(self._candidates) > 1 else 0.0

    def next(self) -> int:
        """The next position."""
        candidates = self._candidates
        if len(candidates) == 1:
            return candidates[0]
        credit, shares, slack = self._credit, self._shares, self._slack
        chosen, earliest = -1, math.inf
        for i in candidates:
            earned = credit[i] = credit[i] + shares[i]
            if earned >= slack - _ROUNDING and (due := (1 - slack - earned) / shares[i]) < earliest:
                chosen, earliest = i, due
        if chosen < 0:
            # Cannot happen while credits are exact; rounding must not leave a request without a site.
            chosen = max(candidates, key=credit.__getitem__)
        credit[chosen] -= 1.0
        return chosen


def choose_by_shares(draws: Draws | None, sites: Sequence[Site]) -> int | None:
    """The site that is due, or the one with the most free capacity when that one is full.

    Where no site with a share is usable, the usable ones without a share step in: a request is not lost for a plan.

    Args:
        draws: those among the usable sites with a share; None where there is none.
        sites: (S,) the sites at this instant.

    Returns:
        Position of the site; None when none has room.
    """
    if draws is None:
        return most_free(sites)
    drawn = draws.next()
    return drawn if sites[drawn].has_room else most_free(sites)


def choose_by_order(rule: Ordered, sites: Sequence[Site]) -> int | None:
    """The first site below its cap; else the least loaded of the order; else any that is left.

    Args:
        rule: the order and the caps.
        sites: (S,) the sites at this instant.

    Returns:
        Position of the site, None when none has room.
    """
    with_room = [i for i in rule.order if sites[i].has_room]
    for i in with_room:
        if sites[i].in_flight < rule.caps[i] * sites[i].concurrency:
            return i
    if with_room:
        # A cap of zero says "nothing here": such a site is used only when no other of the order has room.
        return min(with_room, key=lambda i: (rule.caps[i] <= 0, _relative_load(sites[i])))
    # A site that the plan leaves out steps in only when every site of the plan is down, not when they are full.
    if any(sites[i].is_usable for i in rule.order):
        return None
    return most_free(sites)


def in_time(rule: Ordered | None, sites: Sequence[Site], chosen: int) -> int:
    """Another site than ``chosen``, where a first token would come too late; ``chosen`` where it would everywhere.

    Args:
        rule: the order, of which the first is taken; None: the one with the most free capacity is.
        sites: (S,) the sites at this instant.
        chosen: position of a site that is late.
    """
    candidates = range(len(sites)) if rule is None else rule.order
    timely = [i for i in candidates if sites[i].has_room and not sites[i].is_late]
    if not timely:
        return chosen
    return timely[0] if rule is not None else max(timely, key=lambda i: (sites[i].concurrency - sites[i].in_flight, -i))


def most_free(sites: Sequence[Site]) -> int | None:
    """The site with the most free capacity among those with room; None when none has."""
    with_room = [i for i, site in enumerate(sites) if site.has_room]
    return max(with_room, key=lambda i: (sites[i].concurrency - sites[i].in_flight, -i)) if with_room else None


def choose_backend(backends: Sequence[Backend]) -> int | None:
    """The backend with the fewest requests in flight relative to its capacity; None when none has room.

    One whose KV cache is full comes after all others: a few long prompts may fill it where it holds few requests.
    """
    with_room = [i for i, backend in enumerate(backends) if backend.has_room]
    if len(with_room) < 2:
        return with_room[0] if with_room else None

    def rank(i: int) -> tuple[bool, float, int]:
        backend = backends[i]
        load = (backend.in_flight + backend.elsewhere) / backend.capacity_rps if backend.capacity_rps > 0 else math.inf
        return (backend.is_kv_full, load, backend.last_pick)

    return min(with_room, key=rank)


def _relative_load(site: Site) -> float:
    """Requests in flight over capacity; infinite where there is no capacity."""
    return site.in_flight / site.concurrency if site.concurrency > 0 else math.inf

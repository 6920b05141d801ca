"""Which datacenter a request goes to, and which backend in it: pure functions of what is known at this instant.

``balancer`` calls them with its counters and keeps what they return. Three rules:

- *Shares*: ``draw`` hands out requests so that after any number of them every site's count is within one of its
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
from dataclasses import dataclass

from marlin.router.view import Ordered, Shares

_ROUNDING: float = 1e-9
"""Credits are sums of fractions: this much is taken for equality."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """A backend at this instant."""

    is_usable: bool
    """Up, allowed for this request, and not yet tried by it."""
    in_flight: int
    concurrency: float
    """Requests in flight at full capacity."""
    capacity_rps: float
    limit: int | None = None
    """Most requests in flight; None: no limit."""
    last_pick: int = 0
    """When it was last chosen, as a count of choices: among equals the one that waited longest is next."""

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent."""
        return self.is_usable and (self.limit is None or self.in_flight < self.limit)


@dataclass(frozen=True, slots=True)
class SiteState:
    """A site at this instant: the sum of its usable backends."""

    is_usable: bool
    has_room: bool
    in_flight: int = 0
    concurrency: float = 0.0

    @property
    def free(self) -> float:
        """Requests it could take before it is at its capacity; negative beyond."""
        return self.concurrency - self.in_flight

    @property
    def relative_load(self) -> float:
        """Requests in flight over capacity; infinite where there is no capacity."""
        return self.in_flight / self.concurrency if self.concurrency > 0 else math.inf


def site_state(backends: Sequence[BackendState]) -> SiteState:
    """What a site has, from what its usable backends have."""
    usable = [backend for backend in backends if backend.is_usable]
    return SiteState(
        is_usable=bool(usable),
        has_room=any(backend.has_room for backend in usable),
        in_flight=sum(backend.in_flight for backend in usable),
        concurrency=math.fsum(backend.concurrency for backend in usable),
    )


def draw(weights: Sequence[float], credit: Sequence[float]) -> tuple[int, tuple[float, ...]]:
    """The next of a sequence in which every entry's count stays within one of its share.

    Each entry earns its share of every draw and pays one when it is drawn. Of those that may be drawn without getting
    too far ahead, the one whose time runs out first is: R. Tijdeman, "The chairman assignment problem", Discrete
    Mathematics 32 (1980). With m positive weights no count is ever further from its share than 1 - 1/(2m - 2).

    Args:
        weights: (S,) not negative, with a positive sum; they need not add up to one.
        credit: (S,) what the draw before returned; zeros to begin.

    Returns:
        The position drawn, and the credit for the next draw.

    Raises:
        ValueError: no weight is positive.
    """
    total = math.fsum(weights)
    if total <= 0:
        raise ValueError("at least one weight must be positive")
    shares = [weight / total for weight in weights]
    earned = [c + share for c, share in zip(credit, shares, strict=True)]
    candidates = [i for i, share in enumerate(shares) if share > 0]
    if len(candidates) > 1:
        slack = 1 / (2 * len(candidates) - 2)
        due = [i for i in candidates if earned[i] >= slack - _ROUNDING] or candidates
        chosen = min(due, key=lambda i: ((1 - slack - earned[i]) / shares[i], i))
    else:
        chosen = candidates[0]
    earned[chosen] -= 1.0
    return chosen, tuple(earned)


def choose_by_shares(
    rule: Shares, sites: Sequence[SiteState], credit: Sequence[float]
) -> tuple[int | None, tuple[float, ...]]:
    """The site that is due, or the one with the most free capacity when that one is full.

    Where no site with a share is usable, the usable ones without a share step in: a request is not lost for a plan.

    Args:
        rule: the shares.
        sites: (S,) the sites at this instant.
        credit: (S,) of the draws made so far with the same usable sites.

    Returns:
        Position of the site, None when none has room; and the credit for the next draw.
    """
    weights = [weight if site.is_usable else 0.0 for weight, site in zip(rule.weights, sites, strict=True)]
    if not any(weights):
        return most_free(sites), tuple(credit)
    drawn, credit = draw(weights, credit)
    return (drawn if sites[drawn].has_room else most_free(sites)), credit


def choose_by_order(rule: Ordered, sites: Sequence[SiteState]) -> int | None:
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
        return min(with_room, key=lambda i: (rule.caps[i] <= 0, sites[i].relative_load))
    # A site that the plan leaves out steps in only when every site of the plan is down, not when they are full.
    if any(sites[i].is_usable for i in rule.order):
        return None
    return most_free(sites)


def most_free(sites: Sequence[SiteState]) -> int | None:
    """The site with the most free capacity among those with room; None when none has."""
    with_room = [i for i, site in enumerate(sites) if site.has_room]
    return max(with_room, key=lambda i: (sites[i].free, -i)) if with_room else None


def choose_backend(backends: Sequence[BackendState]) -> int | None:
    """The backend with the fewest requests in flight relative to its capacity; None when none has room."""
    with_room = [i for i, backend in enumerate(backends) if backend.has_room]
    if not with_room:
        return None

    def rank(i: int) -> tuple[float, int]:
        backend = backends[i]
        load = backend.in_flight / backend.capacity_rps if backend.capacity_rps > 0 else math.inf
        return (load, backend.last_pick)

    return min(with_room, key=rank)

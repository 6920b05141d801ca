"""Sessions stay where their prefix cache is: weighted rendezvous hashing with bounded load.

Every session ranks all candidates by a hash of its key and theirs, scaled by their weight, and goes to the first; so a
plan that shifts weight moves only the sessions whose first changes, and a candidate that goes away moves only its own.
Two bounds keep hashing from overriding the plan or the load: a datacenter that has had more than its share is passed
over for the next in the session's ranking, and so is a backend with more in flight than its part and a quarter.

D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6 (1998), for the
ranking; the weighted score is -w / ln u. V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent hashing with bounded
loads", SODA 2018, for the bound. ``balancer`` calls this; requests without a key are drawn instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

SLACK: Final = 0.02
"""How far beyond its share of keyed requests a datacenter may get, as a part of all of them."""

SLACK_REQUESTS: Final = 8.0
"""The same in requests, so that the first few sessions need not move."""

MEMORY: Final = 16_384
"""Requests after which all counts are halved: what was long ago does not weigh on what is now."""

LOAD_FACTOR: Final = 1.25
"""How far beyond its part of a datacenter's load a backend may be for a session to stay with it."""

_MASK: Final = 2**64 - 1


def hash_of(key: bytes) -> int:
    """A session's hash: 64 bits that nobody can aim at one candidate by a simple pattern of keys."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def ranking(session: int, salts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Positions of the candidates with weight, the session's first choice first.

    Args:
        session: the session's hash.
        salts: (S,) hashes of the candidates' names.
        weights: (S,) not negative.
    """
    scores = []
    for i, weight in enumerate(weights):
        if weight > 0:
            uniform = (_mixed(session ^ salts[i]) + 0.5) / 2**64
            scores.append((weight / -math.log(uniform), i))
    scores.sort(reverse=True)
    return [i for _, i in scores]


class Sessions:
    """Divides keyed requests among datacenters by weight.

    Args:
        names: (S,) of the datacenters.
        weights: (S,) not negative, with a positive sum.
    """

    __slots__ = ("_counts", "_salts", "_shares", "_total")

    def __init__(self, names: Sequence[str], weights: Sequence[float]) -> None:
        total = math.fsum(weights)
        self._shares = [weight / total for weight in weights]
        self._salts = [hash_of(name.encode()) for name in names]
        self._counts = [0.0] * len(names)
        self._total = 0.0

    def choose(self, session: int, has_room: Sequence[bool]) -> int | None:
        """Position of the datacenter for a session's next request; None when none with a share has room.

        Args:
            session: the session's hash.
            has_room: (S,) whether a request may be sent there.
        """
        ranked = [i for i in ranking(session, self._salts, self._shares) if has_room[i]]
        if not ranked:
            return None
        allowed = SLACK_REQUESTS + SLACK * self._total
        within = (i for i in ranked if self._counts[i] + 1 <= self._shares[i] * (self._total + 1) + allowed)
        chosen = next(within, ranked[0])
        self._counts[chosen] += 1
        self._total += 1
        if self._total >= MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2
        return chosen


def choose_for_session(
    session: int, salts: Sequence[int], capacities: Sequence[float], in_flight: Sequence[int]
) -> int | None:
    """Position of the backend for a session's next request; None when there is none with capacity.

    Args:
        session: the session's hash.
        salts: (B,) hashes of the backends' names.
        capacities: (B,) requests per second; 0 for one that may not be used.
        in_flight: (B,) requests in flight.
    """
    ranked = ranking(session, salts, capacities)
    total = math.fsum(capacities)
    load = sum(count for count, capacity in zip(in_flight, capacities, strict=True) if capacity > 0) + 1
    for i in ranked:
        if in_flight[i] + 1 <= math.ceil(LOAD_FACTOR * load * capacities[i] / total):
            return i
    return ranked[0] if ranked else None


def _mixed(x: int) -> int:
    """SplitMix64's finaliser (G. L. Steele, D. Lea and C. H. Flood, OOPSLA 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)

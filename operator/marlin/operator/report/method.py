"""What a report says, out of counted usage: totals, the counterfactual, carbon per 1,000 tokens.

The counterfactual asks: had the same tokens of a pool gone to its sites in proportion to their capacity, what would
they have taken? It is asked of every window of the interval apart, for carbon and load move together over a day. Tokens
that move take at each site what the routing table says that a token takes there at moderate load; where that is not
known, what it took in the window. What they took is not the measure where it is known: at a site with little to do
it is mostly what idles there, and that does not move with them. Sites of which neither is known are left out:
``covered`` says how much of the capacity the others are, ``assumed`` how much of it answered nothing. Machines power
down alike on both sides.

SCI (ISO/IEC 21031) is (E * I + M) / R with R = 1,000 tokens: E * I are the estimates of carbon, M is what the person
states of embodied emissions, 0 unless they do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from marlin.api.footprint import Footprint

FIGURES: Final = ("energy_kwh", "carbon_gco2", "water_l", "cost_usd")

Key = tuple[str, str]
"""Pool and datacenter."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pool did in a datacenter, or a tenant anywhere, in the interval."""

    requests: float = 0.0
    failed: float = 0.0
    """Of them, those that ended in 5xx, or were not served."""
    tokens: float = 0.0
    """Prompt and output."""
    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    water_l: float = 0.0
    cost_usd: float = 0.0
    capacity_requests: float = 0.0
    """Mean requests in flight that the table grants."""
    timed: float = 0.0
    """Requests that the times to first token are of."""
    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None

    def plus(self, other: Usage) -> Usage:
        """Both together; means are weighted, percentiles do not add up and are left out."""
        names = [f.name for f in fields(self) if not f.name.startswith("ttft")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        known = [one for one in (self, other) if one.ttft_mean_s is not None and one.timed > 0]
        weight = sum(one.timed for one in known)
        mean_s = sum(one.timed * (one.ttft_mean_s or 0.0) for one in known) / weight if weight else None
        return Usage(**sums, ttft_mean_s=mean_s)


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The same tokens by capacity."""

    energy_kwh: float
    carbon_gco2: float
    water_l: float
    cost_usd: float
    covered: float
    """Share of the pools' capacity that is in sites of which figures are known; 1 is all."""
    assumed: float = 0.0
    """Share of the pools' capacity that is in sites which answered nothing: their figures are the table's."""
    ttft_mean_s: float | None = None
    """Where a model of the fleet knows it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the interval, short enough that means over it hide little."""

    usages: Mapping[Key, Usage]
    stated: Mapping[Key, Footprint] = field(default_factory=dict)
    """What a token of the pool takes at each site at moderate load, by the table."""


def total(usages: Iterable[Usage]) -> Usage:
    """All together."""
    result = Usage()
    for usage in usages:
        result = result.plus(usage)
    return result


def by_pool(usages: Mapping[Key, Usage], position: int) -> dict[str, Usage]:
    """Usage by (pool, datacenter) gathered by one of the two: position 0 or 1."""
    gathered: dict[str, Usage] = defaultdict(Usage)
    for key, usage in usages.items():
        gathered[key[position]] = gathered[key[position]].plus(usage)
    return dict(gathered)


def counterfactual(windows: Sequence[Window]) -> tuple[Counterfactual, dict[str, float | None]] | None:
    """Capacity-proportional routing of the same tokens, and what was saved against it.

    Returns:
        The figures, and % of each that was saved by the tokens that it speaks of, None for one that it has at nothing;
        None where no pool has tokens, figures and capacity in any window.
    """
    other, routed = dict.fromkeys(FIGURES, 0.0), dict.fromkeys(FIGURES, 0.0)
    capacity = covered = assumed = 0.0
    for window in windows:
        for pool in {pool for pool, _ in window.usages}:
            sites = {key: u for key, u in window.usages.items() if key[0] == pool and u.capacity_requests > 0}
            own = {key: u for key, u in sites.items() if u.tokens > 0 and u.energy_kwh > 0}
            tokens = sum(u.tokens for u in own.values())
            if not tokens:
                continue  # nothing to spread
            stated = {key: window.stated[key] for key in sites if key in window.stated}
            # All or nothing: two measures in one sum would be a saving of their own.
            if not own.keys() <= stated.keys():
                stated = {key: one for key, one in stated.items() if key not in own}
            weight = sum(sites[key].capacity_requests for key in own.keys() | stated.keys())
            capacity += sum(u.capacity_requests for u in sites.values())
            covered += weight
            assumed += sum(sites[key].capacity_requests for key in stated.keys() - own.keys())
            for name in FIGURES:
                took = sum(getattr(u, name) for u in own.values())
                per_token = {key: getattr(u, name) / u.tokens for key, u in own.items()}
                per_token |= {key: getattr(one, name) for key, one in stated.items()}
                moved = sum(
                    tokens * sites[key].capacity_requests / weight * each for key, each in per_token.items()
                ) - sum(u.tokens * per_token[key] for key, u in own.items())
                routed[name] += took
                other[name] += took + moved
    if not capacity:
        return None
    found = Counterfactual(**other, covered=covered / capacity, assumed=assumed / capacity)
    return found, saved_percent(routed, other)


def saved_percent(routed: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float | None]:
    """What was saved of each figure, %; None for one that the other has at nothing."""
    return {name: 100.0 * (1.0 - routed[name] / other[name]) if other[name] else None for name in FIGURES}


def carbon_per_1000_tokens(usage: Usage, embodied_gco2: float = 0.0) -> float | None:
    """SCI with R = 1,000 tokens, gCO2eq; None without tokens."""
    return 1000.0 * (usage.carbon_gco2 + embodied_gco2) / usage.tokens if usage.tokens else None

"""What a report says, out of counted usage: totals, the counterfactual, carbon per 1,000 tokens.

The counterfactual asks: had the same tokens of a pool gone to its sites in proportion to their capacity, each at what
a token there really took in the interval, what would they have cost? Both sides are the routers' estimates from tokens,
so idle power and what machines that are powered down save are on neither side: the same power-down capability is
assumed on both. A site that answered nothing has no figure per token, and one without a capacity no part by it: the
counterfactual leaves both out, savings are those of the others alone, and ``covered`` says how much of the pools'
capacity they are.

SCI (ISO/IEC 21031) is (E * I + M) / R with R = 1,000 tokens: E * I are the estimates of carbon, M is what the person
states of embodied emissions, 0 unless they do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

FIGURES: Final = ("energy_kwh", "carbon_gco2", "water_l", "cost_usd")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pool did in a datacenter, or a tenant anywhere, in the interval."""

    requests: float = 0.0
    failed: float = 0.0
    """Of them, those that ended in 5xx."""
    tokens: float = 0.0
    """Prompt and output."""
    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    water_l: float = 0.0
    cost_usd: float = 0.0
    capacity_requests: float = 0.0
    """Mean requests in flight that the table grants."""
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    ttft_p99_s: float | None = None

    def plus(self, other: Usage) -> Usage:
        """Both together; percentiles do not add up and are left out."""
        names = [f.name for f in fields(self) if not f.name.startswith("ttft")]
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The same tokens by capacity."""

    energy_kwh: float
    carbon_gco2: float
    water_l: float
    cost_usd: float
    covered: float
    """Share of the pools' capacity that is in sites which answered something; 1 is all."""


def total(usages: Iterable[Usage]) -> Usage:
    """All together."""
    result = Usage()
    for usage in usages:
        result = result.plus(usage)
    return result


def by_pool(usages: dict[tuple[str, str], Usage], position: int) -> dict[str, Usage]:
    """Usage by (pool, datacenter) gathered by one of the two: position 0 or 1."""
    gathered: dict[str, Usage] = defaultdict(Usage)
    for key, usage in usages.items():
        gathered[key[position]] = gathered[key[position]].plus(usage)
    return dict(gathered)


def counterfactual(usages: dict[tuple[str, str], Usage]) -> Counterfactual | None:
    """Capacity-proportional routing of the same tokens.

    Args:
        usages: by (pool, datacenter).

    Returns:
        None where no pool has both tokens and capacity.
    """
    figures = dict.fromkeys(FIGURES, 0.0)
    capacity = covered = 0.0
    for pool in {pool for pool, _ in usages}:
        sites = [usage for (name, _), usage in usages.items() if name == pool and usage.capacity_requests > 0]
        answering = [usage for usage in sites if _is_comparable(usage)]
        weight = sum(usage.capacity_requests for usage in answering)
        if not weight:
            continue
        tokens = sum(usage.tokens for usage in answering)
        for usage in answering:
            moved = tokens * usage.capacity_requests / weight
            for name in FIGURES:
                figures[name] += moved * getattr(usage, name) / usage.tokens
        capacity += sum(usage.capacity_requests for usage in sites)
        covered += weight
    return Counterfactual(**figures, covered=covered / capacity) if capacity else None


def saved_percent(usages: dict[tuple[str, str], Usage]) -> dict[str, float | None] | None:
    """What was saved against the counterfactual, % of each figure, by the sites that it speaks of.

    Args:
        usages: by (pool, datacenter).

    Returns:
        None where there is no counterfactual; a figure that it has at nothing cannot be saved.
    """
    other = counterfactual(usages)
    if other is None:
        return None
    routed = total(usage for usage in usages.values() if _is_comparable(usage))
    return {
        name: 100.0 * (1.0 - getattr(routed, name) / getattr(other, name)) if getattr(other, name) else None
        for name in FIGURES
    }


def _is_comparable(usage: Usage) -> bool:
    return usage.capacity_requests > 0 and usage.tokens > 0


def carbon_per_1000_tokens(usage: Usage, embodied_gco2: float = 0.0) -> float | None:
    """SCI with R = 1,000 tokens, gCO2eq; None without tokens."""
    return 1000.0 * (usage.carbon_gco2 + embodied_gco2) / usage.tokens if usage.tokens else None

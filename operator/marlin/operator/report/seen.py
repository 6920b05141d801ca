"""What a source of figures hands to the report, whichever it is: ``prometheus`` or ``recorder``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from marlin.operator.report.method import Counterfactual, Key, Usage


@dataclass(frozen=True, slots=True)
class Seen:
    """An interval."""

    sites: Mapping[Key, Usage]
    """By (pool, datacenter)."""
    method: tuple[str, ...]
    """How these figures came about and how sure they are, a sentence each."""
    unknown: tuple[str, ...]
    """What the source does not tell, a sentence each."""
    tenants: Mapping[str, Usage] = field(default_factory=dict)
    unreached: Usage = field(default_factory=Usage)
    """Requests that no datacenter answered: refused, or failed before one could be asked."""
    without_estimate: float = 0.0
    """Requests that no figure speaks of."""
    pools_ttft: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Percentiles by pool: ttft_p50_s, ttft_p95_s and ttft_p99_s; and below by datacenter, and of all."""
    datacenters_ttft: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    all_ttft: Mapping[str, float] = field(default_factory=dict)
    other: Counterfactual | None = None
    """Capacity-proportional routing of the same."""
    saved_percent: Mapping[str, float | None] | None = None

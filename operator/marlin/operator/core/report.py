"""What a round saw and decided, as values for whoever watches: metrics are read out of it.

It is made of statuses, so that a plan that an operator found after its start is told of as one that it made. What is
known of a decision and of no status (how long it took, what the agents thought) is in its ``outcome`` for one round.
"""

from __future__ import annotations

from dataclasses import dataclass

from marlin.api.datacenter import DatacenterStatus
from marlin.api.policy import MarlinPolicyStatus
from marlin.api.pool import InferencePoolStatus
from marlin.operator.core.observed import Key
from marlin.operator.core.planning import Planned, Refusal
from marlin.operator.signals.values import SiteReadings


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """One policy."""

    key: Key
    mode: str
    """Of its spec; empty where that cannot be read."""
    status: MarlinPolicyStatus
    outcome: Planned | Refusal | None = None
    """What was decided in this round; None: nothing was due."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One pool."""

    key: Key
    status: InferencePoolStatus


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One site."""

    name: str
    status: DatacenterStatus
    readings: SiteReadings | None = None
    """Its signals now; None where its spec cannot be read."""


@dataclass(frozen=True, slots=True)
class Report:
    """All of them."""

    policies: tuple[PolicyReport, ...] = ()
    pools: tuple[PoolReport, ...] = ()
    sites: tuple[SiteReport, ...] = ()

"""What one look at a site found. A value; what could not be seen this time is carried over from the last look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from marlin.operator.core.observed import Key

BackendKey = tuple[Key, str]
"""(namespace, pool) and name of a backend."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something could be done: a condition's status, reason and message."""

    holds: bool | None
    """None: not known."""
    reason: str
    message: str = ""


MOST_ADDRESSES: Final = 64

NOT_CONFIGURED: Final = Finding(None, "NotConfigured")


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind."""

    name: str
    accelerator: str
    accelerators_per_node: int
    nodes: int
    ready_nodes: int


@dataclass(frozen=True, slots=True)
class BackendSight:
    """What is behind a serviceRef or a poolRef."""

    ready_endpoints: int
    node_group: str = ""
    """That of the node a ready endpoint runs on; empty where that is not known."""
    tensor_parallel: int = 1
    """Accelerators that a pod asks for."""
    addresses: tuple[str, ...] = ()
    """HOST:PORT of its ready endpoints, at most ``MOST_ADDRESSES``; they lead somewhere in its own cluster only."""
    problem: str = ""
    """Why it cannot be resolved; empty when it can."""
    scale_problem: str = ""
    """Why its workload could not be scaled as ordered; empty when it could, or nothing was ordered."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is known of a site."""

    credentials: Finding = NOT_CONFIGURED
    cluster: Finding = NOT_CONFIGURED
    router: Finding = NOT_CONFIGURED
    is_router_down: bool = False
    """Whether it failed to answer more than once in a row: requests should not be planned for it."""
    cluster_id: str = ""
    version: str = ""
    groups: tuple[Group, ...] | None = None
    """None: never seen."""
    backends: Mapping[BackendKey, BackendSight] = field(default_factory=dict)

"""What a round remembers of the rounds before it, so that it works out only what changed.

Everything kept here is the result of a pure function beside the inputs it was made of: with the same inputs it is
taken again, with others it is made anew. So a memory changes how long a round takes and never what it decides, and a
process that starts without one comes to the same decisions.

Inputs are compared part by part, and a part that is the same object counts as equal without being looked into. Objects
that did not change on the API server are the same objects from round to round (``kube.objects``), which is why
comparing a thousand pools takes a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from marlin.api.datacenter import DatacenterStatus
from marlin.api.policy import MarlinPolicyStatus
from marlin.api.pool import InferencePoolStatus
from marlin.api.table import RoutingTable
from marlin.operator.core.observed import Key, ObservedPool
from marlin.operator.core.published import PublishedTable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The last result for each key."""

    def __init__(self) -> None:
        self._known: dict[K, tuple[tuple[Any, ...], tuple[Any, ...], V]] = {}
        self._asked: set[K] = set()

    def get(
        self,
        key: K,
        inputs: tuple[Any, ...],
        make: Callable[[], V],
        settled: Callable[[V], tuple[Any, ...]] | None = None,
    ) -> V:
        """The result for ``inputs``: the last one of ``key`` where they are the same, else a new one.

        Args:
            key: what it is the result for.
            inputs: what it is made of.
            make: makes it.
            settled: inputs that give the same result once it was written, where it is an input itself. Default: none.
        """
        self._asked.add(key)
        known = self._known.get(key)
        if known is not None and inputs in known[:2]:
            return known[2]
        made = make()
        self._known[key] = (inputs, inputs if settled is None else settled(made), made)
        return made

    def __len__(self) -> int:
        return len(self._known)

    def sweep(self) -> None:
        """Forgets keys that nobody asked for since the last sweep."""
        self._known = {key: known for key, known in self._known.items() if key in self._asked}
        self._asked = set()


@dataclass(slots=True)
class Memory:
    """Of one operator."""

    pools: Kept[Key, ObservedPool] = field(default_factory=Kept)
    """Pool to itself as found in the clusters."""
    tables: Kept[Key, dict[str, PublishedTable]] = field(default_factory=Kept)
    """Policy to its tables, by name, with generation 0."""
    unpacked: Kept[Key, RoutingTable] = field(default_factory=Kept)
    """Policy to its published table, of policies whose workloads are scaled."""
    site_statuses: Kept[Key, tuple[DatacenterStatus, Mapping[str, Any]]] = field(default_factory=Kept)
    pool_statuses: Kept[Key, tuple[InferencePoolStatus, Mapping[str, Any]]] = field(default_factory=Kept)
    policy_statuses: Kept[Key, tuple[MarlinPolicyStatus, Mapping[str, Any]]] = field(default_factory=Kept)
    """Object to its status, and the same as a document."""

    def sweep(self) -> None:
        """Forgets what the last round did not need."""
        for kept in self._all():
            kept.sweep()

    @property
    def size(self) -> int:
        """How many results it holds."""
        return sum(len(kept) for kept in self._all())

    def _all(self) -> tuple[Kept[Any, Any], ...]:
        return (
            self.pools,
            self.tables,
            self.unpacked,
            self.site_statuses,
            self.pool_statuses,
            self.policy_statuses,
        )

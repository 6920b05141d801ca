"""What a round remembers of the rounds before it, so that it works out only what changed.

Everything kept here is the result of a pure function beside the inputs it was made of: with the same inputs it is
taken again, with others it is made anew. So a memory changes how long a round takes and never what it decides, and a
process that starts without one comes to the same decisions.

Inputs are compared part by part, and a part that is the same object counts as equal without being looked into. Objects
that did not change on the API server are the same objects from round to round (``kube.objects``), which is why
comparing a thousand pools takes a millisecond.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from marlin.api.policy import MarlinPolicyStatus
from marlin.api.pool import InferencePoolStatus
from marlin.api.table import RoutingTable
from marlin.operator.core.observed import Key, ObservedPool

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The last result for each key."""

    def __init__(self) -> None:
        self._known: dict[K, tuple[tuple[Any, ...], V]] = {}
        self._asked: set[K] = set()

    def get(self, key: K, inputs: tuple[Any, ...], make: Callable[[], V]) -> V:
        """The result for ``inputs``: the last one of ``key`` where they are the same, else a new one."""
        self._asked.add(key)
        known = self._known.get(key)
        if known is not None and known[0] == inputs:
            return known[1]
        made = make()
        self._known[key] = (inputs, made)
        return made

    def __len__(self) -> int:
        return len(self._known)

    def items(self) -> Iterator[tuple[K, V]]:
        """Keys with their results."""
        return ((key, result) for key, (_, result) in self._known.items())

    def sweep(self) -> None:
        """Forgets keys that nobody asked for since the last sweep."""
        self._known = {key: known for key, known in self._known.items() if key in self._asked}
        self._asked = set()


@dataclass(slots=True)
class Memory:
    """Of one operator."""

    pools: Kept[Key, ObservedPool] = field(default_factory=Kept)
    """Pool to itself as found in the clusters."""
    tables: Kept[Key, dict[str, RoutingTable]] = field(default_factory=Kept)
    """Policy to its tables, by name."""
    pool_statuses: Kept[Key, tuple[InferencePoolStatus, dict[str, Any]]] = field(default_factory=Kept)
    policy_statuses: Kept[Key, tuple[MarlinPolicyStatus, dict[str, Any]]] = field(default_factory=Kept)
    """Object to its status, and the same as a document."""
    texts: dict[Key, tuple[str, RoutingTable]] = field(default_factory=dict)
    """ConfigMap to the digest of the text it was last given, and the table that the text stands for."""

    def sweep(self) -> None:
        """Forgets what the last round did not need."""
        for kept in (self.pools, self.tables, self.pool_statuses, self.policy_statuses):
            kept.sweep()
        published = {(policy[0], name) for policy, tables in self.tables.items() for name in tables}
        self.texts = {key: text for key, text in self.texts.items() if key in published}

    @property
    def size(self) -> int:
        """How many results it holds."""
        kept: tuple[Kept[Any, Any], ...] = (self.pools, self.tables, self.pool_statuses, self.policy_statuses)
        return sum(len(one) for one in kept) + len(self.texts)

    def gave(self, key: Key, text: str, table: RoutingTable) -> None:
        """A table was made into a text."""
        self.texts[key] = (digest(text), table)

    def table_of(self, key: Key, text: str) -> RoutingTable | None:
        """The table that a text stands for, where it is the one that was last made for this ConfigMap."""
        known = self.texts.get(key)
        return known[1] if known is not None and known[0] == digest(text) else None


def digest(text: str) -> str:
    """Tells two texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()

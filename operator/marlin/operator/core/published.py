"""Routing tables as text: what is published is held packed, at a fiftieth of what the parsed tables would take.

A table of 62 pools over twelve sites is a quarter of a megabyte as text and two megabytes as objects, and a large fleet
has dozens of them. To tell whether one has to be written again its digest is enough; its text is unpacked when it is
written, or asked for. The generation is kept beside the text, so that a table that only moves on is not made again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from marlin.api.plan import RoutingPlan
from marlin.api.table import RoutingTable

MOST_BYTES: Final = 1_000_000
"""Largest table that is written: an API server refuses objects above 1 MiB, metadata included."""

_GENERATION: Final = "generation"
_LONGEST_GENERATION: Final = len('{"generation":18446744073709551615,')
_QUICK: Final = 1
"""Level of compression: tables repeat themselves so much that more effort hardly makes them smaller."""


class TableTooLargeError(ValueError):
    """The table does not fit into a ConfigMap."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One routing table, packed."""

    generation: int
    plan: RoutingPlan | None
    digest: bytes
    """Of everything but the generation."""
    packed: bytes
    """The text of everything but the generation, compressed."""

    @classmethod
    def of(cls, table: RoutingTable) -> PublishedTable:
        """A table that was read.

        Raises:
            TableTooLargeError: it does not fit into a ConfigMap.
        """
        return cls.of_document(table.to_document(), table.plan)

    @classmethod
    def of_document(cls, document: Mapping[str, Any], plan: RoutingPlan | None) -> PublishedTable:
        """A table as it stands in JSON.

        Args:
            document: the table.
            plan: the plan in it.

        Raises:
            TableTooLargeError: it does not fit into a ConfigMap.
        """
        content = msgspec.json.encode({name: value for name, value in document.items() if name != _GENERATION})
        if (size := len(content) + _LONGEST_GENERATION) > MOST_BYTES:
            raise TableTooLargeError(
                f"the routing table has {size} bytes, a ConfigMap holds {MOST_BYTES}: split the policy into several"
            )
        return cls(document.get(_GENERATION, 0), plan, hashlib.sha256(content).digest(), zlib.compress(content, _QUICK))

    @property
    def text(self) -> str:
        """As it stands in the ConfigMap."""
        content = zlib.decompress(self.packed).decode()
        return f'{{"{_GENERATION}":{self.generation},{content[1:]}'

    @property
    def table(self) -> RoutingTable:
        """The table."""
        return RoutingTable.model_validate_json(self.text)

    def succeeding(self, published: PublishedTable | None) -> PublishedTable:
        """This table with the generation that follows the published one; the published one where nothing changed."""
        if published is None:
            return replace(self, generation=1)
        if published.digest == self.digest:
            return published
        return replace(self, generation=published.generation + 1)

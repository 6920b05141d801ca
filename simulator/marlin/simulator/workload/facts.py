"""Single numbers fitted on the traces, as ``workload_facts.csv`` has them (each with how it was found)."""

from __future__ import annotations

from functools import cache

from marlin.simulator import tables


def fact(name: str) -> float:
    """A number of the table.

    Raises:
        KeyError: the table has none of that name.
    """
    return _facts()[name]


@cache
def _facts() -> dict[str, float]:
    return {row["name"]: float(row["value"]) for row in tables.rows("workload_facts.csv")}

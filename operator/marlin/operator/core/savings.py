"""What the savings in a status are of: the twin takes idle machines to do what their pool says and nothing better."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from marlin.api.pool import InferencePool, PowerDown

_WHAT_IDLE_DO: Final = {
    PowerDown.NONE: "idle replicas draw on",
    PowerDown.IDLE_P_STATE: "idle replicas clock down",
    PowerDown.SLEEP: "replicas not wanted awake sleep",
    PowerDown.SCALE_TO_ZERO: "nodes of replicas not wanted awake are given back",
}
_MOST_NAMES: Final = 4


def estimate_basis(pools: Iterable[InferencePool]) -> str:
    """What idle machines do in the estimates, in one line; pools of unknown speed are in none of them."""
    names: dict[PowerDown, list[str]] = {kind: [] for kind in _WHAT_IDLE_DO}
    for pool in pools:
        if pool.spec.profile is not None:
            names[pool.spec.power_down].append(pool.metadata.name)
    return "; ".join(f"{_WHAT_IDLE_DO[kind]}: {_listed(of_kind)}" for kind, of_kind in names.items() if of_kind)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

"""Why a plan is what it is, for people: one line for the plan itself, and the whole account for ``--explain``.

All of it is JSON-able. Metrics are the twin's expectations over the demands that may come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Dispatch, Scheme
from marlin.policy.agents.guard import PROPORTIONAL, Looked
from marlin.policy.agents.settling import Settled
from marlin.policy.agents.situation import Situation
from marlin.policy.artifact import Artifact
from marlin.policy.game import explain
from marlin.policy.objective import OPTION_NAMES, Weights
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from marlin.policy.agents.planner import Agreed

MOST_TEXT: Final = 512
"""Characters of a plan's explanation."""

_FIRST_SITES: Final = 3
_LEAST_SHARE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Told:
    """Everything that is to be told."""

    artifact: Artifact
    weights: Weights
    situation: Situation
    agreed: Agreed
    settled: Settled
    looked: Looked
    capital: tuple[FloatArray, FloatArray]
    """Before and after."""


def in_a_line(told: Told, scheme: Scheme) -> str:
    """The plan's own explanation."""
    instead = told.looked.instead
    if instead is not None:
        values = told.looked.values
        text = (
            f"marlin {scheme.option}: {instead}, because what the agents agreed on is expected to be worse "
            f"({values['plan']:.4f} against {values[instead]:.4f})"
        )
        return text[:MOST_TEXT]
    parts = [f"marlin {scheme.option}: {_first_pool(told)}"]
    if changes := _changes(told):
        parts.append(", ".join(changes))
    consensus = told.agreed.consensus
    if consensus is not None:
        names = [OPTION_NAMES[turn.agent] for turn in consensus.objections.turns if turn.pull > 0]
        parts.append(f"vetoes: {', '.join(names) or 'none'}")
        coalition = told.agreed.coalition
        if coalition is not None and coalition.gained > 0:
            parts.append(f"agreed by {', '.join(_members(coalition.weights))} alone")
    else:
        parts.append(told.agreed.rung)
    if told.situation.gaps:
        parts.append(f"{len(told.situation.gaps)} gaps in what is known")
    return "; ".join(parts)[:MOST_TEXT]


def _first_pool(told: Told) -> str:
    """Where the first pool of which anything is expected goes first."""
    for pool in _pools(told, slice(1))[0]:
        if first := [site["datacenter"] for site in pool["sites"]][:_FIRST_SITES]:
            how = "fills" if told.situation.dispatch is Dispatch.ORDERED else "goes mostly to"
            return f"{pool['name']} {how} {' > '.join(first)}"
    return "nothing is expected to come"


def account(told: Told) -> dict[str, Any]:
    """All of it."""
    before, after = told.capital
    consensus = told.agreed.consensus
    metrics, pools = told.looked.outcome.expected_metrics().tolist(), _pools(told, slice(None))  # of 1 + J + K plans
    values, instead = told.looked.values, told.looked.instead
    exploited, demands = told.agreed.exploited, told.situation.demands
    card = told.artifact.card
    return {
        "weights": dict(zip(OPTION_NAMES, told.weights, strict=True)),
        "artifact": {
            "sha256": card.weights_sha256,
            "marlin_version": card.marlin_version,
            "seed": card.seed,
            "conditioning": card.conditioning.value,
        },
        "rung": told.agreed.rung,
        "gaps": list(told.situation.gaps),
        "demands": [
            {"requests": [round(x, 1) for x in requests], "chance": round(chance, 4)}
            for requests, chance in zip(demands.requests.tolist(), demands.chances.tolist(), strict=True)
        ],
        "proposals": {
            name: {
                "candidate": exploited.chosen[j],
                "of": exploited.candidates,
                "gained": round(float(exploited.gained[j]), 6),
                "expected": _metrics(metrics[1 + j]),
                "pools": pools[1 + j],
            }
            for j, name in enumerate(OPTION_NAMES)
        },
        "game": None if consensus is None else explain(consensus, OPTION_NAMES, before),
        "coalition": _coalition(told),
        "settled": {
            "prewarmed": _by_pool(told, told.settled.prewarmed),
            "eased": _by_pool(told, told.settled.eased),
            "moves": told.settled.moves,
            "gained": round(told.settled.gained, 6),
        },
        "expected": {
            "plan": _metrics(metrics[0]),
            "capacity_proportional": _metrics(told.looked.baseline.expected_metrics()[0].tolist()),
            "value": round(values["plan"], 6),
            "capacity_proportional_value": round(values[PROPORTIONAL], 6),
        }
        | _plain(told.looked, metrics),
        "late": {
            "weight": told.situation.objective.late,
            "share": round(told.looked.late_share, 6),
            "capacity_proportional_share": round(float(told.looked.baseline.expected_late_shares()[0]), 6),
        },
        "guard": instead,
        "capital": {"before": _each(before), "after": _each(after)},
        "pools": pools[0],
    }


def key_of(name: str) -> str:
    """What a plain plan (``guard``) is called in the account's ``expected``; its value has ``_value`` behind it."""
    return name.replace(",", "").replace(" ", "_").replace("-", "_")


def _pools(told: Told, rows: slice) -> list[list[dict[str, Any]]]:
    """Of some of the plans: what each site is expected to serve, in the order of filling or of size."""
    state, outcome = told.situation.state, told.looked.outcome
    expected = (outcome.served[rows] * outcome.chances[:, None, None]).sum(axis=1)  # (N, V, D)
    shares = expected / np.maximum(expected.sum(axis=2, keepdims=True), 1e-12)
    filled = told.looked.plans.order
    places = (-expected).argsort(axis=2, kind="stable") if filled is None else filled[rows]
    names = [site.name for site in state.datacenters]
    return [
        [
            {
                "name": pool.name,
                "sites": [
                    {"datacenter": names[d], "share": round(share[d], 4)}
                    for d in of_pool
                    if d >= 0 and share[d] >= _LEAST_SHARE
                ],
            }
            for pool, of_pool, share in zip(state.pools, of_plan, share_of_plan, strict=True)
        ]
        for of_plan, share_of_plan in zip(places.tolist(), shares.tolist(), strict=True)
    ]


def _coalition(told: Told) -> dict[str, Any] | None:
    """Whose consensus it is; nothing where only that of all was looked at."""
    found = told.agreed.coalition
    if found is None:
        return None
    weights = {name: round(w, 6) for name, w in zip(OPTION_NAMES, found.weights.tolist(), strict=True)}
    return {"weights": weights, "gained": round(found.gained, 6), "objected": found.objected}


def _members(weights: FloatArray) -> list[str]:
    return [name for name, weight in zip(OPTION_NAMES, weights.tolist(), strict=True) if weight > 0]


def _plain(looked: Looked, metrics: list[list[float]]) -> dict[str, Any]:
    """What is expected of the plain plans, the last of those whose metrics are given."""
    said: dict[str, Any] = {}
    for name, of_plan in zip(looked.plain, metrics[-len(looked.plain) :], strict=True):
        key = key_of(name)
        said |= {key: _metrics(of_plan), f"{key}_value": round(looked.values[name], 6)}
    return said


def _changes(told: Told) -> list[str]:
    ours, theirs = told.looked.outcome.expected_metrics()[0], told.looked.baseline.expected_metrics()[0]
    return [
        f"{name} {our / their - 1.0:+.1%}"
        for name, weight, our, their in zip(OPTION_NAMES, told.weights, ours, theirs, strict=True)
        if weight > 0 and their > 0
    ]


def _metrics(values: list[float]) -> dict[str, float]:
    return dict(zip(METRIC_NAMES, values, strict=True))


def _by_pool(told: Told, values: FloatArray) -> dict[str, float]:
    """(V,) numbers by the names of the pools."""
    return {pool.name: float(value) for pool, value in zip(told.situation.state.pools, values, strict=True)}


def _each(values: FloatArray) -> dict[str, float]:
    return {name: round(value, 3) for name, value in zip(OPTION_NAMES, values.tolist(), strict=True)}

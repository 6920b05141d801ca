"""A small artifact that has learnt nothing, for the tests of the planner; tests/support is on the import path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from small_networks import SMALL, weights

from marlin.api.plan import Dispatch, Scheme
from marlin.policy.agents import Marlin, MarlinSettings
from marlin.policy.artifact import Artifact, save
from marlin.policy.objective import scheme_weights

CARD: dict[str, Any] = {
    "marlinVersion": "0",
    "scenarioSha256": "0" * 64,
    "seed": 7,
    "dispatch": ["Ordered"],
    "conditioning": "film",
    "networks": {
        "actorHidden": SMALL.actor_hidden,
        "criticHidden": SMALL.critic_hidden,
        "pooled": SMALL.pooled,
        "filmHidden": SMALL.film_hidden,
    },
    "hyperParameters": {"sac": {"discount": 0.95}},
}


def small_artifact(folder: Path, seed: int = 0, **changes: Any) -> Artifact:
    """Saved in ``folder``, which must not be there yet."""
    return save(folder, CARD | changes, weights(seed))


def marlin(artifact: Artifact, dispatch: Dispatch = Dispatch.ORDERED, **changes: Any) -> Marlin:
    """The balanced planner, which tries two samples unless ``changes`` of its settings say otherwise."""
    scheme = Scheme.BALANCED
    return Marlin(artifact, scheme, dispatch, scheme_weights(scheme), replace(MarlinSettings(best_of=2), **changes))

"""A small artifact that has learnt nothing, for the tests of the planner; tests/support is on the import path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_networks import SMALL, weights

from marlin.policy.artifact import Artifact, save

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

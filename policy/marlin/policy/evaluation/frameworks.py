"""Who is scored: the yardsticks, and MARLIN with its parts taken away one by one.

``actor alone`` is what was learnt, without search and game; ``random`` is the search without what was learnt; so that
neither the search nor the game is taken for learning. ``consensus`` is what the game agrees on, as it is; ``best
blend`` of the same proposals is what it could have agreed on. None of the partial forms has the guard; of these only
``marlin, no guard`` settles. Under shares all plans have rows of origins (``origins``), but for those of
capacity-proportional, which is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy.agents import Marlin, MarlinSettings
from marlin.policy.agents.guard import Guard
from marlin.policy.agents.planner import Agreement, Judge, Source
from marlin.policy.artifact import Artifact
from marlin.policy.game import GameSettings, VetoRule, VetoSettings
from marlin.policy.objective import Weights, scheme_weights
from marlin.policy.origins import as_evaluated
from marlin.policy.planner import Planner
from marlin.policy.planners import make_planner

BASELINE: Final = "capacity-proportional"
SIMPLE: Final = "best simple policy"
MERIT: Final = "merit order"
LIMITED: Final = "forecast-limited oracle"
CLAIRVOYANT: Final = "clairvoyant oracle"
ACTOR: Final = "actor alone"
UNGUARDED: Final = "marlin, no guard"
CONSENSUS: Final = "consensus"
BLEND: Final = "best blend"
MARLIN: Final = "marlin"

BEST_OF: Final = (1, 8, 64)


def searched(source: Source, many: int) -> str:
    """Name of the best of so many proposals."""
    return f"{source.value}, best of {many}"


@dataclass(frozen=True, slots=True)
class Leaning:
    """What everybody is to lean towards."""

    scheme: Scheme
    weights: Weights | None = None
    """Of scheme Custom."""

    @property
    def name(self) -> str:
        """As the command line has it."""
        if self.weights is None:
            return self.scheme.option
        return ",".join(f"{w:.3g}" for w in self.weights)

    @property
    def all_weights(self) -> Weights:
        """(4,) of the metrics."""
        return scheme_weights(self.scheme, self.weights)


def random_leanings(many: int) -> tuple[Leaning, ...]:
    """Weight vectors drawn evenly from all there are; the same ones each time."""
    drawn = np.random.default_rng(0).dirichlet(np.ones(4), many).tolist()
    return tuple(Leaning(Scheme.CUSTOM, (ttft, carbon, water, cost)) for ttft, carbon, water, cost in drawn)


def simple(leaning: Leaning, dispatch: Dispatch) -> Iterator[tuple[str, Planner]]:
    """Those that need no artifact and nothing chosen."""
    yield BASELINE, make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)
    for name, kind in ((MERIT, PlannerKind.MERIT_ORDER), (LIMITED, PlannerKind.ORACLE)):
        planner = make_planner(kind, scheme=leaning.scheme, dispatch=dispatch, weights=leaning.weights)
        yield name, as_evaluated(planner, dispatch)


def learnt(
    artifact: Artifact, leaning: Leaning, dispatch: Dispatch, best_of: Sequence[int] = BEST_OF, *, ablate: bool = False
) -> Iterator[tuple[str, Planner]]:
    """Those that an artifact makes; each is new, and remembers nothing of another day."""

    def made(settings: MarlinSettings) -> Planner:
        return as_evaluated(Marlin(artifact, leaning.scheme, dispatch, leaning.all_weights, settings), dispatch)

    alone = MarlinSettings(best_of=0, agreement=Agreement.BY_WEIGHT, settling=None, guard=Guard.NONE)
    yield ACTOR, made(alone)
    for source in (Source.RANDOM, Source.ACTOR):
        for many in best_of:
            settings = replace(alone, best_of=many, source=source)
            yield searched(source, many), made(settings)
    agreed = MarlinSettings(guard=Guard.NONE, settling=None)
    yield CONSENSUS, made(agreed)
    yield BLEND, made(replace(agreed, agreement=Agreement.BEST_BLEND))
    yield UNGUARDED, made(MarlinSettings(guard=Guard.NONE))
    yield MARLIN, made(MarlinSettings())
    if not ablate:
        return
    for rule in VetoRule:
        settings = MarlinSettings(guard=Guard.NONE, game=GameSettings(veto=VetoSettings(rule=rule)))
        yield f"{UNGUARDED}, veto {rule.value}", made(settings)
    yield f"{CONSENSUS}, of all", made(replace(agreed, coalitions=False))
    yield f"{UNGUARDED}, of all", made(MarlinSettings(guard=Guard.NONE, coalitions=False))
    yield f"{MARLIN}, of all", made(MarlinSettings(coalitions=False))
    yield f"{UNGUARDED}, no search", made(MarlinSettings(guard=Guard.NONE, best_of=0))
    yield f"{UNGUARDED}, the twin as critic", made(MarlinSettings(guard=Guard.NONE, judge=Judge.TWIN))
    yield (
        f"{UNGUARDED}, without blending",
        made(MarlinSettings(guard=Guard.NONE, game=GameSettings(blends=False))),
    )

"""MARLIN as a planner: propose, try, negotiate, guard; within a deadline, never an invalid plan.

Three rungs, from the best to the one that is always there:

1. the agents' proposals, each the best of several in the twin, agreed upon in the game;
2. the agents' deterministic proposals, blended by the user's weights: where time is up before the game;
3. merit order: where time was up before the agents were asked, or they do not answer with numbers.

Where replicas can power down, what was agreed is then settled in detail (``settling``). Whatever comes of the first two
is tried in the twin beside plain plans (``guard``): where one of those is expected to
do better by the user's own weights, it is what is published, and the record says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from marlin.api.plan import Dispatch, PlannerKind, RoutingPlan, Scheme
from marlin.policy.agents import exploit, proposing, record
from marlin.policy.agents.blending import best_blend
from marlin.policy.agents.coalition import Coalition, coalition_of
from marlin.policy.agents.critics import LearnedCritic, TwinCritic, action_of, discount_of, intent_of
from marlin.policy.agents.exploit import Exploited
from marlin.policy.agents.guard import Guard, Looked, look
from marlin.policy.agents.settling import Settled, as_agreed, settle
from marlin.policy.agents.situation import Situation, situation_of
from marlin.policy.agents.standing import Standing
from marlin.policy.artifact import Artifact
from marlin.policy.building import Proposal, build_plan
from marlin.policy.deciding import decision_of
from marlin.policy.game import CapitalSettings, Consensus, Critic, GameSettings, negotiate
from marlin.policy.in_order import InOrder
from marlin.policy.objective import Weights
from marlin.policy.planner import Decision
from marlin.policy.trials import LATE_WEIGHT
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from marlin.api.state import FleetState

_SHARE_OF_TIME: Final = 0.5
"""Part of the time that is left which trying samples may take."""


class Judge(StrEnum):
    """Who says what an action is worth in the game."""

    LEARNED = "learned"
    TWIN = "twin"
    """The twin, in the epoch to come: slower, and blind to what comes after. For comparison."""


class Agreement(StrEnum):
    """How proposals become one plan."""

    GAME = "game"
    BY_WEIGHT = "by weight"
    """No game. Of all that was tried the best by the user's weights; where nothing was, the proposals blended by them.
    An ablation."""
    BEST_BLEND = "best blend"
    """No game. Of all blends the one that the twin likes best: what a game could come to. For comparison."""


class Source(StrEnum):
    """Who proposes."""

    ACTOR = "actor"
    RANDOM = "random"
    """Nobody: actions drawn evenly. For comparison."""


@dataclass(frozen=True, slots=True)
class MarlinSettings:
    """How the agents decide."""

    best_of: int = 8
    """Samples tried beside each agent's deterministic action; 0 is the paper's exploit step."""
    agreement: Agreement = Agreement.GAME
    judge: Judge = Judge.LEARNED
    source: Source = Source.ACTOR
    coalitions: bool = True
    """Where replicas can power down some of the agents may agree without the others. False: the blend of all, as in the
    paper."""
    settling: int | None = 2
    """Rounds of single moves after the game, where replicas can power down. None: what was agreed stays as it is, as in
    the paper."""
    late_weight: float = LATE_WEIGHT
    """What it costs when all requests are late, in units of the weighted objective."""
    guard: Guard = Guard.SIMPLE
    """What may take the place of a plan that is expected to be worse."""
    game: GameSettings = field(default_factory=GameSettings)
    capital: CapitalSettings = field(default_factory=CapitalSettings)
    origin_aware: bool = False
    """Plans of shares will be given rows of origins (``policy.origins``): the guard compares them with what the network
    takes then."""
    seed: int = 0
    """Of the samples. The same seed, state and standing make the same plan."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the agents come to, before it is guarded."""

    intent: Intent  # (V, D)
    exploited: Exploited
    consensus: Consensus | None
    """None where there was no game."""
    rung: str
    coalition: Coalition | None = None
    """None where nobody looked for one."""


@dataclass(slots=True)
class Marlin:
    """Four trained agents. Remembers their capital; nothing else changes."""

    artifact: Artifact
    scheme: Scheme
    dispatch: Dispatch
    weights: Weights
    settings: MarlinSettings = field(default_factory=MarlinSettings)
    standing: Standing = field(default_factory=Standing)
    clock: Callable[[], float] = time.monotonic
    """Seconds; asked for deadlines alone."""

    @property
    def kind(self) -> PlannerKind:
        """Marlin."""
        return PlannerKind.MARLIN

    def decide(self, state: FleetState, *, now: datetime | None = None, deadline_s: float | None = None) -> Decision:
        """See ``Planner.decide``. An epoch may be decided again: capital is earned in it once."""
        until_s = None if deadline_s is None else self.clock() + deadline_s
        situation = situation_of(state, self.dispatch, self.weights, self.settings.late_weight)
        if self._left_s(until_s) <= 0:
            return self._by_merit(state, now, "time was up before the agents were asked", situation)
        try:
            agreed = self._agreed(situation, until_s)
        except (ValueError, FloatingPointError) as error:
            return self._by_merit(state, now, f"the agents gave no answer: {error}", situation)
        return self._decided(situation, agreed, self._settled(situation, agreed, until_s), now)

    def _settled(self, situation: Situation, agreed: Agreed, until_s: float | None) -> Settled:
        rounds = self.settings.settling
        if rounds is None or not situation.fleets.can_power_down or self._left_s(until_s) <= 0:
            return as_agreed(agreed.intent)
        return settle(situation, agreed.intent, rounds, lambda: self._left_s(until_s) > 0)

    def _agreed(self, situation: Situation, until_s: float | None) -> Agreed:
        settings = self.settings
        capital = self.standing.of_epoch(situation.state.epoch)
        user = np.array(self.weights)
        goal = proposing.goals(self.artifact.card.conditioning, user)
        rows = situation.rows(self.weights)
        rng = np.random.default_rng([settings.seed, situation.state.epoch])
        if settings.source is Source.ACTOR:
            proposals = proposing.propose(self.artifact, rows, goal)
            candidates = proposing.samples(proposals, situation, rng, settings.best_of)  # (J, 1 + S, V, D)
        else:
            candidates = proposing.anything(situation, rng, 1 + settings.best_of)
        exploited = exploit.alone(candidates)
        many = self._affordable(situation, exploited.proposals, until_s)
        if many:
            # Without a game there is nobody to come to terms with: the search is for what the user wants.
            is_alone = settings.agreement is Agreement.BY_WEIGHT
            sought = np.tile(user, (len(goal), 1)) if is_alone else goal
            exploited = exploit.best_of(exploit.of_each(candidates, slice(1 + many)), sought, situation)
        rung = f"best of {exploited.candidates}" if exploited.candidates > 1 else "deterministic"
        importance = _importance(user, situation.trusted)
        actions = action_of(exploited.proposals)  # (J, 3, V, D)
        if settings.agreement is Agreement.BEST_BLEND:
            return Agreed(intent_of(best_blend(situation, actions)), exploited, None, f"{rung}, the best blend")
        if settings.agreement is Agreement.BY_WEIGHT and exploited.candidates > 1:
            picked = int(exploited.by_user.argmin())
            return Agreed(intent_of(actions[picked]), exploited, None, f"{rung} of anybody, by the user's weights")
        if settings.agreement is Agreement.BY_WEIGHT or self._left_s(until_s) <= 0:
            blend = np.tensordot(importance, actions, axes=1)
            why = ": time was up before the game" if settings.agreement is Agreement.GAME else ""
            text = f"{rung}, blended by weight{why}"
            return Agreed(intent_of(blend), exploited, None, text)
        critic: Critic = (
            LearnedCritic(self.artifact, rows, goal, 1.0 - discount_of(self.artifact))
            if settings.judge is Judge.LEARNED
            else TwinCritic(situation, situation.baseline, goal)
        )
        # Nobody vetoes on numbers that are not of this epoch; the weight of such an agent went to the others.
        capital = capital * situation.trusted
        consensus = negotiate(critic, actions, capital, importance, settings.game)
        agreed = Agreed(intent_of(consensus.action), exploited, consensus, f"{rung}, negotiated")
        if not settings.coalitions or not situation.fleets.can_power_down or self._left_s(until_s) <= 0:
            return agreed
        entitled, veto = (importance > 0) & (capital >= settings.game.veto.capital), settings.game.veto
        found = coalition_of(situation, consensus.final_weights, actions, goal, entitled, veto)
        return replace(agreed, intent=intent_of(found.action), coalition=found)

    def _affordable(self, situation: Situation, first: Intent, until_s: float | None) -> int:
        """Samples of each agent that can be tried in the time that is left, by what the first ones took."""
        if until_s is None or not self.settings.best_of:
            return self.settings.best_of
        if self._left_s(until_s) <= 0:
            return 0
        began_s = self.clock()
        situation.tried(situation.plans(first))
        took_s = self.clock() - began_s
        if took_s <= 0:
            return self.settings.best_of
        return min(self.settings.best_of, max(int(_SHARE_OF_TIME * self._left_s(until_s) / took_s) - 1, 0))

    def _decided(self, situation: Situation, agreed: Agreed, settled: Settled, now: datetime | None) -> Decision:
        """The plan, guarded, with the capital earned by it."""
        state = situation.state
        if self.settings.origin_aware:
            situation = situation.with_rows()
        looked = look(situation, settled, agreed.exploited.proposals, self.weights, self.settings.guard)
        capital = self.standing.of_epoch(state.epoch)
        self.standing = self.standing.after(
            state.epoch,
            looked.totals,
            looked.proposed,
            looked.baseline.expected_totals()[0],
            self.settings.capital,
        )
        after = np.array(self.standing.capital)
        told = record.Told(self.artifact, self.weights, situation, agreed, settled, looked, (capital, after))
        plan = self._plan(situation, looked, now, record.in_a_line(told, self.scheme))
        decision = decision_of(state, situation.twin, plan, record.account(told))
        return replace(decision, carried=self.standing.to_document())

    def _plan(self, situation: Situation, looked: Looked, now: datetime | None, explanation: str) -> RoutingPlan:
        plans, served, dispatch = looked.published, looked.served, looked.dispatch
        is_ordered = dispatch is Dispatch.ORDERED and plans.order is not None
        order: tuple[tuple[int, ...], ...] = ((),) * len(served)
        if is_ordered and plans.order is not None:
            order = tuple(tuple(int(d) for d in row if d >= 0) for row in plans.order[0])
        return build_plan(
            situation.state,
            Proposal(
                shares=served if is_ordered else plans.shares[0],
                order=order,
                cap=None if plans.cap is None else plans.cap[0],
            ),
            situation.allowed,
            kind=self.kind,
            scheme=self.scheme,
            dispatch=dispatch,
            now=now,
            explanation=explanation,
            awake=None if plans.awake is None else plans.awake[0],
            artifact_sha256=self.artifact.card.weights_sha256,
        )

    def _by_merit(self, state: FleetState, now: datetime | None, why: str, situation: Situation) -> Decision:
        """The last rung. Capital stays what it was: nobody negotiated."""
        decision = InOrder(self.scheme, self.dispatch, self.weights).decide(state, now=now)
        text = f"marlin {self.scheme.option}: by merit order, because {why}"[: record.MOST_TEXT]
        plan = decision.plan.model_copy(update={"planner": self.kind, "explanation": text}).sealed()
        account: dict[str, Any] = {"rung": f"merit order: {why}", "gaps": list(situation.gaps), **decision.record}
        found = decision_of(state, situation.twin, plan, account)
        return replace(found, carried=self.standing.to_document())

    def _left_s(self, until_s: float | None) -> float:
        return np.inf if until_s is None else until_s - self.clock()


def _importance(user: FloatArray, trusted: FloatArray) -> FloatArray:
    """(4,) what each metric weighs, those left out of which nothing is known; all, where nothing else is left."""
    left = user * trusted
    left = left if left.sum() > 0 else user
    return np.asarray(left / left.sum())

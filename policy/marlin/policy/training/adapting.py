"""``adapt``: the paper's loop in service. An artifact goes on learning from a fleet's own recorded epochs.

What is played is what really came, in the twin of the fleet as it really was, with rewards, replay, relabelling and
updates as in training, for as long as the processor time lasts. The last epochs are held back. Both artifacts then plan
those as they would be served, search, game and guard included, and the twin carries both out on what came: the adapted
one takes the other's place only if it is better there by more than a margin, and is thrown away otherwise. Either way
the verdict says what was seen.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from marlin.api.errors import InputError
from marlin.api.history import RecordedEpoch
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy import artifact as artifacts
from marlin.policy.agents import Marlin, MarlinSettings
from marlin.policy.agents.critics import discount_of
from marlin.policy.artifact import Artifact
from marlin.policy.forecasting.studying import predicted_days
from marlin.policy.game import GameSettings
from marlin.policy.objective import Weights, scheme_weights
from marlin.policy.planner import Planner
from marlin.policy.planners import make_planner
from marlin.policy.training.networks import arrays
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.run import Fleets, Training, TrainSettings, begin, play
from marlin.policy.training.sac import Learner, new_learner
from marlin.policy.trials import LATE_WEIGHT
from marlin.policy.yardsticks import score
from marlin.simulator.environments.task import TaskSettings, recorded_task
from marlin.simulator.experiment import Summary, summarise
from marlin.simulator.fluid import Form
from marlin.simulator.recorded import replay, stretches

LEAST_EPOCHS: Final = 24
"""To learn from in a row, and to be judged on: six hours each. Less says nothing of a day."""
DAY: Final = 96
_WARM_EPOCHS: Final = 20
_CRITIC_FIRST: Final = 100
"""Before critics learn, and updates before actors move: fewer than in training, where all begin at nothing."""


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How much it may learn, and when it may take over."""

    scheme: Scheme = Scheme.BALANCED
    weights: Weights | None = None
    """Of scheme Custom."""
    dispatch: Dispatch = Dispatch.ORDERED
    game: GameSettings = field(default_factory=GameSettings)
    """How the agents negotiate where they serve; they are judged as they would serve."""
    late_weight: float = LATE_WEIGHT
    """What late requests cost where they serve."""
    held_back: int = DAY
    """Epochs at the end that judge and are never learnt from."""
    cpu_s: float = 120.0
    """Processor time for learning; compiling and judging come on top. Looked at before every epoch but the first."""
    margin: float = 0.001
    """Part of the objective by which it must be better: less is what chance does."""
    updates_per_epoch: int = 5
    """K_opt of the paper."""
    lanes: int = 4
    rate: float = 0.3
    """Of the rates of training: what was learnt on many fleets is to be moved by one, not lost to it."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was seen on the epochs that were held back."""

    adopted: bool
    frozen_value: float
    """Weighted sum of the metrics over capacity-proportional's, and late requests: less is better."""
    adapted_value: float
    learnt_from: int
    """Epochs."""
    held_back: int
    updates: int
    learnt_cpu_s: float
    judged_cpu_s: float
    frozen_sha256: str
    adapted_sha256: str | None
    """None: thrown away."""

    def document(self) -> dict[str, Any]:
        """For a record of decisions."""
        return {
            "adopted": self.adopted,
            "frozenValue": round(self.frozen_value, 6),
            "adaptedValue": round(self.adapted_value, 6),
            "learntFromEpochs": self.learnt_from,
            "heldBackEpochs": self.held_back,
            "updates": self.updates,
            "learntCpuSeconds": round(self.learnt_cpu_s, 1),
            "judgedCpuSeconds": round(self.judged_cpu_s, 1),
            "frozenSha256": self.frozen_sha256,
            "adaptedSha256": self.adapted_sha256,
        }


def adapt(
    frozen: Artifact,
    history: Sequence[RecordedEpoch],
    settings: AdaptSettings,
    out: Path,
    *,
    clock: Callable[[], float] = time.process_time,
) -> Verdict:
    """Learns from a history, judges, and writes the adapted artifact if it takes over.

    Args:
        frozen: what serves now.
        history: recorded epochs, the oldest first.
        settings: how much, and for whom.
        out: folder of the adapted artifact; left as it is where nothing takes over.
        clock: processor time, s.

    Raises:
        InputError: the history is too short, or its fleet cannot be simulated.
        MarlinError: the artifact cannot be written.
    """
    learn, judge = _parted(history, settings.held_back)
    began = clock()
    use_one_thread()
    training = _learnt(frozen, learn, settings, clock)
    learnt_s = clock() - began
    adapted = Artifact(frozen.card, arrays(training.learner.calm) | arrays(training.learner.critic))
    by_capacity = _summary(judge, make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES))
    weights = scheme_weights(settings.scheme, settings.weights)
    serving = MarlinSettings(game=settings.game, late_weight=settings.late_weight)
    of_each = (
        _summary(judge, Marlin(one, settings.scheme, settings.dispatch, weights, serving)) for one in (frozen, adapted)
    )
    before, after = (score(summary, by_capacity, weights, settings.late_weight) for summary in of_each)
    is_better = after < before * (1.0 - settings.margin)
    saved = None
    if is_better:
        seen = {"held_back_epochs": len(judge), "frozen_value": round(before, 6), "adapted_value": round(after, 6)}
        saved = artifacts.save(out, _card(frozen, history, settings, seen), adapted.parameters)
    return Verdict(
        adopted=is_better,
        frozen_value=before,
        adapted_value=after,
        learnt_from=sum(map(len, learn)),
        held_back=len(judge),
        updates=training.updates,
        learnt_cpu_s=learnt_s,
        judged_cpu_s=clock() - began - learnt_s,
        frozen_sha256=frozen.card.weights_sha256,
        adapted_sha256=None if saved is None else saved.card.weights_sha256,
    )


def _parted(history: Sequence[RecordedEpoch], held_back: int) -> tuple[list[list[RecordedEpoch]], list[RecordedEpoch]]:
    """Days to learn from, all of the length of the first that there is, and the epochs that judge.

    Days are cut from the end of what comes before the judging epochs; of a fleet that changed its sites or pools only
    the last one's epochs count.
    """
    if held_back < LEAST_EPOCHS:
        raise InputError(f"at least {LEAST_EPOCHS} epochs must be held back to judge by, not {held_back}")
    judge = list(history[-held_back:])
    shape = _shape(judge[-1])
    if len(history) <= held_back or any(_shape(one) != shape for one in judge):
        raise InputError(
            f"the history holds {len(history)} epochs; the last {held_back} judge, of one fleet, and at least "
            f"{LEAST_EPOCHS} in a row before them are needed to learn from"
        )
    before = [part for part in stretches(history[:-held_back]) if _shape(part[-1]) == shape]
    length = min(DAY, max(map(len, before), default=0))
    if length < LEAST_EPOCHS:
        raise InputError(
            f"the history has {length} epochs in a row of the fleet as it is now before the {held_back} that judge; "
            f"at least {LEAST_EPOCHS} are needed to learn from"
        )
    days = [part[end - length : end] for part in before for end in range(len(part), length - 1, -length)]
    return days, judge


def _shape(one: RecordedEpoch) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    state = one.state
    return (
        tuple(site.name for site in state.datacenters),
        tuple(pool.name for pool in state.pools),
        len(state.origins),
    )


def _learnt(
    frozen: Artifact, days: list[list[RecordedEpoch]], settings: AdaptSettings, clock: Callable[[], float]
) -> Training:
    """A training that went on from an artifact until its time was up."""
    task = recorded_task(days, TaskSettings(dispatch=settings.dispatch, forecaster=predicted_days, form=Form.NUMBA))
    fleets, sizes = Fleets((task,), ()), frozen.card.networks
    usual = TrainSettings()
    trained = TrainSettings(
        lanes=settings.lanes,
        warm_epochs=_WARM_EPOCHS,
        critic_first=_CRITIC_FIRST,
        updates_per_epoch=settings.updates_per_epoch,
        conditioning=frozen.card.conditioning,
        is_flat=sizes.fleet is not None,
        actor_hidden=sizes.actor_hidden,
        critic_hidden=sizes.critic_hidden,
        sac=replace(
            usual.sac,
            actor_rate=settings.rate * usual.sac.actor_rate,
            critic_rate=settings.rate * usual.sac.critic_rate,
            discount=discount_of(frozen),
        ),
    )
    training = begin(fleets, trained, settings.seed)
    training.learner = _going_on_from(frozen, trained, settings.seed)
    # The first epoch has the twin compiled, which takes longer than hundreds of epochs where nothing compiled is kept.
    first = iter((True,))
    play(training, fleets, 0, [], lambda: next(first, False))
    until = clock() + settings.cpu_s

    def is_time_left() -> bool:
        return clock() < until

    while is_time_left():
        play(training, fleets, 0, [], is_time_left)
    return training


def _going_on_from(frozen: Artifact, trained: TrainSettings, seed: int) -> Learner:
    """A learner with an artifact's weights, fast, slow and calm ones."""
    learner = new_learner(frozen.card.networks.settings(), trained.sac, seed)
    with torch.no_grad():
        for weights in (learner.actor, learner.critic, learner.slow, learner.calm):
            for name, value in weights.items():
                value.copy_(torch.as_tensor(np.array(frozen.parameters[name])))
    return learner


def _summary(history: Sequence[RecordedEpoch], planner: Planner) -> Summary:
    return summarise(replay(history, lambda state: planner.decide(state).plan))


def _card(
    frozen: Artifact, history: Sequence[RecordedEpoch], settings: AdaptSettings, seen: dict[str, Any]
) -> dict[str, Any]:
    card = frozen.card.to_document()
    digest = hashlib.sha256()
    for one in history:
        digest.update(one.model_dump_json(by_alias=True).encode())
    before = card.get("hyperParameters", {})
    adapted = {
        "from": frozen.card.weights_sha256,
        "epochs": len(history),
        "cpu_s": settings.cpu_s,
        "updates_per_epoch": settings.updates_per_epoch,
        "rate": settings.rate,
        "scheme": settings.scheme.value,
        "dispatch": settings.dispatch.value,
        "game": asdict(settings.game),
        "late_weight": settings.late_weight,
    }
    for name in ("format", "weightsSha256"):
        card.pop(name, None)
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            card
            | {
                "marlinVersion": version("marlin"),
                "scenarioSha256": digest.hexdigest(),
                "seed": settings.seed,
                "hyperParameters": before | {"adapted": adapted},
                "dataSources": [*card.get("dataSources", []), "the fleet's own recorded epochs"],
                "evaluation": [seen],
            },
            default=str,
        )
    )

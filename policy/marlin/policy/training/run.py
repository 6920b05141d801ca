"""Training from the first draw to an artifact: days are played, remembered and learnt from, tuning days are judged.

The unit is a *round*: on each fleet in turn, N lanes play one day of it each, and every epoch is followed by updates.
After a round the agents are judged on the tuning days, without chance. State is whole between rounds, so that a
checkpoint there is enough to go on exactly as if nothing had happened (``checkpoint``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from marlin.api.metrics import METRIC_NAMES
from marlin.policy.artifact import Conditioning
from marlin.policy.networks import actor
from marlin.policy.networks.parameters import AGENTS, NetworkSettings
from marlin.policy.networks.rows import Rows, rows_of
from marlin.policy.training.networks import arrays
from marlin.policy.training.replay import Memory, Transitions, relabelled
from marlin.policy.training.sac import Learner, SacSettings, new_learner, update
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.task import Task
from marlin.simulator.physics import FloatArray

_SEEDS: Final = 2**31
_BLEND_SPREAD: Final = 0.3
"""Of the Dirichlet weights with which proposals are blended while playing: mostly one agent's, seldom an even mix."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How long and how large."""

    rounds: int = 20
    lanes: int = 16
    batch: int = 128
    updates_per_epoch: int = 1
    warm_transitions: int = 512
    """Played before the first update."""
    kept_per_epoch: int = 8
    """Transitions of an epoch that join the past."""
    patience: int = 6
    """Rounds without a better judgement before it ends."""
    conditioning: Conditioning = Conditioning.FILM
    actor_hidden: int = 128
    critic_hidden: int = 256
    sac: SacSettings = field(default_factory=SacSettings)


@dataclass(frozen=True, slots=True)
class Fleet:
    """One fleet to learn on."""

    name: str
    train: Task
    tune: Task


@dataclass(slots=True)
class Training:
    """Everything that a training changes."""

    settings: TrainSettings
    learner: Learner
    memories: list[Memory]
    rng: np.random.Generator
    round: int = 0
    best: float = -np.inf
    best_round: int = 0
    best_weights: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done, or none of the last few was better."""
        done = self.round >= self.settings.rounds
        return done or (self.round - self.best_round >= self.settings.patience > 0 and self.round > 0)


def begin(fleets: Sequence[Fleet], settings: TrainSettings, seed: int) -> Training:
    """A training before its first round."""
    layout = fleets[0].train.action
    networks = NetworkSettings(
        channels=len(layout.channels), actor_hidden=settings.actor_hidden, critic_hidden=settings.critic_hidden
    )
    return Training(
        settings=settings,
        learner=new_learner(layout, networks, settings.sac, seed),
        memories=[Memory() for _ in fleets],
        rng=np.random.default_rng(seed),
    )


def next_round(
    training: Training, fleets: Sequence[Fleet], watch: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Plays, learns and judges once; returns the line for the log.

    Args:
        training: changed.
        fleets: as given to ``begin``.
        watch: hears which fleet is played and how much of the round is done, 0 to 1.
    """
    losses: list[dict[str, float]] = []
    for which, fleet in enumerate(fleets):
        play(training, fleet.train, training.memories[which], losses)
        if watch is not None:
            watch(fleet.name, (which + 1) / len(fleets))
    gains = np.mean([judged(training.learner, fleet.tune, training.settings.conditioning) for fleet in fleets], axis=0)
    training.round += 1
    score = float(gains.mean())
    if score > training.best:
        training.best, training.best_round = score, training.round
        training.best_weights = arrays(training.learner.weights)
    line: dict[str, Any] = {"round": training.round, "score": score}
    line |= {f"gain_{name}": float(gain) for name, gain in zip(METRIC_NAMES, gains, strict=True)}
    if losses:
        line |= {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
    training.log.append(line)
    return line


def play(training: Training, task: Task, memory: Memory, losses: list[dict[str, float]]) -> None:
    """One day in every lane, with updates on the way; what the updates lost is added to ``losses``."""
    settings, rng, learner = training.settings, training.rng, training.learner
    learner.layout = task.action
    chosen = [(int(rng.integers(len(task.courses))), int(rng.integers(_SEEDS))) for _ in range(settings.lanes)]
    lanes = task.begin(task.draw(chosen), rng.dirichlet(np.ones(AGENTS), settings.lanes))
    observed = task.observe(lanes)
    while not lanes.is_over:
        rows = rows_of(observed, task.action.models, task.action.sites)
        goes_by = goals(settings.conditioning, rows)
        weights = {name: value.detach().numpy() for name, value in learner.actor.items()}
        actions = actor.propose(weights, rows, goes_by).sample(rng, 1)[:, 0]  # (J, N, A)
        blend = rng.dirichlet(np.full(AGENTS, _BLEND_SPREAD), settings.lanes)  # (N, J)
        intent = _blended(task.propose(lanes, actions), blend)
        lanes, done = task.step(lanes, intent)
        following = task.observe(lanes)
        memory.add(Transitions.of(observed, intent, done.terms, following))
        observed = following
        if memory.present.held >= settings.warm_transitions:
            for _ in range(settings.updates_per_epoch):
                batch = memory.mixed(rng, settings.batch)
                own = np.eye(AGENTS, dtype=np.float32)
                losses.append(update(learner, batch, relabelled(rng, settings.batch, AGENTS, own)))
        memory.end_of_epoch(rng, settings.kept_per_epoch)


def goals(conditioning: Conditioning, rows: Rows) -> FloatArray:
    """(J, N, 4) what each agent goes by: its own metric, and in ``film`` mode the user's weights as much."""
    own = np.repeat(np.eye(AGENTS)[:, None], rows.shape[0], axis=1)
    return own if conditioning is Conditioning.PAPER else (own + rows.preference[None]) / 2.0


def judged(learner: Learner, task: Task, conditioning: Conditioning) -> FloatArray:
    """(4,) what each agent, alone and without chance, saves of its metric over the days of a task.

    A saving is the mean gain over capacity-proportional routing of the same requests. Each agent is asked for its own
    metric wholly: the user's weights are all on it.
    """
    weights = arrays(learner.actor)
    days = len(task.courses)
    # Every agent plays every day once; seeds are the days' own, so that each judgement meets the same requests.
    chosen = [(day, day) for _ in range(AGENTS) for day in range(days)]
    wanted = np.repeat(np.eye(AGENTS), days, axis=0)  # (J x days, 4)
    lanes = task.begin(task.draw(chosen), wanted)
    agent = np.repeat(np.arange(AGENTS), days)
    gains = []
    while not lanes.is_over:
        rows = rows_of(task.observe(lanes), task.action.models, task.action.sites)
        best = actor.propose(weights, rows, goals(conditioning, rows)).best()  # (J, N, A)
        lanes, done = task.step(lanes, task.propose(lanes, best[agent, np.arange(len(agent))]))
        gains.append(done.terms.gain[np.arange(len(agent)), agent])
    return np.asarray(np.mean(gains, axis=0).reshape(AGENTS, days).mean(axis=1))


def described(settings: TrainSettings) -> dict[str, Any]:
    """The settings for an artifact's card."""
    return asdict(settings)


def _blended(intents: Intent, weights: FloatArray) -> Intent:
    """One intent per lane of J proposals (J, N, V, D), with weights (N, J)."""
    each = weights.T[:, :, None, None]
    return Intent((intents.shares * each).sum(0), (intents.fill * each).sum(0), (intents.margin * each).sum(0))

"""Training from the first draw to an artifact: days are played, remembered and learnt from, tuning days are judged.

The unit is a *round*: on some of the fleets in turn, N lanes play one day each, and every epoch is followed by updates.
In each epoch the twin also tries what each agent alone would have done from there: transitions that differ in nothing
but the plan are what teaches a critic the plan's worth (``sac.apart``), and they cost next to nothing. Actors follow
their own samples, compared in the twin (``groups``), or their critics, or both (``Teacher``). After a round the agents
are judged on the tuning days, without chance. State is whole between rounds, so that a checkpoint there is enough to go
on exactly as if nothing had happened (``checkpoint``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from marlin.api.errors import InputError
from marlin.api.metrics import METRIC_NAMES
from marlin.policy.networks import kind
from marlin.policy.networks.conditioning import Conditioning, goals
from marlin.policy.networks.parameters import AGENTS, NetworkSettings
from marlin.policy.networks.rows import rows_of
from marlin.policy.training.groups import learn_in_groups
from marlin.policy.training.networks import arrays
from marlin.policy.training.outlook import expected_terms
from marlin.policy.training.replay import PAST, PRESENT, Memory, Ring, Transitions, relabelled
from marlin.policy.training.sac import Learner, SacSettings, new_learner, update
from marlin.simulator.environments.action import blended, each, laid_out
from marlin.simulator.environments.task import Task
from marlin.simulator.physics import FloatArray

IntArray = NDArray[np.int64]

_SEEDS: Final = 2**31
_TRIED: Final = AGENTS + 1
"""Plans tried in an epoch: each agent's, and what is agreed."""
_LEAST_PRESENT: Final = 4_000
_LEAST_PAST: Final = 1_000
"""Transitions of a fleet that are held however many fleets there are: a day of it."""
_BLEND_SPREAD: Final = 0.3
"""Of the Dirichlet weights with which proposals are blended while playing: mostly one agent's, seldom an even mix."""


class Teacher(StrEnum):
    """What actors follow. Critics learn from all that was tried either way: the game asks them."""

    CRITICS = "critics"
    """Their critics' derivatives, as in soft actor-critic and the paper."""
    GROUPS = "groups"
    """Their own samples, compared in the twin (``groups``)."""
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How long and how large."""

    rounds: int = 40
    fleets_per_round: int = 3
    """Drawn anew for each round; all, where there are no more."""
    lanes: int = 8
    batch: int = 24
    """Epochs, with all five plans that were tried in each."""
    updates_per_epoch: int = 1
    warm_epochs: int = 80
    """Of a fleet that are played before it is learnt from, those of all lanes together."""
    critic_first: int = 200
    """Updates of the critics alone: an actor that begins at a good plan is not to follow critics that know nothing."""
    teacher: Teacher = Teacher.GROUPS
    pairs: int = 4
    """Of samples that each agent is compared with itself by, in every epoch of every lane."""
    kept_per_epoch: int = 8
    """Epochs that join the past after each."""
    patience: int = 12
    """Rounds without a better judgement before it ends."""
    conditioning: Conditioning = Conditioning.FILM
    is_flat: bool = False
    """Plain networks of one fleet, as the paper's, in place of those that serve any."""
    actor_hidden: int = 128
    critic_hidden: int = 256
    sac: SacSettings = field(default_factory=SacSettings)


@dataclass(frozen=True, slots=True)
class Fleets:
    """What is learnt on, and what judges."""

    train: tuple[Task, ...]
    tune: tuple[Task, ...]


@dataclass(slots=True)
class Training:
    """Everything that a training changes."""

    settings: TrainSettings
    networks: NetworkSettings
    learner: Learner
    memories: list[Memory]
    rng: np.random.Generator
    round: int = 0
    updates: int = 0
    best: FloatArray = field(default_factory=lambda: np.full(AGENTS, -np.inf))  # (J,)
    best_round: IntArray = field(default_factory=lambda: np.zeros(AGENTS, dtype=np.int64))  # (J,)
    best_actor: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done, or none of the last few was better."""
        done = self.round >= self.settings.rounds
        stuck = self.round - int(self.best_round.max()) >= self.settings.patience > 0
        return done or (stuck and self.round > 0)


def begin(fleets: Fleets, settings: TrainSettings, seed: int) -> Training:
    """A training before its first round."""
    networks = NetworkSettings(
        actor_hidden=settings.actor_hidden,
        critic_hidden=settings.critic_hidden,
        fleet=_one_shape(fleets) if settings.is_flat else None,
    )
    parts, sizes = len(fleets.train), ((PRESENT, _LEAST_PRESENT), (PAST, _LEAST_PAST))
    return Training(
        settings=settings,
        networks=networks,
        learner=new_learner(networks, settings.sac, seed),
        memories=[Memory(*(Ring(max(all_ // parts, least) // _TRIED) for all_, least in sizes)) for _ in range(parts)],
        rng=np.random.default_rng(seed),
    )


def _one_shape(fleets: Fleets) -> tuple[int, int]:
    """(V, D) of all fleets.

    Raises:
        InputError: they differ.
    """
    shapes = {(task.action.models, task.action.sites) for task in (*fleets.train, *fleets.tune)}
    if len(shapes) > 1:
        found = ", ".join(f"{models} by {sites}" for models, sites in sorted(shapes))
        raise InputError(f"a flat network knows one fleet; these have {found} models and sites: name one scenario")
    return shapes.pop()


def next_round(training: Training, fleets: Fleets) -> dict[str, Any]:
    """Plays, learns and judges once; returns the line for the log.

    Args:
        training: changed.
        fleets: as given to ``begin``.
    """
    settings = training.settings
    losses: list[dict[str, float]] = []
    if not training.log:
        training.log.append(_judgement(training, fleets))
    count = min(settings.fleets_per_round, len(fleets.train))
    for which in training.rng.choice(len(fleets.train), count, replace=False):
        play(training, fleets, int(which), losses)
    training.round += 1
    line = _judgement(training, fleets)
    if losses:
        said = dict.fromkeys(name for loss in losses for name in loss)  # actors do not move from the first update on
        line |= {name: float(np.mean([loss[name] for loss in losses if name in loss])) for name in said}
    training.log.append(line)
    return line


def _judgement(training: Training, fleets: Fleets) -> dict[str, Any]:
    """The log's line for a round, but for what its updates lost. Before the first one there is a line too.

    Each agent's actor of the round in which it was best is kept: that one of them still learns is no reason to give up
    what another has. Critics are kept as they are in the end: they judge whatever is proposed, and learn to the last.
    """
    gains = np.mean([judged(training.learner, task, training.settings.conditioning) for task in fleets.tune], axis=0)
    scores = gains.mean(axis=1)  # (J,)
    better = scores > training.best
    for name, value in arrays(training.learner.calm).items():
        kept = training.best_actor.get(name, value)
        training.best_actor[name] = np.where(better.reshape(-1, *[1] * (value.ndim - 1)), value, kept)
    training.best = np.where(better, scores, training.best)
    training.best_round = np.where(better, training.round, training.best_round)
    line: dict[str, Any] = {"round": training.round, "score": float(scores.mean())}
    for name, (own, balanced) in zip(METRIC_NAMES, gains, strict=True):
        line |= {f"gain_{name}": float(own), f"balanced_by_{name}": float(balanced)}
    return line


def play(
    training: Training,
    fleets: Fleets,
    which: int,
    losses: list[dict[str, float]],
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """One day of a fleet in every lane, with updates on the way; what the updates lost is added to ``losses``.

    Before each epoch ``goes_on`` says whether there is to be another.

    An update is on whatever fleet is remembered, so that what was learnt on one is not forgotten on the next.
    """
    task, memory = fleets.train[which], training.memories[which]
    settings, rng, learner = training.settings, training.rng, training.learner
    chosen = [(int(rng.integers(len(task.courses))), int(rng.integers(_SEEDS))) for _ in range(settings.lanes)]
    lanes = task.begin(task.draw(chosen), rng.dirichlet(np.ones(AGENTS), settings.lanes))
    observed = task.observe(lanes)
    while not lanes.is_over and goes_on():
        rows = rows_of(observed, task.action.models, task.action.sites)
        weights = {name: value.detach().numpy() for name, value in learner.actor.items()}
        proposals = kind.propose(weights, rows, goals(settings.conditioning, rows.preference))
        actions = proposals.sample(rng, 1)[:, 0]  # (J, N, V, D, C)
        intents = task.propose(lanes, laid_out(task.action, actions))
        weight = rng.dirichlet(np.full(AGENTS, _BLEND_SPREAD), settings.lanes)  # (N, J)
        agreed = blended(intents, weight)
        if settings.teacher is not Teacher.CRITICS:
            wanted = relabelled(rng, settings.lanes)
            losses.append(learn_in_groups(learner, task, lanes, rows, wanted, settings.pairs, rng))
        tried, candidates = [], (*each(intents), agreed)
        for intent, earned in zip(candidates, expected_terms(task, lanes, candidates), strict=True):
            following, _ = task.step(lanes, intent)
            seen = task.observe(following)
            tried.append((intent, earned, seen))
        memory.add(Transitions.of(observed, tried))
        lanes, observed = following, seen  # the day goes on from what was agreed
        known = [i for i, m in enumerate(training.memories) if m.present.held >= settings.warm_epochs]
        for _ in range(settings.updates_per_epoch if known else 0):
            of = int(rng.choice(known))
            batch = training.memories[of].mixed(rng, settings.batch)
            moves = training.updates >= settings.critic_first and settings.teacher is not Teacher.GROUPS
            preference = relabelled(rng, settings.batch)
            losses.append(update(learner, fleets.train[of].action, batch, preference, actor_moves=moves))
            training.updates += 1
        memory.end_of_epoch(rng, settings.kept_per_epoch)


def judged(learner: Learner, task: Task, conditioning: Conditioning) -> FloatArray:
    """(J, 2) what each agent alone and without chance saves over the days of a task.

    First of its own metric, when that is all that the user wants; then of all, equally weighted. A saving is the mean
    gain over capacity-proportional routing of the same requests, less the share of late requests (as policies are
    scored).
    """
    weights = arrays(learner.calm)
    days = len(task.courses)
    # Every agent plays every day twice; seeds are the days' own, so that each judgement meets the same requests.
    chosen = [(day, day) for _ in range(2 * AGENTS) for day in range(days)]
    agent = np.repeat(np.arange(AGENTS), 2 * days)
    wanted = np.stack([np.eye(AGENTS), np.full((AGENTS, AGENTS), 1.0 / AGENTS)], axis=1)  # (J, 2, 4)
    wanted = np.repeat(wanted.reshape(-1, AGENTS), days, axis=0)  # (J x 2 x days, 4)
    lanes = task.begin(task.draw(chosen), wanted)
    gains = []
    while not lanes.is_over:
        rows = rows_of(task.observe(lanes), task.action.models, task.action.sites)
        best = kind.propose(weights, rows, goals(conditioning, rows.preference)).best()  # (J, N, V, D, C)
        alone = laid_out(task.action, best[agent, np.arange(len(agent))])
        lanes, done = task.step(lanes, task.propose(lanes, alone))
        gains.append((done.terms.gain * wanted).sum(axis=1) - done.terms.late)
    return np.asarray(np.mean(gains, axis=0).reshape(AGENTS, 2, days).mean(axis=2))


def described(settings: TrainSettings) -> dict[str, Any]:
    """The settings for an artifact's card."""
    return asdict(settings)

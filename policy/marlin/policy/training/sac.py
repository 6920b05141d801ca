"""Soft actor-critic for four agents at once (Haarnoja et al. 2018), written out.

Each agent has an actor, twin critics, their slow copies and a temperature; all four lie side by side in the same
tensors, so that one backward pass trains them together. A critic learns what an intent was worth whoever proposed it:
what was carried out is the consensus, and off-policy learning does not mind. Episodes are cut off, never ended, so
every target bootstraps where the discount is not zero.

``learn`` is the algorithm and knows no fleet: it asks a ``Batch`` what actors would do and what critics make of it. So
it is held against another implementation on a task that both know (benchmarks/soft_actor_critic.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from marlin.policy.networks.parameters import AGENTS, NetworkSettings, Parameters, actor_shapes, critic_shapes, drawn
from marlin.policy.networks.rows import rows_of
from marlin.policy.training.kind import propose, worth_of_twins
from marlin.policy.training.networks import IntentTensors, RowTensors, intents, tensors
from marlin.policy.training.replay import Floats, Transitions
from marlin.simulator.environments.action import ActionLayout
from marlin.simulator.environments.reward import RewardSettings


@dataclass(frozen=True, slots=True)
class SacSettings:
    """Section 6 of the paper, where it says something and it was not seen to do harm (docs/explanation/training.md)."""

    actor_rate: float = 1e-4
    """The paper's 3e-4 leaves a good beginning before the critics know better."""
    critic_rate: float = 3e-4
    """The paper's 1e-3 turns a third of the second layer's units off for good within 200 updates; 3e-4 turns none off
    (docs/explanation/training.md)."""
    temperature_rate: float = 3e-4
    discount: float = 0.0
    """The paper's 0.95 looks five hours ahead. What an epoch leaves to the next is a queue and replicas that are awake:
    little, and soon over; the rest of such a sum is chance that critics have to fit. Critics rank plans as well without
    it, in two thirds of the time."""
    between_plans: float = 1.0
    """Weight of what a critic gets wrong between plans of one epoch, against what it gets wrong of their mean."""
    least_spread: float = 0.01
    """A percent of a mean epoch: spreads of worth among the plans of an epoch below it do not weigh more."""
    following: float = 0.005
    """tau: how fast the slow copies follow."""
    calming: float = 0.01
    """The same of the actors' copies that judgements and artifacts are of."""
    entropy_per_number: float = -1.0
    """Entropy aimed for, of each number of an action that means something; usual is -1 for each."""
    first_temperature: float = 0.01
    reward: RewardSettings = field(default_factory=lambda: RewardSettings(trend=0.1, asleep=0.05))
    """The agents are after savings; sleeping replicas save by themselves, and a moving average only steadies."""


@dataclass(slots=True)
class Learner:
    """Everything that learning changes."""

    settings: SacSettings
    actor: dict[str, Tensor]
    critic: dict[str, Tensor]
    slow: dict[str, Tensor]
    calm: dict[str, Tensor]
    """The actors as they were on average of late: learning on one fleet after the other swings, this does not."""
    log_temperature: Tensor  # (J,)
    actor_steps: torch.optim.Adam
    critic_steps: torch.optim.Adam
    temperature_steps: torch.optim.Adam
    chance: torch.Generator

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Of actors and critics, by name."""
        return self.actor | self.critic


def new_learner(networks: NetworkSettings, settings: SacSettings, seed: int) -> Learner:
    """A learner that has learnt nothing."""
    rng = np.random.default_rng(seed)
    first: Parameters = drawn(actor_shapes(networks) | critic_shapes(networks), rng)
    weights = tensors(first, learns=True)
    return learner_of(
        {name: value for name, value in weights.items() if name.startswith("actor.")},
        {name: value for name, value in weights.items() if name.startswith("critic.")},
        AGENTS,
        settings,
        seed,
    )


def learner_of(
    actor: dict[str, Tensor], critic: dict[str, Tensor], agents: int, settings: SacSettings, seed: int
) -> Learner:
    """A learner of networks whose weights, leaves of a graph, are given."""
    log_temperature = torch.full((agents,), float(np.log(settings.first_temperature)), requires_grad=True)
    return Learner(
        settings=settings,
        actor=actor,
        critic=critic,
        slow={name: value.detach().clone() for name, value in critic.items()},
        calm={name: value.detach().clone() for name, value in actor.items()},
        log_temperature=log_temperature,
        actor_steps=torch.optim.Adam(actor.values(), lr=settings.actor_rate),
        critic_steps=torch.optim.Adam(critic.values(), lr=settings.critic_rate),
        temperature_steps=torch.optim.Adam([log_temperature], lr=settings.temperature_rate),
        chance=torch.Generator().manual_seed(seed),
    )


class Batch(Protocol):
    """N transitions as J agents read them: all that the algorithm asks for."""

    @property
    def reward(self) -> Tensor:
        """(J, N)."""

    def done(self, critic: Mapping[str, Tensor]) -> Tensor:
        """(J, TWINS, N) what critics make of what was done."""

    def drawn(
        self, actor: Mapping[str, Tensor], critic: Mapping[str, Tensor], chance: torch.Generator, *, after: bool
    ) -> tuple[Tensor, Tensor]:
        """What actors would do, before what was done or after it: worth to critics (J, TWINS, N), log chance (J, N).

        There may be fewer situations before than transitions: several things may have been done in one.
        """

    def loss(self, twins: Tensor, target: Tensor) -> Tensor:
        """How far critics (J, TWINS, N) are off (J, N); one number."""


def squares(twins: Tensor, target: Tensor) -> Tensor:
    """The usual loss: mean square by agent, both twins together, summed over agents."""
    return ((twins - target[:, None]) ** 2).mean(dim=(1, 2)).sum()


def apart(twins: Tensor, target: Tensor, settings: SacSettings) -> Tensor:
    """How far critics are off of the mean of an epoch's plans, and of the differences between these.

    What an epoch is worth whatever is done in it is decided by its requests and signals. That part is in the mean (an
    input-driven baseline, Mao et al. 2018); what is left are the plans, and a hundred times less of it. In one mean of
    squares critics learn what an epoch is worth and nothing of the plans. So differences count in units of their own
    spread in that epoch. That is right for rewards that are expected ones (``outlook``): of rewards by what came, the
    spread would be large just where a surge told the plans apart, and what surges cost would hardly be learnt.

    Args:
        twins: (J, TWINS, M, N) what both critics of each agent make of M plans in each of N epochs.
        target: (J, M, N) what they should have.
        settings: weights.
    """
    off = twins - target[:, None]
    of_epoch = off.mean(dim=2, keepdim=True)
    spread = target.std(dim=1, correction=0, keepdim=True)[:, None].clamp(min=settings.least_spread)
    of_plans = (off - of_epoch) / spread
    each = (of_epoch**2).mean(dim=(1, 2, 3)) + settings.between_plans * (of_plans**2).mean(dim=(1, 2, 3))
    return each.sum()


def learn(learner: Learner, batch: Batch, *, actor_moves: bool = True) -> dict[str, float]:
    """One step of everything that learns.

    Args:
        learner: changed.
        batch: what is learnt from.
        actor_moves: false lets the critics alone learn.

    Returns:
        Losses and means, for the log.
    """
    settings, temperature = learner.settings, learner.log_temperature.exp().detach()[:, None]
    target = batch.reward
    if settings.discount:
        with torch.no_grad():
            slow, log_chance = batch.drawn(learner.actor, learner.slow, learner.chance, after=True)
            target = target + settings.discount * (slow.min(dim=1).values - temperature * log_chance)
    critic_loss = batch.loss(batch.done(learner.critic), target)
    _step(learner.critic_steps, critic_loss)
    said = {"critic_loss": float(critic_loss.detach()) / len(temperature), "reward": float(batch.reward.mean())}
    if actor_moves:
        said |= _move_actor(learner, batch, temperature)
    with torch.no_grad():
        for name, value in learner.critic.items():
            learner.slow[name].lerp_(value, settings.following)
    return said


def _move_actor(learner: Learner, batch: Batch, temperature: Tensor) -> dict[str, float]:
    """One step of actors and temperatures; returns means for the log."""
    frozen = {name: value.detach() for name, value in learner.critic.items()}
    twins, log_chance = batch.drawn(learner.actor, frozen, learner.chance, after=False)
    worth = twins.min(dim=1).values
    _step(learner.actor_steps, (temperature * log_chance - worth).mean(dim=1).sum())
    with torch.no_grad():
        for name, value in learner.actor.items():
            learner.calm[name].lerp_(value, learner.settings.calming)
    gap = log_chance.detach().mean(dim=1) + learner.settings.entropy_per_number
    _step(learner.temperature_steps, -(learner.log_temperature * gap).sum())
    return {
        "worth": float(worth.detach().mean()),
        "entropy": -float(log_chance.detach().mean()),
        "temperature": float(temperature.mean()),
    }


def update(
    learner: Learner, layout: ActionLayout, batch: Transitions, preference: Floats, *, actor_moves: bool = True
) -> dict[str, float]:
    """``learn`` from transitions of one fleet.

    Args:
        learner: changed.
        layout: of the fleet that the batch is of.
        batch: N epochs of M plans.
        preference: (J, N, 4) under which each agent reads them.
        actor_moves: false lets the critics alone learn.

    Returns:
        Losses and means, for the log.
    """
    return learn(
        learner, _OfFleet(layout, batch, torch.as_tensor(preference), learner.settings), actor_moves=actor_moves
    )


@dataclass(frozen=True, slots=True)
class _OfFleet:
    """N epochs of one fleet with M plans in each: M N transitions, plan after plan."""

    layout: ActionLayout
    held: Transitions
    preference: Tensor  # (J, N, 4)
    settings: SacSettings

    @property
    def reward(self) -> Tensor:
        return torch.as_tensor(self.held.rewards(self.preference.numpy(), self.settings.reward)).flatten(1)

    def done(self, critic: Mapping[str, Tensor]) -> Tensor:
        held = self.held
        # Plans in front, as networks take many intents for each fleet.
        parts = (torch.as_tensor(part.swapaxes(0, 1).copy()) for part in (held.shares, held.fill, held.margin))
        rows = self._rows(held.observation)
        return worth_of_twins(critic, rows, IntentTensors(*parts), self.preference).flatten(2)

    def drawn(
        self, actor: Mapping[str, Tensor], critic: Mapping[str, Tensor], chance: torch.Generator, *, after: bool
    ) -> tuple[Tensor, Tensor]:
        seen, wanted = self.held.observation, self.preference
        if after:
            plans, size = self.held.following.shape[1:]
            seen = self.held.following.swapaxes(0, 1).reshape(-1, size)
            wanted = wanted.repeat(1, plans, 1)
        rows = self._rows(seen)
        cells, log_chance = sample(actor, rows, wanted, chance, len(self.layout.channels))
        return worth_of_twins(critic, rows, _own(self.layout, cells, rows), wanted)[:, :, 0], log_chance

    def loss(self, twins: Tensor, target: Tensor) -> Tensor:
        by_epoch = (-1, len(self.held))
        return apart(twins.unflatten(2, by_epoch), target.unflatten(1, by_epoch), self.settings)

    def _rows(self, seen: Floats) -> RowTensors:
        return RowTensors.of(rows_of(seen, self.layout.models, self.layout.sites))


def sample(
    actor: Mapping[str, Tensor], rows: RowTensors, preference: Tensor, chance: torch.Generator, channels: int
) -> tuple[Tensor, Tensor]:
    """Actions (J, N, V, D, C) between -1 and 1, and the log of how likely they were, per number that means something.

    Those are the first ``channels`` numbers of an open row. A mean over the open rows' numbers rather than their sum:
    the entropy of a fleet of sixty sites then weighs against its worth as that of four does. (J, N)
    """
    mean, log_std = propose(actor, rows, preference)
    action, log_chance = squashed(mean, log_std, torch.randn(mean.shape, generator=chance))
    means_something = (torch.arange(mean.shape[-1]) < channels).to(mean.dtype)
    is_open = rows.mask[..., None] * means_something
    count = is_open.sum(dim=(1, 2, 3)).clamp(min=1.0)
    return action, (log_chance * is_open).sum(dim=(2, 3, 4)) / count


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers between -1 and 1 that standard normal ``noise`` makes, and the log of how likely each was; any shape."""
    raw = mean + log_std.exp() * noise
    # log N(raw) - log |d tanh / d raw|, the latter in a form that does not round to log 0.
    log_chance = -0.5 * (noise**2 + np.log(2 * np.pi)) - log_std
    log_chance = log_chance - 2.0 * (np.log(2.0) - raw - torch.nn.functional.softplus(-2.0 * raw))
    return torch.tanh(raw), log_chance


def _own(layout: ActionLayout, cells: Tensor, rows: RowTensors) -> IntentTensors:
    """Each agent's own intents, one for each fleet: (J, 1, N, V, D)."""
    made = intents(layout, cells, rows)
    return IntentTensors(made.shares[:, None], made.fill[:, None], made.margin[:, None])


def _step(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

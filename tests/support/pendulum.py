"""Pendulum-v1 learnt by MARLIN's soft actor-critic and by Stable-Baselines3's: alike in all but the code that learns.

Swing a pendulum up and hold it: an episode of 200 steps is worth about -1200 by chance and -150 to -200 by whoever can
do it. Ours is ``training.sac.learn``, the very function that trains MARLIN's agents, on plain networks of two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

from marlin.policy.training.sac import Learner, SacSettings, learn, learner_of, squares, squashed

TASK: Final = "Pendulum-v1"
HIDDEN: Final = 64
BATCH: Final = 128
RATE: Final = 1e-3
DISCOUNT: Final = 0.99
RANDOM_STEPS: Final = 100
EPISODE: Final = 200

LOG_STD_LOW, LOG_STD_HIGH = -20.0, 2.0
"""Stable-Baselines3's bounds: networks are not what is compared."""

SETTINGS: Final = SacSettings(
    actor_rate=RATE,
    critic_rate=RATE,
    temperature_rate=RATE,
    discount=DISCOUNT,
    following=0.005,
    entropy_per_number=-1.0,
    first_temperature=1.0,
)


def through(p: Mapping[str, Tensor], name: str, given: Tensor) -> Tensor:
    """Two layers and a head of K networks side by side: (K, N, in) to (K, N, out)."""
    for layer in ("first", "second"):
        given = torch.relu(given @ p[f"{name}.{layer}.weight"] + p[f"{name}.{layer}.bias"])
    return given @ p[f"{name}.head.weight"] + p[f"{name}.head.bias"]


def drawn_weights(name: str, sizes: tuple[int, ...], many: int, chance: torch.Generator) -> dict[str, Tensor]:
    """A first draw as torch's own linear layers have it: even within one over the root of the inputs."""
    found = {}
    for layer, (wide, narrow) in zip(("first", "second", "head"), pairwise(sizes), strict=True):
        for what, shape in (("weight", (many, wide, narrow)), ("bias", (many, 1, narrow))):
            value = (torch.rand(shape, generator=chance) * 2.0 - 1.0) / wide**0.5
            found[f"{name}.{layer}.{what}"] = value.requires_grad_()
    return found


@dataclass(frozen=True, slots=True)
class Plain:
    """N transitions of one agent."""

    before: Tensor  # (N, S)
    action: Tensor  # (N, A) between -1 and 1
    reward: Tensor  # (1, N)
    after: Tensor  # (N, S)

    def done(self, critic: Mapping[str, Tensor]) -> Tensor:
        """See ``Batch``."""
        return through(critic, "critic", torch.cat([self.before, self.action], dim=1)[None])[None, :, :, 0]

    def drawn(
        self, actor: Mapping[str, Tensor], critic: Mapping[str, Tensor], chance: torch.Generator, *, after: bool
    ) -> tuple[Tensor, Tensor]:
        """See ``Batch``."""
        seen = self.after if after else self.before
        action, log_chance = acted(actor, seen, torch.randn((len(seen), self.action.shape[1]), generator=chance))
        return through(critic, "critic", torch.cat([seen, action], dim=1)[None])[None, :, :, 0], log_chance[None]

    def loss(self, twins: Tensor, target: Tensor) -> Tensor:
        """See ``Batch``."""
        return squares(twins, target)


def acted(actor: Mapping[str, Tensor], seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions (N, A) between -1 and 1 on what is seen (N, S), and the log (N,) of how likely they were."""
    mean, log_std = through(actor, "actor", seen[None])[0].chunk(2, dim=-1)
    action, log_chance = squashed(mean, log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH), noise)
    return action, log_chance.sum(dim=1)


def new_plain_learner(state: int, action: int, seed: int) -> Learner:
    """One agent that has learnt nothing."""
    chance = torch.Generator().manual_seed(seed)
    return learner_of(
        drawn_weights("actor", (state, HIDDEN, HIDDEN, 2 * action), 1, chance),
        drawn_weights("critic", (state + action, HIDDEN, HIDDEN, 1), 2, chance),
        1,
        SETTINGS,
        seed,
    )


def returns_of_ours(steps: int, seed: int) -> list[float]:
    """Returns of the episodes that MARLIN's learner learns on."""
    torch.set_num_threads(1)
    world: gymnasium.Env[Any, Any] = gymnasium.make(TASK)
    high = float(world.action_space.high[0])  # type: ignore[attr-defined]
    learner, rng = new_plain_learner(3, 1, seed), np.random.default_rng(seed)
    kept = [np.zeros((steps, width), dtype=np.float32) for width in (3, 1, 1, 3)]
    seen, _ = world.reset(seed=seed)
    returns, total = [], 0.0
    for step in range(steps):
        if step < RANDOM_STEPS:
            action = rng.uniform(-1.0, 1.0, 1).astype(np.float32)
        else:
            with torch.no_grad():
                noise = torch.randn((1, 1), generator=learner.chance)
                action = acted(learner.actor, torch.as_tensor(seen)[None], noise)[0][0].numpy()
        following, reward, _, is_over, _ = world.step(high * action)
        for part, value in zip(kept, (seen, action, reward, following), strict=True):
            part[step] = value
        total += float(reward)
        seen = following
        if is_over:
            returns.append(total)
            total, (seen, _) = 0.0, world.reset()
        if step >= RANDOM_STEPS:
            rows = rng.integers(step + 1, size=BATCH)
            before, action, reward, after = (torch.as_tensor(part[rows]) for part in kept)
            learn(learner, Plain(before, action, reward.T, after))
    return returns


def peer(world: Any, seed: int, batch: int = BATCH) -> stable_baselines3.SAC:
    """Stable-Baselines3's learner, told what ours is told; it logs nothing, not even into a folder of its own."""
    theirs = stable_baselines3.SAC(
        "MlpPolicy",
        world,
        learning_rate=RATE,
        learning_starts=RANDOM_STEPS,
        batch_size=batch,
        gamma=DISCOUNT,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        seed=seed,
        device="cpu",
    )
    theirs.set_logger(Logger(None, []))
    return theirs


def returns_of_theirs(steps: int, seed: int) -> list[float]:
    """Returns of the episodes that Stable-Baselines3's learner learns on."""
    torch.set_num_threads(1)
    world: Monitor[Any, Any] = Monitor(gymnasium.make(TASK))
    peer(world, seed).learn(steps)
    return list(world.get_episode_rewards())

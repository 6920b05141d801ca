"""MARLIN's soft actor-critic beside Stable-Baselines3's: the same weights, batches and chance in, the same out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pendulum
import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.sac import Learner, learn

COUNT = 64
UPDATES = 20
"""Rounding alone moves weights apart by 1e-6 in so many, and by a hundredth after two hundred."""


def copied(theirs: Any, learner: Learner) -> None:
    """Their weights into our learner."""
    layers = {"first": 0, "second": 2}
    with torch.no_grad():
        for name, at in layers.items():
            linear = theirs.actor.latent_pi[at]
            learner.actor[f"actor.{name}.weight"][0] = linear.weight.T
            learner.actor[f"actor.{name}.bias"][0, 0] = linear.bias
        heads = theirs.actor.mu, theirs.actor.log_std
        learner.actor["actor.head.weight"][0] = torch.cat([head.weight for head in heads]).T
        learner.actor["actor.head.bias"][0, 0] = torch.cat([head.bias for head in heads])
        for side, networks in ((learner.critic, theirs.critic), (learner.slow, theirs.critic_target)):
            for k, network in enumerate(networks.q_networks):
                for name, at in {**layers, "head": 4}.items():
                    side[f"critic.{name}.weight"][k] = network[at].weight.T
                    side[f"critic.{name}.bias"][k, 0] = network[at].bias


def test_updates_change_every_weight_as_the_peers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    use_one_thread()
    theirs = pendulum.peer(pendulum.TASK, 1, COUNT)
    ours, expected = pendulum.new_plain_learner(3, 1, 0), pendulum.new_plain_learner(3, 1, 0)
    copied(theirs, ours)
    began = {name: value.detach().clone() for name, value in (ours.actor | ours.critic).items()}

    rng = np.random.default_rng(0)
    for _ in range(UPDATES):
        before, after = rng.normal(size=(2, COUNT, 3)).astype(np.float32)
        action = rng.uniform(-1, 1, (COUNT, 1)).astype(np.float32)
        reward = -(before[:, :1] ** 2) - action**2
        parts = (before, action, after, np.zeros((COUNT, 1), np.float32), reward)
        batch = ReplayBufferSamples(*(torch.as_tensor(part) for part in parts), None)
        of_before, of_after = torch.as_tensor(rng.normal(size=(2, COUNT, 1)).astype(np.float32))
        # The peer draws for what was before first, ours for what came after.
        told, said = iter([of_before, of_after]), iter([of_after, of_before])
        with monkeypatch.context() as same:
            same.setattr(theirs.replay_buffer, "sample", lambda *_, batch=batch, **__: batch)
            same.setattr(torch.distributions.normal, "_standard_normal", lambda *_, told=told, **__: next(told))
            same.setattr(torch, "randn", lambda *_, said=said, **__: next(said))
            theirs.train(gradient_steps=1, batch_size=COUNT)
            learn(ours, pendulum.Plain(*(torch.as_tensor(part) for part in (before, action, reward.T, after))))

    copied(theirs, expected)
    for name, value in (expected.actor | expected.critic).items():
        found = (ours.actor | ours.critic)[name].detach()
        assert float((found - began[name]).abs().max()) > 1e-3, f"{name} has not learnt"
        torch.testing.assert_close(
            found, value.detach(), atol=1e-5, rtol=0, msg=lambda said, name=name: f"{name}: {said}"
        )
    for name, value in expected.slow.items():
        torch.testing.assert_close(ours.slow[name], value, atol=1e-5, rtol=0)
    assert ours.log_temperature.item() == pytest.approx(theirs.log_ent_coef.item(), abs=1e-6)


def test_both_learn_on_whole_episodes_of_the_task() -> None:
    """benchmarks/soft_actor_critic.py compares such returns over many more."""
    steps = pendulum.EPISODE + 20
    for returns in (pendulum.returns_of_ours(steps, 0), pendulum.returns_of_theirs(steps, 0)):
        (only,) = returns
        assert -2000 < only < -100

"""Training's networks and serving's are the same functions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import own_preference, some_intent, some_rows, weights

from marlin.api.plan import Dispatch
from marlin.policy.networks import actor, critic
from marlin.policy.networks.parameters import CHANNEL_COUNT
from marlin.policy.training import networks
from marlin.policy.training.networks import IntentTensors, RowTensors
from marlin.simulator.environments import action
from marlin.simulator.environments.action import ActionLayout, Intent

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def as_tensors(intent: Intent) -> IntentTensors:
    return IntentTensors(*(tensor(part)[None] for part in (intent.shares, intent.fill, intent.margin)))


@settings(max_examples=30)
@given(seeds, sizes)
def test_proposals_are_the_same_to_a_hundred_thousandth(seed: int, size: tuple[int, int, int]) -> None:
    rows, p = some_rows(seed, *size), weights(seed % 5)
    served = actor.propose(p, rows, own_preference(rows))
    mean, log_std = networks.propose(networks.tensors(p), RowTensors.of(rows), tensor(own_preference(rows)))
    np.testing.assert_allclose(mean.numpy(), served.mean, atol=1e-5)
    np.testing.assert_allclose(log_std.numpy(), served.log_std, atol=1e-5)


@settings(max_examples=30)
@given(seeds, sizes)
def test_worth_and_its_derivatives_are_the_same_to_a_hundred_thousandth(seed: int, size: tuple[int, int, int]) -> None:
    rows, p = some_rows(seed, *size), weights(seed % 5)
    intent = some_intent(seed, rows)
    given_ = as_tensors(intent)
    for part in (given_.shares, given_.fill, given_.margin):
        part.requires_grad_(True)
    twins = networks.worth_of_twins(
        networks.tensors(p), RowTensors.of(rows), given_, tensor(own_preference(rows))
    )  # (J, 2, 1, N)
    lesser = twins.min(dim=1).values[:, 0]  # (J, N)
    np.testing.assert_allclose(
        lesser.detach().numpy().T, critic.worth(p, rows, intent, own_preference(rows)), atol=1e-5
    )
    found = critic.derivatives(p, rows, intent, own_preference(rows))
    for j in range(4):
        slopes = torch.autograd.grad(lesser[j].sum(), [given_.shares, given_.fill, given_.margin], retain_graph=True)
        for slope, ours in zip(slopes, (found.shares, found.fill, found.margin), strict=True):
            # A rectifier at its kink may fall either way in single precision.
            off = np.abs(slope[0].numpy() - ours[j]) > 1e-5 * (1 + np.abs(ours[j]))
            assert off.mean() < 0.02


@given(seeds, sizes, st.sampled_from(Dispatch), st.booleans())
def test_actions_mean_the_same_intents(
    seed: int, size: tuple[int, int, int], dispatch: Dispatch, can_power_down: bool
) -> None:
    rows = some_rows(seed, *size)
    layout = ActionLayout(size[1], size[2], dispatch, can_power_down)
    cells = np.random.default_rng(seed).uniform(-1, 1, (*rows.shape, 3))
    theirs = action.intents(
        layout, action.laid_out(layout, cells), rows.mask > 0, rows.weight, rows.utilization, rows.limit
    )
    ours = networks.intents(layout, tensor(cells), RowTensors.of(rows))
    is_open = (rows.mask.sum(axis=2) > 0)[..., None] & np.ones(rows.shape, dtype=bool)
    np.testing.assert_allclose(ours.shares.numpy()[is_open], theirs.shares[is_open], atol=1e-5)
    np.testing.assert_allclose(ours.fill.numpy(), theirs.fill, atol=1e-5)
    np.testing.assert_allclose(ours.margin.numpy(), theirs.margin, atol=1e-5)


def test_each_agent_s_own_intents_go_to_its_own_critics() -> None:
    rows, p = RowTensors.of(some_rows(0, 3, 2, 4)), networks.tensors(weights())
    preference = tensor(np.random.default_rng(1).dirichlet(np.ones(4), (4, 3)))
    parts = [as_tensors(some_intent(seed, some_rows(0, 3, 2, 4))) for seed in range(4)]
    own = IntentTensors(
        *(torch.stack([getattr(part, name) for part in parts]) for name in ("shares", "fill", "margin"))
    )
    together = networks.worth_of_twins(p, rows, own, preference)
    for j, part in enumerate(parts):
        alone = networks.worth_of_twins(p, rows, part, preference)
        torch.testing.assert_close(together[j], alone[j])


def test_weights_survive_the_way_there_and_back() -> None:
    p = weights()
    back = networks.arrays(networks.tensors(p, learns=True))
    assert all((back[name] == p[name]).all() for name in p)
    assert p["actor.head.weight"].shape[2] // 2 == CHANNEL_COUNT


@given(seeds)
def test_shares_have_the_derivatives_of_small_steps_the_moving_waterline_s_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    preference, fill = rng.uniform(-0.4, 0.4, (1, 2, 5)), rng.uniform(-0.9, 0.9, (1, 2, 5))
    wanted = rng.normal(size=(1, 2, 5))
    layout = ActionLayout(2, 5, Dispatch.SHARES, can_power_down=False)
    mask, capacity, limit = np.ones((1, 2, 5), dtype=bool), rng.uniform(0.1, 1.0, (1, 2, 5)), np.array([0.9])
    capacity /= capacity.sum(axis=2, keepdims=True)
    demand = rng.uniform(0.05, 0.3, (1, 2))
    rows = RowTensors(
        *(torch.empty(0),) * 2, torch.as_tensor(capacity), *(torch.empty(0),) * 2, torch.as_tensor(demand),
        torch.as_tensor(limit),
    )  # fmt: skip
    cells = torch.as_tensor(np.stack([preference, fill, np.zeros_like(fill)], axis=-1)).requires_grad_(True)
    (networks.intents(layout, cells, rows).shares * torch.as_tensor(wanted)).sum().backward()
    assert cells.grad is not None

    def total(moved: np.ndarray) -> float:
        found = action.intents(layout, action.laid_out(layout, moved), mask, capacity, demand, limit)
        return float((found.shares * wanted).sum())

    at, step = cells.detach().numpy(), 1e-4
    for place in np.ndindex(1, 2, 5, 2):
        nudge = np.zeros_like(at)
        nudge[place] = step
        slope = (total(at + nudge) - total(at - nudge)) / (2 * step)
        # The search for the line leaves 4e-9 of it open, which a step of 1e-4 makes 1e-3 of a slope.
        assert abs(float(cells.grad[place]) - slope) <= 5e-3 * max(1.0, float(np.abs(cells.grad.numpy()).max()))

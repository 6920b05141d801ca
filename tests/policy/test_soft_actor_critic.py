"""What the learner remembers, how it reads it again, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import SMALL

from marlin.api.plan import Dispatch
from marlin.policy.networks import actor
from marlin.policy.networks.rows import Rows, rows_of
from marlin.policy.training.kind import worth_of_twins
from marlin.policy.training.networks import IntentTensors, RowTensors, arrays
from marlin.policy.training.one_thread import use_one_thread
from marlin.policy.training.replay import PRESENT_PART, Floats, Memory, Ring, Transitions, relabelled, tamed
from marlin.policy.training.sac import Learner, SacSettings, apart, new_learner, update
from marlin.simulator.environments import observation
from marlin.simulator.environments.action import ActionLayout, Intent, intents, laid_out
from marlin.simulator.environments.reward import RewardSettings, Terms
from marlin.simulator.physics import FloatArray

MODELS, SITES = 1, 4
OWN = np.eye(4, dtype=np.float32)
LAYOUT = ActionLayout(MODELS, SITES, Dispatch.SHARES, can_power_down=False)


def transitions(count: int, seed: int = 0, plans: int = 1) -> Transitions:
    """Fleets of four sites alike but for their carbon; agent j gains what share of requests goes to site j."""
    rng = np.random.default_rng(seed)
    observed = np.full((count, observation.size(MODELS, SITES)), 0.5)
    part = observation.named(observed, MODELS, SITES)
    part["available"][:], part["capacity"][:] = 1.0, 0.25
    part["carbon"][:] = (0.2, 0.6, 1.0, 1.4)  # how a row knows which site it is
    part["average_gain"][:], part["marginal"][:] = 0.0, 1.0
    part["rules"][:], part["forecast"][:] = (0.95, 0.0), 0.1
    rows = rows_of(observed, MODELS, SITES)
    zero, seen = np.zeros((count, 4)), observed.astype(np.float32)

    def tried() -> tuple[Intent, Terms, Floats]:
        intent = meant(np.tanh(rng.normal(0.0, 0.7, (count, MODELS, SITES, 3))), rows)
        return intent, Terms(intent.shares[:, 0], zero, zero[:, 0], zero[:, 0]), seen

    return Transitions.of(seen, [tried() for _ in range(plans)])


def meant(cells: FloatArray, rows: Rows) -> Intent:
    return intents(LAYOUT, laid_out(LAYOUT, cells), rows.mask > 0, rows.weight, rows.utilization, rows.limit)


def learner(seed: int = 0, actor_rate: float = 3e-3) -> Learner:
    settings = SacSettings(actor_rate=actor_rate, critic_rate=3e-3, discount=0.0, first_temperature=0.002)
    return new_learner(SMALL, settings, seed)


def own(count: int) -> np.ndarray:
    return np.repeat(OWN[:, None], count, axis=1)


def test_a_ring_holds_the_last_ones() -> None:
    ring = Ring(10)
    for n in range(5):
        ring.add(replace(transitions(4), late=np.full((4, 1), n, dtype=np.float32)))
    assert ring.held == 10
    drawn = ring.draw(np.random.default_rng(0), 500).late
    assert set(drawn[:, 0].tolist()) == {2.0, 3.0, 4.0}, "ten of the last are two whole steps and half of one"


def test_a_batch_is_three_parts_present_and_seven_parts_past() -> None:
    memory = Memory(present=Ring(50), past=Ring(50))
    rng = np.random.default_rng(0)
    memory.add(replace(transitions(20), late=np.zeros((20, 1), dtype=np.float32)))
    assert len(memory.mixed(rng, 40)) == 40, "all of the present while there is no past"
    memory.end_of_epoch(rng, 20)
    memory.add(replace(transitions(50), late=np.ones((50, 1), dtype=np.float32)))
    assert memory.mixed(rng, 100).late.mean() == pytest.approx(PRESENT_PART)


@given(st.integers(0, 2**32 - 1))
def test_a_transition_is_worth_to_each_what_its_preference_makes_of_the_same_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = replace(
        transitions(6, plans=3),
        gain=rng.normal(size=(6, 3, 4)).astype(np.float32),
        trend=rng.normal(size=(6, 3, 4)).astype(np.float32),
        asleep=rng.random((6, 3)).astype(np.float32),
        late=rng.random((6, 3)).astype(np.float32),
    )
    settings = RewardSettings(trend=0.5, asleep=0.2, late=3.0)
    rewards = batch.rewards(own(6).astype(np.float32), settings)  # (4, 3, 6)
    shared = 0.2 * batch.asleep - 3.0 * batch.late
    own_ = tamed(batch.gain) + 0.5 * tamed(batch.trend)
    np.testing.assert_allclose(rewards.T, own_ + shared[..., None], rtol=1e-5, atol=1e-6)
    half = np.full((1, 6, 4), 0.25, dtype=np.float32)
    np.testing.assert_allclose(batch.rewards(half, settings)[0], rewards.mean(axis=0), rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(-1e4, 1.0, width=32), min_size=2, max_size=9))
def test_losses_are_tamed_and_keep_their_order(gains: list[float]) -> None:
    given_ = np.sort(np.array(gains, dtype=np.float32))
    found = tamed(given_)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(found[given_ >= -1], given_[given_ >= -1])
    assert (found > -11).all(), "ten thousand mean epochs' loss is ten"


def test_a_third_of_a_batch_is_read_as_one_s_own_and_the_rest_by_anybody_s_weights_in_part_or_wholly() -> None:
    read = relabelled(np.random.default_rng(0), 4000)
    assert read.shape == (4, 4000, 4)
    np.testing.assert_allclose(read.sum(axis=-1), 1.0, atol=1e-6)
    is_own = (read == OWN[:, None]).all(axis=-1)
    assert is_own.mean() == pytest.approx(1 / 3, abs=0.02)
    most = read.argmax(axis=-1)
    assert (most != np.arange(4)[:, None]).mean() > 0.3, "another agent's metric before one's own: cross-labelling"
    assert (read.max(axis=-1) < 0.6).mean() > 0.15, "and mixtures"


def test_critics_learn_what_intents_were_worth() -> None:
    use_one_thread()
    learns, batch = learner(), transitions(256)
    losses = [update(learns, LAYOUT, batch, own(256), actor_moves=False)["critic_loss"] for _ in range(250)]
    assert np.mean(losses[-5:]) < 0.1 * losses[0]


def order_of_plans_learnt(between_plans: float) -> float:
    """How often critics say rightly which of two plans of an epoch is better, after a few updates.

    What an epoch is worth is a hundred times what a plan changes in it, and nothing that is observed says how much.
    """
    settings = SacSettings(critic_rate=3e-3, discount=0.0, between_plans=between_plans)
    learns, rng = new_learner(SMALL, settings, 0), np.random.default_rng(1)
    batch = transitions(128, plans=3)
    busy = rng.normal(0.0, 1.0, (128, 1, 1))
    met = replace(batch, gain=np.asarray(0.05 * batch.gain + busy, dtype=np.float32))
    for _ in range(60):
        update(learns, LAYOUT, met, own(128), actor_moves=False)
    rows = RowTensors.of(rows_of(batch.observation, MODELS, SITES))
    intent = IntentTensors(
        *(torch.as_tensor(p.swapaxes(0, 1).copy()) for p in (batch.shares, batch.fill, batch.margin))
    )
    with torch.no_grad():
        worth = worth_of_twins(learns.critic, rows, intent, torch.as_tensor(own(128))).mean(dim=1).numpy()  # (J, M, N)
    truth = batch.gain.transpose(2, 1, 0)
    return float(((worth[:, 0] > worth[:, 1]) == (truth[:, 0] > truth[:, 1])).mean())


def test_critics_learn_the_order_of_an_epoch_s_plans_though_chance_decides_most_of_what_they_earn() -> None:
    use_one_thread()
    assert order_of_plans_learnt(1.0) > 0.75
    assert order_of_plans_learnt(0.0) < 0.65, "without the differences there is nothing to learn it from"


@given(st.integers(0, 2**32 - 1), st.floats(-50.0, 50.0, width=32))
def test_what_an_epoch_earns_all_its_plans_is_no_loss_between_them(seed: int, more: float) -> None:
    rng = np.random.default_rng(seed)
    twins, target = torch.as_tensor(rng.normal(size=(4, 2, 3, 5))), torch.as_tensor(rng.normal(size=(4, 3, 5)))
    settings = SacSettings()
    off = (twins - target[:, None]).mean(dim=2)
    moved = apart(twins, target + more, settings) - apart(twins, target, settings)
    np.testing.assert_allclose(
        float(moved), float((-2 * more * off + more**2).mean(dim=(1, 2)).sum()), atol=1e-6 * (1 + more**2)
    )


def test_each_agent_learns_to_send_requests_where_its_own_gain_is() -> None:
    use_one_thread()
    # Three times as fast, agents swing from site to site for hundreds of updates, and a rounding decides who is where
    # when; so, five seeds of five have all of them at 0.9 by then.
    learns, rng = learner(actor_rate=1e-3), np.random.default_rng(0)
    batch = transitions(1024)
    for _ in range(600):
        chosen = batch.take(rng.integers(len(batch), size=128))
        update(learns, LAYOUT, chosen, own(128))
    rows = rows_of(batch.observation[:1], MODELS, SITES)
    best = actor.propose(arrays(learns.calm), rows, own(1)).best()
    shares = meant(best, rows).shares[:, 0, 0]  # (agent, site)
    assert (np.diag(shares) > 0.6).all(), shares.round(2)


def test_the_same_seed_learns_the_same_bit_for_bit() -> None:
    use_one_thread()

    def learnt(seed: int) -> dict[str, np.ndarray]:
        learns = learner(seed)
        for n in range(3):
            update(learns, LAYOUT, transitions(64, n), own(64))
        return arrays(learns.weights)

    one, again, other = learnt(1), learnt(1), learnt(2)
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_slow_copies_follow_slowly() -> None:
    learns = learner()
    before = {name: value.clone() for name, value in learns.slow.items()}
    update(learns, LAYOUT, transitions(64), own(64))
    for name, value in learns.slow.items():
        step = learns.critic[name].detach() - before[name]
        torch.testing.assert_close(value, before[name] + 0.005 * step)

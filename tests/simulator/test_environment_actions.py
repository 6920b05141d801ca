"""What must hold of every action: whatever numbers a policy gives, they are a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tasks import task

from marlin.api.plan import Dispatch
from marlin.simulator.environments.action import ActionLayout, Intent, equal_blend, intents, plans
from marlin.simulator.environments.filling import LEAST_PLACED, MOST_PLACED, REACH, SHARPNESS, edge, filled_shares
from marlin.simulator.environments.lanes import Fleets
from marlin.simulator.physics import FloatArray

V, D = 2, 4
LAYOUT = ActionLayout(V, D, Dispatch.ORDERED, can_power_down=True)
actions = arrays(np.float64, (1, LAYOUT.size), elements=st.floats(-2.0, 2.0))
masks = arrays(np.bool_, (1, V, D))
capacities = arrays(np.float64, (1, V, D), elements=st.floats(0.1, 1e4))
orders = st.permutations(range(D))


LIMIT = np.array([0.9])
LOAD = 0.4


def meant(action: FloatArray, mask: np.ndarray, capacity: FloatArray, load: float = LOAD) -> Intent:
    """The intents of actions when the open sites get so much of what they can carry."""
    return intents(LAYOUT, action, mask, capacity, load * (capacity * mask).sum(axis=2), LIMIT)


def open_somewhere(mask: np.ndarray) -> np.ndarray:
    """The mask with a site open wherever a model had none."""
    mask = mask.copy()
    mask[..., 0] |= ~mask.any(axis=-1)
    return mask


@given(actions, masks, capacities)
def test_shares_are_on_the_simplex_and_a_closed_site_has_exactly_none(
    action: FloatArray, mask: np.ndarray, capacity: FloatArray
) -> None:
    mask = open_somewhere(mask)
    intent = meant(action, mask, capacity)
    assert (intent.shares >= 0).all()
    assert intent.shares.sum(axis=2) == pytest.approx(np.ones((1, V)))
    assert not intent.shares[~mask].any()
    assert ((intent.fill >= 0) & (intent.fill <= 1)).all()
    assert ((intent.margin >= 0.5) & (intent.margin <= 2)).all()


@given(actions, masks, capacities, orders)
def test_other_names_for_the_sites_are_the_same_plan_by_other_names(
    action: FloatArray, mask: np.ndarray, capacity: FloatArray, order: list[int]
) -> None:
    mask = open_somewhere(mask)
    straight = meant(action, mask, capacity)
    cells = action.reshape(1, V, D, -1)[:, :, order].reshape(1, -1)
    turned = meant(cells, mask[..., order], capacity[..., order])
    assert turned.shares == pytest.approx(straight.shares[..., order], rel=1e-12)
    assert np.array_equal(turned.fill, straight.fill[..., order])
    assert np.array_equal(turned.margin, straight.margin[..., order])


@given(actions, capacities, st.integers(0, V - 1), st.integers(0, D - 1), st.floats(0.01, 1.0))
def test_more_preference_never_gives_a_site_less(
    action: FloatArray, capacity: FloatArray, v: int, d: int, more: float
) -> None:
    everywhere = np.ones((1, V, D), dtype=np.bool_)
    before = meant(action, everywhere, capacity).shares
    raised = action.reshape(1, V, D, -1).copy()
    raised[0, v, d, 0] += more
    after = meant(raised.reshape(1, -1), everywhere, capacity).shares
    assert after[0, v, d] >= before[0, v, d] - 1e-12
    assert np.array_equal(after[0, 1 - v], before[0, 1 - v])


@given(arrays(np.float64, (4, 1, LAYOUT.size), elements=st.floats(-1.0, 1.0)), masks, capacities)
def test_a_blend_of_proposals_is_a_plan_again(four: FloatArray, mask: np.ndarray, capacity: FloatArray) -> None:
    mask = open_somewhere(mask)
    proposals = meant(four, mask, capacity)
    assert proposals.shares.shape == (4, 1, V, D)
    blended = equal_blend(proposals, np.zeros((1, 3), dtype=np.float32))
    assert blended.shares.sum(axis=2) == pytest.approx(np.ones((1, V)))
    assert not blended.shares[~mask].any()
    one = Intent(*(np.repeat(part[:1], 4, axis=0) for part in (proposals.shares, proposals.fill, proposals.margin)))
    assert equal_blend(one, np.zeros((1, 3), dtype=np.float32)).shares == pytest.approx(proposals.shares[0], rel=1e-12)


def test_sites_far_above_the_waterline_are_full_and_those_far_below_it_empty() -> None:
    """Two of four like sites carry the demand when filled to the limit: 0.45 of all is 0.9 of half."""
    cells = np.full((1, V, D, 3), 1.0)
    cells[0, 0, :, 0] = (0.8, 0.5, -0.2, -0.6)
    shares = meant(cells.reshape(1, -1), np.ones((1, V, D), dtype=np.bool_), np.ones((1, V, D)), load=0.45).shares
    assert shares[0, 0] == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=4e-3)
    assert (np.diff(shares[0, 0]) < 0).all(), "and yet each keeps its place in the order"


def test_a_lower_fill_leaves_a_preferred_site_room() -> None:
    cells = np.full((1, V, D, 3), 1.0)
    cells[0, 0, :, 0] = (0.8, 0.2, -0.4, -0.9)
    cells[0, 0, 0, 1] = 0.0  # half of the limit
    shares = meant(cells.reshape(1, -1), np.ones((1, V, D), dtype=np.bool_), np.ones((1, V, D)), load=0.3375).shares
    assert shares[0, 0] == pytest.approx([1 / 3, 2 / 3, 0.0, 0.0], abs=4e-3)


def test_more_than_all_room_is_shared_by_room() -> None:
    cells = np.zeros((1, V, D, 3))
    cells[0, 0, :, 1] = (1.0, 0.0, 1.0, 0.0)
    cells[0, 0, :, 0] = (0.9, -0.9, 0.1, 0.0)
    shares = meant(cells.reshape(1, -1), np.ones((1, V, D), dtype=np.bool_), np.ones((1, V, D)), load=2.0).shares
    assert shares[0, 0] == pytest.approx([1 / 3, 1 / 6, 1 / 3, 1 / 6], abs=5e-3)


def test_zeros_share_in_proportion_to_capacity_whatever_is_closed() -> None:
    capacity = np.array([[[1.0, 2.0, 5.0, 2.0], [4.0, 4.0, 1.0, 1.0]]])
    mask = np.array([[[True, True, False, True], [True, True, True, True]]])
    shares = meant(np.zeros((1, LAYOUT.size)), mask, capacity).shares
    assert shares[0].tolist() == [pytest.approx([0.2, 0.4, 0.0, 0.4]), pytest.approx([0.4, 0.4, 0.1, 0.1])]


def test_where_every_site_is_closed_the_row_still_is_one() -> None:
    shares = meant(np.zeros((1, LAYOUT.size)), np.zeros((1, V, D), dtype=np.bool_), np.ones((1, V, D))).shares
    assert shares == pytest.approx(np.full((1, V, D), 0.25))


@pytest.mark.parametrize(
    ("dispatch", "can_power_down", "channels"),
    [
        (Dispatch.SHARES, False, ("preference", "fill")),
        (Dispatch.SHARES, True, ("preference", "fill", "margin")),
        (Dispatch.ORDERED, False, ("preference", "fill")),
        (Dispatch.ORDERED, True, ("preference", "fill", "margin")),
    ],
)
def test_an_action_has_only_the_numbers_that_mean_something(
    dispatch: Dispatch, *, can_power_down: bool, channels: tuple[str, ...]
) -> None:
    layout = ActionLayout(V, D, dispatch, can_power_down)
    assert layout.channels == channels
    assert layout.size == V * D * len(channels)
    numbers = np.arange(layout.size) / 100
    assert layout.split(numbers)["preference"][1, 2] == pytest.approx(numbers[(D + 2) * len(channels)])


def fleets(*, sleeps: bool) -> Fleets:
    return task(sleeps=sleeps).courses[0].fleets


@dataclass(frozen=True)
class Filled:
    """An ordered plan for three sites, of which the first pool may not use the last."""

    fleets: Fleets
    order: list[list[int]]
    cap: FloatArray  # (V, 3)
    awake: FloatArray | None  # (V, 3)


def filled(fill: float, *, sleeps: bool, margin: float = 1.0) -> Filled:
    fleets_ = fleets(sleeps=sleeps)
    capacity = fleets_.capacity_rps[:1]
    shape = capacity.shape
    intent = Intent(np.broadcast_to([0.2, 0.7, 0.1], shape), np.full(shape, fill), np.full(shape, margin))
    allowed = np.ones(shape, dtype=np.bool_)
    allowed[0, 0, 2] = False
    high = 0.5 * capacity.sum(axis=2) * fleets_.epoch_s[0]
    plan = plans(intent, Dispatch.ORDERED, fleets_, np.array([0]), allowed, high)
    assert plan.order is not None
    assert plan.cap is not None
    return Filled(fleets_, plan.order[0].tolist(), plan.cap[0], None if plan.awake is None else plan.awake[0])


def test_an_order_begins_with_what_is_most_favoured_for_its_size_and_leaves_closed_sites_out() -> None:
    plan = filled(1.0, sleeps=False)
    assert plan.order == [[1, 0, -1], [1, 0, 2]]
    assert plan.cap.tolist() == [pytest.approx([0.95, 0.95, 0.0]), pytest.approx([0.95] * 3)]


def test_a_cap_is_a_part_of_the_whole_site_even_where_some_of_it_sleeps() -> None:
    plan = filled(0.6, sleeps=True)
    assert plan.awake is not None
    whole = plan.fleets.capacity_rps[0] * 0.6 * 0.95
    twin = plan.fleets.twins[0]
    left, ready = plan.awake, np.zeros_like(whole)
    for k in range(twin.replicas.shape[2]):  # the thriftiest first
        here = np.minimum(left, twin.replicas[:, :, k])
        ready, left = ready + here * twin.replica_rps[:, :, k], left - here
    assert (plan.awake < plan.fleets.all_replicas[0]).any()
    is_open = np.array([[True, True, False], [True, True, True]])
    assert plan.cap[is_open] == pytest.approx(np.minimum(whole / ready, 1.0)[is_open])
    assert (plan.cap[is_open] > 0.6 * 0.95 + 0.01).any()


@given(st.floats(0.5, 1.0), st.floats(1.0, 2.0))
def test_a_larger_margin_never_lets_more_sleep(small: float, factor: float) -> None:
    less, more = (filled(0.8, sleeps=True, margin=m).awake for m in (small, small * factor))
    assert less is not None
    assert more is not None
    assert (more >= less).all()


def test_a_fleet_without_power_down_has_no_awake_numbers() -> None:
    assert filled(0.8, sleeps=False).awake is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_the_waterline_is_where_halving_finds_it(seed: int, sites: int) -> None:
    """Also where sites are alike, far apart in what they are preferred by, closed, or far from alike in size."""
    rng = np.random.default_rng(seed)
    preference = rng.choice([-1.0, 0.0, 0.3, 1.0, *rng.uniform(-1, 1, 3)], (3, 2, sites))
    room = 10.0 ** rng.uniform(-3, 3, preference.shape) * (rng.random(preference.shape) < 0.8)
    total = room.sum(axis=2)
    demand = total * rng.uniform(0.0, 1.2, total.shape)
    placed = np.clip(demand, LEAST_PLACED * total, MOST_PLACED * total)
    low, high = np.full(total.shape, -1.0 - REACH), np.full(total.shape, 1.0 + REACH)
    for _ in range(60):
        line = (low + high) / 2.0
        is_above = (room * edge(SHARPNESS * (preference - line[..., None]))).sum(axis=2) > placed
        low, high = np.where(is_above, line, low), np.where(is_above, high, line)
    used = room * edge(SHARPNESS * (preference - high[..., None]))
    expected = used / np.maximum(used.sum(axis=2, keepdims=True), 1e-300)
    np.testing.assert_allclose(filled_shares(preference, room, demand), expected, atol=1e-9)

"""The division of a total among sites: against brute force, and its lower bound against what it bounds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.policy.oracle.allocation import Costs, divide, lower_bound
from marlin.simulator.physics import FloatArray


def bent(rng: np.random.Generator, sites: int) -> Costs:
    """Concave, convex and stepped costs in one, as energy, waiting and waking are."""
    slope, curve, step = rng.uniform(0, 3, sites), rng.uniform(-1, 1, sites), rng.uniform(0, 0.02, sites)

    def costs(amounts: FloatArray) -> FloatArray:
        s, c, up = slope[:, None], curve[:, None], step[:, None]
        return np.asarray(s * amounts + c * np.abs(amounts) ** 1.5 + up * np.ceil(10 * amounts - 1e-9) / 10)

    return costs


@st.composite
def problems(draw: st.DrawFn) -> tuple[Costs, float, FloatArray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sites = draw(st.integers(1, 4))
    limits = rng.uniform(0.2, 4.0, sites)
    return bent(rng, sites), float(rng.uniform(0, 1)) * float(limits.sum()), limits


@given(problems())
def test_a_division_adds_up_and_stays_within_the_limits(problem: tuple[Costs, float, FloatArray]) -> None:
    costs, total, limits = problem
    found = divide(costs, total, limits, units=40)
    assert found.amounts.sum() == pytest.approx(total)
    assert (found.amounts >= 0).all()
    assert (found.amounts <= limits * (1 + 1e-12)).all()
    assert found.cost == pytest.approx(float(costs(found.amounts[:, None]).sum()))


@given(problems())
def test_no_division_on_a_fine_grid_is_cheaper_and_none_is_below_the_bound(
    problem: tuple[Costs, float, FloatArray],
) -> None:
    costs, total, limits = problem
    found = divide(costs, total, limits)
    bound = lower_bound(costs, total, limits)
    free = np.array(list(product(*(np.linspace(0, limit, 13) for limit in limits[:-1]))))  # (P, D - 1)
    last = total - free.sum(axis=1, keepdims=True)
    tried = np.concatenate([free.reshape(len(last), -1), last], axis=1)
    tried = tried[(last[:, 0] >= 0) & (last[:, 0] <= limits[-1])]
    scale = 1.0 + abs(found.cost)
    assert bound <= found.cost + 1e-3 * scale
    if len(tried):
        cheapest = costs(tried.T).sum(axis=0).min()
        assert found.cost <= cheapest + 2e-3 * scale
        assert bound <= cheapest + 1e-3 * scale


def test_concave_costs_fill_sites_and_leave_at_most_one_between() -> None:
    """What the fixed price of a used site does: a slope would spread the total over all of them."""
    limits = np.array([1.0, 1.0, 1.0, 1.0])

    def costs(amounts: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt(np.maximum(amounts, 0.0)) * np.array([[1.0], [1.1], [1.2], [1.3]]))

    found = divide(costs, 2.4, limits)
    assert np.sort(found.amounts) == pytest.approx([0.0, 0.4, 1.0, 1.0], abs=1e-6)
    assert found.amounts[:2] == pytest.approx([1.0, 1.0], abs=1e-6)


def test_convex_costs_are_divided_where_their_slopes_agree() -> None:
    weights = np.array([[1.0], [2.0], [4.0]])
    found = divide(lambda amounts: weights * amounts**2, 7.0, np.full(3, 10.0))
    assert found.amounts == pytest.approx([4.0, 2.0, 1.0], abs=0.01)
    assert lower_bound(lambda amounts: weights * amounts**2, 7.0, np.full(3, 10.0)) == pytest.approx(28.0, rel=2e-3)


def test_the_bound_is_tight_where_costs_are_smooth() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        base, bend = rng.uniform(1, 2, (8, 1)), rng.uniform(0.2, 0.6, (8, 1))
        limits = rng.uniform(0.5, 2.0, 8)

        def costs(amounts: FloatArray, base: FloatArray = base, bend: FloatArray = bend) -> FloatArray:
            return np.asarray(1.0 + base * amounts - bend * amounts**2 / 2)

        total = 0.6 * float(limits.sum())
        found, bound = divide(costs, total, limits), lower_bound(costs, total, limits)
        assert 0 <= found.cost - bound <= 0.003 * found.cost


@pytest.mark.parametrize(("total", "amounts"), [(0.0, [0.0, 0.0]), (5.0, [1.0, 2.0]), (3.0, [1.0, 2.0])])
def test_nothing_is_divided_into_nothing_and_too_much_fills_every_site(total: float, amounts: list[float]) -> None:
    assert divide(lambda a: a, total, np.array([1.0, 2.0])).amounts.tolist() == amounts


def test_a_site_without_room_gets_nothing() -> None:
    found = divide(lambda amounts: amounts * np.array([[0.1], [1.0]]), 1.0, np.array([0.0, 3.0]))
    assert found.amounts.tolist() == [0.0, 1.0]

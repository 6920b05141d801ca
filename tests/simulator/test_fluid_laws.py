"""What must hold of the fluid engine whatever the fleet and the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given
from hypothesis import strategies as st

from marlin.simulator.fluid import FluidResult, joules_per_token, marginal_metrics, simulate, step
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, arrays_from

shares = st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3)
loads = st.floats(0.01, 3.0)


def twin(load: float = 0.5, **changes: float) -> TwinState:
    """Three sites alike but for their signals; ``load`` is a part of the fleet's capacity."""
    state = fleet(
        site("a", **{"carbon_gco2_per_kwh": 100.0, "water_l_per_kwh": 5.0, "price_usd_per_kwh": 0.3} | changes),
        site("b", carbon_gco2_per_kwh=300.0, water_l_per_kwh=2.0, price_usd_per_kwh=0.1),
        site("c", carbon_gco2_per_kwh=600.0, water_l_per_kwh=1.0, price_usd_per_kwh=0.2),
        rtt_ms=((20.0, 80.0, 200.0),),
    )
    arrays = arrays_from(state)
    return replace(arrays, requests=np.array([[load * float(arrays.capacity_rps.sum()) * arrays.epoch_s]]))


def plan(row: list[float]) -> FloatArray:
    return np.array([row])


@given(shares, loads)
def test_every_request_is_served_queued_or_rejected(row: list[float], load: float) -> None:
    fleet_ = twin(load)
    result = simulate(fleet_, plan(row))
    total = result.served.sum() + result.queued.sum() + result.rejected.sum()
    assert total == pytest.approx(fleet_.requests.sum())
    assert (result.served >= 0).all()
    assert (result.served / fleet_.epoch_s <= fleet_.capacity_rps + 1e-9).all()
    assert 0.0 <= result.late_share[0] <= 1.0 + 1e-9


@given(shares, st.floats(0.951, 1.1))
def test_beyond_what_sites_are_filled_to_all_is_served_while_more_than_the_root_of_all_places_is_empty(
    row: list[float], load: float
) -> None:
    small = twin()
    large = replace(small, replicas=small.replicas * 100)
    large = replace(large, requests=np.array([[load * float(large.capacity_rps.sum()) * large.epoch_s]]))
    result = simulate(large, plan(row))
    most = 1.0 - 1.0 / np.sqrt((large.replicas * large.batch_limit).sum())
    assert 0.99 < most < 1.0
    assert (result.queued.sum() > 1e-3) == (load > most)
    assert result.utilization[0, 0].tolist() == pytest.approx([min(load, most)] * 3), "by what each site has left"


@given(shares, st.floats(0.05, 0.8), st.floats(1.01, 1.15))
def test_more_load_never_lowers_energy(row: list[float], load: float, factor: float) -> None:
    less, more = simulate(twin(load), plan(row)), simulate(twin(load * factor), plan(row))
    assert more.energy_kwh.sum() >= less.energy_kwh.sum() - 1e-9


@given(shares, st.floats(1.0, 10.0))
def test_a_dirtier_grid_never_lowers_carbon(row: list[float], factor: float) -> None:
    dirtier = simulate(twin(carbon_gco2_per_kwh=100.0 * factor), plan(row))
    assert dirtier.metrics[0, 1] >= simulate(twin(), plan(row)).metrics[0, 1] - 1e-9


@given(st.lists(shares, min_size=1, max_size=5), loads)
def test_a_plan_alone_equals_the_same_plan_in_a_batch(rows: list[list[float]], load: float) -> None:
    fleet_ = twin(load)
    together = simulate(fleet_, np.array([[row] for row in rows]))
    for i, row in enumerate(rows):
        alone = simulate(fleet_, plan(row))
        assert np.array_equal(alone.metrics[0], together.metrics[i])
        assert np.array_equal(alone.energy_kwh[0], together.energy_kwh[i])


def test_the_same_state_and_plan_give_the_same_result_bit_for_bit() -> None:
    assert np.array_equal(simulate(twin(), plan([1, 2, 3])).metrics, simulate(twin(), plan([1, 2, 3])).metrics)


def test_what_a_site_cannot_carry_spills_to_free_capacity() -> None:
    result = simulate(twin(0.6), plan([1.0, 0.0, 0.0]))
    assert result.utilization[0, 0].tolist() == pytest.approx([0.95, 0.425, 0.425])
    assert result.share_served[0] == 1.0


def test_ordered_dispatch_fills_the_order_up_to_the_limit() -> None:
    result = simulate(twin(0.5), plan([1.0, 1.0, 1.0]), order=((2, 0, 1),))
    assert result.utilization[0, 0].tolist() == pytest.approx([0.55, 0.0, 0.95])


def test_a_drained_site_serves_nothing_and_still_draws_its_idle_power() -> None:
    state = fleet(site("a", is_available=False), site("b"), forecast=300.0)
    result = simulate(arrays_from(state), np.array([[1.0, 1.0]]))
    assert result.served[0, 0].tolist() == [0.0, pytest.approx(300.0)]
    assert result.energy_kwh[0, 0] > 0


def test_overloading_the_fleet_is_charged_and_does_not_win() -> None:
    within, beyond = simulate(twin(0.9), plan([1, 1, 1])), simulate(twin(3.0), plan([1, 1, 1]))
    assert beyond.rejected.sum() > 0

    def per_request(result: FluidResult, metric: int) -> float:
        return float(result.metrics[0, metric] / result.served.sum())

    assert beyond.metrics[0, 0] > within.metrics[0, 0]
    for metric in (1, 2, 3):
        assert per_request(beyond, metric) > per_request(within, metric)


def test_one_green_site_taking_everything_does_not_win_by_rejecting() -> None:
    only_green = replace(twin(0.9), allowed=np.array([[True, False, False]]))
    green = simulate(only_green, plan([1.0, 0.0, 0.0]))
    shared = simulate(twin(0.9), plan([1.0, 1.0, 1.0]))
    assert green.share_served[0] < 0.5
    assert green.metrics[0, 1] > shared.metrics[0, 1]
    assert green.metrics[0, 0] > shared.metrics[0, 0]


def test_what_waits_is_asked_for_again_in_the_next_epoch() -> None:
    following, result = step(twin(1.05), np.array([1.0, 1.0, 1.0])[None])
    assert result.queued.sum() > 0
    assert following.backlog_requests.sum() == pytest.approx(result.queued.sum())
    again = simulate(following, plan([1, 1, 1]))
    total = again.served.sum() + again.queued.sum() + again.rejected.sum()
    assert total == pytest.approx(following.requests.sum() + following.backlog_requests.sum())


def test_origins_rows_shorten_the_way_and_change_nothing_else() -> None:
    state = fleet(site("a"), site("b"), rtt_ms=((10.0, 200.0), (200.0, 10.0)), origins=("x", "y"))
    twin_ = arrays_from(state)
    near = simulate(twin_, np.array([[0.5, 0.5]]), by_origin=np.array([[[1.0, 0.0], [0.0, 1.0]]]))
    blind = simulate(twin_, np.array([[0.5, 0.5]]))
    assert blind.metrics[0, 0] - near.metrics[0, 0] == pytest.approx(0.095)
    assert np.allclose(near.metrics[0, 1:], blind.metrics[0, 1:])


def test_marginal_carbon_follows_the_grid() -> None:
    marginal = marginal_metrics(twin())[0]  # (D, 4)
    assert marginal[1, 1] / marginal[0, 1] == pytest.approx(3.0, rel=0.01)
    assert (marginal[:, 0] == np.sort(marginal[:, 0])).all(), "the further site answers later"


def test_the_energy_of_a_request_adds_up_to_what_its_replicas_draw() -> None:
    fleet_ = twin(0.6)
    per_prompt, per_output = joules_per_token(fleet_)
    joules = per_prompt * fleet_.prompt_tokens[:, None] + per_output * fleet_.output_tokens[:, None]
    rate = 0.6 * fleet_.capacity_rps
    result = simulate(fleet_, plan([1, 1, 1]))
    assert (joules * rate).sum() * fleet_.epoch_s / 3.6e6 == pytest.approx(result.energy_kwh.sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1.0, 1.0]], r"\(B, 1, 3\)"),
        ([[0.0, 0.0, 0.0]], "needs a positive one"),
        ([[-1.0, 1.0, 1.0]], "not be negative"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(bad: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(twin(), np.array(bad))

"""Requests that spill over to another site still come from where they came from: the network takes them longer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given
from hypothesis import strategies as st

from marlin.simulator.fluid import FluidResult, Form, Plans, simulate, simulate_epochs
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.request_level.engine import RequestLevelEngine
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.requests import draw_requests

NEAR = np.eye(3)[None]  # (V, R, D): each origin to its own site
EPOCH_S = 300.0
forms = pytest.mark.parametrize("form", list(Form))


def worldwide(loads: tuple[float, float, float]) -> TwinState:
    """Three sites alike with an origin beside each, which asks ``loads`` of what its site can carry."""
    rtt_ms = ((5.0, 150.0, 200.0), (150.0, 5.0, 180.0), (200.0, 180.0, 5.0))
    state = fleet(site("a"), site("b"), site("c"), origins=("west", "east", "south"), rtt_ms=rtt_ms, epoch_s=EPOCH_S)
    twin = arrays_from(state)
    return replace(twin, requests=np.array([loads]) * twin.capacity_rps * twin.epoch_s)


def network_s(twin: TwinState, result: FluidResult, without: FluidResult) -> FloatArray:
    """(V, D) round trips that are in the times to first token; ``without`` is the same on a network that takes none."""
    assert np.array_equal(result.served, without.served)
    return np.asarray(result.ttft_s[0] - without.ttft_s[0])


def near_network_s(twin: TwinState, form: Form, rows: FloatArray = NEAR, awake: FloatArray | None = None) -> FloatArray:
    """(V, D) where each origin's requests go by its row."""
    shares = (twin.origin_share[:, :, None] * rows).sum(axis=1)
    results = [
        simulate(there, shares, by_origin=rows, awake=awake, form=form)
        for there in (twin, replace(twin, rtt_s=np.zeros_like(twin.rtt_s)))
    ]
    return network_s(twin, *results)


@forms
def test_what_spills_over_comes_from_where_it_came_from(form: Form) -> None:
    """West asks 1.35 of its site, which carries 0.95; 0.4 go to the others in proportion to their room."""
    west, east, south = near_network_s(worldwide((1.35, 0.45, 0.75)), form)[0]
    assert west == pytest.approx(0.005), "it serves its own alone"
    to_east, to_south = 0.4 * 0.5 / 0.7, 0.4 * 0.2 / 0.7  # of 0.95 less their own
    assert east == pytest.approx((0.45 * 0.005 + to_east * 0.150) / (0.45 + to_east))
    assert south == pytest.approx((0.75 * 0.005 + to_south * 0.200) / (0.75 + to_south))


@forms
def test_where_two_sites_overflow_the_third_has_a_mean_of_both(form: Form) -> None:
    west, east, south = near_network_s(worldwide((1.15, 1.05, 0.3)), form)[0]
    assert (west, east) == (pytest.approx(0.005), pytest.approx(0.005))
    assert south == pytest.approx((0.3 * 0.005 + 0.2 * 0.200 + 0.1 * 0.180) / 0.6)


@forms
def test_who_knows_round_trips_alone_takes_a_mean_of_all_that_the_rows_send_elsewhere(form: Form) -> None:
    twin = worldwide((1.35, 0.45, 0.75))
    shares = twin.origin_share[:, None, :]  # (B, V, D): the requests beside each site
    near = simulate_epochs(twin, conditions(twin), Plans(shares, rtt_s=np.full_like(shares, 0.005)), form)
    start = simulate(replace(twin, rtt_s=np.zeros_like(twin.rtt_s)), shares, form=form)
    found = network_s(twin, near, start)[0]
    to_east, others_s = 0.4 * 0.5 / 0.7, (1.35 * 0.150 + 0.75 * 0.180) / (1.35 + 0.75)
    assert found[0] == pytest.approx(0.005)
    assert found[1] == pytest.approx((0.45 * 0.005 + to_east * others_s) / (0.45 + to_east))


@forms
def test_what_was_sent_to_a_closed_site_comes_from_there(form: Form) -> None:
    twin = replace(worldwide((0.3, 0.3, 0.3)), allowed=np.array([[False, True, True]]))
    _, east, south = near_network_s(twin, form)[0]
    assert east == pytest.approx((0.3 * 0.005 + 0.15 * 0.150) / 0.45)
    assert south == pytest.approx((0.3 * 0.005 + 0.15 * 0.200) / 0.45)


@forms
def test_replicas_that_are_woken_serve_first_whom_the_rows_send_there(form: Form) -> None:
    """All sites wake a part of theirs, and each origin's requests stay where its row sends them."""
    twin = replace(worldwide((0.8, 0.8, 0.8)), can_sleep=np.array([True]))
    found = near_network_s(twin, form, awake=np.ones((1, 3)))
    np.testing.assert_allclose(found, 0.005, rtol=1e-9)


@forms
@given(loads=st.tuples(*[st.floats(0.01, 0.94)] * 3))
def test_without_overflow_the_rows_round_trips_stay_exactly(form: Form, loads: tuple[float, float, float]) -> None:
    twin = worldwide(loads)
    shares = twin.origin_share[:, None, :]  # (B, V, D): the requests beside each site
    results = [
        simulate_epochs(twin, conditions(twin), Plans(shares, rtt_s=np.full_like(shares, rtt_s)), form)
        for rtt_s in (0.0, 0.25)
    ]
    assert np.array_equal(results[1].ttft_s - results[0].ttft_s, results[0].ttft_s + 0.25 - results[0].ttft_s)


@forms
@given(loads=st.tuples(*[st.floats(0.01, 2.0)] * 3), row=st.tuples(*[st.floats(0.01, 1.0)] * 3))
def test_without_rows_the_round_trip_is_the_fleets_whatever_spills_over(
    form: Form, loads: tuple[float, float, float], row: tuple[float, float, float]
) -> None:
    twin = worldwide(loads)
    without = simulate(replace(twin, rtt_s=np.zeros_like(twin.rtt_s)), np.array([row]), form=form)
    result = simulate(twin, np.array([row]), form=form)
    assert np.array_equal(result.ttft_s[0], without.ttft_s[0] + twin.mean_rtt_s)
    # Rows that are everybody's row say the same.
    alike = simulate(twin, np.array([row]), by_origin=np.tile(np.array(row) / sum(row), (1, 3, 1)), form=form)
    np.testing.assert_allclose(alike.ttft_s, result.ttft_s, rtol=1e-9)


@forms
def test_sites_filled_in_turn_have_the_round_trips_that_they_were_given(form: Form) -> None:
    twin, order, shares = worldwide((1.35, 0.45, 0.75)), np.array([[[0, 1, 2]]]), np.ones((1, 1, 3))
    plans = [Plans(shares, order=order, rtt_s=np.full_like(shares, rtt_s)) for rtt_s in (0.0, 0.25)]
    zero, some = (simulate_epochs(twin, conditions(twin), one, form).ttft_s for one in plans)
    np.testing.assert_allclose(some - zero, 0.25)


@pytest.mark.parametrize("loads", [(1.35, 0.45, 0.75), (0.4, 1.6, 0.3), (0.6, 1.2, 0.7)])
def test_the_network_takes_as_long_as_where_each_request_is_followed(loads: tuple[float, float, float]) -> None:
    """With the round trips of the rows kept for what spills over it was 5 ms instead of 21 to 51."""
    twin = worldwide(loads)
    twin = replace(twin, requests=np.rint(twin.requests))
    shares = twin.origin_share[:, None, :]
    counts, sizes = twin.requests.astype(np.int64), np.array([[600.0, 120.0]])
    engine, left, followed = RequestLevelEngine(), [None, None], 0.0
    for epoch in range(3):
        requests = draw_requests(counts, sizes, EPOCH_S, np.random.default_rng(epoch))
        seconds = []
        for i, there in enumerate((twin, replace(twin, rtt_s=np.zeros_like(twin.rtt_s)))):
            plans = Plans(shares, by_origin=NEAR)
            outcome, left[i] = engine.replay(there, plans, left[i], requests, EPOCH_S)  # type: ignore[call-overload]
            seconds.append(float((outcome.served * outcome.ttft_s).sum() / outcome.served.sum()))
        followed = seconds[0] - seconds[1]  # of the last epoch: the fleet is as busy then as the twin takes it to be
    served = simulate(twin, shares, by_origin=NEAR).served[0]
    found = float((served * near_network_s(twin, Form.NUMPY)).sum() / served.sum())
    assert found == pytest.approx(followed, rel=0.04)

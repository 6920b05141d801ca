from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.state import FleetState
from marlin.policy.baselines import capacity_proportional, least_loaded, nearest, round_robin

ALL = np.array([[True, True, True]])


def three_sites(**changes: Any) -> FleetState:
    return fleet(site("a"), site("b"), site("c"), **changes)


def test_capacity_proportional_follows_capacity_and_skips_what_is_not_allowed() -> None:
    proposal = capacity_proportional(three_sites(), np.array([[1.0, 2.0, 5.0]]), np.array([[True, True, False]]))
    assert proposal.shares.tolist() == [[1.0, 2.0, 0.0]]
    assert proposal.order[0][0] == 1


def test_round_robin_gives_every_allowed_site_the_same() -> None:
    proposal = round_robin(three_sites(), np.ones((1, 3)), np.array([[True, False, True]]))
    assert proposal.shares.tolist() == [[1.0, 0.0, 1.0]]


def test_nearest_sends_each_origin_to_its_closest_allowed_site() -> None:
    base = three_sites()
    pool = base.pools[0].model_copy(update={"forecast_requests": (300.0, 100.0)})
    state = base.model_copy(
        update={
            "origins": ("west", "east"),
            "rtt_ms": ((5.0, 80.0, 90.0), (70.0, 90.0, 6.0)),
            "pools": (pool,),
        }
    )
    proposal = nearest(state, np.ones((1, 3)), ALL)
    assert proposal.by_origin is not None
    assert proposal.by_origin[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert proposal.shares.tolist() == [[300.0, 0.0, 100.0]]
    without_a = nearest(state, np.ones((1, 3)), np.array([[False, True, True]]))
    assert without_a.by_origin is not None
    assert without_a.by_origin[0].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_nearest_without_any_forecast_still_proposes() -> None:
    proposal = nearest(three_sites(forecast=0.0), np.ones((1, 3)), ALL)
    assert proposal.shares.sum() > 0


def test_least_loaded_prefers_the_site_with_the_most_free_capacity() -> None:
    base = three_sites()
    pool = base.pools[0].model_copy(update={"backlog_requests": (900.0, 0.0, 1800.0)})
    state = base.model_copy(update={"pools": (pool,)})
    proposal = least_loaded(state, np.array([[3.0, 3.0, 3.0]]), ALL)
    assert proposal.shares.tolist() == [[2.0, 3.0, 1.0]]
    assert proposal.order == ((1, 0, 2),)


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=3))
def test_no_baseline_proposes_a_negative_share(capacity: list[float]) -> None:
    state = three_sites()
    for rule in (capacity_proportional, nearest, least_loaded, round_robin):
        assert (rule(state, np.array([capacity]), ALL).shares >= 0).all()


def test_equal_sites_keep_their_order() -> None:
    assert capacity_proportional(three_sites(), np.ones((1, 3)), ALL).order == ((0, 1, 2),)
    assert pytest.approx(1.0) == capacity_proportional(three_sites(), np.ones((1, 3)), ALL).shares[0, 0]

"""Where requests come from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.errors import InputError
from marlin.simulator.signals import available_zones
from marlin.simulator.workload.origins import (
    hour_profile,
    local_activity,
    local_hour_shares,
    split_by_origin,
    uniform_shares,
    zone_time,
)

JUNE = datetime(2023, 6, 12, tzinfo=UTC)
zones = st.lists(st.sampled_from(available_zones()), min_size=1, max_size=16)
starts = st.datetimes(datetime(2022, 1, 1), datetime(2026, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001


@given(zones, starts, st.integers(1, 30), st.sampled_from([300, 900, 3600]))
def test_shares_add_up_to_one_in_every_epoch(names: list[str], start: datetime, epochs: int, epoch_s: int) -> None:
    for shares in (local_hour_shares(names, start, epochs, epoch_s), uniform_shares(epochs, len(names))):
        assert shares.shape == (epochs, len(names))
        assert (shares > 0).all()
        assert shares.sum(axis=1) == pytest.approx(np.ones(epochs))


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
def test_every_request_has_exactly_one_origin(counts: list[int], seed: int) -> None:
    by_model = np.array(counts).reshape(2, 2)
    split = split_by_origin(by_model, local_hour_shares(["GB", "SG"], JUNE, 2, 900), np.random.default_rng(seed))
    assert split.shape == (2, 2, 2)
    assert np.array_equal(split.sum(axis=2), by_model)


def test_uniform_origins_ask_alike() -> None:
    split = split_by_origin(np.full((1, 1), 400_000), uniform_shares(1, 4), np.random.default_rng(0))
    assert split[0, 0] / 100_000 == pytest.approx(np.ones(4), rel=0.02)


def test_each_region_is_busiest_at_its_own_local_hour() -> None:
    names = ["JP-TK", "GB", "US-CAL-CISO"]
    shares = local_activity(names, JUNE, 96, 900)
    at = [JUNE + timedelta(seconds=900 * int(e)) for e in shares.argmax(axis=0)]
    local = [moment.astimezone(zone_time(name)).hour for name, moment in zip(names, at, strict=True)]
    assert len(set(local)) == 1
    assert local[0] == int(hour_profile().argmax())


def test_daylight_saving_moves_a_region_s_day_by_an_hour_and_tokyo_s_not() -> None:
    january = JUNE.replace(month=1)
    summer, winter = (local_activity(["GB", "JP-TK"], start, 24, 3600) for start in (JUNE, january))
    assert np.roll(winter[:, 0], -1) == pytest.approx(summer[:, 0])
    assert winter[:, 1] == pytest.approx(summer[:, 1])


def test_on_the_day_the_clocks_go_forward_the_hour_left_out_is_skipped() -> None:
    activity = local_activity(["GB"], datetime(2023, 3, 26, tzinfo=UTC), 3, 3600)[:, 0]
    assert activity == pytest.approx(hour_profile()[[0, 2, 3]]), "01:00 UTC is 02:00 in London"


def test_a_region_with_more_people_asks_more() -> None:
    plain = local_hour_shares(["GB", "SG"], JUNE, 1, 900)[0]
    weighted = local_hour_shares(["GB", "SG"], JUNE, 1, 900, np.array([3.0, 1.0]))[0]
    assert weighted[0] / weighted[1] == pytest.approx(3 * plain[0] / plain[1])


def test_activity_is_one_on_average_over_a_day() -> None:
    assert local_activity(["IN-WE"], JUNE, 96, 900).mean() == pytest.approx(1.0, abs=0.01)


def test_a_time_zone_may_be_named_instead_of_a_grid_zone() -> None:
    assert np.array_equal(
        local_hour_shares(["Europe/London", "SG"], JUNE, 4, 900), local_hour_shares(["GB", "SG"], JUNE, 4, 900)
    )


@pytest.mark.parametrize("zone", ["ATLANTIS", "", "../etc/passwd"])
def test_a_zone_whose_time_is_not_known_is_refused(zone: str) -> None:
    with pytest.raises(InputError, match="is not known; name a time zone such as Europe/Berlin"):
        local_hour_shares([zone], JUNE, 1, 900)


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        local_hour_shares(["GB"], JUNE.replace(tzinfo=None), 1, 900)

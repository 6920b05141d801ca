"""A day's load scaled to a fleet, and the one rule that makes requests of scaled counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marlin.api.errors import InputError
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.scaling import LOADS, PEAK_UTILIZATION, Scaling, fit_scaling, whole_requests
from marlin.simulator.workload.trace import IntArray

seeds = st.integers(0, 2**32 - 1)
needs = arrays(np.float64, st.integers(4, 96), elements=st.one_of(st.just(0.0), st.floats(1e-4, 50.0)))
BENT = [load for load, mean in LOADS.items() if mean is not None]


@given(needs, st.sampled_from(list(LOADS)))
def test_the_busiest_epoch_needs_95_percent_and_the_mean_is_as_named(needed: FloatArray, load: str) -> None:
    assume(needed.any())
    mean = LOADS[load]
    busy = needed[needed > 0]
    if mean is not None and ((busy / busy.max()) ** 64).mean() > mean / PEAK_UTILIZATION:
        with pytest.raises(InputError, match="too even"):
            fit_scaling(needed, load)
        return
    scaled = fit_scaling(needed, load).apply(needed)
    assert scaled.max() == pytest.approx(PEAK_UTILIZATION)
    assert (scaled[needed == 0] == 0).all(), "a silent epoch stays silent"
    if mean is not None:
        assert scaled[needed > 0].mean() == pytest.approx(mean, abs=1e-5)


def test_peak95_is_a_plain_factor() -> None:
    needed = np.array([0.1, 0.4, 0.2, 0.0])
    assert fit_scaling(needed, "peak95").apply(needed) == pytest.approx(needed / 0.4 * 0.95)


@given(needs, needs, st.sampled_from(BENT))
def test_one_transform_holds_for_other_windows_and_keeps_their_order(
    fitted: FloatArray, other: FloatArray, load: str
) -> None:
    assume(len(np.unique(fitted[fitted > 0])) > 1)
    try:
        scaling = fit_scaling(fitted, load)
    except InputError:
        return
    rising = np.sort(other)
    assert (np.diff(scaling.apply(rising)) >= 0).all()
    assert np.array_equal(scaling.apply(np.concatenate([fitted, other]))[len(fitted) :], scaling.apply(other))


@given(needs, st.floats(0.01, 3.0))
def test_multipliers_are_what_the_requests_of_an_epoch_are_multiplied_by(needed: FloatArray, gamma: float) -> None:
    scaling = Scaling(unit=2.0, gamma=gamma)
    assert scaling.multipliers(needed) * needed == pytest.approx(scaling.apply(needed))
    assert (scaling.multipliers(needed)[needed == 0] == 0).all()


@pytest.mark.parametrize(
    ("needed", "load", "message"),
    [
        ([0.1, 0.2], "mean99", "load 'mean99' is not known; there are peak95, mean30, mean56, mean80"),
        ([0.0, 0.0], "peak95", "the day has no requests"),
        ([0.3, 0.3], "mean30", "the day is too even for mean30"),
    ],
)
def test_a_day_that_cannot_be_scaled_is_refused(needed: list[float], load: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_scaling(np.array(needed), load)


counted = arrays(np.int64, (6, 2), elements=st.integers(0, 10_000))
multipliers = arrays(np.float64, (6, 2), elements=st.floats(0.0, 40.0))


@given(counted, multipliers, seeds)
def test_every_recorded_request_becomes_m_requests_rounded_down_or_up(
    counts: IntArray, m: FloatArray, seed: int
) -> None:
    requests = whole_requests(counts, m, np.random.default_rng(seed))
    assert requests.dtype == np.int64
    assert (requests >= counts * np.floor(m)).all()
    assert (requests <= counts * np.ceil(m)).all()
    assert (requests[counts == 0] == 0).all()
    assert np.array_equal(requests, whole_requests(counts, m, np.random.default_rng(seed))), "same seed, same requests"


@pytest.mark.parametrize("m", [0.0, 0.03, 0.5, 1.0, 2.7, 1234.4])
def test_thinning_and_replicating_are_unbiased(m: float) -> None:
    counts = np.full(50_000, 3)
    total = int(whole_requests(counts, np.full(50_000, m), np.random.default_rng(7)).sum())
    part = m % 1
    spread = (counts.sum() * part * (1 - part)) ** 0.5
    assert abs(total - counts.sum() * m) <= 4 * spread + 1e-6

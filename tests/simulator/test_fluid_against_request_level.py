"""The fluid engine stays as near to the request-level engine as docs/explanation/validation.md promises.

The tables of that page have more loads, sizes and fleets; ``python -m marlin.simulator.validation`` prints them.
"""

from __future__ import annotations

import pytest

from marlin.api.pool import PowerDown
from marlin.simulator.validation import Comparison, Steady, day, stationary

TTFT, P95, FOOTPRINT = 0.10, 0.20, 0.03


def assert_near(found: Comparison, *, p95: float = P95) -> None:
    assert abs(found.ttft) < TTFT, found
    assert abs(found.p95) < p95, found
    for name in ("energy", "carbon", "water", "cost"):
        assert abs(getattr(found, name)) < FOOTPRINT, found
    assert found.served_fluid == pytest.approx(found.served, abs=1e-3)
    assert found.requests > 1e5, "too few to compare"


@pytest.mark.parametrize("load", [0.30, 0.60, 0.80, 0.95])
def test_at_a_steady_load(load: float) -> None:
    assert_near(stationary(Steady("8x12", load, epochs=1, epoch_s=300.0)))


def test_with_replicas_asleep() -> None:
    assert_near(
        stationary(Steady("8x12", 0.6, epochs=1, epoch_s=300.0, power_down=PowerDown.SLEEP, awake_utilization=0.85))
    )


@pytest.mark.parametrize(("load", "asked"), [(0.3, 1.4), (0.6, 1.1), (0.6, 2.0)])
def test_when_more_comes_than_replicas_were_kept_awake_for(load: float, asked: float) -> None:
    case = Steady("8x12", load, epochs=1, power_down=PowerDown.SLEEP, awake_utilization=asked)
    found = stationary(case)
    assert abs(found.ttft) < 0.2, found
    assert abs(found.energy) < FOOTPRINT, found
    assert found.late == pytest.approx(found.late_fluid, abs=0.02), found
    assert found.late > 0.03, "nobody would be late if nobody had to wake"
    assert found.awake == pytest.approx(found.awake_fluid, abs=0.05), found


@pytest.mark.parametrize("load", [0.96, 0.98])
def test_between_what_sites_are_filled_to_and_what_they_can_carry(load: float) -> None:
    assert_near(stationary(Steady("8x12", load, epochs=1, epoch_s=300.0)))


def test_through_a_day_whose_queues_are_carried_from_epoch_to_epoch() -> None:
    assert_near(day("8x12", "peak95"))

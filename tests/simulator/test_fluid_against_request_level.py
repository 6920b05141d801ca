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


def test_through_a_day_whose_queues_are_carried_from_epoch_to_epoch() -> None:
    assert_near(day("8x12", "peak95"))

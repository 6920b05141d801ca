"""Some hours of faults for the operator; ``make soak-operator`` is a day of them."""

from __future__ import annotations

import random

import pytest
from operator_soak import Soak


@pytest.mark.parametrize("seed", [1, 2])
async def test_hours_of_faults_leave_no_invalid_plan_and_no_epoch_that_nobody_speaks_of(seed: int) -> None:
    soak = Soak(random.Random(seed))
    await soak.run(hours=3.0)
    assert len(soak.planned) >= 6
    assert soak.faults.total() >= 20

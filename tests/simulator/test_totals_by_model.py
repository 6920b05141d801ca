"""What a model costs depends on no other: the totals of models by themselves are parts of the whole fleet's."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.pool import PowerDown
from marlin.simulator.constants import Balancer, Settings
from marlin.simulator.experiment import FIRST_DATE
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.fluid import Plans, simulate_each, simulate_epochs, totals_by_model
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import TwinState, arrays_from

STATE = loaded_state(Builder(scenario_documents("demo-3")), FIRST_DATE + timedelta(hours=5), 0.5)

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[TwinState, FloatArray, Plans]:
    """Two models on three sites, one to four demands from quiet to hopeless, and up to six plans of one kind."""
    rng = np.random.default_rng(seed)
    pools = tuple(
        pool.model_copy(update={"power_down": rng.choice(np.array(PowerDown, dtype=object))}) for pool in STATE.pools
    )
    settings = Settings(
        balancer=rng.choice(np.array(Balancer, dtype=object)), wakes_on_demand=bool(rng.random() < 0.5), patience_s=30.0
    )
    twin = arrays_from(STATE.model_copy(update={"pools": pools}), settings)
    models, sites = twin.all_replicas.shape
    usual = twin.capacity_rps.sum(axis=1) * twin.epoch_s
    twin = replace(
        twin,
        backlog_requests=twin.capacity_rps * rng.uniform(0, 60) * (rng.random() < 0.5),
        awake_before=np.floor(rng.random((models, sites)) * (twin.all_replicas + 1)).clip(0, twin.all_replicas),
    )
    requests = usual * rng.uniform(0, 2.0, (int(rng.integers(1, 5)), models))
    return twin, requests, plans_of_kind(rng, twin, int(rng.integers(1, 7)), is_ordered=bool(rng.random() < 0.5))


def plans_of_kind(rng: np.random.Generator, twin: TwinState, many: int, *, is_ordered: bool) -> Plans:
    shape = (many, *twin.all_replicas.shape)
    return Plans(
        shares=rng.dirichlet(np.ones(shape[2]), shape[:2]),
        order=np.argsort(rng.random(shape), axis=2) if is_ordered else None,
        cap=rng.uniform(0, 1, shape) if is_ordered else None,
        awake=np.floor(rng.random(shape) * (twin.all_replicas + 1)),
    )


@given(seeds)
def test_each_plan_on_each_demand_is_bit_for_bit_what_it_is_on_that_alone(seed: int) -> None:
    twin, requests, plans = random_case(seed)
    each = simulate_each(twin, requests, plans)
    for n in range(len(plans)):
        for s in range(len(requests)):
            now = replace(conditions(twin), requests=requests[s : s + 1])
            alone = simulate_epochs(twin, now, plans.take(slice(n, n + 1)))
            row = n * len(requests) + s
            for name in ("metrics", "served", "late_share", "ttft_s", "rejected", "awake", "energy_kwh"):
                assert np.array_equal(getattr(each, name)[row], getattr(alone, name)[0]), name


@given(seeds)
def test_the_totals_of_the_models_are_the_fleets_but_for_what_sites_use_anyway(seed: int) -> None:
    twin, requests, plans = random_case(seed)
    each, parts = simulate_each(twin, requests, plans), totals_by_model(twin, requests, plans)
    counted = each.served.sum(axis=(1, 2)) + each.rejected.sum(axis=1)
    assert parts.seconds.sum(axis=1) == pytest.approx(each.metrics[:, 0] * counted, rel=1e-9, abs=1e-6)
    assert parts.late.sum(axis=1) == pytest.approx(each.late_share * counted, rel=1e-9, abs=1e-6)
    anyway = ((twin.base_w * twin.epoch_s)[:, None] * conditions(twin).per_joule[0, :, 1:]).sum(axis=0)
    np.testing.assert_allclose(parts.footprint.sum(axis=1) + anyway, each.metrics[:, 1:], rtol=1e-9, atol=1e-9)


@given(seeds)
def test_what_one_model_comes_to_does_not_change_with_what_is_done_about_another(seed: int) -> None:
    twin, requests, plans = random_case(seed)
    other = plans_of_kind(np.random.default_rng(seed + 1), twin, len(plans), is_ordered=plans.order is not None)
    changes: dict[str, Any] = {}
    for name in ("shares", "awake", *(("order", "cap") if plans.order is not None else ())):
        changes[name] = np.concatenate([getattr(plans, name)[:, :1], getattr(other, name)[:, 1:]], axis=1)
    mixed = replace(plans, **changes)
    before, after = totals_by_model(twin, requests, plans), totals_by_model(twin, requests, mixed)
    for name in ("seconds", "late", "footprint"):
        assert np.array_equal(getattr(before, name)[:, 0], getattr(after, name)[:, 0]), name

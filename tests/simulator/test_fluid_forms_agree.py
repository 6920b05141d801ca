"""The two forms of the fluid engine are one model, on any fleet and any plan."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from fleets import fleet, site
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.pool import PowerDown
from marlin.simulator.constants import Balancer, Settings
from marlin.simulator.experiment import FIRST_DATE
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.fluid import FluidResult, Form, Plans, simulate_epochs
from marlin.simulator.fluid.coefficients import conditions
from marlin.simulator.scenario import scenario_documents
from marlin.simulator.twin_state import TwinState, arrays_from

SIZES = ((1.0, 1.0), (600.0, 120.0), (3000.0, 800.0))
"""Few, because the curves of a size are worked out once and take longer than everything else."""

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[TwinState, Plans]:
    """A fleet of one to five sites with some of everything, and up to nine plans of one kind."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    sites = tuple(
        site(
            f"s{i}",
            carbon_gco2_per_kwh=float(rng.uniform(20, 900)),
            water_l_per_kwh=float(rng.uniform(0, 8)),
            price_usd_per_kwh=float(rng.uniform(-0.05, 0.4)),
            is_available=bool(rng.random() < 0.85),
        )
        for i in range(count)
    )
    state = fleet(
        *sites, rtt_ms=(tuple(rng.choice([4.0, 90.0, 300.0], count)),), max_utilization=float(rng.uniform(0.7, 1.0))
    )
    prompt, output = SIZES[int(rng.integers(len(SIZES)))]
    changes: dict[str, Any] = {
        "power_down": rng.choice(np.array(PowerDown, dtype=object)),
        "mean_prompt_tokens": prompt,
        "mean_output_tokens": output,
        "ttft_limit_s": float(rng.choice([0.3, 2.0])),
    }
    settings = Settings(
        balancer=rng.choice(np.array(Balancer, dtype=object)), wakes_on_demand=bool(rng.random() < 0.5), patience_s=30.0
    )
    twin = arrays_from(state.model_copy(update={"pools": (state.pools[0].model_copy(update=changes),)}), settings)
    requests = float(rng.uniform(0, 2.5)) * twin.capacity_rps.sum() * twin.epoch_s
    twin = replace(
        twin,
        requests=np.array([[requests]]),
        backlog_requests=rng.uniform(0, 40, (1, count)) * (rng.random() < 0.5),
        awake_before=np.floor(rng.random((1, count)) * (twin.all_replicas + 1)).clip(0, twin.all_replicas),
    )
    shape = (int(rng.integers(1, 10)), 1, count)
    order = np.argsort(rng.random(shape), axis=2)
    order[..., int(rng.integers(1, count + 1)) :] = -1
    is_ordered, has_rows = rng.random(2) < 0.5
    return twin, Plans(
        shares=rng.dirichlet(np.ones(count), shape[:2]),
        order=order if is_ordered else None,
        cap=rng.uniform(0, 1, shape) if is_ordered and rng.random() < 0.7 else None,
        awake=np.floor(rng.random(shape) * (twin.all_replicas + 1)) if rng.random() < 0.7 else None,
        rtt_s=rng.uniform(0.0, 0.4, shape) if has_rows else None,
        beyond_s=rng.uniform(0.0, 0.4, (*shape, count)) if has_rows and rng.random() < 0.5 else None,
    )


def arrays(result: FluidResult) -> dict[str, Any]:
    return {f.name: getattr(result, f.name) for f in fields(result)}


@given(seeds)
def test_numba_and_numpy_give_the_same_outcome_in_every_detail(seed: int) -> None:
    twin, plans = random_case(seed)
    one, other = (arrays(simulate_epochs(twin, conditions(twin), plans, form)) for form in Form)
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("form", list(Form))
@given(seed=seeds)
def test_a_batch_of_one_is_bit_for_bit_one_of_a_batch(form: Form, seed: int) -> None:
    twin, plans = random_case(seed)
    together = arrays(simulate_epochs(twin, conditions(twin), plans, form))
    for i in range(len(plans)):
        alone = arrays(simulate_epochs(twin, conditions(twin), plans.take(slice(i, i + 1)), form))
        assert all(np.array_equal(alone[name][0], values[i]) for name, values in together.items())


@pytest.mark.parametrize("form", list(Form))
@given(seed=seeds)
def test_in_is_served_queued_or_rejected(form: Form, seed: int) -> None:
    twin, plans = random_case(seed)
    result = simulate_epochs(twin, conditions(twin), plans, form)
    out = result.served.sum(axis=(1, 2)) + result.queued.sum(axis=1) + result.rejected.sum(axis=1)
    assert out == pytest.approx(twin.requests.sum() + twin.backlog_requests.sum(), rel=1e-9, abs=1e-6)
    for name in ("served", "queued", "rejected", "energy_kwh", "awake"):
        assert (getattr(result, name) >= -1e-9).all(), name


@given(seeds)
def test_the_order_in_which_sites_are_listed_changes_nothing(seed: int) -> None:
    twin, plans = random_case(seed)
    sites = twin.all_replicas.shape[1]
    shuffled = np.random.default_rng(seed + 1).permutation(sites)  # new position -> old
    back = np.argsort(shuffled)

    def moved(f: str, axis: int) -> Any:
        return np.take(getattr(twin, f), shuffled, axis=axis)

    by_site = ("base_w", "total_over_it", "heat_over_it", "cycles_of_concentration", "carbon_gco2_per_kwh",
               "water_l_per_kwh", "price_usd_per_kwh")  # fmt: skip
    by_place = ("backlog_requests", "awake_before", "allowed", "rtt_s", "model_index", "replicas", "replica_rps",
                "batch_limit", "prefill_s", "power_knots_w", "first_token_knots_s", "late_knots", "in_flight_knots",
                "asleep_w", "wake_s")  # fmt: skip
    again = replace(
        twin,
        datacenter_names=tuple(twin.datacenter_names[i] for i in shuffled),
        **{name: moved(name, 0) for name in by_site},
        **{name: moved(name, 1) for name in by_place},
    )
    listed = Plans(
        shares=plans.shares[..., shuffled],
        order=None if plans.order is None else np.where(plans.order >= 0, back[plans.order], -1),
        cap=None if plans.cap is None else plans.cap[..., shuffled],
        awake=None if plans.awake is None else plans.awake[..., shuffled],
        rtt_s=None if plans.rtt_s is None else plans.rtt_s[..., shuffled],
        beyond_s=None if plans.beyond_s is None else plans.beyond_s[..., shuffled, :][..., shuffled],
    )
    one = simulate_epochs(twin, conditions(twin), plans, Form.NUMPY)
    other = simulate_epochs(again, conditions(again), listed, Form.NUMPY)
    np.testing.assert_allclose(one.metrics, other.metrics, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.served[..., shuffled], other.served, rtol=1e-9, atol=1e-6)


def test_the_forms_agree_on_the_fleet_of_the_paper() -> None:
    state = loaded_state(Builder(scenario_documents("paper-8")), FIRST_DATE, 0.8)
    pools = tuple(pool.model_copy(update={"power_down": PowerDown.SCALE_TO_ZERO}) for pool in state.pools)
    twin = arrays_from(state.model_copy(update={"pools": pools}))
    rng = np.random.default_rng(1)
    shape = (300, *twin.all_replicas.shape)
    plans = Plans(
        shares=rng.dirichlet(np.ones(shape[2]), shape[:2]),
        awake=np.floor(rng.uniform(0.4, 1.0, shape) * twin.all_replicas),
    )
    one, other = (simulate_epochs(twin, conditions(twin), plans, form).metrics for form in Form)
    np.testing.assert_allclose(one, other, rtol=1e-9)

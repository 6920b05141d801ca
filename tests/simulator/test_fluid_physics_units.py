"""Equations (1) to (11) against the same sums done with units, and the table of constants behind them.

Pint refuses to add what has different dimensions, so each right-hand side is written from the quantities that the
docstring names, and only the result is turned into the unit that the function promises.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pint
import pytest

from marlin.simulator import physics
from marlin.simulator.constants import CONSTANTS, DEFAULT_SETTINGS, SWEPT, Reading, Settings

UNITS: pint.UnitRegistry[float] = pint.UnitRegistry()
UNITS.define("usd = [currency]")
Q = UNITS.Quantity
LATENT = Q(DEFAULT_SETTINGS.latent_heat_j_per_l, "J/L")


def test_memory_is_the_weights_and_the_cache_of_every_token() -> None:
    expected = Q(14.0, "gigabyte") + Q(128.0, "kilobyte") * 1000
    assert physics.node_memory_bytes(14e9, 128e3, 1000.0) == pytest.approx(expected.to("byte").m)


@pytest.mark.parametrize(("storage", "pcie"), [(6e9, 32e9), (14e9, 8e9)])
def test_weights_load_at_the_slowest_link(storage: float, pcie: float) -> None:
    expected = Q(14e9, "byte") / min(Q(storage, "byte/s"), Q(pcie, "byte/s"))
    assert physics.weight_loading_s(14e9, storage, pcie) == pytest.approx(expected.to("s").m)


def test_the_network_takes_time_per_distance_and_per_hop() -> None:
    expected = Q(1000.0, "km") * Q(0.0081, "ms/km") + 3 * Q(0.2, "ms")
    assert physics.network_one_way_ms(1000.0, 0.0081, 3.0, 0.2) == pytest.approx(expected.to("ms").m)


def test_the_first_token_in_both_readings() -> None:
    prefill, step = Q(200.0, "ms"), Q(20.0, "ms")
    assert physics.first_token_s(0.2, 0.02, 100.0) == pytest.approx((prefill + step).to("s").m)
    paper = ((prefill + 100 * step) / 100).to("s").m
    assert physics.first_token_s(0.2, 0.02, 100.0, Reading.PAPER) == pytest.approx(paper)


def test_time_to_first_token_adds_its_four_parts() -> None:
    expected = Q(2.0, "s") + Q(80.0, "ms") + Q(0.5, "s") + Q(220.0, "ms")
    assert physics.time_to_first_token_s(2.0, 0.08, 0.5, 0.22) == pytest.approx(expected.to("s").m)


def test_energy_is_power_times_duration() -> None:
    assert physics.it_energy_kwh(5000.0, 900.0) == pytest.approx((Q(5.0, "kW") * Q(15.0, "min")).to("kWh").m)


def test_total_energy_adds_cooling_and_infrastructure() -> None:
    it = Q(10.0, "kWh")
    total = it + DEFAULT_SETTINGS.cooling_energy_factor * it / 6.0 + 0.13 * it
    assert physics.total_over_it_energy(6.0, 0.13) == pytest.approx((total / it).to("").m)


def test_heat_is_never_more_than_the_energy() -> None:
    assert physics.heat_over_it_energy(1.5, 0.13) == pytest.approx(1.13)
    assert physics.heat_over_it_energy(1.05, 0.13) == pytest.approx(1.05)


def test_cost_is_energy_times_price() -> None:
    expected = Q(36.0, "MJ") * Q(0.12, "usd/kWh")
    assert physics.energy_cost_usd(10.0, 0.12) == pytest.approx(expected.to("usd").m)


def test_evaporation_is_the_heat_over_the_latent_heat() -> None:
    assert physics.evaporation_l(10.0) == pytest.approx((Q(10.0, "kWh") / LATENT).to("L").m)


def test_blowdown_in_both_readings() -> None:
    evaporated = Q(12.0, "L")
    assert physics.blowdown_l(12.0, 4.0) == pytest.approx((evaporated / (4.0 - 1.0)).to("L").m)
    paper = Settings(blowdown=Reading.PAPER)
    expected = evaporated / (1.0 - paper.blowdown_threshold_paper)
    assert physics.blowdown_l(12.0, 4.0, paper) == pytest.approx(expected.to("L").m)


def test_the_grid_brings_water_and_carbon_per_energy() -> None:
    assert physics.grid_water_l(10.0, 1.8) == pytest.approx((Q(36.0, "MJ") * Q(1.8, "L/kWh")).to("L").m)
    assert physics.grid_carbon_gco2(10.0, 400.0) == pytest.approx((Q(36.0, "MJ") * Q(0.4, "kg/kWh")).to("g").m)


def test_water_carries_the_carbon_of_making_and_treating_it() -> None:
    potable = Q(DEFAULT_SETTINGS.potable_kwh_per_l, "kWh/L")
    waste = Q(DEFAULT_SETTINGS.wastewater_kwh_per_l, "kWh/L")
    expected = (Q(20.0, "L") * potable + Q(18.0, "L") * waste) * Q(400.0, "g/kWh")
    assert physics.water_carbon_gco2(20.0, 18.0, 400.0) == pytest.approx(expected.to("g").m)


def test_the_objective_of_the_reference_itself_is_one() -> None:
    metrics = np.array([0.4, 900.0, 30.0, 2.0])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    assert physics.weighted_objective(metrics, weights, metrics) == pytest.approx(1.0)
    assert physics.weighted_objective(2.0 * metrics, weights, metrics) == pytest.approx(2.0)


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_each_constant_has_a_unit_a_source_and_a_range_that_holds_it(name: str) -> None:
    constant = CONSTANTS[name]
    assert constant.source.strip()
    assert constant.low <= constant.value <= constant.high
    assert constant.low < constant.high
    UNITS.parse_units(constant.unit.replace("GB", "gigabyte").replace("USD", "dimensionless"))


def test_a_study_sweeps_every_number_of_the_settings() -> None:
    numbers = {f.name for f in fields(Settings) if isinstance(getattr(DEFAULT_SETTINGS, f.name), float)}
    assert numbers == set(SWEPT)

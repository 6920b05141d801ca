from __future__ import annotations

from datetime import UTC, datetime

import pytest

from marlin.api.documents import Documents, load_documents
from marlin.api.errors import InputError
from marlin.api.state import FleetState
from marlin.simulator.fleet import Builder, Demand, loaded_state
from marlin.simulator.fluid import capacity_rps
from marlin.simulator.scenario import PRESETS, scenario_documents
from marlin.simulator.signals import zone_signals
from marlin.simulator.twin_state import arrays_from

NOON = datetime(2023, 6, 15, 12, tzinfo=UTC)

FLEET = """
apiVersion: marlin.dev/v1alpha1
kind: Datacenter
metadata: {name: fra}
spec:
  location: {region: eu, zone: DE-LU}
  facility: {powerUsageEffectiveness: "1.2"}
  nodeGroups: [{name: a, accelerator: A100-80GB, acceleratorsPerNode: 4, nodes: 2}]
  signals: SIGNALS
---
apiVersion: marlin.dev/v1alpha1
kind: InferencePool
metadata: {name: chat, namespace: default}
spec:
  modelName: m
  profile: PROFILE
  backends:
    - {name: fra, datacenterName: fra, url: "https://fra.example",
       capacity: {nodeGroup: a, replicas: 2, tensorParallel: 4}}
"""


def documents(signals: str = "{}", profile: str = "{builtIn: Llama-2-70b}") -> Documents:
    return load_documents(FLEET.replace("SIGNALS", signals).replace("PROFILE", profile), "fleet.yaml")


def state(builder: Builder, at: datetime = NOON) -> FleetState:
    demand = {"chat": Demand((10.0,) * len(builder.origins()), 600, 120)}
    return builder.state(at, demand, epoch=1, epoch_s=900, start_time=at)


def test_without_any_signal_the_zone_s_table_is_used() -> None:
    builder = Builder(documents())
    site = state(builder).datacenters[0]
    known = zone_signals("DE-LU", NOON)
    assert (site.carbon_gco2_per_kwh, site.water_l_per_kwh, site.price_usd_per_kwh) == (
        known.carbon_gco2_per_kwh,
        known.water_l_per_kwh,
        known.price_usd_per_kwh,
    )
    assert builder.warnings == []


@pytest.mark.parametrize(
    ("signals", "field", "value"),
    [
        ("{carbonIntensity: {provider: Static, static: {value: 250}}}", "carbon_gco2_per_kwh", 250.0),
        (
            "{carbonIntensity: {provider: Static, unit: lbCO2eq/MWh, static: {value: 1000}}}",
            "carbon_gco2_per_kwh",
            453.59237,
        ),
        ('{waterIntensity: {provider: Static, static: {value: "2.5"}}}', "water_l_per_kwh", 2.5),
        ("{waterIntensity: {provider: Static, unit: gal/MWh, static: {value: 1000}}}", "water_l_per_kwh", 3.785411784),
        (
            '{energyPrice: {provider: Static, unit: PerMWh, currency: EUR, usdPerCurrencyUnit: "1.1", '
            "static: {value: 100}}}",
            "price_usd_per_kwh",
            0.11,
        ),
    ],
)
def test_a_static_signal_is_converted_to_the_twin_s_unit(signals: str, field: str, value: float) -> None:
    assert getattr(state(Builder(documents(signals))).datacenters[0], field) == pytest.approx(value)


@pytest.mark.parametrize(("hour_utc", "value"), [(3, 0.1), (5, 0.3), (19, 0.3), (20, 0.1), (23, 0.1)])
def test_a_schedule_follows_the_local_clock_daylight_saving_included(hour_utc: int, value: float) -> None:
    # In June Berlin is two hours ahead: the day tariff of 07:00 to 22:00 there is 05:00 to 20:00 UTC.
    tariff = (
        "{energyPrice: {provider: Schedule, schedule: {timeZone: Europe/Berlin, "
        'entries: [{fromHour: 7, value: "0.3"}, {fromHour: 22, value: "0.1"}]}}}'
    )
    site = state(Builder(documents(tariff)), NOON.replace(hour=hour_utc)).datacenters[0]
    assert site.price_usd_per_kwh == pytest.approx(value)


def test_a_provider_that_cannot_be_asked_here_is_replaced_by_its_fallback_and_said_once() -> None:
    live = (
        "{carbonIntensity: {provider: Prometheus, prometheus: {url: 'https://p.example', query: up}, "
        "fallbackValue: 420}}"
    )
    builder = Builder(documents(live))
    assert state(builder).datacenters[0].carbon_gco2_per_kwh == 420.0
    state(builder)
    assert builder.warnings == ["Datacenter fra: carbonIntensity comes from Prometheus, which is not asked here"]


def test_a_built_in_signal_may_be_that_of_another_zone() -> None:
    site = state(Builder(documents("{carbonIntensity: {provider: BuiltIn, builtIn: {zone: SG}}}"))).datacenters[0]
    assert site.carbon_gco2_per_kwh == zone_signals("SG", NOON).carbon_gco2_per_kwh
    assert site.price_usd_per_kwh == zone_signals("DE-LU", NOON).price_usd_per_kwh


def test_lifecycle_carbon_is_had_where_it_is_asked_for() -> None:
    asked = "{carbonIntensity: {provider: BuiltIn, emissionFactor: Lifecycle}}"
    site = state(Builder(documents(asked))).datacenters[0]
    assert site.carbon_gco2_per_kwh == zone_signals("DE-LU", NOON).carbon_lifecycle_gco2_per_kwh


def test_a_user_s_own_figures_make_a_profile() -> None:
    own = "{prefillTokensPerSecond: 8000, decodeTokensPerSecond: 1600, maxBatch: 32, watts: 1200}"
    capacity = capacity_rps(arrays_from(state(Builder(documents(profile=own)))))
    assert capacity[0, 0] == pytest.approx(2 / (600 / 8000 + 119 / 1600), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("nodeGroups: [{name: a, accelerator: A100-80GB, acceleratorsPerNode: 4, nodes: 2}]", ""),
            "nodeGroups are needed",
        ),
        ((",\n       capacity: {nodeGroup: a, replicas: 2, tensorParallel: 4}", ""), "capacity is needed here"),
        (("profile: PROFILE", ""), "spec.profile is needed here"),
        (("zone: DE-LU", "zone: XX"), "zone XX has no coordinates"),
        (("A100-80GB", "B300"), "B300"),
        (("Llama-2-70b", "Llama-9"), "Llama-9"),
    ],
)
def test_what_the_twin_cannot_know_is_asked_for_by_name(change: tuple[str, str], message: str) -> None:
    text = FLEET.replace(*change).replace("SIGNALS", "{}").replace("PROFILE", "{builtIn: Llama-2-70b}")
    text = text.replace(*change)
    builder = Builder(load_documents(text, "fleet.yaml"))
    with pytest.raises(InputError, match=message):
        arrays_from(state(builder))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_serve_both_models_everywhere(name: str) -> None:
    builder = Builder(scenario_documents(name))
    twin = arrays_from(loaded_state(builder, NOON, 0.5))
    assert (twin.capacity_rps > 0).all()
    assert twin.requests.sum(axis=1) == pytest.approx(0.5 * twin.capacity_rps.sum(axis=1) * 900)
    assert sum(g.nodes for g in builder.documents.datacenters[0].spec.node_groups) == PRESETS[name].nodes_per_site


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="there are paper-4"):
        scenario_documents("paper-5")

"""What a live fleet holds of no reading of its own epoch is named to the planner."""

from __future__ import annotations

import pytest
from worlds import NOON, sample, world_of

from marlin.api.datacenter import SampleQuality
from marlin.operator.core.fleet import fleet_of
from marlin.operator.epochs import epoch_at
from marlin.operator.signals.values import Reading, SiteReadings


@pytest.mark.parametrize(
    ("quality", "stale"),
    [
        (SampleQuality.MEASURED, ()),
        (SampleQuality.ESTIMATED, ()),
        (SampleQuality.FORECAST, ()),
        (SampleQuality.HISTORY, ("water",)),
        (SampleQuality.FALLBACK, ("water",)),
    ],
)
def test_values_of_the_lower_rungs_are_marked_site_by_site(quality: SampleQuality, stale: tuple[str, ...]) -> None:
    world = world_of(sample())
    good = Reading(1.0, "L/kWh", "test", SampleQuality.MEASURED, NOON)
    readings = {site.model.metadata.name: SiteReadings(good, good, good) for site in world.sites if site.model}
    first = min(readings)
    readings[first] = SiteReadings(good, Reading(1.0, "L/kWh", "test", quality, NOON), good)
    (policy,) = (p.model for p in world.policies if p.model)
    state = fleet_of(
        policy,
        tuple(p.model for p in world.pools if p.model),
        tuple(s.model for s in world.sites if s.model),
        readings=readings,
        unusable=set(),
        forecasts={},
        epoch=epoch_at(NOON, 900.0),
    ).state
    assert {site.name: site.stale_signals for site in state.datacenters} == {
        name: stale if name == first else () for name in readings
    }

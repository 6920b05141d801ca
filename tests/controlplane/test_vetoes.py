"""A veto as its user sees it: trained agents on a real API server, over sites where what is clean is dear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from cluster_fleet import Fleet
from control_plane import Process, eventually
from worlds import the

SITES = ("frankfurt", "oregon", "singapore")
AT_ODDS = (
    ((50, 4.0, 0.30), (700, 0.5, 0.10), (400, 2.0, 0.03)),
    ((600, 0.2, 0.20), (50, 5.0, 0.10), (400, 2.0, 0.02)),
    ((300, 1.0, 0.30), (100, 3.0, 0.05), (500, 0.2, 0.20)),
)
"""gCO2eq/kWh, L/kWh, USD/kWh of three sites."""

pytestmark = pytest.mark.timeout(300)  # as in test_faults


def test_a_veto_is_an_event_and_in_the_status_of_the_agent(fleet: Fleet, operator: Callable[..., Process]) -> None:
    """Who vetoes depends on the hour of the day, too; of one world about nine epochs in ten have a veto."""
    process = operator("one")
    fleet.apply(
        planner={"kind": "Marlin", "scheme": "Balanced"},
        negotiation={"vetoCapitalThreshold": 0, "vetoMaxPullPercent": 100},
    )
    vetoed: list[str] = []
    for turn, signals in enumerate(worlds()):
        for site, stated in zip(SITES, signals, strict=True):
            the(fleet.objects, "Datacenter", fleet.prefix + site)["spec"]["signals"] = stated
        # A changed spec is planned for at once; this one changes nothing else.
        fleet.apply(guardrails={"maxUtilizationPercent": 80 + turn})
        generation = fleet.hub.call("GET", fleet.policy_path)["metadata"]["generation"]
        assert eventually(lambda g=generation: fleet.status().get("observedGeneration") == g)  # type: ignore[misc]
        assert fleet.condition("Planned") == ("True", "Planned")
        vetoed = [agent["name"] for agent in fleet.status()["agents"] if agent.get("lastVetoTime")]
        if vetoed:
            break
    assert vetoed
    (event,) = eventually(lambda: fleet.events("Vetoed"))
    assert all(f"{name} pulled the plan" in event["note"] for name in vetoed)
    assert event["regarding"]["name"] == "balanced"
    agents = {agent["name"]: agent for agent in fleet.status()["agents"]}
    assert agents.keys() == {"ttft", "carbon", "water", "cost"}
    decided = fleet.status()["plan"]["decidedTime"]
    assert {agents[name]["lastVetoTime"][:19] for name in vetoed} == {decided[:19]}
    counted = process.page("/metrics")[1]
    assert all(f'agent="{name}"' in counted for name in vetoed)


def worlds() -> Iterator[list[dict[str, object]]]:
    for world, first in product(AT_ODDS, range(3)):
        yield [
            {
                field: {"provider": "Static", "static": {"value": str(value)}}
                for field, value in zip(("carbonIntensity", "waterIntensity", "energyPrice"), site, strict=True)
            }
            for site in world[first:] + world[:first]
        ]

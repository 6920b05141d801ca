"""What engines and routers say is in the state that planners see, which is the one that training makes."""

from __future__ import annotations

from worlds import NOON, Cluster, sample, the

from marlin.api.documents import Documents
from marlin.api.state import FleetState
from marlin.operator.core.calibrating import EngineSight
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.planning import Planned
from marlin.simulator.fleet import Builder, Demand

POOL, POLICY = ("default", "llama-2-70b"), ("default", "balanced")
RUNNING = {"frankfurt": 5.0, "oregon": 2.0}
WAITING = {"oregon": 7.0}
SEEN = Forecast(9_000.0, 12_000.0, 700.0, 150.0, {"europe": 0.5, "america": 0.2, "asia": 0.3})


def planned(**known: object) -> FleetState:
    """The state that the sample's next epoch was planned with."""
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["observation"] = {"engines": "All"}
    for site in ("frankfurt", "oregon", "singapore"):
        the(objects, "Datacenter", site)["spec"]["signals"] = {
            "carbonIntensity": {"provider": "Static", "static": {"value": "300"}},
            "waterIntensity": {"provider": "Static", "static": {"value": "2"}},
            "energyPrice": {"provider": "Static", "static": {"value": "0.1"}},
        }
    cluster = Cluster(objects)
    cluster.known = {"forecasts": {POOL: SEEN}, **known}
    (policy,) = cluster.reconcile().report.policies
    assert isinstance(policy.outcome, Planned)
    assert policy.outcome.state is not None
    return policy.outcome.state


def by_site(state: FleetState, values: tuple[float, ...]) -> dict[str, float]:
    return {site.name: value for site, value in zip(state.datacenters, values, strict=True) if value}


def test_what_runs_and_waits_in_engines_is_in_the_state() -> None:
    state = planned(engines={POOL: EngineSight(running=RUNNING, waiting=WAITING, is_whole=True)})
    assert by_site(state, state.pools[0].in_flight_requests) == RUNNING
    assert by_site(state, state.pools[0].backlog_requests) == WAITING


def test_engines_that_were_not_all_read_say_nothing_and_routers_stand_in() -> None:
    half = EngineSight(running=RUNNING, waiting=WAITING, is_whole=False)
    state = planned(engines={POOL: half}, in_flight={POLICY: {(POOL[1], "singapore"): 3.0}})
    assert by_site(state, state.pools[0].in_flight_requests) == {"singapore": 3.0}
    assert not any(state.pools[0].backlog_requests)


def test_the_state_is_the_one_that_training_makes_of_the_same_fleet_and_demand() -> None:
    state = planned(engines={POOL: EngineSight(running=RUNNING, waiting=WAITING, is_whole=True)})
    objects = sample()
    for site in objects:
        if site["kind"] == "Datacenter":
            site["spec"]["signals"] = {
                "carbonIntensity": {"provider": "Static", "static": {"value": "300"}},
                "waterIntensity": {"provider": "Static", "static": {"value": "2"}},
                "energyPrice": {"provider": "Static", "static": {"value": "0.1"}},
            }
    world = Cluster(objects, NOON).world()
    builder = Builder(
        Documents(
            datacenters=tuple(s.model for s in world.sites if s.model is not None),
            pools=tuple(p.model for p in world.pools if p.model is not None),
            policies=tuple(p.model for p in world.policies if p.model is not None),
        )
    )
    names = [site.name for site in state.datacenters]
    demand = Demand(
        tuple(SEEN.requests * SEEN.origin_shares[origin] for origin in builder.origins()),
        SEEN.mean_prompt_tokens,
        SEEN.mean_output_tokens,
        upper_requests=SEEN.upper_requests,
        in_flight_requests=tuple(RUNNING.get(name, 0.0) for name in names),
        backlog_requests=tuple(WAITING.get(name, 0.0) for name in names),
    )
    trained = builder.state(
        state.start_time, {POOL[1]: demand}, epoch=state.epoch, epoch_s=state.epoch_s, start_time=state.start_time
    )
    assert state == trained

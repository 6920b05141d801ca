"""``originAware``: a plan of shares also says whose requests go where, and each origin's routers do so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worlds import Cluster, sample, the, with_second_pool

from marlin.api.plan import RoutingPlan
from marlin.operator.core.fleet import Forecast
from marlin.router.tables import view_of

ORIGINS = {"europe": 0.6, "asia": 0.3, "america": 0.1}


def cluster_of(**changes: Any) -> Cluster:
    """The sample under shares, origin-aware, with more requests from Europe than from anywhere else."""
    objects = sample()
    spec = the(objects, "MarlinPolicy")["spec"]
    spec |= {"mode": "Enforce", "dispatch": "Shares", "originAware": True}
    spec |= {"planner": {"kind": "MeritOrder", "scheme": "Balanced"}} | changes
    names = [origin["name"] for origin in spec["origins"]]
    cluster = Cluster(objects)
    parts = {name: ORIGINS.get(name, 0.0) for name in names}
    assert parts["europe"] > parts["asia"] > 0
    cluster.known["forecasts"] = {("default", "llama-2-70b"): Forecast(20_000.0, 24_000.0, 500.0, 200.0, parts)}
    cluster.reconcile()
    return cluster


def plan_of(cluster: Cluster) -> RoutingPlan:
    assert cluster.condition("MarlinPolicy", "Planned") == ("True", "Planned")
    return RoutingPlan.model_validate(cluster.status("MarlinPolicy")["plan"])


def assert_rows_make_up_the_weights(plan: RoutingPlan) -> None:
    """Of origins without requests nothing is left over."""
    (row,) = plan.pools
    parts = np.array([ORIGINS.get(origin, 0.0) for origin in plan.origins])
    mean = parts @ np.array(row.by_origin, dtype=np.float64) / parts.sum()
    assert mean == pytest.approx(np.array(row.weights, dtype=np.float64), abs=1.5), "of ten thousand"


@pytest.mark.parametrize("kind", ["MeritOrder", "CapacityProportional", "Oracle", "Marlin"])
def test_rows_make_up_the_plans_weights_and_are_what_routers_carry_out(kind: str) -> None:
    cluster = cluster_of(planner={"kind": kind, "scheme": "Balanced"})
    plan = plan_of(cluster)
    assert_rows_make_up_the_weights(plan)
    tables = {key[1]: published.table for key, published in cluster.world().tables.items()}
    for origin, weights in zip(plan.origins, plan.pools[0].by_origin, strict=True):
        table = tables[f"marlin-balanced-{origin}"]
        (pool,) = view_of(table, table.plan, origin, lambda name: name).pools
        shares = {site.name: share for site, share in zip(pool.sites, pool.shares, strict=True) if share}
        named = {site: w / 10_000 for site, w in zip(plan.datacenters, weights, strict=True) if w}
        assert shares == pytest.approx(named)


def test_the_first_token_is_expected_sooner_and_nothing_else_changes() -> None:
    aware, unaware = (cluster_of(originAware=on).status("MarlinPolicy") for on in (True, False))
    assert not unaware["plan"].get("origins")
    assert aware["plan"]["pools"][0]["weights"] == unaware["plan"]["pools"][0]["weights"]
    sooner, later = (float(status["estimate"]["timeToFirstTokenMilliseconds"]) for status in (aware, unaware))
    assert sooner < later
    for metric in ("carbonGrams", "waterLiters", "costUsd"):
        assert aware["estimate"][metric] == unaware["estimate"][metric]


def test_a_row_that_was_held_back_is_divided_by_origins_as_it_stands() -> None:
    cluster = cluster_of(planner={"kind": "CapacityProportional"}, guardrails={"maxWeightChangePercent": 1})
    before = plan_of(cluster)
    cluster.change("MarlinPolicy", planner={"kind": "MeritOrder", "scheme": "MinCarbon"})
    cluster.reconcile()
    held = plan_of(cluster)
    assert "held" in held.explanation
    assert held.pools[0].weights != before.pools[0].weights
    assert_rows_make_up_the_weights(held)


def test_rules_for_single_origins_hold_and_other_pools_are_divided_too() -> None:
    objects = with_second_pool(sample())
    spec = the(objects, "MarlinPolicy")["spec"]
    rule = {"name": "gdpr", "origins": ["europe"], "allowedRegions": ["eu-central"], "pools": ["second"]}
    spec |= {"mode": "Enforce", "residency": [rule]}
    spec |= {"planner": {"kind": "MeritOrder", "scheme": "Balanced"}, "dispatch": "Shares", "originAware": True}
    cluster = Cluster(objects)
    cluster.reconcile()
    plan = plan_of(cluster)
    assert [bool(row.by_origin) for row in plan.pools] == [True, True]
    europe = plan.pools[1].by_origin[plan.origins.index("europe")]
    assert {site for site, weight in zip(plan.datacenters, europe, strict=True) if weight} == {"frankfurt"}


def test_a_pool_of_unknown_speed_is_divided_too() -> None:
    objects = with_second_pool(sample(), profile=None)
    spec = the(objects, "MarlinPolicy")["spec"]
    spec |= {"mode": "Enforce"}
    spec |= {"planner": {"kind": "MeritOrder", "scheme": "Balanced"}, "dispatch": "Shares", "originAware": True}
    cluster = Cluster(objects)
    cluster.reconcile()
    assert [bool(row.by_origin) for row in plan_of(cluster).pools] == [True, True]

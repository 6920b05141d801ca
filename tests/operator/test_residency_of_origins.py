"""A residency rule for single origins holds in the plan, in their tables, and in what a router makes of both."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import Cluster, Raw, sample, the, with_second_pool

from marlin.api.plan import Dispatch, RoutingPlan
from marlin.api.policy import MarlinPolicy
from marlin.api.table import RoutingTable
from marlin.operator.core.fleet import Forecast
from marlin.operator.core.residency import within_residency
from marlin.router.tables import view_of

REGIONS = {"frankfurt": "eu-central", "oregon": "us-west", "singapore": "asia-southeast"}
ORIGINS = ("europe", "asia")

RULES = st.lists(
    st.fixed_dictionaries(
        {
            "origins": st.sets(st.sampled_from(ORIGINS)).map(sorted),
            "allowedRegions": st.sets(st.sampled_from(sorted(REGIONS.values())), min_size=1).map(sorted),
        }
    ),
    min_size=1,
    max_size=3,
).map(lambda rules: [rule | {"name": f"r{i}"} for i, rule in enumerate(rules)])


def allowed(rules: list[Raw], origin: str | None) -> set[str]:
    """Sites that may serve an origin's requests, reckoned apart from the code."""
    sites = set(REGIONS)
    for rule in rules:
        if not rule["origins"] or origin in rule["origins"]:
            sites &= {site for site, region in REGIONS.items() if region in rule["allowedRegions"]}
    return sites


def planned(rules: list[Raw], dispatch: str, planner: str) -> Cluster:
    objects = sample()
    spec = the(objects, "MarlinPolicy")["spec"]
    spec |= {"residency": rules, "dispatch": dispatch, "mode": "Enforce"}
    spec["planner"] = {"kind": planner, "scheme": "Balanced"}
    assert {site: the(objects, "Datacenter", site)["spec"]["location"]["region"] for site in REGIONS} == REGIONS
    assert {origin["name"] for origin in spec["origins"]} >= set(ORIGINS)
    cluster = Cluster(objects)
    cluster.reconcile()
    return cluster


def tables(cluster: Cluster) -> dict[str, RoutingTable]:
    return {key[1]: published.table for key, published in cluster.world().tables.items()}


@settings(max_examples=12, deadline=None)
@given(
    RULES, st.sampled_from(["Ordered", "Shares"]), st.sampled_from(["MeritOrder", "Nearest", "CapacityProportional"])
)
def test_no_plan_and_no_table_lets_an_origin_go_where_a_rule_forbids(
    rules: list[Raw], dispatch: str, planner: str
) -> None:
    cluster = planned(rules, dispatch, planner)
    status = cluster.status("MarlinPolicy")
    if not all(allowed(rules, origin) for origin in (None, *ORIGINS)):
        (condition,) = [c for c in status["conditions"] if c["type"] == "Planned"]
        assert condition["status"] == "False"
        assert "leaves no datacenter" in condition["message"] or "no datacenter may serve" in condition["message"]
        assert tables(cluster) == {}
        return
    plan = RoutingPlan.model_validate(status["plan"])  # its rows add up
    row = plan.pools[0]
    for origin in ORIGINS:
        table = tables(cluster)[f"marlin-balanced-{origin}"]
        weights = row.by_origin[plan.origins.index(origin)] if row.by_origin else row.weights
        used = {site for site, weight in zip(plan.datacenters, weights, strict=True) if weight}
        assert used <= allowed(rules, origin)
        (pool,) = view_of(table, table.plan, origin, lambda name: name).pools
        assert {site.name for site in pool.sites} <= allowed(rules, origin)
        assert pool.is_planned
        if row.by_origin:
            shares = {site.name: share for site, share in zip(pool.sites, pool.shares, strict=True) if share}
            expected = {s: w / 10_000 for s, w in zip(plan.datacenters, weights, strict=True) if w}
            assert shares == pytest.approx(expected)
    if row.by_origin and any(rule["origins"] for rule in rules):
        assert row.dispatch is Dispatch.SHARES
        for d, weight in enumerate(row.weights):
            column = [row.by_origin[r][d] for r in range(len(plan.origins))]
            assert min(column) - 1 <= weight <= max(column) + 1


def test_without_a_rule_for_single_origins_a_plan_stays_as_it_is() -> None:
    def plan(rules: list[Raw]) -> dict[str, Any]:
        found = dict(planned(rules, "Ordered", "MeritOrder").status("MarlinPolicy")["plan"])
        return {name: value for name, value in found.items() if name not in {"hash", "explanation"}}

    everywhere = [{"name": "all", "origins": [], "allowedRegions": sorted(REGIONS.values())}]
    assert plan([]) == plan(everywhere)
    assert plan([])["pools"][0]["dispatch"] == "Ordered"


def test_an_estimate_is_that_of_the_plan_that_the_rule_leaves() -> None:
    rules = [{"name": "gdpr", "origins": ["europe"], "allowedRegions": ["eu-central"]}]
    free, bound = (planned(r, "Shares", "MeritOrder").status("MarlinPolicy") for r in ([], rules))
    at = bound["plan"]["datacenters"].index("frankfurt")
    assert bound["plan"]["pools"][0]["weights"][at] >= free["plan"]["pools"][0]["weights"][at]
    assert bound["plan"]["pools"][0]["weights"] != free["plan"]["pools"][0]["weights"]
    assert bound["estimate"] != free["estimate"]


GDPR = [{"name": "gdpr", "origins": ["europe"], "allowedRegions": ["eu-central"]}]


def test_the_baseline_keeps_the_rule_too() -> None:
    """What a plan within the rule is compared with is capacity-proportional routing within the rule."""
    bound = planned(GDPR, "Shares", "MeritOrder").status("MarlinPolicy")
    by_capacity = planned(GDPR, "Shares", "CapacityProportional").status("MarlinPolicy")
    free = planned([], "Shares", "CapacityProportional").status("MarlinPolicy")
    assert bound["baselineEstimate"] == by_capacity["baselineEstimate"] != free["baselineEstimate"]
    mine, theirs = by_capacity["estimate"], by_capacity["baselineEstimate"]
    assert float(mine["carbonGrams"]) == pytest.approx(float(theirs["carbonGrams"]), rel=1e-3)  # rows of integers


def test_what_a_rule_takes_is_said() -> None:
    said = planned(GDPR, "Ordered", "MeritOrder").status("MarlinPolicy")["plan"]["explanation"]
    assert re.search(r"residency by origin: objective [+-]\d+\.\d%", said)


def two_pools(**changes: Any) -> Cluster:
    """The sample with a second pool, the only one that the rule holds for."""
    objects = with_second_pool(sample())
    spec = the(objects, "MarlinPolicy")["spec"]
    spec |= {"mode": "Enforce"}
    spec |= {"planner": {"kind": "MeritOrder", "scheme": "Balanced"}, "dispatch": "Ordered"} | changes
    return Cluster(objects)


def test_a_pool_that_the_rule_does_not_name_goes_on_being_filled_in_turn() -> None:
    cluster = two_pools(residency=[GDPR[0] | {"pools": ["second"]}])
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Planned") == ("True", "Planned")
    rows = {row["name"]: row for row in cluster.status("MarlinPolicy")["plan"]["pools"]}
    assert {name: row["dispatch"] for name, row in rows.items()} == {"llama-2-70b": "Ordered", "second": "Shares"}
    assert [bool(row["byOrigin"]) for row in rows.values()] == [False, True]
    assert cluster.status("MarlinPolicy")["estimate"]


def test_a_site_that_an_origin_is_bound_to_is_kept_awake_for_it() -> None:
    def awake(rules: list[Raw]) -> int:
        objects = sample()
        the(objects, "InferencePool")["spec"]["powerDown"] = "Sleep"
        spec = the(objects, "MarlinPolicy")["spec"]
        spec |= {"residency": rules, "planner": {"kind": "MeritOrder", "scheme": "Balanced"}}
        cluster = Cluster(objects)
        cluster.known["forecasts"] = {
            ("default", "llama-2-70b"): Forecast(20_000.0, 24_000.0, 500.0, 200.0, {"europe": 0.8, "asia": 0.2})
        }
        cluster.reconcile()
        plan = cluster.status("MarlinPolicy")["plan"]
        return int(plan["pools"][0]["replicas"][plan["datacenters"].index("singapore")])

    bound = [{"name": "home", "origins": ["europe"], "allowedRegions": ["asia-southeast"]}]
    assert awake(bound) > awake([])


def test_a_row_that_was_held_back_keeps_to_the_rule() -> None:
    objects = sample()
    spec = the(objects, "MarlinPolicy")["spec"]
    spec |= {"mode": "Enforce", "planner": {"kind": "MeritOrder", "scheme": "Balanced"}, "dispatch": "Shares"}
    spec["guardrails"] = {"maxWeightChangePercent": 1}
    cluster = Cluster(objects)
    cluster.reconcile()
    rules = [{"name": "gdpr", "origins": ["europe"], "allowedRegions": ["eu-central"]}]
    cluster.change("MarlinPolicy", residency=rules)
    cluster.reconcile()
    plan = RoutingPlan.model_validate(cluster.status("MarlinPolicy")["plan"])
    europe = plan.pools[0].by_origin[plan.origins.index("europe")]
    assert {site for site, weight in zip(plan.datacenters, europe, strict=True) if weight} == {"frankfurt"}


def test_within_residency_is_idempotent() -> None:
    rules = [{"name": "gdpr", "origins": ["europe"], "allowedRegions": ["eu-central"]}]
    cluster = planned(rules, "Shares", "MeritOrder")
    actions = cluster.world()
    policy = actions.policies[0].model
    assert isinstance(policy, MarlinPolicy)
    objects = sample()
    the(objects, "MarlinPolicy")["spec"] |= {"residency": rules}
    outcome = Cluster(objects).reconcile().report.policies[0].outcome
    state = getattr(outcome, "state", None)
    assert state is not None
    plan = getattr(outcome, "plan")  # noqa: B009
    assert within_residency(plan, state, policy) == plan

"""A pool without a profile is planned by capacity, costs nobody a plan, and is planned like others once fitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from worlds import Cluster, Raw, sample, the

from marlin.operator.core.calibrating import EngineSight
from marlin.operator.engines.fitting import Fit
from marlin.operator.engines.wanted import Address

KEY = ("default", "llama-2-70b")
FIT = Fit(4100.0, 0.045, 0.0004, samples=60, residual=0.04, least_batch=1.5, most_batch=22.0, max_batch=64)


def unknown(*, beside: bool = False) -> list[Raw]:
    """The sample with a pool of unknown speed, and another of a known one where that is asked for."""
    objects = sample()
    pool = the(objects, "InferencePool")
    if beside:
        other = {**pool, "metadata": pool["metadata"] | {"name": "known", "uid": "known"}}
        other["spec"] = pool["spec"] | {"modelName": "known"}
        objects.append(other)
        spec = the(objects, "MarlinPolicy")["spec"]
        spec.pop("poolSelector", None)
        spec["poolRefs"] = [{"name": "known"}, {"name": "llama-2-70b"}]
    pool["spec"] = {name: value for name, value in pool["spec"].items() if name != "profile"}
    return objects


def by_replicas(objects: list[Raw]) -> dict[str, float]:
    backends = the(objects, "InferencePool")["spec"]["backends"]
    total = sum(b["capacity"]["replicas"] for b in backends)
    return {b["datacenterName"]: b["capacity"]["replicas"] / total for b in backends}


def row(status: Raw, pool: str = "llama-2-70b") -> dict[str, float]:
    weights = next(p["weights"] for p in status["plan"]["pools"] if p["name"] == pool)
    return {site: w / 10_000 for site, w in zip(status["plan"]["datacenters"], weights, strict=True)}


def enforcing(objects: list[Raw], **spec: Any) -> Cluster:
    the(objects, "MarlinPolicy")["spec"] |= {"mode": "Enforce", **spec}
    return Cluster(objects)


def test_alone_it_is_planned_by_capacity_and_no_estimate_is_made_up() -> None:
    cluster = enforcing(unknown())
    cluster.reconcile()
    status = cluster.status("MarlinPolicy")
    assert cluster.condition("MarlinPolicy", "Planned") == ("True", "Planned")
    assert cluster.condition("InferencePool", "ProfileCalibrated") == ("False", "NotObserved")
    assert row(status) == pytest.approx(by_replicas(cluster.objects), abs=2e-4)
    assert "their speed is not known: llama-2-70b" in status["plan"]["explanation"]
    assert not {"estimate", "baselineEstimate"} & status.keys()
    table = cluster.tables["default", "marlin-balanced"]
    assert table.plan is not None
    assert {b.joules_per_output_token for b in table.pools[0].backends} == {0.0}
    assert all(b.capacity_rps > 0 for b in table.pools[0].backends)
    assert cluster.reconcile().applies == ()


def test_another_pool_of_the_policy_is_planned_as_ever() -> None:
    objects = unknown(beside=True)
    alone = enforcing([o for o in objects if o["metadata"]["name"] != "llama-2-70b"])
    the(alone.objects, "MarlinPolicy")["spec"]["poolRefs"] = [{"name": "known"}]
    alone.reconcile()
    cluster = enforcing(objects)
    cluster.reconcile()
    both, one = cluster.status("MarlinPolicy"), alone.status("MarlinPolicy")
    assert both["plan"]["planner"] == one["plan"]["planner"] != "CapacityProportional"
    assert both["estimate"] == one["estimate"]
    assert row(both, "known") == row(one, "known")
    assert row(both) == pytest.approx(by_replicas(cluster.objects), abs=2e-4)
    assert {pool["name"] for pool in both["plan"]["pools"]} == {"known", "llama-2-70b"}


def test_once_fitted_it_is_planned_like_others_and_a_restart_forgets_nothing() -> None:
    cluster = enforcing(unknown())
    cluster.known["engines"] = {KEY: EngineSight(reason="Collecting", message="too few requests so far")}
    cluster.reconcile()
    assert cluster.condition("InferencePool", "ProfileCalibrated") == ("False", "Collecting")
    cluster.known["engines"] = {KEY: EngineSight(fit=FIT)}
    cluster.now = cluster.now.replace(minute=14, second=40)
    cluster.reconcile()
    assert cluster.condition("InferencePool", "ProfileCalibrated") == ("True", "Calibrated")
    fitted = cluster.status("InferencePool")["fittedProfile"]
    assert (fitted["prefillTokensPerSecond"], fitted["maxBatch"], fitted["samples"]) == ("4100.0", 64, 60)
    status = cluster.status("MarlinPolicy")
    assert "estimate" in status
    assert "speed is not known" not in status["plan"]["explanation"]
    cluster.known["engines"] = {KEY: EngineSight(reason="Collecting", message="its engines have not been read yet")}
    assert cluster.reconcile().applies == ()  # after a restart


def test_engines_that_no_longer_fit_are_told_of_and_the_last_fit_stays_in_use() -> None:
    cluster = enforcing(unknown())
    cluster.known["engines"] = {KEY: EngineSight(fit=FIT)}
    cluster.reconcile()
    cluster.known["engines"] = {KEY: EngineSight(reason="PoorFit", message="engines differ by 40%")}
    cluster.reconcile()
    assert cluster.condition("InferencePool", "ProfileCalibrated") == ("False", "PoorFit")
    assert cluster.status("InferencePool")["fittedProfile"]["prefillTokensPerSecond"] == "4100.0"
    cluster.change("InferencePool", profile={"builtIn": "Llama-2-70b"})
    cluster.reconcile()
    assert cluster.condition("InferencePool", "ProfileCalibrated") == ("True", "Stated")
    assert "fittedProfile" not in cluster.status("InferencePool")


def test_engines_of_pools_without_a_profile_are_read_and_others_where_the_policy_says_so() -> None:
    cluster = Cluster(unknown(beside=True))
    for backend in the(cluster.objects, "InferencePool", "llama-2-70b")["spec"]["backends"]:
        backend.pop("serviceRef", None)
        backend["url"] = f"https://{backend['name']}.example:8000"
    wanted = cluster.reconcile().engines
    assert wanted.keys() == {KEY}
    assert Address("frankfurt", wanted[KEY].addresses[0].url, wanted[KEY].addresses[0].tls) == wanted[KEY].addresses[0]
    assert wanted[KEY].addresses[0].url.endswith(".example:8000/metrics")
    cluster.change("MarlinPolicy", observation={"engines": "All"})
    assert cluster.reconcile().engines.keys() == {KEY, ("default", "known")}
    cluster.change("MarlinPolicy", observation={"engines": "None"})
    assert cluster.reconcile().engines == {}


def test_what_waits_and_runs_in_engines_is_in_the_state_that_planners_see() -> None:
    """Least-loaded goes by it: a site whose engines are full gets less."""
    rows = []
    for waiting in (0.0, 1e6):
        objects = sample()
        the(objects, "MarlinPolicy")["spec"] |= {"planner": {"kind": "LeastLoaded"}, "dispatch": "Shares"}
        cluster = Cluster(objects)
        load = {"frankfurt": waiting}
        cluster.known["engines"] = {KEY: EngineSight(fit=FIT, running=load, waiting=load, is_whole=True)}
        cluster.reconcile()
        rows.append(row(cluster.status("MarlinPolicy"))["frankfurt"])
        cluster.known["engines"] = {KEY: replace(cluster.known["engines"][KEY], is_whole=False)}
    assert rows[1] < rows[0]

"""Objects of a cluster as node groups and replicas."""

from __future__ import annotations

from typing import Any

import pytest
from worlds import Cluster, sample, the

from marlin.api.datacenter import NodeGroup
from marlin.operator.members.discovery import (
    accelerator_of,
    accelerators_of_pod,
    group_of_node,
    node_groups,
    ready_endpoints,
    ready_pods,
)
from marlin.operator.members.sighting import BackendSight, Finding, Group, Sighting


def node(product: str = "NVIDIA-A100-SXM4-80GB", count: Any = "8", ready: str = "True", **spec: Any) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": count}
    return {
        "metadata": {"name": "n", "labels": {k: v for k, v in labels.items() if v}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-80GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100-80GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("Tesla-T4", "Tesla-T4"),
    ],
)
def test_gpu_labels_become_the_names_of_the_shipped_tables(product: str, name: str) -> None:
    assert accelerator_of(product) == name


def test_nodes_are_grouped_by_kind_and_those_that_cannot_serve_are_not_ready() -> None:
    nodes = [node(), node(ready="False"), node(unschedulable=True), node(count="4"), node(product=""), node(count="x")]
    stated = (NodeGroup(name="big", accelerator="A100-80GB", accelerators_per_node=8, nodes=9),)
    assert node_groups(nodes, stated) == (
        Group("a100-80gb-x4", "A100-80GB", 4, nodes=1, ready_nodes=1),
        Group("big", "A100-80GB", 8, nodes=3, ready_nodes=1),
    )
    assert group_of_node(nodes[0], node_groups(nodes, stated)) == "big"
    assert group_of_node(node("Tesla-T4"), node_groups(nodes, stated)) == ""


def test_an_endpoint_counts_once_and_only_while_it_is_not_said_to_be_unready() -> None:
    slices: list[dict[str, Any]] = [
        {"endpoints": [{"addresses": ["a"], "conditions": {"ready": True}}, {"addresses": ["b"]}]},
        {"endpoints": [{"addresses": ["a"]}, {"addresses": ["c"], "conditions": {"ready": False}}]},
        {"endpoints": None},
    ]
    assert [endpoint["addresses"] for endpoint in ready_endpoints(slices)] == [["a"], ["b"]]


def test_a_pod_that_is_going_is_not_ready_and_its_gpus_are_added_up() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods: list[dict[str, Any]] = [
        {"metadata": {}, "status": ready},
        {"metadata": {"deletionTimestamp": "x"}, "status": ready},
        {"metadata": {}, "status": {}},
    ]
    assert len(ready_pods(pods)) == 1
    limits = {"resources": {"limits": {"nvidia.com/gpu": "4"}}}
    assert accelerators_of_pod({"spec": {"containers": [limits, {}, limits]}}) == 8
    assert accelerators_of_pod({}) == 1


def unstated() -> list[dict[str, Any]]:
    """The sample, whose sites say how they are reached and nothing about their machines."""
    objects = sample()
    for site in (o for o in objects if o["kind"] == "Datacenter"):
        site["spec"] |= {"cluster": {"kubeconfigSecretRef": {"name": "k"}}, "nodeGroups": []}
    for backend in the(objects, "InferencePool")["spec"]["backends"]:
        del backend["capacity"]
    return objects


def seen(site: str, ready: int = 4, **more: Any) -> Sighting:
    sight = BackendSight(ready, "h100-80gb-x8", 4)
    return Sighting(
        credentials=Finding(True, "Valid"),
        cluster=Finding(True, "Reachable"),
        groups=(Group("h100-80gb-x8", "H100-80GB", 8, nodes=2, ready_nodes=2),),
        backends={(("default", "llama-2-70b"), site): sight},
        **more,
    )


def test_what_is_found_is_planned_with_and_what_was_never_seen_delays_nobody() -> None:
    cluster = Cluster(unstated())
    cluster.reconcile()
    assert cluster.condition("MarlinPolicy", "Accepted") == ("False", "DatacenterNotFound")
    cluster.known["sightings"] = {name: seen(name) for name in ("oregon", "singapore")}
    cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    assert plan["datacenters"] == ["oregon", "singapore"]
    assert cluster.condition("Datacenter", "ClusterReachable", "oregon") == ("True", "Reachable")
    assert cluster.status("Datacenter", "oregon")["readyAccelerators"] == 16
    ready = {b["name"]: b.get("readyEndpoints") for b in cluster.status("InferencePool")["backends"]}
    assert ready == {"frankfurt": None, "oregon": 4, "singapore": 4}


def test_stated_replicas_are_no_more_than_those_that_are_ready_unless_they_may_sleep() -> None:
    cluster = Cluster(sample())
    the(cluster.objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    cluster.reconcile()
    before = {b.name: b.capacity_rps for b in cluster.tables["default", "marlin-balanced"].pools[0].backends}
    cluster.known["sightings"] = {"oregon": seen("oregon", ready=2)}
    cluster.reconcile()
    after = {b.name: b.capacity_rps for b in cluster.tables["default", "marlin-balanced"].pools[0].backends}
    assert after["oregon"] == pytest.approx(before["oregon"] / 2)
    cluster.change("InferencePool", powerDown="Sleep")
    cluster.reconcile()
    asleep = {b.name: b.capacity_rps for b in cluster.tables["default", "marlin-balanced"].pools[0].backends}
    assert asleep["oregon"] == before["oregon"]


def test_nothing_is_planned_for_a_site_whose_router_is_down_unless_all_are() -> None:
    cluster = Cluster(sample())
    away = Finding(False, "Timeout", "no answer")
    cluster.known["sightings"] = {"oregon": Sighting(router=away, is_router_down=True)}
    cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    assert dict(zip(plan["datacenters"], plan["pools"][0]["weights"], strict=True))["oregon"] == 0
    assert cluster.condition("Datacenter", "Ready", "oregon") == ("False", "RouterUnreachable")
    names = ("frankfurt", "oregon", "singapore")
    cluster.known["sightings"] = {name: Sighting(router=away, is_router_down=True) for name in names}
    cluster.change("MarlinPolicy", planner={"kind": "CapacityProportional", "scheme": "Balanced"})
    cluster.reconcile()
    assert min(cluster.status("MarlinPolicy")["plan"]["pools"][0]["weights"]) > 0


def test_after_a_restart_conditions_stand_until_the_first_look() -> None:
    cluster = Cluster(unstated())
    cluster.known["sightings"] = {"oregon": seen("oregon")}
    cluster.reconcile()
    cluster.known["sightings"] = {}
    cluster.reconcile()
    assert cluster.condition("Datacenter", "ClusterReachable", "oregon") == ("True", "Reachable")
    assert cluster.condition("Datacenter", "ClusterReachable", "singapore") == ("Unknown", "NotChecked")
    assert cluster.status("Datacenter", "oregon")["readyAccelerators"] == 16

"""Replicas that a plan wants become the sizes of workloads: within bounds, early when growing, late when shrinking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import NOON, Cluster, Raw, sample, the

from marlin.api.plan import Dispatch, PlannerKind, PoolPlan, RoutingPlan
from marlin.api.pool import InferencePool, ScaleTargetRef
from marlin.operator.core.scaling import ScaleOrder, replicas_in_use, scale_orders, wanted_replicas
from marlin.operator.kube.client import ApiError, Client
from marlin.operator.members.scaling import carry_out

KEY = ("default", "llama-2-70b")
POLICY = ("default", "balanced")
START = NOON + timedelta(minutes=5)


def pool_of(capacities: list[int], **scaling: Any) -> InferencePool:
    """A pool with backends b0, b1, ... of one site."""
    backends = [
        {
            "name": f"b{i}",
            "datacenterName": "here",
            "serviceRef": {"namespace": "models", "name": "m", "port": 8000},
            "capacity": {"nodeGroup": "g", "replicas": replicas},
            "scaleTargetRef": {"namespace": "models", "name": f"b{i}"},
        }
        for i, replicas in enumerate(capacities)
    ]
    spec = {"modelName": "m", "profile": {"builtIn": "Llama-2-70b"}, "backends": backends, "scaling": scaling}
    return InferencePool.model_validate({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})


def plan_of(replicas: int) -> RoutingPlan:
    row = PoolPlan(name="p", dispatch=Dispatch.SHARES, weights=(10_000,), replicas=(replicas,))
    return RoutingPlan(
        epoch=1,
        decided_time=NOON,
        valid_from=START,
        valid_until=START + timedelta(minutes=15),
        planner=PlannerKind.MERIT_ORDER,
        datacenters=("here",),
        pools=(row,),
    )


@given(
    capacities=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    part=st.floats(0.0, 1.0),
    least=st.integers(0, 5),
    more=st.integers(0, 60),
)
def test_replicas_are_divided_by_capacity_and_stay_within_bounds(
    capacities: list[int], part: float, least: int, more: int
) -> None:
    total = round(part * sum(capacities))
    unbound = wanted_replicas(pool_of(capacities, mode="Recommend", minReplicas=0), plan_of(total))
    assert sum(unbound.values()) == total
    for i, capacity in enumerate(capacities):
        assert abs(unbound[f"b{i}"] - total * capacity / sum(capacities)) < 1
    most = max(1, least + more)
    bound = wanted_replicas(pool_of(capacities, mode="Recommend", minReplicas=least, maxReplicas=most), plan_of(total))
    assert bound == {name: min(max(n, least), most) for name, n in unbound.items()}


def test_only_scale_gives_orders_and_only_a_known_load_lets_a_workload_shrink() -> None:
    for mode in ("Off", "Recommend"):
        assert scale_orders(pool_of([8], mode=mode), plan_of(2), {"b0": 0}) == {}
    pool = pool_of([8], mode="Scale")
    assert scale_orders(pool, plan_of(2), {"b0": 1})["b0"] == ScaleOrder(target("b0"), 2, START)
    assert scale_orders(pool, plan_of(2), {"b0": 5})["b0"].replicas == 5  # requests in flight fill five
    assert scale_orders(pool, plan_of(2), None)["b0"].shrink_from is None
    assert scale_orders(pool_of([8], mode="Scale", maxReplicas=4), plan_of(2), {"b0": 7})["b0"].replicas == 4


def target(name: str) -> ScaleTargetRef:
    return ScaleTargetRef(namespace="models", name=name)


@pytest.fixture
def objects() -> list[Raw]:
    objects = sample()
    the(objects, "MarlinPolicy")["spec"]["mode"] = "Enforce"
    spec = the(objects, "InferencePool")["spec"]
    spec |= {"powerDown": "Sleep", "scaling": {"mode": "Scale", "minReplicas": 1}}
    for backend in spec["backends"]:
        backend["scaleTargetRef"] = {"namespace": "models", "name": f"vllm-{backend['name']}"}
    return objects


def desired(cluster: Cluster) -> dict[str, int | None]:
    return {b["name"]: b.get("desiredReplicas") for b in cluster.status("InferencePool")["backends"]}


def test_what_the_plan_wants_is_in_the_status_and_in_force_it_is_ordered(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.known["in_flight"] = {POLICY: {}}
    actions = cluster.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    wanted = dict(zip(plan["datacenters"], plan["pools"][0]["replicas"], strict=True))
    assert sum(wanted.values()) < 16
    assert desired(cluster) == {name: max(1, n) for name, n in wanted.items()}
    cluster.reconcile()  # the tables are published now, and say how many requests a replica takes
    actions = cluster.reconcile()
    assert {key[1]: order.replicas for key, order in actions.scales.items()} == desired(cluster)
    assert all(order.shrink_from == datetime.fromisoformat(plan["validFrom"]) for order in actions.scales.values())


def energy(cluster: Cluster) -> dict[str, tuple[float, ...]]:
    """Backend to the factors of its tokens' energy, in the table."""
    backends = cluster.tables["default", "marlin-balanced"].pools[0].backends
    return {b.name: b.energy_by_load.factor for b in backends if b.energy_by_load is not None}


def test_what_a_token_takes_counts_the_replicas_that_the_plan_keeps_awake(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    planned = energy(cluster)
    assert len(planned) == 3
    tables = dict(cluster.tables)
    cluster.reconcile()  # another operator, that knows no more than what is written down
    assert cluster.tables == tables
    the(objects, "InferencePool")["spec"]["powerDown"] = "None"
    awake = Cluster(objects)
    awake.reconcile()
    plan = cluster.status("MarlinPolicy")["plan"]
    asleep = {name for name, n in zip(plan["datacenters"], plan["pools"][0]["replicas"], strict=True) if n < 4}
    assert asleep
    for name in asleep:
        assert planned[name] != energy(awake)[name]


@pytest.mark.parametrize("mode", ["DryRun", "Paused"])
def test_without_a_plan_in_force_nothing_is_ordered(objects: list[Raw], mode: str) -> None:
    the(objects, "MarlinPolicy")["spec"]["mode"] = mode
    cluster = Cluster(objects)
    assert cluster.reconcile().scales == {}
    assert any(desired(cluster).values()) == (mode == "DryRun")


def test_requests_in_flight_keep_the_replicas_that_they_fill(objects: list[Raw]) -> None:
    cluster = Cluster(objects)
    cluster.reconcile()
    table = cluster.tables["default", "marlin-balanced"]
    backend = next(b for b in table.pools[0].backends if b.name == "oregon")
    assert backend.concurrency_at_capacity is not None
    one = backend.concurrency_at_capacity * 3 / 4  # of three origins, over four replicas
    pool = InferencePool.model_validate({k: v for k, v in the(objects, "InferencePool").items() if k != "status"})
    assert replicas_in_use(pool, table, {"oregon": 2.5 * one}, 3) == {"frankfurt": 0, "oregon": 3, "singapore": 0}
    assert replicas_in_use(pool, None, {"oregon": 1.0}, 3) is None
    cluster.known["in_flight"] = {POLICY: {("llama-2-70b", "oregon"): 3.5 * one}}
    assert cluster.reconcile().scales[KEY, "oregon"].replicas == 4


class Workload:
    """A scale subresource of ``current`` replicas."""

    def __init__(self, current: int, refusal: ApiError | None = None) -> None:
        self.current = current
        self.refusal = refusal
        self.paths: list[str] = []

    async def get(self, path: str) -> dict[str, Any]:
        self.paths.append(path)
        return {"metadata": {"resourceVersion": "7"}, "spec": {"replicas": self.current}}

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        assert body["metadata"]["resourceVersion"] == "7"
        self.current = body["spec"]["replicas"]
        return body


@pytest.mark.parametrize(
    ("before", "shrink_from", "after"),
    [
        (2, None, 4),
        (2, START, 4),
        (6, None, 6),
        (6, START, 6),
        (6, NOON - timedelta(seconds=1), 4),
        (4, NOON - timedelta(seconds=1), 4),
    ],
)
async def test_a_workload_grows_at_once_and_shrinks_when_it_may(
    before: int, shrink_from: datetime | None, after: int
) -> None:
    workload = Workload(before)
    assert await carry_out(cast("Client", workload), ScaleOrder(target("x"), 4, shrink_from), NOON) == ""
    assert workload.current == after
    assert workload.paths == ["/apis/apps/v1/namespaces/models/deployments/x/scale"]


async def test_what_is_refused_is_said_with_what_to_do_and_a_conflict_is_looked_at_again() -> None:
    order = ScaleOrder(target("x"), 4, None)
    refused = await carry_out(cast("Client", Workload(1, ApiError(403, "forbidden"))), order, datetime.now(UTC))
    assert refused.startswith("Deployment x: forbidden")
    assert "member-scaling.yaml" in refused
    assert await carry_out(cast("Client", Workload(1, ApiError(409, "conflict"))), order, datetime.now(UTC)) == ""
